"""The rivals: what people use today, written plainly and with the same sizes as ours.

The textbook's training is written the faster way where ways differ, so that no ratio owes anything to a weak rival. One
environment at a time is played as the releases do it: the whole window through the whole model.
"""

from collections.abc import Callable, Iterator, Sequence

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from flowrl.agents import SequenceAgent
from flowrl.data.dataset import TrajectoryDataset
from flowrl.nn.trajectory import ModelConfig
from flowrl.training.loop import TrainingConfig


def running_sum_attention(q: Tensor, k: Tensor, v: Tensor, *, clip: float = 10.0, eps: float = 1e-6) -> Tensor:
    """Causal Flow-Attention by running sums, one D×M matrix a token, as in its authors' release.

    Takes and gives what `flowrl.attention.flow.flow_attention` does; autograd makes the backward.
    """
    q, k = q.sigmoid(), k.sigmoid()
    n = torch.arange(1, q.shape[-2] + 1, device=q.device, dtype=q.dtype)

    def flow(at: Tensor, passing: Tensor) -> Tensor:
        return torch.einsum("bhtd,bhtd->bht", at + eps, passing.cumsum(2) + eps)

    incoming, outgoing = flow(q, k), flow(k, q)
    conserved_in = flow(q, k * (n / outgoing)[..., None]) / n
    conserved_out = (flow(k, q * (n / incoming)[..., None]) / n).clamp(-clip, clip)
    exp_outgoing = conserved_out.exp()
    competition = n * exp_outgoing / exp_outgoing.cumsum(-1)
    memory = torch.einsum("bhtd,bhtm->bhtdm", k, v * competition[..., None]).cumsum(2)
    aggregated = torch.einsum("bhtd,bhtdm->bhtm", q / incoming[..., None], memory)
    return conserved_in.sigmoid()[..., None] * aggregated


