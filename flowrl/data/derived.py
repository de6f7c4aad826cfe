"""What follows from a dataset's arrays: returns-to-go, and which final observations are known."""

import numpy as np
from numpy.typing import NDArray

from flowrl.data.stored_arrays import StoredArrays


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
