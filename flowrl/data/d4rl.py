"""D4RL's HDF5 files, read with all their quirks and imported into Minari; D4RL's dict views of any Minari dataset."""

import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import ArrayLike, NDArray

from flowrl.data.minari_store import Episode, dataset_path, open_dataset, write_dataset
from flowrl.data.stored_arrays import INFLATION, read_arrays
from flowrl.errors import InputError, cause

HORIZON = 1000  # of the locomotion tasks, whose v0 files have no timeouts
SOURCE = "http://rail.eecs.berkeley.edu/datasets/offline_rl"
REPEATED = "repeated_final_observations"  # in the metadata of an imported dataset

_REQUIRED = ("observations", "actions", "rewards", "terminals")
_OPTIONAL = ("timeouts", "next_observations")
_ROWS_AT_ONCE = 65_536
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Recording:
    """What a D4RL file holds: its whole episodes, and what is to be known about them."""

    episodes: list[Episode]
    dropped: int
    """Steps at the end of the file that belong to an episode which no flag ends."""
    repeated: int
    """Episodes whose observation T+1 the file does not have: it repeats observation T, which is wrong."""
    mismatches: int | None
    """Steps inside an episode whose next observation is not the observation of the next row; None where the file has
    no next observations, or none that tells an episode's last step from any other."""
    horizon: int | None
    """Where episodes were cut for want of timeouts; None for a file that has them."""
    left_out: tuple[str, ...]
    """Further entries of the file, which are not read."""

    @property
    def steps(self) -> int:
        return sum(len(episode.rewards) for episode in self.episodes)

    def notes(self) -> list[str]:
        """What a user of the data should know, a sentence each."""
        episodes = len(self.episodes)
        said = []
        if self.horizon is not None:
            said.append(f"The file has no timeouts: episodes were cut at {self.horizon:,} steps.")
        if self.dropped:
            said.append(f"The last {self.dropped:,} steps, of an episode that no flag ends, were dropped.")
        if self.repeated:
            which = "each episode" if self.repeated == episodes else f"{self.repeated:,} of {episodes:,} episodes"
            said.append(
                f"The last observation of {which} is not real: it repeats the one before, as the file does not have it."
            )
        else:
            said.append("The last observation of every episode is real.")
        if self.mismatches is None:
            said.append("No next_observations tell whether the flags stand at the right rows: that is unchecked.")
        elif self.mismatches:
            said.append(
                f"At {self.mismatches:,} steps inside an episode next_observations is not the next row's observation."
            )
        if self.left_out:
            said.append(f"Left out of the file: {_listed(self.left_out)}.")
        return said


# Reading a file


def read_file(path: str | Path, *, horizon: int | None = HORIZON, allow_misaligned: bool = False) -> Recording:
    """Read a D4RL HDF5 file: `observations actions rewards terminals [timeouts] [next_observations]`, time-major.

    An episode ends at a row of `terminals` or `timeouts`, and keeps both flags where both are set, as Gymnasium does
    for a step that fails at the time limit; without `timeouts` it is also truncated after `horizon` steps. Observation
    T+1 is the last of `next_observations`. Without them it is not known (the next row is another episode's first one,
    and so not used), nor is it where `next_observations` has only that row to offer: it then repeats observation T.

    Args:
        horizon: steps; serves only files without `timeouts`, which are refused where it is None.
        allow_misaligned: read a file whose `next_observations` say that its flags do not stand where episodes end.

    Raises:
        InputError: no HDF5 file, or a cut one; arrays missing, of shapes, types or lengths that do not fit, with NaN or
            infinity; flags other than 0 and 1; no whole episode; inside the episodes, `next_observations` is not the
            next row's observation at half as many steps as there are episodes, or at 1 % of all steps.
    """
    path = Path(path)
    if horizon is not None and horizon < 1:
        raise InputError(f"horizon is {horizon}: it must be at least 1")
    if not path.is_file():
        raise InputError(f"{path} is {'no file' if path.exists() else 'not there'}: a D4RL HDF5 file is due")
    try:
        size = path.stat().st_size
        with h5py.File(path, "r") as file:
            names = list(file)
            missing = [name for name in _REQUIRED if name not in names]
            if missing:
                raise InputError(f"no {', '.join(missing)}; it has {_listed(names) or 'nothing at all'}")
            found = {name: _dataset(file, name, size) for name in (*_REQUIRED, *_OPTIONAL) if name in names}
            _check_shapes({name: item.shape for name, item in found.items()})
            arrays: dict[str, NDArray[Any]] = {name: item[()] for name, item in found.items()}
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # h5py raises many kinds for a foreign or broken file
        raise InputError(f"{path} cannot be read as HDF5: {cause(error)}") from error
    left_out = tuple(name for name in names if name not in arrays)
    try:
        return _recording(arrays, left_out, horizon, allow_misaligned)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _listed(names: Sequence[str]) -> str:
    """A foreign file may have thousands of names, and any bytes in them."""
    shown = [name if name.isprintable() else ascii(name) for name in names[:8]]
    return ", ".join(shown) + (f" and {len(names) - 8:,} more" if len(names) > 8 else "")


