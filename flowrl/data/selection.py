"""The data that a run is trained on: a dataset or a mixture by name, and the part of it that an agent sees."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from flowrl.data.d4rl import resolve
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.mixing import mix
from flowrl.errors import InputError


@dataclass(frozen=True)
class Selection:
    """Which part of its data an agent is trained on; the targets of its evaluation come from all of them."""

    dataset_episodes: str = ":"
    """Only these episodes of each dataset, as a slice of their numbers: `:500`, `100:200`, `-50:`."""
    min_return: float | None = None
    """Only the episodes whose return is at least this."""
    top_fraction: float = 1.0
    """Only this share of each dataset's episodes (of those the options above leave), those of highest return."""
    observations: str = ":"
    """Show the agent these features alone, as slices and numbers: `0:5`, `0:5,8`. It is evaluated with the same."""


class Loaded(NamedTuple):
    """A run's data."""

    whole: TrajectoryDataset
    """All of it: the targets of an evaluation come from here."""
    selected: TrajectoryDataset
    """What the agent is trained on."""
    columns: list[int] | None
    """The features that the agent is shown; None for all."""


def load(dataset: str | TrajectoryDataset, selection: Selection, env: str | None = None) -> Loaded:
    """Load a dataset, or a mixture of several.

    Args:
        dataset: a Minari id, a folder, or D4RL's name of a dataset whose file is in $D4RL_DATASET_DIR; several joined
            by `+` are mixed: `A+B` draws all their steps equally often, `A:3+B:1` three steps of A to one of B. Or a
            dataset in memory.
        selection: the part to train on, taken of each dataset before they are mixed.
        env: the environment to evaluate in; needed only for a mixture of datasets of several environments.

    Raises:
        InputError: no such dataset, datasets that cannot be mixed, or a selection that is malformed or leaves nothing.
    """
    if isinstance(dataset, TrajectoryDataset):
        columns = _columns(selection.observations, dataset.observations.shape[1])
        return Loaded(dataset, _select(dataset, selection), columns)
    names, shares = _parts(dataset)
    datasets = [TrajectoryDataset.from_minari(resolve(name)) for name in names]
    specs = {part.evaluation_env.id: part for part in datasets if part.evaluation_env is not None}
    if len(specs) > 1 and env is None:
        raise InputError(f"{dataset} mixes the environments {', '.join(specs)}: env must name one")
    selected = [_select(part, selection) for part in datasets]
    columns = _columns(selection.observations, datasets[0].observations.shape[1])
    if len(datasets) == 1:
        return Loaded(datasets[0], selected[0], columns)
    written = [""] * len(datasets) if shares is None else [f":{share:g}" for share in shares]
    name = "+".join(part.id + share for part, share in zip(datasets, written, strict=True))
    whole = mix(name, datasets, shares)
    return Loaded(whole, mix(name, selected, shares), columns)


def folders_of(dataset: str) -> list[Path]:
    """The folders among the names of a dataset or mixture; ids lie in Minari's root.

    Raises:
        InputError: the name is malformed.
    """
    return [Path(name) for name in _parts(dataset)[0] if Path(name).is_dir()]


def folder_name(dataset: str) -> str:
    """A name for a run's folder from that of its data."""
    return re.sub(r"[^\w.+-]+", "-", dataset.strip("/"))


def _parts(dataset: str) -> tuple[list[str], list[float] | None]:
    """The names, and their shares if any is given."""
    if dataset and Path(dataset).is_dir():  # a folder may have any name; the empty path would be this one
        return [dataset], None
    names, shares, given = [], [], False
    for part in _pieces(dataset):
        name, colon, share = ("", "", "") if Path(part).is_dir() else part.rpartition(":")
        names.append(name if colon else part)
        shares.append(_share(share, dataset) if colon else 1.0)
        given |= bool(colon)
    if not all(names):
        raise InputError(f"dataset {dataset!r} has an empty part: write A+B or A:3+B:1")
    if given and len(names) == 1:
        raise InputError(f"dataset {dataset!r} gives a share of one dataset: shares are for mixtures, as in A:3+B:1")
    return names, shares if given else None


def _pieces(dataset: str) -> list[str]:
    """The parts of a mixture, each with its share; a `+` in the name of a folder that exists parts nothing."""
    words, pieces = dataset.split("+"), []
    while words:
        ends = [end for end in range(len(words), 1, -1) if _names_folder("+".join(words[:end]))]
        end = ends[0] if ends else 1
        pieces.append("+".join(words[:end]))
        words = words[end:]
    return pieces


def _names_folder(piece: str) -> bool:
    name, _, share = piece.rpartition(":")
    return Path(piece).is_dir() or (bool(name) and "+" not in share and Path(name).is_dir())


def _share(text: str, dataset: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0.0 < share < float("inf"):
        raise InputError(f"share {text!r} in dataset {dataset!r} must be a number above 0, as in A:3+B:1")
    return share


def _select(dataset: TrajectoryDataset, selection: Selection) -> TrajectoryDataset:
    if selection.dataset_episodes != ":":
        stored = dataset.episodes + len(dataset.left_out)
        chosen = _numbers(selection.dataset_episodes, stored, "dataset_episodes", "episodes")
        rows = {number: row for row, number in enumerate(sorted({*range(stored)} - {*dataset.left_out}))}
        kept = [rows[number] for number in chosen if number in rows]
        if not kept:
            raise InputError(f"dataset_episodes {selection.dataset_episodes!r} leaves only episodes without steps")
        dataset = dataset.select(torch.tensor(kept), f"episodes-{selection.dataset_episodes}")
    if selection.min_return is not None:
        dataset = dataset.at_least(selection.min_return)
    return dataset.top(selection.top_fraction)


def _columns(text: str, size: int) -> list[int] | None:
    return None if text == ":" else _numbers(text, size, "observations", "features")


def _numbers(text: str, size: int, name: str, what: str) -> list[int]:
    """`0:5,8` as numbers below `size`; Python's slices, so that `:` is all and `-3:` the last three."""
    numbers: list[int] = []
    for word in text.split(","):
        match = re.fullmatch(r"\s*(-?\d+)?(:)?(-?\d+)?\s*", word)
        if match is None or not (match[1] or match[2]) or (match[3] and not match[2]):
            raise InputError(f"{name} {text!r} is malformed: write slices and numbers, as in 0:5 or 0:5,8")
        if match[2]:
            numbers += range(size)[slice(*(int(end) if end else None for end in (match[1], match[3])))]
        elif -size <= int(match[1]) < size:
            numbers.append(range(size)[int(match[1])])
        else:
            raise InputError(f"{name} {text!r} names number {match[1]}: there are {size} {what}")
    if not numbers:
        raise InputError(f"{name} {text!r} leaves nothing of the {size} {what}")
    if len(set(numbers)) < len(numbers):
        raise InputError(f"{name} {text!r} names one of the {what} twice")
    return numbers
