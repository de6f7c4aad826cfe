"""What of a dataset is compared with the environment to play in; a run folder keeps it, so evaluating needs no data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from gymnasium.envs.registration import EnvSpec

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.declared import Options
from flowrl.evaluation.as_recorded import to_play
from flowrl.evaluation.running_statistics import named_running

__all__ = ["KEPT", "Bounds", "Recorded"]

KEPT = "recorded"  # in a run's config.json


class Bounds(NamedTuple):
    """The least and the greatest action."""

    low: tuple[float, ...]  # (action size,)
    high: tuple[float, ...]  # (action size,)

    def __str__(self) -> str:
        """As one pair where all actions have the same bounds: `-1 to 1`."""
        low, high = (sorted(set(bound)) for bound in self)
        if len(low) == len(high) == 1:
            return f"{low[0]:.4g} to {high[0]:.4g}"
        return f"{_row(self.low)} to {_row(self.high)}"


def _row(numbers: tuple[float, ...]) -> str:
    more = ", ..." if len(numbers) > 8 else ""
    return f"({', '.join(f'{number:.4g}' for number in numbers[:8])}{more})"


@dataclass(frozen=True)
class Recorded:
    """A dataset, as far as an environment can agree or disagree with it."""

    dataset: str
    observation_size: int
    """Features of an observation in the data, all of them."""
    action_size: int
    """Features of an action, or the number of discrete actions."""
    discrete_start: int | None = None
    """The number of the first discrete action; None for real actions."""
    action_bounds: Bounds | None = None
    """Those that the dataset declares; None for discrete actions, or where none are known."""
    actions: Bounds | None = None
    """The extremes of the actions in the data."""
    outside: int = 0
    """Numbers in the actions that lie outside of the declared bounds."""
    longest: int | None = None
    """Steps of the longest episode."""
    env_id: str | None = None
    """The environment that it was recorded in."""
    evaluation_differs: str | None = None
    """How the environment to judge agents in differs from the recorded one; None where it does not."""
    running: tuple[str, ...] = ()
    """Wrappers with running statistics that it was recorded through."""
    reset_options: tuple[Options, ...] = ()
    """See `flowrl.data.declared.Declared`."""
    doubts: tuple[str, ...] = ()
    """What it says about itself that its arrays do not show, a sentence each."""

    @classmethod
    def of(cls, dataset: TrajectoryDataset) -> "Recorded":
        """What a dataset holds, all of it."""
        declared, env = dataset.declared, dataset.env_spec
        actions, outside = None, 0
        if dataset.discrete_start is None:
            rows = dataset.actions.cpu().numpy()
            least, greatest = rows.min(0), rows.max(0)
            actions = Bounds(tuple(map(float, least)), tuple(map(float, greatest)))
            if declared.action_bounds is not None:
                low, high = (np.asarray(bound, np.float32) for bound in declared.action_bounds)
                if (least < low).any() or (greatest > high).any():
                    outside = int(((rows < low) | (rows > high)).sum())
        return cls(
            dataset=dataset.id,
            observation_size=dataset.observations.shape[1],
            action_size=dataset.actions.shape[1],
            discrete_start=dataset.discrete_start,
            action_bounds=None if declared.action_bounds is None else Bounds(*declared.action_bounds),
            actions=actions,
            outside=outside,
            longest=int(dataset.lengths.max()),
            env_id=None if env is None else env.id,
            evaluation_differs=_difference(env, declared.evaluation_env),
            running=() if env is None else tuple(named_running(env)),
            reset_options=declared.reset_options,
            doubts=tuple(_doubts(dataset)),
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Recorded":
        """As a run's `config.json` keeps it; of a run that an earlier flowrl trained the sizes alone are known.

        Raises:
            KeyError, TypeError: the configuration has not what every version keeps.
            ValueError: what it keeps is damaged.
        """
        kept = dict(config.get(KEPT) or {})
        for name in ("action_bounds", "actions"):
            if kept.get(name) is not None:
                kept[name] = Bounds(*(tuple(float(number) for number in bound) for bound in kept[name]))
        for name in ("running", "reset_options", "doubts"):
            kept[name] = tuple(kept.get(name, ()))
        if not all(isinstance(options, dict) for options in kept["reset_options"]):
            raise ValueError("its reset options are no objects")
        if not isinstance(kept.get("longest"), int | None):
            raise ValueError(f"its longest episode is {kept['longest']!r}")
        sizes = (config[name] for name in ("dataset", "observation_size", "action_size", "discrete_start"))
        return cls(*sizes, **kept)

    def record(self) -> dict[str, Any]:
        """As JSON holds it, without what a run's configuration says elsewhere."""
        elsewhere = ("dataset", "observation_size", "action_size", "discrete_start")
        return {name: value for name, value in asdict(self).items() if name not in elsewhere}


def _doubts(dataset: TrajectoryDataset) -> list[str]:
    declared, doubts = dataset.declared, []
    if declared.more_episodes:
        doubts.append(
            f"the files of {dataset.id} hold more episodes than the {declared.total_episodes:,} that its metadata say"
            " (total_episodes): the others are left out"
        )
    if declared.total_steps is not None and declared.total_steps < dataset.steps:
        doubts.append(
            f"{dataset.id} holds {dataset.steps:,} steps and its metadata say {declared.total_steps:,} (total_steps):"
            " all that it holds are used"
        )
    return doubts


def _difference(recorded: EnvSpec | None, judging: EnvSpec | None) -> str | None:
    """How the second environment differs from the first as they are played, in a few words."""
    if recorded is None or judging is None:
        return None
    one, other = to_play(recorded), to_play(judging)
    names = ("id", "max_episode_steps", "kwargs", "additional_wrappers")
    differing = [name for name in names if getattr(one, name) != getattr(other, name)]
    if not differing:
        return None
    if differing[0] == "id":
        return f"{other.id} instead of {one.id}"
    parts = [
        f"{name} {[each.name for each in new]} instead of {[each.name for each in old]}"
        if name == "additional_wrappers"
        else f"{name} {new} instead of {old}"
        for name, new, old in ((name, getattr(other, name), getattr(one, name)) for name in differing)
    ]
    return f"{other.id} with {', '.join(parts)}"