def _dataset(file: h5py.File, name: str, file_size: int) -> h5py.Dataset:
    """The dataset of that name, if this file itself holds every number that it claims."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise InputError(f"{name} is a link: the file itself must hold it")
    item = file[name]
    if not isinstance(item, h5py.Dataset):
        raise InputError(f"{name} is a group: an array is due")
    if item.dtype.kind not in "fiub" or item.dtype.itemsize > 8 or item.dtype.shape:
        raise InputError(f"{name} are of type {str(item.dtype)[:80]}: numbers are due")
    if item.shape is None or item.ndim == 0:
        raise InputError(f"{name} is a single value: an array with a row a step is due")
    if 0 in item.shape:
        raise InputError(f"{name} are empty: their shape is {item.shape}")
    # A broken file may claim any shape: never allocate more than it can hold, nor take fill values for data.
    layout = item.id.get_create_plist()
    stored, claimed = item.id.get_storage_size(), math.prod(item.shape) * item.dtype.itemsize
    whole = layout.get_external_count() == 0 and layout.get_layout() != h5py.h5d.VIRTUAL and stored <= file_size
    packed = 1
    if whole and item.chunks is not None:
        packed = INFLATION if layout.get_nfilters() else 1
        due = math.prod(-(-length // chunk) for length, chunk in zip(item.shape, item.chunks, strict=True))
        whole = math.prod(item.chunks) * item.dtype.itemsize <= file_size * packed and item.id.get_num_chunks() >= due
    if not whole or claimed > stored * packed:
        raise InputError(f"{name} of shape {item.shape} are not wholly in the file")
    return item


def _check_shapes(shapes: dict[str, tuple[int, ...]]) -> None:
    rows = shapes["observations"][0]
    for name, shape in shapes.items():
        if name in ("observations", "actions", "next_observations"):
            fits, due = len(shape) == 2, f"({rows}, size)"
        else:
            fits, due = shape[1:] in ((), (1,)), f"({rows},)"
        if not fits or shape[0] != rows:
            raise InputError(f"{name} have shape {shape} where {due} is due for {rows:,} observations")
    if shapes.get("next_observations", shapes["observations"]) != shapes["observations"]:
        raise InputError(
            f"next_observations have shape {shapes['next_observations']}, observations {shapes['observations']}"
        )


def _recording(
    arrays: dict[str, NDArray[Any]], left_out: tuple[str, ...], horizon: int | None, allow_misaligned: bool
) -> Recording:
    observations = _numbers("observations", arrays["observations"])
    actions = _numbers("actions", arrays["actions"])
    rewards = _numbers("rewards", arrays["rewards"].reshape(-1))
    terminals = _flags("terminals", arrays["terminals"].reshape(-1))
    given = "timeouts" in arrays
    if given:
        timeouts = _flags("timeouts", arrays["timeouts"].reshape(-1))
    elif horizon is None:
        raise InputError("the file has no timeouts: --horizon must say after how many steps an episode is cut")
    else:
        timeouts = _cuts(terminals, horizon)
    following = _numbers("next_observations", arrays["next_observations"]) if "next_observations" in arrays else None

    ends = np.flatnonzero(terminals | timeouts)
    if not len(ends):
        flags = (
            "terminal or timeout" if given else f"terminal, and no timeouts to go with a horizon of {horizon:,} steps,"
        )
        raise InputError(f"no whole episode: no {flags} is set in {len(rewards):,} steps")
    starts = np.concatenate([[0], ends[:-1] + 1])

    real = np.zeros(len(ends), np.bool_)
    mismatches = None
    if following is not None:
        mismatched = _compare(following, observations)
        # A last observation that is the next episode's first is not real; neither is the file's last where all are so.
        real = np.append(mismatched, True)[ends]
        if len(ends) > 1 and not real[:-1].any():
            real[-1] = False
        mismatched[ends[ends < len(mismatched)]] = False
        mismatched[ends[-1] :] = False
        mismatches = int(mismatched.sum())
        if not allow_misaligned and mismatches >= min(len(ends) / 2, max(ends[-1] / 100, 1)):
            raise InputError(
                f"next_observations is not the next row's observation at {mismatches:,} steps inside the"
                f" {len(ends):,} episodes, first at row {mismatched.argmax()}: the flags do not stand where the"
                " episodes end (--allow-misaligned reads the file nonetheless)"
            )
        if not mismatches and len(ends) > 1 and not real.any():
            mismatches = None
    last = observations[ends]  # a copy
    if following is not None:
        last[real] = following[ends[real]]
    episodes = [
        Episode(
            np.concatenate([observations[start:stop], last[index : index + 1]]),
            actions[start:stop],
            rewards[start:stop],
            terminals[start:stop],
            timeouts[start:stop],
        )
        for index, (start, stop) in enumerate(zip(starts.tolist(), (ends + 1).tolist(), strict=True))
    ]
    return Recording(
        episodes,
        dropped=len(rewards) - int(ends[-1]) - 1,
        repeated=int((~real).sum()),
        mismatches=mismatches,
        horizon=None if given else horizon,
        left_out=left_out,
    )


def _numbers(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """As float32 or float64, whichever holds what the file has; finite as float32 too."""
    array = array.astype(
        np.float32 if array.dtype.kind == "f" and array.dtype.itemsize <= 4 else np.float64, copy=False
    )
    with np.errstate(invalid="ignore"):
        low, high = array.min(), array.max()  # NaN if one is
    if not (low >= -_FLOAT32_MAX and high <= _FLOAT32_MAX):
        fine = (np.abs(array) <= _FLOAT32_MAX).reshape(len(array), -1).all(1)
        raise InputError(f"{name} hold NaN, infinity or a figure beyond float32, first in row {fine.argmin()}")
    return array


def _flags(name: str, array: NDArray[Any]) -> NDArray[np.bool_]:
    if array.dtype.kind == "b":
        array = array.view(np.uint8)  # a file may hold other bytes than 0 and 1 as booleans
    known = (array == 0) | (array == 1)
    if not known.all():
        row = int(known.argmin())
        raise InputError(f"{name} hold {array[row]} in row {row}: 0 and 1 are due")
    return array == 1


def _cuts(terminals: NDArray[np.bool_], horizon: int) -> NDArray[np.bool_]:
    """(N,) True at each step that is the last within the horizon, counted from the step after a terminal or a cut."""
    rows = np.arange(len(terminals))
    # The row at which the present stretch without a terminal began.
    began = np.maximum.accumulate(np.where(np.append(True, terminals[:-1]), rows, 0))
    return (rows - began + 1) % horizon == 0


def _compare(following: NDArray[np.floating], observations: NDArray[np.floating]) -> NDArray[np.bool_]:
    """(N-1,): where the next observation is not the next row's, beyond rounding."""
    mismatched = np.empty(len(observations) - 1, np.bool_)
    for start in range(0, len(mismatched), _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, len(mismatched))
        # float64: the difference of two float32 may overflow
        ours, theirs = (a.astype(np.float64) for a in (following[start:stop], observations[start + 1 : stop + 1]))
        gap = np.abs(ours - theirs)
        mismatched[start:stop] = (gap > 1e-5 + 1e-4 * np.abs(theirs)).any(1)
    return mismatched


