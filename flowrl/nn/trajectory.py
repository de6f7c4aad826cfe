"""The trajectory model: tokens of returns, observations and actions through causal attention to one action a step.

Source: Chen et al., "Decision Transformer", NeurIPS 2021, with the attention left open. What differs from their release
is in docs/reference/differences.md.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flowrl.attention.dropout import Dropout
from flowrl.attention.multihead import ALL
from flowrl.nn.block import Block, BlockState
from flowrl.nn.heads import ActionHead, deterministic_head
from flowrl.nn.model_config import TOKENS, ModelConfig
from flowrl.nn.normaliser import Normaliser

# Axes: B batch, T steps, P tokens a step: return, observation and action, or some of them.

S = TypeVar("S")


class TrajectoryModel(nn.Module):
    """Predicts the action of every step from the returns-to-go, observations and past actions up to its observation.

    Everything enters and leaves in raw units: `normaliser` is part of the model.

    Args:
        head: what the outputs mean; by default one deterministic action within its bounds, or discrete ones.
    """

    def __init__(self, config: ModelConfig, normaliser: Normaliser, head: ActionHead | None = None) -> None:
        super().__init__()
        self.config = config
        self.normaliser = normaliser
        width = config.width
        self.kinds = TOKENS[config.tokens]  # of a step's tokens, in their order
        self.acting_token = self.kinds.index("observation")  # the one of a step's from which its action is read
        self.embed_return = nn.Linear(1, width) if config.conditioned else None
        self.embed_observation = nn.Linear(normaliser.input_size, width)
        embed_action = nn.Linear(normaliser.action_size, width)  # drawn in any case: all else begins with equal weights
        self.embed_action = embed_action if "action" in self.kinds else None
        self.embed_timestep = TimestepEmbedding(width)
        self.embed_norm = nn.LayerNorm(width)
        self.embed_dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(width)
        self.head = head or deterministic_head(normaliser)
        self.free = nn.Parameter(torch.zeros(self.head.free)) if self.head.free else None
        self.action_head = nn.Linear(width, self.head.size)
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
            last: predict only the last step; its action is ignored.

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

    def initial_state(self, batch: int) -> list[BlockState]:
        """The state of `batch` episodes before their first step."""
        return [block.initial_state(batch) for block in self.blocks]  # pyright: ignore[reportCallIssue]

    def resume(
        self, returns_to_go: Tensor, observations: Tensor, actions: Tensor, timesteps: Tensor, state: list[BlockState]
    ) -> tuple[Tensor, list[BlockState]]:
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
        state: list[BlockState],
    ) -> tuple[Tensor, list[BlockState]]:
        """Predict the next action of episodes whose past is `state`; equals `forward` over the whole episode.

        Args:
            previous_action: (B, action size), the last step's action; None at the first step. Ignored where actions
                have no token.
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
        """The tokens from which actions are predicted: the last block needs no other output."""
        return slice(self.acting_token, None, len(self.kinds))

    def _resume(self, tokens: Tensor, state: list[BlockState], at: slice) -> tuple[Tensor, list[BlockState]]:
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
        seen = self.embed_observation(self.normaliser.observations(observations)) + time
        if self.embed_return is None:
            return [seen]
        wanted = self.embed_return(self.normaliser.returns(returns_to_go)[..., None])
        return [wanted + time, seen] if "return" in self.kinds else [wanted + seen]

    def _predict(self, tokens: Tensor) -> Tensor:
        outputs = self.action_head(self.final_norm(tokens))
        if self.free is not None:
            outputs = torch.cat([outputs.float(), self.free.expand(*outputs.shape[:-1], -1)], dim=-1)
        return self.head.prediction(outputs)


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


def _initialise(module: nn.Module) -> None:
    """GPT-2's initialisation, as in the Decision Transformer."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
