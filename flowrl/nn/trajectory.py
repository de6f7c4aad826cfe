"""The trajectory model: tokens of returns, observations and actions through causal attention to one action a step.

Source: Chen et al., "Decision Transformer", NeurIPS 2021, with the attention left open. What differs from their release
is in docs/differences.md.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flowrl.attention import ATTENTION
from flowrl.attention.dropout import Dropout
from flowrl.attention.multihead import ALL
from flowrl.attention.options import read_options, write_options
from flowrl.data.samplers import Context
from flowrl.nn.convolution import ShortConvolution
from flowrl.nn.normaliser import Normaliser

# Axes: B batch, T steps, P tokens a step: return, observation and action, or some of them.

# The action is read from the observation's token, which carries the return where no token of its own does.
TOKENS: dict[str, tuple[str, ...]] = {
    "return-observation-action": ("return", "observation", "action"),
    "observation-action": ("observation", "action"),
    "return-observation": ("return", "observation"),
    "observation": ("observation",),
}

LONGEST_CONVOLUTION = 4_096  # tokens
S = TypeVar("S")


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
    attention_options: tuple[str, ...] = ()
    """Options of the attention, NAME=VALUE, or NAME alone for one that is true: docs/attention.md lists them."""
    convolution: int = 0
    """Tokens that a causal convolution before the attention's projections spans; 0 for none."""
    tokens: Literal["return-observation-action", "observation-action", "return-observation", "observation"] = (
        "return-observation-action"
    )
    """Tokens of a step. Without a return's the observation's carries it; without an action's no past action is seen."""
    context: Context = 20
    """Steps in a training window (K), and the most that a window rollout of an agent of windows looks back; of a chunk
    where a state is carried; episode: all of an episode's."""
    dropout: float = 0.1
    """Dropout probability on embeddings, residuals and softmax weights."""
    recompute: bool = False
    """Keep only each block's input for the backward pass and work the rest out again: less memory, more time."""

    def __post_init__(self) -> None:
        if self.attention not in ATTENTION:
            raise ValueError(f"attention is {self.attention!r}: known are {', '.join(sorted(ATTENTION))}")
        options = read_options(ATTENTION[self.attention], self.attention_options)
        # The same options in the same words, whatever was typed.
        object.__setattr__(self, "attention_options", write_options(ATTENTION[self.attention], options))
        for name in ("width", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.context != "episode" and not (isinstance(self.context, int) and self.context >= 1):
            raise ValueError(f"context is {self.context!r}: it must be at least 1, or 'episode'")
        if self.width % self.heads:
            raise ValueError(f"width is {self.width} and heads is {self.heads}: width must be a multiple of heads")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout}: it must be at least 0 and below 1")
        if not 0 <= self.convolution <= LONGEST_CONVOLUTION:
            raise ValueError(
                f"convolution is {self.convolution}: it must be at least 0 and at most {LONGEST_CONVOLUTION:,}"
            )
        if self.tokens not in TOKENS:
            raise ValueError(f"tokens is {self.tokens!r}: known are {', '.join(TOKENS)}")
        if options:
            with torch.random.fork_rng([]):
                ATTENTION[self.attention](self.width, self.heads, **options)  # it says what is wrong with a value