# Importing


def import_file(
    path: str | Path,
    dataset_id: str,
    *,
    env_spec: EnvSpec | None,
    reference_scores: tuple[float, float] | None,
    horizon: int | None = HORIZON,
    allow_misaligned: bool = False,
    force: bool = False,
) -> Recording:
    """Read a D4RL HDF5 file (`read_file`) and write it as a Minari dataset, which its description says all about.

    The spaces are the environment's, where one is given and the data lie in them; else boxes of the data's sizes,
    unbounded but for actions that all lie in [-1, 1]. The metadata's `repeated_final_observations` counts the episodes
    whose last observation is not real.

    Args:
        reference_scores: mean return of a random and of an expert policy.
        force: replace a dataset of that id.

    Raises:
        InputError: as `read_file`; the id is malformed or taken (without `force`); the environment cannot be made, or
            its sizes are not those of the data.
    """
    path, target = Path(path), dataset_path(dataset_id)
    if target.exists() and not force:
        raise InputError(f"dataset {dataset_id} exists already at {target}: --force replaces it")
    recording = read_file(path, horizon=horizon, allow_misaligned=allow_misaligned)
    with warnings.catch_warnings():
        # D4RL's data belong to the -v4 environments: that a -v5 exists is no news.
        warnings.filterwarnings("ignore", message=".*is out of date.*")
        observation_space, action_space = _spaces(path, recording, env_spec)
        write_dataset(
            dataset_id,
            recording.episodes,
            env_spec=env_spec,
            observation_space=observation_space,
            action_space=action_space,
            algorithm="D4RL's behaviour policy",
            description=" ".join(
                [f"D4RL (Fu et al., 2020), imported from {path.name}; licence CC BY 4.0.", *recording.notes()]
            ),
            reference_scores=reference_scores,
            author="D4RL",
            metadata={REPEATED: recording.repeated},
            force=force,
        )
    return recording


