"""A dataset as flat tensors: episodes end to end, with their returns-to-go."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import gymnasium as gym
import minari
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flowrl.data import derived, fingerprint_file, plain_arrays
from flowrl.data.declared import NOTHING, Declared
from flowrl.data.environment_spec import environment_spec
from flowrl.data.minari_store import open_dataset
from flowrl.data.reading import read_arrays
from flowrl.data.spaces import integer_type
from flowrl.data.stored_arrays import StoredArrays, check_finite
from flowrl.errors import InputError


@dataclass(frozen=True)
class TrajectoryDataset:
    """E episodes with N steps in all, as flat tensors on one device, in raw units; observations less `offset`.

    Step t of episode e is row ``starts[e] + t``; its observation is the one that its action followed. An episode's last
    observation, which no action followed, is in `final_observations`.
    """

    id: str
    env_spec: EnvSpec | None
    observations: Tensor  # (N, observation size) float32
    actions: Tensor  # (N, action size) float32; one-hot rows where actions are discrete
    rewards: Tensor  # (N,) float32
    returns_to_go: Tensor  # (N,) float32: the sum of this and all later rewards of the episode
    timesteps: Tensor  # (N,) int64: steps since the episode's start
    ends: Tensor  # (N,) int64: one past the row of the episode's last step
    starts: Tensor  # (E,) int64
    lengths: Tensor  # (E,) int64
    returns: Tensor  # (E,) float32
    terminated: Tensor  # (E,) bool: ended by the task, not by a time limit
    next_known: Tensor  # (E,) bool: False: nothing may bootstrap from the final observation, see `derived`
    final_observations: Tensor  # (E, observation size) float32
    action_low: Tensor  # (action size,) float32
    action_high: Tensor  # (action size,) float32
    fingerprint: str  # of lengths, observations, actions and rewards
    discrete_start: int | None = None  # the number of the first of the discrete actions; None: they are real numbers
    weights: Tensor | None = None  # (E,) float64: how often a step of an episode is drawn; None: all steps equally
    offset: NDArray[np.float64] | None = None  # (observation size,), subtracted from raw observations; None: nothing is
    whole_actions: str | None = None  # the integer type of whole-number actions, as int64; None for all others
    left_out: tuple[int, ...] = ()  # places in the stored dataset of episodes without steps; of a selection none
    cautions: tuple[str, ...] = ()  # what was left out or lost as the data were read, a sentence each
    declared: Declared = NOTHING  # what the dataset says about itself

    @classmethod
    def from_minari(cls, dataset: str) -> "TrajectoryDataset":
        """Load a Minari dataset by id (downloaded if it is not here) or by its folder, onto the CPU.

        Raises:
            InputError: there is no such dataset, or its arrays disagree in shape, are empty, or hold NaN or infinity.
        """
        stored = open_dataset(dataset)
        return cls.from_stored(stored, read_arrays(stored))

    @classmethod
    def from_stored(cls, stored: minari.MinariDataset, arrays: StoredArrays) -> "TrajectoryDataset":
        """Build from an opened dataset and the arrays that were read from it.

        Raises:
            InputError: the arrays hold NaN or infinity, or less than the dataset's metadata say; they or the metadata
                have changed since the dataset's fingerprint was recorded.
        """
        declared = Declared.of(stored)
        emptied = len(arrays.left_out) * int(arrays.lengths.max())
        declared.check_totals(stored.id, len(arrays.lengths), len(arrays.rewards), emptied)
        if isinstance(stored.action_space, gym.spaces.Discrete):
            low, high, first, whole = np.zeros(1), np.ones(1), int(stored.action_space.start), None
        else:
            space = stored.action_space
            assert isinstance(space, gym.spaces.Box)
            low, high, first, whole = space.low, space.high, None, integer_type(space)
        dataset = cls.from_stored_arrays(
            stored.id,
            arrays,
            action_low=low,
            action_high=high,
            env_spec=stored.env_spec,
            discrete_start=first,
            declared=declared,
        )
        fingerprint_file.verify(stored, arrays)
        return replace(dataset, whole_actions=whole)

    @classmethod
    def from_arrays(
        cls,
        observations: Sequence[ArrayLike],
        actions: Sequence[ArrayLike],
        rewards: Sequence[ArrayLike],
        terminations: Sequence[ArrayLike],
        *,
        id: str = "arrays",
        action_low: ArrayLike | None = None,
        action_high: ArrayLike | None = None,
        discrete_actions: int | None = None,
        env: str | EnvSpec | None = None,
    ) -> "TrajectoryDataset":
        """Build from plain arrays, each argument a list with one array an episode; nothing is written to disk.

        ```python
        TrajectoryDataset.from_arrays(
            observations=[np.zeros((4, 2)), np.ones((3, 2))],  # T+1 rows
            actions=[np.zeros((3, 1)), np.ones((2, 1))],  # T rows
            rewards=[np.zeros(3), np.ones(2)],
            terminations=[True, False],
        )
        ```

        Args:
            observations: (T+1, observation size) each, the first before the first action; or (T, observation size)
                where the last one is not known.
            actions: (T, action size) each, or (T,) whole numbers with `discrete_actions`.
            rewards: (T,) each.
            terminations: one bool an episode, or (T,) each: whether the task ended it, not a time limit.
            id: name of the dataset in run folders and reports.
            action_low: the least that an action may be, (action size,) or one number; None is the least in the data.
            action_high: the greatest, likewise.
            discrete_actions: the number of actions to choose from, numbered from 0; None for real numbers.
            env: Gymnasium id of the environment to evaluate in.

        Raises:
            InputError: lists of different lengths; an array of another shape or type, or with NaN or infinity, naming
                its episode; bounds that do not fit; an unknown environment.
        """
        arrays = plain_arrays.join(observations, actions, rewards, terminations, discrete_actions)
        low, high = plain_arrays.action_bounds(action_low, action_high, arrays.actions.shape[1], discrete_actions)
        spec = environment_spec(env) if isinstance(env, str) else env
        first = None if discrete_actions is None else 0
        bounds = None if discrete_actions is not None else (tuple(low.tolist()), tuple(high.tolist()))
        return cls.from_stored_arrays(
            id,
            arrays,
            action_low=low,
            action_high=high,
            env_spec=spec,
            discrete_start=first,
            declared=Declared(action_bounds=bounds),
        )

    @classmethod
    def from_stored_arrays(
        cls,
        id: str,
        arrays: StoredArrays,
        *,
        action_low: NDArray[np.floating],
        action_high: NDArray[np.floating],
        env_spec: EnvSpec | None = None,
        discrete_start: int | None = None,
        declared: Declared = NOTHING,
    ) -> "TrajectoryDataset":
        """Build from flat arrays; an infinite action bound becomes the extreme of the data.

        Raises:
            InputError: NaN or infinity, naming the array and the episode; or bounds that leave no action.
        """
        lengths = arrays.lengths
        ends = np.cumsum(lengths)
        starts = ends - lengths
        episodes = np.arange(len(lengths))
        episode_of = np.repeat(episodes, lengths)
        check_finite(arrays)

        final_rows = ends + episodes  # an episode has one more observation than steps
        returns_to_go = derived.returns_to_go(arrays.rewards, ends, lengths)
        size = arrays.actions.shape[1:]
        low, high = (np.broadcast_to(bound, size).astype(np.float32) for bound in (action_low, action_high))
        for bound, extreme in ((low, arrays.actions.min), (high, arrays.actions.max)):
            if not (finite := np.isfinite(bound)).all():  # a pass over all rows, else for nothing
                np.copyto(bound, extreme(0), where=~finite)
        if (low > high).any():
            raise InputError(f"action bounds {low} to {high} of {id} leave no action: the data lie outside of them")
        return cls(
            id=id,
            env_spec=env_spec,
            observations=torch.from_numpy(np.delete(arrays.observations, final_rows, axis=0)),
            actions=torch.from_numpy(arrays.actions),
            rewards=torch.from_numpy(arrays.rewards),
            returns_to_go=torch.from_numpy(returns_to_go),
            timesteps=torch.from_numpy(np.arange(len(episode_of)) - starts[episode_of]),
            ends=torch.from_numpy(ends[episode_of]),
            starts=torch.from_numpy(starts),
            lengths=torch.from_numpy(lengths),
            returns=torch.from_numpy(returns_to_go[starts]),
            terminated=torch.from_numpy(arrays.terminations[ends - 1]),
            next_known=torch.from_numpy(derived.next_known(arrays, ends - 1, final_rows)),
            final_observations=torch.from_numpy(arrays.observations[final_rows]),
            action_low=torch.from_numpy(low),
            action_high=torch.from_numpy(high),
            fingerprint=arrays.fingerprint,
            discrete_start=discrete_start,
            offset=arrays.offset if arrays.offset.any() else None,
            left_out=tuple(arrays.left_out.tolist()),
            cautions=derived.cautions(id, arrays),
            declared=declared,
        )

    @property
    def episodes(self) -> int:
        return len(self.lengths)

    @property
    def steps(self) -> int:
        return len(self.rewards)

    @property
    def evaluation_env(self) -> EnvSpec | None:
        """The environment to judge agents in: the one that is named for that, or else the recorded one."""
        return self.declared.evaluation_env or self.env_spec

    def to(self, device: torch.device | str) -> "TrajectoryDataset":
        """The same dataset on another device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})

    def top(self, fraction: float) -> "TrajectoryDataset":
        """The episodes of highest return: at least one, and `fraction` of all of them, in their order; at 1, itself.

        Raises:
            InputError: `fraction` is outside (0, 1].
        """
        if not 0.0 < fraction <= 1.0:
            raise InputError(f"top fraction is {fraction}: it must be above 0 and at most 1")
        if fraction == 1.0:
            return self
        count = max(1, round(fraction * self.episodes))
        kept = torch.sort(torch.sort(self.returns, descending=True, stable=True).indices[:count]).values
        return self.select(kept, f"top-{count}")

    def at_least(self, least: float) -> "TrajectoryDataset":
        """The episodes whose return is `least` or more.

        Raises:
            InputError: there is none.
        """
        kept = torch.nonzero(self.returns >= least)[:, 0]
        if not len(kept):
            raise InputError(f"no episode of {self.id} has a return of {least} or more: the best is {self.best:,.1f}")
        return self.select(kept, f"at-least-{least}")

    @property
    def best(self) -> float:
        """The greatest episode return."""
        return float(self.returns.max())

    def select(self, kept: Tensor, name: str) -> "TrajectoryDataset":
        """The episodes of those numbers, in the order given.

        Args:
            kept: (at least one,) int64.
            name: of the selection, for the fingerprint.
        """
        lengths = self.lengths[kept]
        ends = lengths.cumsum(0)
        starts = ends - lengths
        rows = torch.arange(int(ends[-1]), device=lengths.device) - torch.repeat_interleave(
            starts - self.starts[kept], lengths
        )
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in PER_STEP},
            **{name: getattr(self, name)[kept] for name in PER_EPISODE},
            ends=torch.repeat_interleave(ends, lengths),
            starts=starts,
            lengths=lengths,
            weights=None if self.weights is None else self.weights[kept],
            left_out=(),
            declared=self.declared.of_a_part(),
            fingerprint=f"{self.fingerprint}/{name}",
        )


PER_STEP = ("observations", "actions", "rewards", "returns_to_go", "timesteps")
PER_EPISODE = ("returns", "terminated", "next_known", "final_observations")
