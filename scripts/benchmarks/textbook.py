"""What flowrl is compared with, written as its textbooks write it; where ways differ, the faster one."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from flowrl.agents.sequence import SequenceConfig
from flowrl.data.dataset import TrajectoryDataset
from flowrl.training.config import TrainingConfig


def textbook_flow(q: Tensor, k: Tensor, v: Tensor, *, clip: float = 10.0, eps: float = 1e-6) -> Tensor:
    """Causal Flow-Attention by cumulative sums, one D×M matrix a token, as in its authors' release.

    Takes and returns what `flowrl.attention.flow.flow_attention` does and shares no code with it; autograd makes the
    gradient.
    """
    q, k = q.sigmoid(), k.sigmoid()
    n = torch.arange(1, q.shape[-2] + 1, device=q.device, dtype=q.dtype)

    def flow(own: Tensor, others: Tensor) -> Tensor:
        return torch.einsum("bhtd,bhtd->bht", own + eps, others.cumsum(2) + eps)

    incoming, outgoing = flow(q, k), flow(k, q)
    conserved_in = flow(q, k * (n / outgoing)[..., None]) / n
    conserved_out = (flow(k, q * (n / incoming)[..., None]) / n).clamp(-clip, clip)
    competition = n * conserved_out.exp() / conserved_out.exp().cumsum(-1)
    memory = torch.einsum("bhtd,bhtm->bhtdm", k, v * competition[..., None]).cumsum(2)
    aggregated = torch.einsum("bhtd,bhtdm->bhtm", q / incoming[..., None], memory)
    return conserved_in.sigmoid()[..., None] * aggregated


class TextbookTransformer(nn.Module):
    """A Decision Transformer of torch's own blocks, with a table of timesteps."""

    hidden: Tensor

    def __init__(self, config: SequenceConfig, observation_size: int, action_size: int, longest: int) -> None:
        super().__init__()
        width, dropout, tokens = config.width, config.dropout, 3 * int(config.context)
        self.embed = nn.ModuleList(nn.Linear(size, width) for size in (1, observation_size, action_size))
        self.embed_timestep = nn.Embedding(longest, width)
        self.embed_norm = nn.LayerNorm(width)
        self.embed_dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, config.heads, 4 * width, dropout, batch_first=True, norm_first=True)
            for _ in range(config.layers)
        )
        for block in self.blocks:
            block.dropout = nn.Identity()  # inside the perceptron, where dt has none
        self.final_norm = nn.LayerNorm(width)
        self.action_head = nn.Sequential(nn.Linear(width, action_size), nn.Tanh())
        self.register_buffer("hidden", torch.ones(tokens, tokens, dtype=torch.bool).triu(1), persistent=False)

    def forward(self, returns_to_go: Tensor, observations: Tensor, actions: Tensor, timesteps: Tensor) -> Tensor:
        """(B, K), (B, K, observation size), (B, K, action size) and (B, K) to predicted actions (B, K, action size)."""
        parts = zip(self.embed, (returns_to_go[..., None], observations, actions), strict=True)
        time = self.embed_timestep(timesteps)
        tokens = torch.stack([embed(x) + time for embed, x in parts], dim=2).flatten(1, 2)
        tokens = self.embed_dropout(self.embed_norm(tokens))
        for block in self.blocks:
            tokens = block(tokens, self.hidden, is_causal=True)  # with the hint it takes its fastest way
        return self.action_head(self.final_norm(tokens)[:, 1::3])


class WindowDataset(Dataset[tuple[NDArray, ...]]):
    """Windows of K steps cut item by item from numpy arrays and padded on the right; an item begins at each step.

    Items are returns-to-go (K,), observations (K, d), actions (K, a), timesteps (K,) and is_real (K,) bool.
    """

    def __init__(self, dataset: TrajectoryDataset, context: int) -> None:
        self.context = context
        observations = dataset.observations.numpy()
        observations = (observations - observations.mean(0)) / (observations.std(0) + 1e-6)
        returns_to_go = dataset.returns_to_go.numpy() / 1_000
        self.arrays = returns_to_go, observations, dataset.actions.numpy(), dataset.timesteps.numpy()
        self.ends = dataset.ends.numpy()

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> tuple[NDArray, ...]:
        window = [values[index : min(index + self.context, self.ends[index])] for values in self.arrays]
        length = len(window[0])
        missing = self.context - length
        padded = [np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)]) for values in window]
        return (*padded, np.arange(self.context) < length)


def textbook_step(
    dataset: TrajectoryDataset, config: SequenceConfig, training: TrainingConfig, device: torch.device
) -> Callable[[], None]:
    """One training step of a textbook Decision Transformer, batches by a `DataLoader`; each call is the next step.

    Args:
        dataset: on the CPU.
    """
    cloning, longest = config.cloning, int(dataset.lengths.max())
    model = TextbookTransformer(config, dataset.observations.shape[1], dataset.actions.shape[1], longest)
    model.to(device).train()
    weights = list(model.parameters())
    optimiser = torch.optim.AdamW(weights, cloning.learning_rate, weight_decay=cloning.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: cloning.rate(step, training.steps))
    windows = WindowDataset(dataset, int(config.context))
    sampler = RandomSampler(windows, replacement=True, num_samples=training.steps * training.batch_size)
    batches = iter(DataLoader(windows, training.batch_size, sampler=sampler))

    def step() -> None:
        *inputs, is_real = (x.to(device) for x in next(batches))
        with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16"):
            predicted = model(*inputs)
            loss = F.mse_loss(predicted[is_real].float(), inputs[2][is_real])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, cloning.clip_norm)
        optimiser.step()
        schedule.step()

    return step