def _spaces(path: Path, recording: Recording, env_spec: EnvSpec | None) -> tuple[gym.spaces.Box, gym.spaces.Box]:
    first = recording.episodes[0]
    low = min(float(episode.actions.min()) for episode in recording.episodes)
    high = max(float(episode.actions.max()) for episode in recording.episodes)
    bound = 1.0 if low >= -1.0 and high <= 1.0 else np.inf
    observation_space = gym.spaces.Box(-np.inf, np.inf, first.observations.shape[1:], np.float32)
    action_space = gym.spaces.Box(-bound, bound, first.actions.shape[1:], np.float32)
    if env_spec is None:
        return observation_space, action_space
    try:
        env = gym.make(env_spec)
    except (gym.error.Error, ImportError) as error:
        raise InputError(f"environment {env_spec.id} cannot be made here: {cause(error)}") from error
    env.close()
    for what, space, own in [
        ("observations", env.observation_space, observation_space),
        ("actions", env.action_space, action_space),
    ]:
        if not isinstance(space, gym.spaces.Box) or space.shape != own.shape:
            raise InputError(
                f"{path}: {what} have {own.shape[0]} figures, and the {what[:-1]} space of {env_spec.id} is {space}"
            )
    assert isinstance(env.observation_space, gym.spaces.Box)
    assert isinstance(env.action_space, gym.spaces.Box)
    inside = all(_lie_in(env.action_space, episode.actions) for episode in recording.episodes)
    return env.observation_space, env.action_space if inside else action_space


def _lie_in(space: gym.spaces.Box, rows: NDArray[Any]) -> bool:
    return bool((rows >= space.low).all() and (rows <= space.high).all())


# Names

_TASKS = "antmaze ant door halfcheetah hammer hopper kitchen maze2d pen relocate walker2d"
_NAME = re.compile(rf"({_TASKS.replace(' ', '|')})-([a-z0-9]+(?:-[a-z0-9]+)*)-v([0-9]+)")

