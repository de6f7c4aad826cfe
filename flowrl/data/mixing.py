"""Several datasets as one, each drawn as often as its share says."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from flowrl.data import derived, precision
from flowrl.data.dataset import PER_EPISODE, PER_STEP, TrajectoryDataset
from flowrl.data.declared import of_several
from flowrl.errors import InputError

__all__ = ["mix"]


def mix(id: str, datasets: Sequence[TrajectoryDataset], shares: Sequence[float] | None = None) -> TrajectoryDataset:
    """Several datasets as one.

    Args:
        id: of the whole.
        datasets: on one device; the first that names an environment gives it. Weights of theirs are not kept.
        shares: above 0, one a dataset: how often its steps are drawn, whatever their number. None draws all
            steps of all datasets equally often.

    Raises:
        InputError: their observations or actions are not of one kind.
    """
    first = datasets[0]
    for other in datasets[1:]:
        for what, mine, its in [
            ("observation size", first.observations.shape[1], other.observations.shape[1]),
            ("action size", first.actions.shape[1], other.actions.shape[1]),
            ("first discrete action", first.discrete_start, other.discrete_start),
        ]:
            if mine != its:
                raise InputError(f"{first.id} and {other.id} cannot be mixed: {what} is {mine} and {its}")
    datasets = _around_one_offset(datasets)
    joined = {
        name: torch.cat([getattr(dataset, name) for dataset in datasets])
        for name in (*PER_STEP, *PER_EPISODE, "lengths")
    }
    lengths = joined["lengths"]
    ends = lengths.cumsum(0)
    weights = None
    if shares is not None:
        largest = max(shares)  # over it, lest the sum of huge ones be infinite
        each = [share / largest / dataset.steps for share, dataset in zip(shares, datasets, strict=True)]
        episodes = torch.tensor([dataset.episodes for dataset in datasets])
        weights = torch.repeat_interleave(torch.tensor(each, dtype=torch.float64), episodes).to(lengths.device)
    return replace(
        first,
        id=id,
        env_spec=next((dataset.env_spec for dataset in datasets if dataset.env_spec is not None), None),
        **joined,
        ends=torch.repeat_interleave(ends, lengths),
        starts=ends - lengths,
        weights=weights,
        declared=of_several([dataset.declared for dataset in datasets]),
        action_low=torch.stack([dataset.action_low for dataset in datasets]).amin(0),
        action_high=torch.stack([dataset.action_high for dataset in datasets]).amax(0),
        offset=datasets[0].offset,
        whole_actions=first.whole_actions if len({dataset.whole_actions for dataset in datasets}) == 1 else None,
        left_out=(),
        cautions=tuple(caution for dataset in datasets for caution in dataset.cautions),
        fingerprint="+".join(dataset.fingerprint for dataset in datasets) + (f"*{list(shares)}" if shares else ""),
    )


def _around_one_offset(datasets: Sequence[TrajectoryDataset]) -> Sequence[TrajectoryDataset]:
    """The datasets with their observations around one offset, the mean of theirs over all steps.

    Those that tell too little apart around it get a caution.
    """
    size = datasets[0].observations.shape[1]
    offsets = np.stack([np.zeros(size) if dataset.offset is None else dataset.offset for dataset in datasets])
    columns = np.flatnonzero((offsets != offsets[0]).any(0))
    if not len(columns):
        return datasets
    common = offsets[0].copy()
    common[columns] = np.average(offsets[:, columns], axis=0, weights=[dataset.steps for dataset in datasets])
    return [_around(dataset, own, common, columns) for dataset, own in zip(datasets, offsets, strict=True)]


def _around(
    dataset: TrajectoryDataset, own: NDArray[np.float64], common: NDArray[np.float64], columns: NDArray[np.intp]
) -> TrajectoryDataset:
    """A dataset whose observations are less `common`, and no longer less `own`, in those columns."""
    moved = {name: getattr(dataset, name).clone() for name in ("observations", "final_observations")}
    by = torch.from_numpy((own - common)[columns]).to(dataset.observations.device)
    for values in moved.values():
        values[:, columns] = (values[:, columns].double() + by).float()
    before, after = (seen[:, columns].cpu().numpy() for seen in (dataset.observations, moved["observations"]))
    lost = columns[precision.loses_digits(before.astype(np.float64), after, dataset.lengths.tolist())]
    said = derived.lost_digits(f"{dataset.id} in this mixture", [f"observation feature {number}" for number in lost])
    return replace(dataset, **moved, offset=common, cautions=(*dataset.cautions, *said))
