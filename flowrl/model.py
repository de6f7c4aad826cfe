"""The trajectory model: return, observation and action tokens through causal attention blocks to one action a step.

Source: Chen et al., "Decision Transformer", NeurIPS 2021, with the attention left open. What differs from their release
is in docs/differences.md.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowrl.attention import ATTENTION
from flowrl.data import Normaliser
from flowrl.dropout import Dropout

# Axes: B batch, T steps, 3T tokens in the order return, observation, action of each step.


@dataclass(frozen=True)
class ModelConfig:
    """The size and kind of a trajectory model."""

    attention: str = "flow"
    """Which attention mixes the tokens: a name in flowrl.attention.ATTENTION."""
    width: int = 128
    """Features of a token."""
    layers: int = 3
    """Attention blocks."""
    heads: int = 4
    """Attention heads of a block; width must be a multiple of it."""
    context: int = 20
    """Steps in a training window (K), and the most that a window rollout looks back."""
    dropout: float = 0.1
    """Dropout probability on embeddings, residuals and softmax weights."""

    def __post_init__(self) -> None:
        if self.attention not in ATTENTION:
            raise ValueError(f"attention is {self.attention!r}: known are {', '.join(sorted(ATTENTION))}")
        for name in ("width", "layers", "heads", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.width % self.heads:
            raise ValueError(f"width is {self.width} and heads is {self.heads}: width must be a multiple of heads")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout}: it must be at least 0 and below 1")


class TrajectoryModel(nn.Module):
    """Predicts the action of every step from the return-to-go, observation and action tokens up to its observation.

    Everything enters and leaves in raw units: `normaliser` is part of the model.
    """

    def __init__(self, config: ModelConfig, normaliser: Normaliser) -> None:
        super().__init__()
        self.config = config
        self.normaliser = normaliser
        width = config.width
        self.embed_return = nn.Linear(1, width)
        self.embed_observation = nn.Linear(normaliser.input_size, width)
        self.embed_action = nn.Linear(normaliser.action_size, width)
        self.embed_timestep = TimestepEmbedding(width)
        self.embed_norm = nn.LayerNorm(width)
        self.embed_dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(width)
        self.action_head = nn.Linear(width, normaliser.action_size)
        self.blocks.apply(_initialise)
        _initialise(self.action_head)

    def forward(
        self,
        returns_to_go: Tensor,
        observations: Tensor,
        actions: Tensor,
        timesteps: Tensor,
        is_pad: Tensor | None = None,
    ) -> Tensor:
        """Predict the action of every step of a window.

        Args:
            returns_to_go: (B, T).
            observations: (B, T, observation size).
            actions: (B, T, action size); a step's own action does not reach its prediction.
            timesteps: (B, T), steps since the episode's start.
            is_pad: (B, T) bool, True at padding. Padding on the right, as training windows have it, needs none.

        Returns:
            (B, T, action size), within the action bounds; of discrete actions, their logits.
        """
        tokens = self._embed(returns_to_go, observations, actions, timesteps)
        token_is_pad = None if is_pad is None else is_pad.repeat_interleave(3, dim=1)
        *blocks, last = self.blocks
        for block in blocks:
            tokens = block(tokens, token_is_pad)
        return self._predict(last(tokens, token_is_pad, at=slice(1, None, 3)))  # the observations alone are read

    def initial_state(self, batch: int) -> list[Any]:
        """The state of `batch` episodes before their first step."""
        return [block.attention.initial_state(batch) for block in self.blocks]  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]

    def step(
        self,
        previous_action: Tensor | None,
        returns_to_go: Tensor,
        observation: Tensor,
        timestep: int,
        state: list[Any],
    ) -> tuple[Tensor, list[Any]]:
        """Predict the next action of episodes whose past is `state`; equals `forward` over the whole episode.

        Args:
            previous_action: (B, action size), the last step's action; None at the first step.
            returns_to_go: (B,).
            observation: (B, observation size).
            timestep: of the observation.
            state: from `initial_state` or the last `step`.

        Returns:
            (B, action size), and the state after the observation.
        """
        time = torch.full((len(observation), 1), timestep, device=observation.device)
        if previous_action is None:
            previous_action = observation.new_zeros(len(observation), self.normaliser.action_size)
            new = slice(1, None)  # there is no action before the first step: its token is left out
        else:
            new = slice(None)
        embedded = self._embed(returns_to_go[:, None], observation[:, None], previous_action[:, None], time, time - 1)
        tokens = embedded.roll(1, dims=1)[:, new]  # return, observation, action -> action, return, observation
        states = []
        for block, block_state in zip(self.blocks, state, strict=True):
            tokens, block_state = block.step(tokens, block_state)  # pyright: ignore[reportCallIssue]
            states.append(block_state)
        return self._predict(tokens[:, -1]), states

    def _embed(
        self,
        returns_to_go: Tensor,
        observations: Tensor,
        actions: Tensor,
        timesteps: Tensor,
        action_timesteps: Tensor | None = None,
    ) -> Tensor:
        """(B, 3T, width): the tokens in the order return, observation, action."""
        normaliser = self.normaliser
        time = self.embed_timestep(timesteps)
        action_time = time if action_timesteps is None else self.embed_timestep(action_timesteps)
        tokens = torch.stack(
            [
                self.embed_return(normaliser.returns(returns_to_go)[..., None]) + time,
                self.embed_observation(normaliser.observations(observations)) + time,
                self.embed_action(normaliser.actions(actions)) + action_time,
            ],
            dim=2,
        )
        return self.embed_dropout(self.embed_norm(tokens.flatten(1, 2)))

    def _predict(self, tokens: Tensor) -> Tensor:
        return self.normaliser.prediction(self.action_head(self.final_norm(tokens)))


class TimestepEmbedding(nn.Module):
    """Sinusoids of the timestep (Vaswani et al. 2017, section 3.5) through a linear layer: no timestep is beyond it.

    A learned table, as in the Decision Transformer's release, ends at its last row and leaves the rows that few
    episodes reach untrained.
    """

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = max(1, width // 2)
        self.register_buffer(
            "frequencies", torch.exp(-math.log(10_000.0) * torch.arange(half) / half), persistent=False
        )
        self.project = nn.Linear(2 * half, width)

    def forward(self, timesteps: Tensor) -> Tensor:
        """(...) timesteps to (..., width)."""
        phase = timesteps[..., None] * self.frequencies
        return self.project(torch.cat([phase.sin(), phase.cos()], dim=-1))


class Block(nn.Module):
    """A pre-norm transformer block: attention, then a two-layer perceptron, each added to its input."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.attention_norm = nn.LayerNorm(width)
        self.attention = ATTENTION[config.attention](width, config.heads, dropout=config.dropout)
        self.attention_dropout = Dropout(config.dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.mlp_dropout = Dropout(config.dropout)

    def forward(self, tokens: Tensor, is_pad: Tensor | None = None, at: slice = slice(None)) -> Tensor:
        """(B, T, width) to (B, T', width): all tokens are attended to, those `at` are returned."""
        tokens = self.attention_dropout(self.attention(self.attention_norm(tokens), is_pad, at), tokens[:, at])
        return self.mlp_dropout(self.mlp(self.mlp_norm(tokens)), tokens)

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """As `forward` for the next (B, t, width) tokens after `state`, and the state after them."""
        attended, state = self.attention.step(self.attention_norm(tokens), state)
        tokens = self.attention_dropout(attended, tokens)
        return self.mlp_dropout(self.mlp(self.mlp_norm(tokens)), tokens), state


def _initialise(module: nn.Module) -> None:
    """GPT-2's initialisation, as in the Decision Transformer."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