class TextbookBlock(nn.Module):
    """A pre-norm transformer block around `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.attention_dropout = nn.Dropout(dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """(B, T, width) to (B, T, width); `hidden` (T, T) bool is True at what a token may not see."""
        x = self.attention_norm(tokens)
        # Without the weights and with the hint, the faster of the ways that the module takes.
        attended, _ = self.attention(x, x, x, attn_mask=hidden, need_weights=False, is_causal=True)
        tokens = tokens + self.attention_dropout(attended)
        return tokens + self.mlp(self.mlp_norm(tokens))


class TextbookDecisionTransformer(nn.Module):
    """A Decision Transformer as the field's single-file versions write it: three embeddings, a table of timesteps."""

    hidden: Tensor

    def __init__(self, config: ModelConfig, observation_size: int, action_size: int, longest: int) -> None:
        super().__init__()
        width = config.width
        self.embed_return = nn.Linear(1, width)
        self.embed_observation = nn.Linear(observation_size, width)
        self.embed_action = nn.Linear(action_size, width)
        self.embed_timestep = nn.Embedding(longest, width)
        self.embed_norm = nn.LayerNorm(width)
        self.embed_dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(TextbookBlock(width, config.heads, config.dropout) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(width)
        self.action_head = nn.Sequential(nn.Linear(width, action_size), nn.Tanh())
        assert isinstance(config.context, int)
        tokens = 3 * config.context
        self.register_buffer("hidden", torch.ones(tokens, tokens, dtype=torch.bool).triu(1), persistent=False)

    def forward(self, returns_to_go: Tensor, observations: Tensor, actions: Tensor, timesteps: Tensor) -> Tensor:
        """(B, K), (B, K, observation size), (B, K, action size) and (B, K) to predicted actions (B, K, action size)."""
        batch, steps = timesteps.shape
        time = self.embed_timestep(timesteps)
        tokens = torch.stack(
            [
                self.embed_return(returns_to_go[..., None]) + time,
                self.embed_observation(observations) + time,
                self.embed_action(actions) + time,
            ],
            dim=2,
        ).reshape(batch, 3 * steps, -1)
        tokens = self.embed_dropout(self.embed_norm(tokens))
        for block in self.blocks:
            tokens = block(tokens, self.hidden[: 3 * steps, : 3 * steps])
        return self.action_head(self.final_norm(tokens)[:, 1::3])


class WindowDataset(Dataset[tuple[NDArray[np.float32], ...]]):
    """Windows of K steps cut from numpy trajectories item by item, padded on the right; an item begins at each step.

    Items are returns-to-go (K,), observations (K, d), actions (K, a), timesteps (K,) and is_real (K,) bool.
    """

    def __init__(self, dataset: TrajectoryDataset, context: int) -> None:
        self.context = context
        observations = dataset.observations.numpy()
        observations = (observations - observations.mean(0)) / (observations.std(0) + 1e-6)
        returns_to_go = dataset.returns_to_go.numpy() / 1_000
        borders = dataset.starts.tolist()[1:]
        arrays = returns_to_go, observations, dataset.actions.numpy()
        self.trajectories = list(zip(*(np.split(array, borders) for array in arrays), strict=True))
        self.episodes = np.repeat(np.arange(dataset.episodes), dataset.lengths.numpy())
        self.starts = dataset.timesteps.numpy()

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[NDArray, ...]:
        start = self.starts[index]
        window = [values[start : start + self.context] for values in self.trajectories[self.episodes[index]]]
        length = len(window[0])
        missing = self.context - length
        padded = [np.concatenate([v, np.zeros((missing, *v.shape[1:]), v.dtype)]) for v in window]
        timesteps = np.concatenate([np.arange(start, start + length), np.zeros(missing, np.int64)])
        return (*padded, timesteps, np.arange(self.context) < length)


def windows(dataset: TrajectoryDataset, context: int, batch_size: int) -> Iterator[list[Tensor]]:
    """Shuffled batches without end, by a `DataLoader` in this process."""
    loader = DataLoader(WindowDataset(dataset, context), batch_size, shuffle=True, drop_last=True)
    while True:
        yield from loader


def textbook_step(
    dataset: TrajectoryDataset, config: ModelConfig, training: TrainingConfig, device: torch.device, *, bf16: bool
) -> Callable[[], None]:
    """One training step of a textbook Decision Transformer; each call is the next step.

    Args:
        dataset: on the CPU.
        bf16: under bfloat16 autocast.
    """
    longest = int(dataset.lengths.max())
    model = TextbookDecisionTransformer(config, dataset.observations.shape[1], dataset.actions.shape[1], longest)
    model.to(device).train()
    optimiser = torch.optim.AdamW(
        model.parameters(), training.learning_rate, weight_decay=training.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: training.rate(step))
    assert isinstance(config.context, int)
    batches = windows(dataset, config.context, training.batch_size)

    def step() -> None:
        returns_to_go, observations, actions, timesteps, is_real = (x.to(device) for x in next(batches))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            predicted = model(returns_to_go, observations, actions, timesteps)
            loss = F.mse_loss(predicted[is_real].float(), actions[is_real])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
        optimiser.step()
        schedule.step()

    return step


@torch.inference_mode()
def play_one_at_a_time(
    agent: SequenceAgent, env: gym.Env, targets: Sequence[float], seeds: Sequence[int], device: torch.device
) -> list[tuple[float, int]]:
    """Play episodes one after the other, the last K steps re-encoded at each step in a batch of one.

    Args:
        agent: in evaluation mode.
        env: with real actions.

    Returns:
        (return, length) of each episode, targets outermost.
    """
    assert isinstance(env.action_space, gym.spaces.Box)
    assert isinstance(agent.context, int)
    low, high, context = env.action_space.low, env.action_space.high, agent.context
    results = []
    for target, seed in ((target, seed) for target in targets for seed in seeds):
        observation, _ = env.reset(seed=seed)
        observations = torch.as_tensor(observation, dtype=torch.float32, device=device)[None]
        returns_to_go = torch.tensor([target], dtype=torch.float32, device=device)
        actions = torch.zeros(1, low.size, device=device)  # the last row is of the action to come
        achieved, length, over = 0.0, 0, False
        while not over:
            seen = slice(-context, None)
            timesteps = torch.arange(length + 1, device=device)
            predicted = agent.model(
                returns_to_go[None, seen], observations[None, seen], actions[None, seen], timesteps[None, seen]
            )
            actions[-1] = agent.normaliser.chosen(predicted)[0, -1]
            observation, reward, terminated, truncated, _ = env.step(actions[-1].cpu().numpy().clip(low, high))
            over = terminated or truncated
            achieved, length = achieved + float(reward), length + 1
            observations = torch.cat(
                [observations, torch.as_tensor(observation, dtype=torch.float32, device=device)[None]]
            )
            returns_to_go = torch.cat([returns_to_go, returns_to_go[-1:] - float(reward)])
            actions = torch.cat([actions, torch.zeros(1, low.size, device=device)])
        results.append((achieved, length))
    return results