class TrajectoryModel(nn.Module):
    """Predicts the action of every step from the returns-to-go, observations and past actions up to its observation.

    Everything enters and leaves in raw units: `normaliser` is part of the model.
    """

    def __init__(self, config: ModelConfig, normaliser: Normaliser) -> None:
        super().__init__()
        self.config = config
        self.normaliser = normaliser
        width = config.width
        self.kinds = TOKENS[config.tokens]  # of a step's tokens, in their order
        self.acting_token = self.kinds.index("observation")  # the one of a step's from which its action is read
        self.embed_return = nn.Linear(1, width)
        self.embed_observation = nn.Linear(normaliser.input_size, width)
        embed_action = nn.Linear(normaliser.action_size, width)  # drawn in any case: all else begins with equal weights
        self.embed_action = embed_action if "action" in self.kinds else None
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
        token_is_pad = None if is_pad is None else is_pad.repeat_interleave(len(self.kinds), dim=1)
        if last and self.embed_action is not None:
            tokens = tokens[:, :-1]
            token_is_pad = None if token_is_pad is None else token_is_pad[:, :-1]
        of_the_last = slice(-1, None) if last else self._observations
        for i, block in enumerate(self.blocks):
            tokens = self._run(block, tokens, token_is_pad, of_the_last if i == len(self.blocks) - 1 else ALL)
        return self._predict(tokens)

    def initial_state(self, batch: int) -> list["BlockState"]:
        """The state of `batch` episodes before their first step."""
        return [block.initial_state(batch) for block in self.blocks]  # pyright: ignore[reportCallIssue]

    def resume(
        self, returns_to_go: Tensor, observations: Tensor, actions: Tensor, timesteps: Tensor, state: list["BlockState"]
    ) -> tuple[Tensor, list["BlockState"]]:
        """Predict the action of every step that follows `state`; equals `forward` over all of the episode.

        Takes steps as `forward` does, with timesteps (B, T).

        Returns:
            (B, T, action size), and the state after the last step's action.
        """
        tokens = self._embed(returns_to_go, observations, actions, timesteps)
        return self._resume(tokens, state, self._observations)

    def step(
        self,
        previous_action: Tensor | None,
        returns_to_go: Tensor,
        observation: Tensor,
        timestep: int | Tensor,
        state: list["BlockState"],
    ) -> tuple[Tensor, list["BlockState"]]:
        """Predict the next action of episodes whose past is `state`; equals `forward` over the whole episode.

        Args:
            previous_action: (B, action size), the last step's action; None at the first step. Not looked at where
                actions have no token.
            returns_to_go: (B,).
            observation: (B, observation size).
            timestep: of the observation.
            state: from `initial_state` or the last `step`.

        Returns:
            (B, action size), and the state after the observation.
        """
        now = torch.as_tensor(timestep, device=observation.device)
        before, time = self.embed_timestep(torch.stack([now - 1, now]))
        tokens = self._before_acting(returns_to_go, observation, time)
        # There is no action before the first step: its token is left out.
        if previous_action is not None and self.embed_action is not None:
            tokens.insert(0, self.embed_action(self.normaliser.actions(previous_action)) + before)
        x = self.embed_dropout(self.embed_norm(torch.stack(tokens, dim=1)))
        predicted, state = self._resume(x, state, slice(-1, None))
        return predicted[:, -1], state

    @property
    def _observations(self) -> slice:
        """The tokens from which actions are predicted: of the last block no other output is looked at."""
        return slice(self.acting_token, None, len(self.kinds))

    def _resume(self, tokens: Tensor, state: list["BlockState"], at: slice) -> tuple[Tensor, list["BlockState"]]:
        states = []
        for i, (block, before) in enumerate(zip(self.blocks, state, strict=True)):
            tokens, after = self._run(block.step, tokens, before, at if i == len(self.blocks) - 1 else ALL)  # pyright: ignore[reportArgumentType]
            states.append(after)
        return self._predict(tokens), states

    def _run(self, function: Callable[..., S], *args: Any) -> S:
        if self.config.recompute and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False)  # pyright: ignore[reportReturnType]
        return function(*args)

    def _embed(self, returns_to_go: Tensor, observations: Tensor, actions: Tensor, timesteps: Tensor) -> Tensor:
        """(B, P T, width): the tokens of each step in their order."""
        time = self.embed_timestep(timesteps)
        tokens = self._before_acting(returns_to_go, observations, time)
        if self.embed_action is not None:
            tokens.append(self.embed_action(self.normaliser.actions(actions)) + time)
        return self.embed_dropout(self.embed_norm(torch.stack(tokens, dim=2).flatten(1, 2)))

    def _before_acting(self, returns_to_go: Tensor, observations: Tensor, time: Tensor) -> list[Tensor]:
        """The tokens (..., width) of steps (...) up to their observation."""
        wanted = self.embed_return(self.normaliser.returns(returns_to_go)[..., None])
        seen = self.embed_observation(self.normaliser.observations(observations)) + time
        return [wanted + time, seen] if "return" in self.kinds else [wanted + seen]

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


class BlockState(NamedTuple):
    """All that the past of a sequence means to its future in one block."""

    inputs: Tensor  # (B, tokens, width) that the convolution still reaches
    attention: Any  # of the attention's own kind


def map_state(function: Callable[[Tensor], Tensor], state: S) -> S:
    """A state, or what holds one, with `function` of every tensor in it whose first axis is the batch."""
    if isinstance(state, Tensor):
        return function(state) if state.ndim else state  # pyright: ignore[reportReturnType]
    if not isinstance(state, list | tuple):
        return state
    parts = [map_state(function, part) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)  # pyright: ignore[reportReturnType]


def tensors_of(state: Any) -> list[Tensor]:
    """The tensors of a state that `map_state` takes, in their order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_state(note, state)
    return found


class Block(nn.Module):
    """A pre-norm transformer block: attention, then a two-layer perceptron, each added to its input."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.attention_norm = nn.LayerNorm(width)
        rule = ATTENTION[config.attention]
        self.convolution = ShortConvolution(width, config.convolution) if config.convolution else None
        self.attention = rule(
            width, config.heads, dropout=config.dropout, **read_options(rule, config.attention_options)
        )
        self.attention_dropout = Dropout(config.dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(inplace=True), nn.Linear(4 * width, width))
        self.mlp_dropout = Dropout(config.dropout)

    def forward(self, tokens: Tensor, is_pad: Tensor | None = None, at: slice = ALL) -> Tensor:
        """(B, T, width) to the (B, tokens at, width) that are asked for."""
        x = self.attention_norm(tokens)
        if self.convolution is not None:
            x = self.convolution(x, is_pad)
        attended = self.attention(x, is_pad, at)
        return self._feed_forward(self.attention_dropout(attended, tokens[:, at]))

    def initial_state(self, batch: int) -> BlockState:
        """The state of `batch` sequences before their first token."""
        if self.convolution is None:
            inputs = self.attention_norm.weight.new_zeros(batch, 0, self.attention.width)
        else:
            inputs = self.convolution.initial_state(batch)
        return BlockState(inputs, self.attention.initial_state(batch))

    def step(self, tokens: Tensor, state: BlockState, at: slice = ALL) -> tuple[Tensor, BlockState]:
        """As `forward` for the next (B, t, width) tokens after `state`, and the state after them."""
        x, inputs = self.attention_norm(tokens), state.inputs
        if self.convolution is not None:
            x, inputs = self.convolution.step(x, inputs)
        attended, after = self.attention.step(x, state.attention, at)
        return self._feed_forward(self.attention_dropout(attended, tokens[:, at])), BlockState(inputs, after)

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
