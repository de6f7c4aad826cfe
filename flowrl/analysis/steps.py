"""Which steps of a recorded episode are looked at, and how many at once."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowrl.nn.trajectory_actor import Recording, TrajectoryActor

TOKENS_AT_ONCE = 16_384  # through the model


def spread(length: int, most: int) -> NDArray[np.int64]:
    """At most `most` of the numbers below `length`, evenly spaced, the first and the last among them."""
    return np.linspace(0, length - 1, min(length, most)).round().astype(np.int64)


def portions(actor: TrajectoryActor, recording: Recording, steps: NDArray[np.int64]) -> Sequence[Tensor]:
    """The steps in portions to look at together; those that read the whole past share it, and it is read once."""
    all_steps = torch.from_numpy(steps).to(recording.actions.device)
    if actor.acting.most is None or not len(steps):
        return (all_steps,)
    return all_steps.split(max(1, TOKENS_AT_ONCE // (len(actor.model.kinds) * actor.acting.most)))
