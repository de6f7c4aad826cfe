"""The trajectory model: return, observation and action tokens through causal attention blocks to one action a step.

Source: Chen et al., "Decision Transformer", NeurIPS 2021, with the attention left open. What differs from their release
is in docs/differences.md.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flowrl.attention import ATTENTION
from flowrl.attention.multihead import ALL
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
    recompute: bool = False
    """Keep only each block's input for the backward pass and work the rest out again: less memory, more time."""

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
        *,
        last: bool = False,
    ) -> Tensor:
        """Predict the action of every step of a window, or of its last step alone.

        Args:
            returns_to_go: (B, T).
            observations: (B, T, observation size).
            actions: (B, T, action size); a step's own action does not reach its prediction.
            timesteps: (B or 1, T), steps since the episode's start.
            is_pad: (B, T) bool, True at padding. Padding on the right, as training windows have it, needs none.
            last: only the last step's prediction is asked for, and its action is not looked at.

        Returns:
            (B, T, action size), or (B, 1, action size) of the last step, within the action bounds; of discrete actions,
            their logits.
        """
        tokens = self._embed(returns_to_go, observations, actions, timesteps)
        token_is_pad = None if is_pad is None else is_pad.repeat_interleave(3, dim=1)
        if last:
            tokens = tokens[:, :-1]
            token_is_pad = None if token_is_pad is None else token_is_pad[:, :-1]
        of_the_last = slice(-1, None) if last else slice(1, None, 3)  # nothing but these outputs is looked at
        for i, block in enumerate(self.blocks):
            at = of_the_last if i == len(self.blocks) - 1 else ALL
            if self.config.recompute and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, token_is_pad, at, use_reentrant=False)
            else:
                tokens = block(tokens, token_is_pad, at)
        return self._predict(tokens)

    def initial_state(self, batch: int) -> list[Any]:
        """The state of `batch` episodes before their first step."""
        return [block.attention.initial_state(batch) for block in self.blocks]  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]

    def step(
        self,
        previous_action: Tensor | None,
        returns_to_go: Tensor,
        observation: Tensor,
        timestep: int | Tensor,
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
        normaliser = self.normaliser
        now = torch.as_tensor(timestep, device=observation.device)
        before, time = self.embed_timestep(torch.stack([now - 1, now]))
        tokens = [
            self.embed_return(normaliser.returns(returns_to_go)[:, None]) + time,
            self.embed_observation(normaliser.observations(observation)) + time,
        ]
        if previous_action is not None:  # there is no action before the first step: its token is left out
            tokens.insert(0, self.embed_action(normaliser.actions(previous_action)) + before)
        x = self.embed_dropout(self.embed_norm(torch.stack(tokens, dim=1)))
        states = []
        for i, (block, block_state) in enumerate(zip(self.blocks, state, strict=True)):
            # Of the last block nothing but the observation's output is looked at.
            at = slice(-1, None) if i == len(self.blocks) - 1 else ALL
            x, block_state = block.step(x, block_state, at)  # pyright: ignore[reportCallIssue]
            states.append(block_state)
        return self._predict(x[:, -1]), states

    def _embed(
        self,
        returns_to_go: Tensor,
        observations: Tensor,
        actions: Tensor,
        timesteps: Tensor,
    ) -> Tensor:
        """(B, 3T, width): the tokens in the order return, observation, action."""
        normaliser = self.normaliser
        time = self.embed_timestep(timesteps)
        tokens = torch.stack(
            [
                self.embed_return(normaliser.returns(returns_to_go)[..., None]) + time,
                self.embed_observation(normaliser.observations(observations)) + time,
                self.embed_action(normaliser.actions(actions)) + time,
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
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(inplace=True), nn.Linear(4 * width, width))
        self.mlp_dropout = Dropout(config.dropout)

    def forward(self, tokens: Tensor, is_pad: Tensor | None = None, at: slice = ALL) -> Tensor:
        """(B, T, width) to the (B, tokens at, width) that are asked for."""
        attended = self.attention(self.attention_norm(tokens), is_pad, at)
        return self._feed_forward(self.attention_dropout(attended, tokens[:, at]))

    def step(self, tokens: Tensor, state: Any, at: slice = ALL) -> tuple[Tensor, Any]:
        """As `forward` for the next (B, t, width) tokens after `state`, and the state after them."""
        attended, state = self.attention.step(self.attention_norm(tokens), state, at)
        return self._feed_forward(self.attention_dropout(attended, tokens[:, at])), state

    def _feed_forward(self, tokens: Tensor) -> Tensor:
        # As one row of tokens: of (B, T, width) a linear layer gives a view, and to change a view in place costs
        # its gradient a copy.
        rows = self.mlp(self.mlp_norm(tokens).flatten(0, 1))
        return self.mlp_dropout(rows.view_as(tokens), tokens)


def _initialise(module: nn.Module) -> None:
    """GPT-2's initialisation, as in the Decision Transformer."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
