"""The actor of a trajectory model: one model, and one way to act with it."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flowrl.data.samplers import Batch
from flowrl.data.transitions import Past, Transitions
from flowrl.nn.acting import ACTING, RolloutMode
from flowrl.nn.block import BlockState
from flowrl.nn.heads import ActionHead
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.trajectory import TrajectoryModel


class Recording(NamedTuple):
    """One played episode of T steps, in raw units."""

    returns_to_go: Tensor  # (T,)  the target less the rewards so far
    observations: Tensor  # (T, observation size)
    actions: Tensor  # (T, action size), as the actor gave them


class Seen(NamedTuple):
    """What the model read when it acted at some steps of an episode: windows, and where these steps are in them.

    A window may go on after its step: causality hides the rest.
    """

    returns_to_go: Tensor  # (windows, T)
    observations: Tensor  # (windows, T, observation size)
    actions: Tensor  # (windows, T, action size)
    timesteps: Tensor  # (windows, T)
    window: Tensor  # (steps,) the window of each step
    position: Tensor  # (steps,) its place in that window


class Readings(NamedTuple):
    """What a `TrajectoryActor` predicts for transitions."""

    here: Tensor  # (B, ...) for the observations
    after: Tensor  # (B, ...) for the next observations


class TrajectoryActor(nn.Module):
    """Acts with a trajectory model, towards a target return where the model takes one.

    Args:
        model: predicts the actions.
        rollout: how much of the past it keeps, a name in `flowrl.nn.acting.ACTING`.
        acting_context: steps of a window, or between the beginnings of staggered states; None for the whole past.
    """

    def __init__(self, model: TrajectoryModel, rollout: RolloutMode, acting_context: int | None) -> None:
        super().__init__()
        self.model = model
        self.rollout, self.acting_context = rollout, acting_context
        self.acting = ACTING[rollout](model, acting_context)

    @property
    def conditioned(self) -> bool:
        """See `flowrl.protocols.Actor`."""
        return self.model.config.conditioned

    @property
    def normaliser(self) -> Normaliser:
        """The statistics that scale what enters and leaves."""
        return self.model.normaliser

    @property
    def head(self) -> ActionHead:
        """What the model's outputs mean."""
        return self.model.head

    def predict(self, batch: Batch) -> Tensor:
        """The prediction of every step of a batch, as `head` takes it."""
        return self.model(batch.returns_to_go, batch.observations, batch.actions, batch.timesteps)

    def initial_state(self, batch: int) -> list[BlockState]:
        """What `resume` takes before the first chunk of `batch` episodes."""
        return self.model.initial_state(batch)

    def resume(self, batch: Batch, state: list[BlockState]) -> tuple[Tensor, list[BlockState]]:
        """As `predict` for chunks that follow those which left `state`, and the state after them."""
        return self.model.resume(batch.returns_to_go, batch.observations, batch.actions, batch.timesteps, state)

    def read(self, batch: Transitions, state: list[BlockState] | None = None) -> "Readings":
        """The predictions for transitions and their next observations, by one pass over their past.

        Args:
            state: that the steps before the batch left, where its chunks go on from such.
        """
        past = batch.past
        assert past is not None
        columns = past.returns_to_go, past.observations, past.actions, past.timesteps
        predicted = self.model(*columns) if state is None else self.model.resume(*columns, state)[0]
        predicted = predicted.flatten(0, 1)
        return Readings(predicted[past.here], predicted[past.after])

    def advance(self, past: Past, state: list[BlockState]) -> list[BlockState]:
        """The state after the K steps of chunks that follow those which left `state`."""
        steps = past.is_pad.shape[1]
        columns = past.returns_to_go, past.observations, past.actions, past.timesteps
        returns_to_go, observations, actions, timesteps = (column[:, :steps] for column in columns)
        return self.model.resume(returns_to_go, observations, actions, timesteps, state)[1]

    def initial(self, targets: Tensor) -> Any:
        """See `flowrl.protocols.Actor`."""
        return self.acting.initial(targets)

    def act(self, carry: Any, observations: Tensor, rewards: Tensor) -> tuple[Any, Tensor]:
        """See `flowrl.protocols.Actor`."""
        return self.acting.act(carry, observations, rewards)

    def select(self, carry: Any, slots: Tensor) -> Any:
        """See `flowrl.protocols.Actor`."""
        return self.acting.select(carry, slots)

    def seen(self, recording: Recording, steps: Tensor) -> Seen:
        """What was read at `steps` (n,) int64 of a recorded episode: as many of the last as acting goes back.

        Steps whose past begins at the same step share a window.
        """
        length = len(recording.returns_to_go)
        context = min(self.acting.most or length, length)
        first, window = self.acting.first(steps).unique(return_inverse=True)
        timesteps = first[:, None] + torch.arange(context, device=steps.device)
        # What is read is the episode's, even where a window that began late reaches beyond its end.
        returns_to_go, observations, actions = (column[timesteps.clamp(max=length - 1)] for column in recording)
        return Seen(returns_to_go, observations, actions, timesteps, window, steps - first[window])

    def act_again(self, seen: Seen) -> Tensor:
        """(n, action size): the actions at the n steps of `seen`."""
        predicted = self.model(seen.returns_to_go, seen.observations, seen.actions, seen.timesteps)
        return self.head.action(predicted[seen.window, seen.position])
