"""CPU time of a training step of `flow` with and without its options, alternating."""

import time

import torch

from agents import SequenceConfig
from flowrl.data import Normaliser

torch.set_num_threads(1)
OPTIONS = {"flow": (), "norm": ("output_norm",), "decay": ("decay",), "both": ("output_norm", "decay")}
agents = {
    name: SequenceConfig(attention_options=given).build(Normaliser(17, 6)).train() for name, given in OPTIONS.items()
}
spent: dict[str, list[float]] = {name: [] for name in agents}
actions, steps = torch.rand(16, 20, 6) * 2 - 1, torch.arange(20).expand(16, 20)
for _ in range(25):
    for name, agent in agents.items():
        began = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            loss = (agent.model(torch.randn(16, 20), torch.randn(16, 20, 17), actions, steps) - actions).square().mean()
        agent.zero_grad()
        loss.backward()
        spent[name].append(time.process_time() - began)
for name, seconds in spent.items():
    print(f"{name}: {1e3 * sorted(seconds[3:])[11]:.1f} ms")