_ANTMAZES = {
    "umaze": "u-maze_noisy_multistart_False_multigoal_False",
    "umaze-diverse": "u-maze_noisy_multistart_True_multigoal_True",
    "medium-play": "big-maze_noisy_multistart_True_multigoal_False",
    "medium-diverse": "big-maze_noisy_multistart_True_multigoal_True",
    "large-play": "hardest-maze_noisy_multistart_True_multigoal_False",
    "large-diverse": "hardest-maze_noisy_multistart_True_multigoal_True",
}
_FILES = {
    **{
        f"{task}-{level}-v0": f"{task}_{level.replace('-', '_')}"
        for task in ("hopper", "halfcheetah", "walker2d", "ant")
        for level in ("random", "medium", "expert", "medium-expert")
    },
    **{f"{task}-medium-replay-v0": f"{task}_mixed" for task in ("hopper", "halfcheetah", "ant")},
    "walker2d-medium-replay-v0": "walker_mixed",
    **{f"antmaze-{maze}-v0": f"Ant_maze_{stem}_sparse" for maze, stem in _ANTMAZES.items()},
    **{f"antmaze-{maze}-v2": f"Ant_maze_{stem}_sparse_fixed" for maze, stem in _ANTMAZES.items()},
    **{f"maze2d-{maze}-v1": f"maze2d-{maze}-sparse-v1" for maze in ("umaze", "medium", "large")},
    "kitchen-complete-v0": "mini_kitchen_microwave_kettle_light_slider-v0",
    "kitchen-partial-v0": "kitchen_microwave_kettle_light_slider-v0",
    "kitchen-mixed-v0": "kitchen_microwave_kettle_bottomburner_light-v0",
    **{
        f"{task}-{level}-v0": stem.format(task)
        for task in ("pen", "door", "hammer", "relocate")
        for level, stem in [
            ("human", "{}-v0_demos_clipped"),
            ("cloned", "{}-demos-v0-bc-combined"),
            ("expert", "{}-v0_expert_clipped"),
        ]
    },
}
"""Files whose names do not follow from the dataset's (d4rl/infos.py)."""


def d4rl_name(text: str) -> str | None:
    """D4RL's name of a dataset, hopper-medium-replay-v2, from the name or from that of its file; None for another text.

    File names are hopper_medium_replay-v2.hdf5, with underscores or dashes, and the irregular ones of D4RL's server.
    """
    stem = re.sub(r"\.(hdf5|h5)$", "", text)
    for name, file in _FILES.items():
        if stem == file:
            return name
    name = stem.replace("_", "-").lower()
    return name if _NAME.fullmatch(name) else None


