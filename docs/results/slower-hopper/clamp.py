"""How near the clamp trained `flow` agents' conserved outgoing flow comes; python .../clamp.py RUN_FOLDER ..."""

import sys

import torch
from flowrl.checkpoint import RunFolder
from flowrl.windows import sample_windows

from agents import SequenceAgent, load_agent
from flowrl.attention.flow import FlowAttention
from flowrl.data import TrajectoryDataset

for path in sys.argv[1:]:
    folder = RunFolder(path)
    agent, _ = load_agent(folder, torch.device("cpu"))
    assert isinstance(agent, SequenceAgent)
    dataset = TrajectoryDataset.from_minari((folder.config() or {})["dataset"])
    windows = sample_windows(dataset, 64, 20, torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    for module in agent.eval().modules():
        if isinstance(module, FlowAttention):
            module.register_forward_pre_hook(
                lambda mixer, x, into=seen: into.append(mixer.flows(x[0]).conserved_outgoing)
            )
    with torch.inference_mode():
        agent.model(windows.returns_to_go, windows.observations, windows.actions, windows.timesteps)
    for layer, flow in enumerate(seen):
        shares = [f"{(flow >= level).float().mean():.4f}" for level in (9.999, 5.0)]
        print(f"{path}, layer {layer}: max {flow.max():.2f}, mean {flow.mean():.2f}, at 10 and above 5: {shares}")
