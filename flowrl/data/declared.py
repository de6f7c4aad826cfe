"""What a dataset says about itself beside its arrays: how its episodes began, who judges agents, how much it holds."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
from gymnasium.envs.registration import EnvSpec
from minari.dataset._storages.hdf5_storage import unflatten_dict

from flowrl.data.stored_environments import environment_problem
from flowrl.errors import InputError, cause

Options = Mapping[str, Any]
"""Of an environment's reset, as JSON can hold them."""

MOST_READ = 100  # episodes whose options are read: those of 10,000 would take seconds
_OF_MINARI = "minari_autoseed"  # an option that is for Minari's own collector


@dataclass(frozen=True)
class Declared:
    """What a dataset says about itself; what it does not say is None or empty."""

    evaluation_env: EnvSpec | None = None
    """The environment to judge agents in, where it is named."""
    environment_problem: str | None = None
    """Why an environment that it names cannot be read."""
    references: tuple[tuple[Any, Any], ...] = ()
    """The reference scores (random, expert) as they are stored, unchecked: one pair a dataset that has one."""
    reset_options: tuple[Options, ...] = ()
    """One entry where all episodes were reset with the same options; else one an episode, of up to `MOST_READ`
    episodes; empty where none had any."""
    first_seed: int | None = None
    """Of the reset of the first episode."""
    action_bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """The least and the greatest action, (action size,) each, infinite where there is no bound; None for discrete
    actions."""
    total_episodes: int | None = None
    total_steps: int | None = None
    more_episodes: bool = False
    """The files hold more episodes than `total_episodes`."""

    @classmethod
    def of(cls, stored: minari.MinariDataset) -> "Declared":
        """What an opened dataset says.

        Raises:
            InputError: the metadata of an episode cannot be read, or an option is no value that can be given again.
        """
        space, whole = stored.action_space, len(stored.episode_indices) == stored.storage.total_episodes
        try:
            metadata, more = _read_episodes(stored)
            options = [_options(row) for row in metadata]
        except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"the episodes' metadata of {stored.id} cannot be read: {cause(error)}") from error
        seed = metadata[0].get("seed") if metadata else None
        bounds = None
        if isinstance(space, gym.spaces.Box):
            bounds = tuple(map(float, space.low.ravel())), tuple(map(float, space.high.ravel()))
        return cls(
            evaluation_env=stored._eval_env_spec,  # Minari has no public name for it
            environment_problem=environment_problem(stored),
            references=stored_references(stored.storage.metadata),
            reset_options=_shortest(options),
            first_seed=None if seed is None else int(seed),
            action_bounds=bounds,
            total_episodes=int(stored.storage.total_episodes) if whole else None,
            total_steps=int(stored.storage.total_steps) if whole else None,
            more_episodes=whole and more,
        )

    def check_totals(self, id: str, episodes: int, steps: int, emptied: int) -> None:
        """Raise InputError where a dataset's arrays hold fewer steps than it says: a part of it is missing.

        Args:
            emptied: how many steps the episodes without any may have had, of which is said that they are left out.
        """
        if self.total_steps is not None and steps + emptied < self.total_steps:
            said = "" if self.total_episodes is None else f" in {self.total_episodes:,} episodes"
            raise InputError(
                f"{id} holds {steps:,} steps in {episodes:,} episodes, and its metadata say {self.total_steps:,}{said}"
                " (total_steps): a part is missing; restore the dataset, or correct its metadata.json"
            )

    def of_a_part(self) -> "Declared":
        """What holds of some of the episodes; reset options stay those of all, as target returns do."""
        return replace(self, first_seed=None, total_episodes=None, total_steps=None, more_episodes=False)


NOTHING = Declared()
"""Of arrays in memory."""


