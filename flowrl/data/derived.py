"""What follows from a dataset's arrays: returns-to-go, which final observations are known, cautions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flowrl.data.stored_arrays import StoredArrays
from flowrl.text import listed


def next_known(arrays: StoredArrays, last: NDArray[np.int64], final: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(E,) bool: whether an episode was terminated, or its final observation differs from the one before.

    A file may lack the observation after an episode's last step, as D4RL files without `next_observations` do; the
    import then repeats the last one it has. The value of a repeated observation is not the value of the state that
    followed, so nothing may bootstrap from it. A terminated episode needs none: nothing follows. A simulator at rest
    may repeat an observation in truth; the arrays cannot tell, and leaving out one step of an episode costs little.

    Args:
        last: (E,) rows of the episodes' last steps.
        final: (E,) rows of their final observations.
    """
    repeated = (arrays.observations[final] == arrays.observations[final - 1]).all(1)
    return arrays.terminations[last] | ~repeated


def returns_to_go(rewards: NDArray[np.float32], ends: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray:
    """(steps,) float32: the rewards from each step to its episode's end, summed in float64."""
    sums = np.cumsum(rewards, dtype=np.float64)
    to_go = np.repeat(sums[ends - 1], lengths)
    to_go -= sums
    to_go += rewards
    return to_go.astype(np.float32)


def cautions(id: str, arrays: StoredArrays) -> tuple[str, ...]:
    """What was left out or lost as the dataset was read, a sentence each."""
    said = []
    if len(arrays.left_out):
        places = listed(arrays.left_out.tolist())
        said.append(f"{id}: {len(arrays.left_out):,} episode(s) have no steps and are left out: {places}")
    return (*said, *lost_digits(id, arrays.rounded.tolist()))


def lost_digits(what: str, names: Sequence[str]) -> list[str]:
    """A sentence on the values of those names, whose digits float32 does not hold; none where there are no names."""
    if not names:
        return []
    return [
        f"{what}: precision is lost, since float32 does not hold the digits that tell the values of {listed(names)}"
        " apart: store differences instead"
    ]
