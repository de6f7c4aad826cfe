"""What the numbers of a dataset are scaled by, and what to say of it.

Thresholds are relative to the numbers themselves: a position within half a micrometre of 0 is no constant.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowrl.data.dataset import TrajectoryDataset

ROUNDING = 1e-6  # of the largest number: float32 alone makes a constant vary by less
NOTHING = 1e-15  # float64 rounds numbers of about 1 by less: what varies so little around 0 may be its rounding
WIDE = 10.0
"""Bounds so many times as wide as the data's range are no scale for actions. A network's outputs move by about a
hundredth of their range as it trains (Adam at 1e-3): within ten times, that is still little of the data's range."""


def spread(values: Tensor, otherwise: float) -> Tensor:
    """Standard deviation of (N, ...) over N; `otherwise` where rounding alone makes a constant vary."""
    values = values.double()
    std = values.std(0, correction=0)
    return std.masked_fill(_is_constant(values, std), otherwise)


def action_scale(dataset: TrajectoryDataset) -> tuple[Tensor, Tensor]:
    """(action size,) centre and half range of actions: of their bounds, or of the data where these are far narrower.

    An action that never varies has no range: beside its own size and 1, its bounds count as wide.
    """
    low, high = dataset.action_low, dataset.action_high
    centre, half_range = (high + low) / 2, (high - low) / 2
    wide, data_centre, data_half_range = _by_data(dataset)
    half_range = half_range.masked_fill(half_range == 0, 1.0)
    return torch.where(wide, data_centre.float(), centre), torch.where(wide, data_half_range.float(), half_range)


def sentences(dataset: TrajectoryDataset, columns: Sequence[int] | None = None) -> list[str]:
    """What is scaled by the data against what is declared, and what is centred before it becomes float32.

    Args:
        columns: the features of an observation that the agent is shown; None for all.
    """
    said, offset = [], dataset.offset
    wide, centre, half_range = _by_data(dataset)
    for action in torch.nonzero(wide)[:, 0].tolist():
        low, high = (_written(float(bound[action])) for bound in (dataset.action_low, dataset.action_high))
        by = [_written(float(centre[action] + side * half_range[action])) for side in (-1, 1)]
        said.append(
            f"action {action} is scaled by the data's range, {by[0]} to {by[1]}: its bounds, {low} to {high}, are far"
            " wider"
        )
    if offset is not None:
        shown = range(len(offset)) if columns is None else sorted(columns)
        centred = [f"{feature} (around {offset[feature]:,.12g})" for feature in shown if offset[feature] != 0]
        if centred:
            said.append(f"centred in float64 before it becomes float32: observation feature {', '.join(centred)}")
    return said


def cautions(dataset: TrajectoryDataset, columns: Sequence[int] | None = None) -> list[str]:
    """A sentence on the features that vary, but by no more than rounding; `columns` as of `sentences`."""
    observations = dataset.observations.double()
    std = observations.std(0, correction=0)
    still = _is_constant(observations, std) & (observations.amax(0) > observations.amin(0))
    names = [str(feature) for feature in torch.nonzero(still)[:, 0].tolist() if columns is None or feature in columns]
    if not names:
        return []
    return [
        f"observation feature {', '.join(names)} hardly varies, by no more than rounding: it is taken for constant and"
        " not scaled"
    ]


def _is_constant(values: Tensor, std: Tensor) -> Tensor:
    """(...) bool, for float64 values (N, ...) and their standard deviations (...)."""
    return std <= (ROUNDING * values.abs().amax(0)).clamp(min=NOTHING)


def _by_data(dataset: TrajectoryDataset) -> tuple[Tensor, Tensor, Tensor]:
    """(action size,) where the bounds are far wider than the data; their centre and half range in float64."""
    low, high = dataset.actions.amin(0).double(), dataset.actions.amax(0).double()
    centre, half_range = (high + low) / 2, (high - low) / 2
    largest = torch.maximum(low.abs(), high.abs())
    half_range = torch.where(half_range > ROUNDING * largest, half_range, largest.clamp(min=1.0))
    declared = (dataset.action_high.double() - dataset.action_low.double()) / 2
    return (declared > WIDE * half_range) & (dataset.discrete_start is None), centre, half_range


def _written(value: float) -> str:
    return f"{value:,.6g}"