def of_several(parts: Sequence[Declared]) -> Declared:
    """What holds of several datasets together: reset options in turn, one of each dataset after the other."""
    longest = max(len(part.reset_options) for part in parts)
    each = [part.reset_options or ({},) for part in parts]
    options = [of_one[number % len(of_one)] for number in range(longest) for of_one in each]
    bounds = None
    if all(part.action_bounds is not None for part in parts):
        low, high = zip(*(part.action_bounds for part in parts if part.action_bounds is not None), strict=True)
        bounds = tuple(map(min, zip(*low, strict=True))), tuple(map(max, zip(*high, strict=True)))
    episodes, steps = [part.total_episodes for part in parts], [part.total_steps for part in parts]
    return Declared(
        total_episodes=_sum(episodes),
        total_steps=_sum(steps),
        more_episodes=any(part.more_episodes for part in parts),
        environment_problem=parts[0].environment_problem,
        references=tuple(pair for part in parts for pair in part.references),
        evaluation_env=next((part.evaluation_env for part in parts if part.evaluation_env is not None), None),
        reset_options=_shortest(options),
        action_bounds=bounds,
    )


def stored_references(metadata: Mapping[str, Any]) -> tuple[tuple[Any, Any], ...]:
    """The reference scores (random, expert) in a dataset's metadata, as they are stored, unchecked: one pair or none.

    Minari's come first, then those of D4RL that flowrl writes beside its own.
    """
    for origin in ("", "d4rl_"):
        pair = metadata.get(f"{origin}ref_min_score"), metadata.get(f"{origin}ref_max_score")
        if pair != (None, None):
            return (pair,)
    return ()


def _sum(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def _read_episodes(stored: minari.MinariDataset) -> tuple[list[dict[str, Any]], bool]:
    """The metadata of the first episode and of others, up to `MOST_READ` of them, in their order.

    Returns:
        Also whether the files hold an episode after the last.
    """
    indices = [int(index) for index in stored.episode_indices]
    following = f"episode_{max(indices, default=-1) + 1}"
    if len(indices) > MOST_READ:
        drawn = np.random.default_rng(0).choice(len(indices) - 1, MOST_READ - 1, replace=False) + 1
        indices = [indices[0], *(indices[number] for number in sorted(drawn))]
    folder = Path(stored.storage.data_path)
    if not (file := folder / "main_data.hdf5").exists():
        more = (folder / following.removeprefix("episode_")).is_dir()
        return list(stored.storage.get_episode_metadata(indices)), more
    with h5py.File(file, "r") as opened:
        return [_attributes(opened, index) for index in indices], following in opened


def _attributes(file: h5py.File, index: int) -> dict[str, Any]:
    """Seed and options of an episode. Of the names alone first: h5py takes a millisecond to read all of a group's."""
    group = h5py.h5g.open(file.id, f"episode_{index}".encode())
    names = [h5py.h5a.open(group, index=number).name for number in range(h5py.h5a.get_num_attrs(group))]
    kept = [name for name in names if name == b"seed" or name.startswith(b"options/")]
    attributes = h5py.Group(group).attrs
    return unflatten_dict({name.decode(): attributes[name.decode()] for name in kept})


def _options(row: Mapping[str, Any]) -> Options:
    given = row.get("options") or {}
    return {name: _plain(name, value) for name, value in given.items() if name != _OF_MINARI}


def _plain(name: str, value: Any) -> Any:
    """A value as JSON holds it: HDF5 gives numpy's numbers, arrays and bytes."""
    if isinstance(value, Mapping):
        return {key: _plain(f"{name}/{key}", item) for key, item in value.items()}
    if isinstance(value, h5py.Empty):
        return None
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    json.dumps(value)  # anything else is no option that can be given again
    return value


def _shortest(options: Sequence[Options]) -> tuple[Options, ...]:
    """The options of several episodes: one entry where all are the same, none where they are empty."""
    distinct: Iterator[Options] = (other for other in options if other != options[0])
    if next(distinct, None) is None:
        return tuple(options[:1]) if options and options[0] else ()
    return tuple(options)
