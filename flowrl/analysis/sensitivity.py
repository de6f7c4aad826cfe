"""How much an agent's action depends on its target return, the past being what it was."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowrl.analysis.json_numbers import finite
from flowrl.analysis.steps import portions, spread
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.trajectory_actor import Recording, TrajectoryActor
from flowrl.protocols import Actor

MOST_STATES = 1_000


@torch.inference_mode()
def sensitivity(actor: Actor, recordings: Mapping[float, Recording], worst: float, best: float) -> dict[str, Any]:
    """The field ``sensitivity`` of a study, see `flowrl.analysis.studies`.

    Args:
        actor: in evaluation mode.
        recordings: the episode of each target, the best return among them.
        worst: return in the dataset.
        best: return in the dataset.
    """
    targets = sorted({*recordings, worst})
    lengths = [len(recording.returns_to_go) for recording in recordings.values()]
    states = spread(sum(lengths), MOST_STATES)
    unit = "half the action range"
    # Of an agent that takes a target, and of which it is not known how it acts on another, there is no change to give.
    change: list[float | None] = [None if actor.conditioned else 0.0] * len(targets)
    if isinstance(actor, TrajectoryActor):
        starts = np.cumsum([0, *lengths])
        steps = [states[(states >= start) & (states < end)] - start for start, end in pairwise(starts)]
        actions = {
            other: torch.cat([
                _actions_at(actor, recording, some, other - target)
                for (target, recording), some in zip(recordings.items(), steps, strict=True)
            ])
            for other in targets
        }  # fmt: skip
        change = [_difference(actor.normaliser, actions[other], actions[best]) for other in targets]
        unit = "share of states" if actor.normaliser.discrete else unit
    return {
        "looks_at_return": actor.conditioned,
        "states": len(states),
        "unit": unit,
        "targets": targets,
        "change": change,
        "worst_to_best": change[targets.index(worst)],
    }


def _actions_at(actor: TrajectoryActor, recording: Recording, steps: NDArray[np.int64], shift: float) -> Tensor:
    """(steps, action size): the actions had the target return been greater by `shift` from the start."""
    shifted = recording._replace(returns_to_go=recording.returns_to_go + shift)
    return torch.cat([actor.act_again(actor.seen(shifted, some)) for some in portions(actor, shifted, steps)])


def _difference(normaliser: Normaliser, one: Tensor, other: Tensor) -> float | None:
    if normaliser.discrete:
        return finite((one != other).any(-1).double().mean().item())
    return finite((normaliser.actions(one) - normaliser.actions(other)).double().square().mean().sqrt().item())
