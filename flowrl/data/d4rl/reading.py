"""The episodes of a D4RL HDF5 file, whose arrays are flat and whose flags say where episodes end."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowrl.data.d4rl import hdf5
from flowrl.data.minari_store import Episode
from flowrl.data.precision import EPSILON
from flowrl.errors import InputError

HORIZON = 1000  # of the locomotion tasks, whose v0 files have no timeouts

_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class D4RLFile:
    """The whole episodes of a D4RL file, and what a user of them should know."""

    episodes: list[Episode]
    dropped: int
    """Steps at the end of the file that belong to an episode which no flag ends."""
    repeated: int
    """Episodes whose observation T+1 the file does not have: it repeats observation T, which is wrong."""
    mismatches: int | None
    """Steps inside an episode whose next observation is not the observation of the next row; None where the file has
    no next observations, or none that tells an episode's last step from any other."""
    horizon: int | None
    """Steps after which episodes were cut for want of timeouts; None for a file that has them."""
    left_out: tuple[str, ...]
    """Further entries of the file, which are not read."""

    @property
    def steps(self) -> int:
        """Of all whole episodes."""
        return sum(len(episode.rewards) for episode in self.episodes)

    def notes(self) -> list[str]:
        """What a user of the data should know, a sentence each."""
        episodes = len(self.episodes)
        notes = []
        if self.horizon is not None:
            notes.append(f"The file has no timeouts: episodes were cut at {self.horizon:,} steps.")
        if self.dropped:
            notes.append(f"The last {self.dropped:,} steps, of an episode that no flag ends, were dropped.")
        if self.repeated:
            which = "each episode" if self.repeated == episodes else f"{self.repeated:,} of {episodes:,} episodes"
            notes.append(
                f"The last observation of {which} is not real: it repeats the one before, as the file does not have it."
            )
        else:
            notes.append("The last observation of every episode is real.")
        if self.mismatches is None:
            notes.append("The file has no next_observations that show whether its flags are at the right rows.")
        elif self.mismatches:
            notes.append(
                f"At {self.mismatches:,} steps inside an episode next_observations is not the next row's observation."
            )
        if self.left_out:
            notes.append(f"Left out of the file: {hdf5.listed(self.left_out)}.")
        return notes


def read_file(path: str | Path, *, horizon: int | None = HORIZON, allow_misaligned: bool = False) -> D4RLFile:
    """Read a D4RL HDF5 file: `observations actions rewards terminals [timeouts] [next_observations]`, time-major.

    An episode ends at a row of `terminals` or `timeouts`, and keeps both flags where both are set, as Gymnasium does
    for a step that fails at the time limit; without `timeouts` it is also truncated after `horizon` steps. Observation
    T+1 is the last of `next_observations`. Without them it is not known (the next row is another episode's first one,
    and so not used), nor is it where `next_observations` has only that row to offer: it then repeats observation T.

    Args:
        horizon: steps; used only for files without `timeouts`, which are refused where it is None.
        allow_misaligned: read a file whose `next_observations` show that its flags are not where episodes end.

    Raises:
        InputError: no HDF5 file, or a cut one; arrays missing, of shapes, types or lengths that do not fit, with NaN or
            infinity; flags other than 0 and 1; no whole episode; inside the episodes, `next_observations` is not the
            next row's observation at half as many steps as there are episodes, or at 1 % of all steps.
    """
    path = Path(path)
    if horizon is not None and horizon < 1:
        raise InputError(f"horizon is {horizon}: it must be at least 1")
    arrays, left_out = hdf5.read_arrays(path)
    try:
        return _cut(arrays, left_out, horizon, allow_misaligned)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _cut(
    arrays: Mapping[str, NDArray[Any]], left_out: tuple[str, ...], horizon: int | None, allow_misaligned: bool
) -> D4RLFile:
    observations, actions, rewards = (arrays[name] for name in ("observations", "actions", "rewards"))
    terminals, timeouts, ends = _ends(arrays, horizon)
    starts = np.concatenate([[0], ends[:-1] + 1])
    last = observations[ends]  # a copy: repeated where the file has nothing better
    real, mismatches = np.zeros(len(ends), np.bool_), None
    if "next_observations" in arrays:
        following = arrays["next_observations"]
        real, mismatches = _compare(following, observations, ends, allow_misaligned)
        last = last.astype(np.result_type(last, following))
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
    return D4RLFile(
        episodes,
        dropped=len(rewards) - int(ends[-1]) - 1,
        repeated=int((~real).sum()),
        mismatches=mismatches,
        horizon=None if "timeouts" in arrays else horizon,
        left_out=left_out,
    )