def minari_id(name: str) -> str:
    """The Minari id of D4RL's dataset: hopper-medium-replay-v2 is d4rl/hopper/medium-replay-v2.

    Raises:
        InputError: no D4RL name.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(f"{name!r} is no D4RL name: write TASK-LEVEL-vN, as in hopper-medium-v2, TASK one of {_TASKS}")
    return f"d4rl/{match[1]}/{match[2]}-v{match[3]}"


def find_file(name: str) -> Path:
    """The HDF5 file of D4RL's dataset of that name, in `$D4RL_DATASET_DIR` or else in `~/.d4rl/datasets`.

    Raises:
        InputError: no D4RL name; no such file.
    """
    minari_id(name)
    folder = Path(os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets").expanduser()
    rest, _, version = name.rpartition("-v")
    stems = [f"{rest.replace('-', '_')}-v{version}", name]
    stems += [_FILES[name]] if name in _FILES else []
    for stem in stems:
        if (folder / f"{stem}.hdf5").is_file():
            return folder / f"{stem}.hdf5"
    raise InputError(
        f"no file of {name} is in {folder}, neither as {' nor as '.join(f'{stem}.hdf5' for stem in stems)}: download it"
        f" from D4RL ({SOURCE}) into that folder, or set D4RL_DATASET_DIR to where it is"
    )


# D4RL's views of a Minari dataset


def get_dataset(dataset_id: str) -> dict[str, NDArray[Any]]:
    """All steps of a Minari dataset as D4RL's flat dict, N rows each, episodes end to end.

    `observations` (N, o), `actions` (N, a), `rewards` (N,), `next_observations` (N, o) float32; `terminals` (N,) and
    `timeouts` (N,) bool. As in D4RL, an episode ends where one of the two is set: that includes a last step that the
    dataset itself neither terminates nor truncates, which is a timeout here. `next_observations` is the dataset's own
    observation t+1, on an episode's last row too.

    Raises:
        InputError: there is no such dataset, or it cannot be read.
    """
    return _flat(dataset_id)[0]


def qlearning_dataset(dataset_id: str, *, keep_timeouts: bool = False) -> dict[str, NDArray[Any]]:
    """`observations actions next_observations rewards terminals` of a Minari dataset, as D4RL's function gives them.

    The rows are those that D4RL's function takes from `get_dataset`: all but the timeouts, and but the very last one,
    since it does not know what follows them. On a terminal row, where D4RL has the first observation of the next
    episode, `next_observations` is the episode's own last one (or its repeat); a learner multiplies either by zero.

    Args:
        keep_timeouts: keep all N rows: Minari's episodes have the observation that follows.

    Raises:
        InputError: there is no such dataset, or it cannot be read; `keep_timeouts` of an imported dataset whose last
            observations are not real.
    """
    if keep_timeouts and (repeated := open_dataset(dataset_id).storage.metadata.get(REPEATED, 0)):
        raise InputError(
            f"keep_timeouts needs the observation after an episode's last step, and {dataset_id} does not have it in"
            f" {repeated} episodes: their D4RL file does not"
        )
    flat, _ = _flat(dataset_id)
    kept = np.ones(len(flat["rewards"]), np.bool_)
    if not keep_timeouts:
        kept &= ~flat["timeouts"]
        kept[-1] = False
    names = ("observations", "actions", "next_observations", "rewards", "terminals")
    return {name: flat[name] if keep_timeouts else flat[name][kept] for name in names}


def sequence_dataset(dataset_id: str) -> Iterator[dict[str, NDArray[Any]]]:
    """The episodes of a Minari dataset one by one, as D4RL's function gives them: `get_dataset` with T rows each.

    Raises:
        InputError: there is no such dataset, or it cannot be read; at the call, not at the first episode.
    """
    flat, lengths = _flat(dataset_id)
    stops = np.cumsum(lengths)
    bounds = zip((stops - lengths).tolist(), stops.tolist(), strict=True)
    return ({name: array[start:stop] for name, array in flat.items()} for start, stop in bounds)


def _flat(dataset_id: str) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """`get_dataset`, and the lengths (E,) of the episodes."""
    arrays = read_arrays(open_dataset(dataset_id))
    lengths = arrays.lengths
    episode_of = np.repeat(np.arange(len(lengths)), lengths)
    rows = np.arange(len(episode_of)) + episode_of  # an episode has one more observation than steps
    last = np.cumsum(lengths) - 1
    timeouts = arrays.truncations.copy()
    timeouts[last] |= ~arrays.terminations[last]
    flat = {
        "observations": arrays.observations[rows],
        "actions": arrays.actions,
        "rewards": arrays.rewards,
        "next_observations": arrays.observations[rows + 1],
        "terminals": arrays.terminations,
        "timeouts": timeouts,
    }
    return flat, lengths


def get_normalized_score(dataset_id: str, returns: ArrayLike) -> Any:
    """Returns, a number or an array, as a fraction of the way from the dataset's random to its expert reference.

    Raises:
        InputError: there is no such dataset, or it has no reference scores.
    """
    metadata = open_dataset(dataset_id).storage.metadata
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if low is None or high is None or low == high:
        raise InputError(f"dataset {dataset_id} has no reference scores: they are {low} (random) and {high} (expert)")
    return (np.asarray(returns, np.float64) - low) / (high - low)