def _ends(
    arrays: Mapping[str, NDArray[Any]], horizon: int | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.intp]]:
    """Terminals (N,), timeouts (N,), and the rows (E,) of the episodes' last steps."""
    terminals = arrays["terminals"]
    if "timeouts" in arrays:
        timeouts, missing = arrays["timeouts"], "terminal or timeout"
    elif horizon is None:
        raise InputError("the file has no timeouts: a horizon is needed, the steps after which an episode is cut")
    else:
        timeouts = _at_horizon(terminals, horizon)
        missing = f"terminal, and no timeouts to go with a horizon of {horizon:,} steps,"
    ends = np.flatnonzero(terminals | timeouts)
    if not len(ends):
        raise InputError(f"no whole episode: no {missing} is set in {len(terminals):,} steps")
    return terminals, timeouts, ends


def _at_horizon(terminals: NDArray[np.bool_], horizon: int) -> NDArray[np.bool_]:
    """(N,) True at each step that is the last within the horizon, counted from the step after a terminal or a cut."""
    rows = np.arange(len(terminals))
    # The row at which the present stretch without a terminal began.
    began = np.maximum.accumulate(np.where(np.append(True, terminals[:-1]), rows, 0))
    return (rows - began + 1) % horizon == 0


def _compare(
    following: NDArray[np.floating],
    observations: NDArray[np.floating],
    ends: NDArray[np.intp],
    allow_misaligned: bool,
) -> tuple[NDArray[np.bool_], int | None]:
    """`next_observations` beside the next rows: (E,) where an episode's last one is real; the mismatches inside."""
    mismatched = _mismatched(following, observations)
    # A last observation that is the next episode's first is not real; neither is the file's last where all are so.
    real = np.append(mismatched, True)[ends]
    if len(ends) > 1 and not real[:-1].any():
        real[-1] = False
    mismatched[ends[ends < len(mismatched)]] = False
    mismatched[ends[-1] :] = False
    mismatches = int(mismatched.sum())
    if not allow_misaligned and mismatches >= min(len(ends) / 2, max(ends[-1] / 100, 1)):
        raise InputError(
            f"next_observations is not the next row's observation at {mismatches:,} steps inside the {len(ends):,}"
            f" episodes, first at row {mismatched.argmax()}: the flags are not where the episodes end (allow misaligned"
            " files to read it all the same)"
        )
    return real, None if not mismatches and len(ends) > 1 and not real.any() else mismatches


def _mismatched(following: NDArray[np.floating], observations: NDArray[np.floating]) -> NDArray[np.bool_]:
    """(N-1,): where the next observation is not the next row's, beyond rounding."""
    mismatched = np.empty(len(observations) - 1, np.bool_)
    # A thousandth of its range at most: a feature may be tiny, or vary by little around a large number.
    most = 1e-3 * (observations.max(0).astype(np.float64) - observations.min(0))
    for start in range(0, len(mismatched), _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, len(mismatched))
        # float64: the difference of two float32 may overflow
        ours, theirs = (a.astype(np.float64) for a in (following[start:stop], observations[start + 1 : stop + 1]))
        gap = np.abs(ours - theirs)
        rounding = np.maximum(most, EPSILON * np.abs(theirs))
        mismatched[start:stop] = (gap > np.minimum(1e-5 + 1e-4 * np.abs(theirs), rounding)).any(1)
    return mismatched
