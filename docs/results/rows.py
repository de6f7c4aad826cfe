"""The rows of runs.csv.gz and episodes.csv.gz, and the statistics that the tables and pictures show of them."""

import csv
import gzip
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flowrl.evaluation import statistics
from flowrl.evaluation.statistics import Estimate
from flowrl.text import interval, number, share

HERE = Path(__file__).parent
ROBOTS = {"hopper": "Hopper", "walker2d": "Walker2d", "halfcheetah": "HalfCheetah"}
NINE = [f"flowrl/{robot}/{data}-v0" for data in ("medium", "medium-replay", "medium-expert") for robot in ROBOTS]
REPLAY, EXPERT = NINE[3:5], NINE[6:8]  # of Hopper and Walker2d
UNTARGETED = "bc", "bc-10", "awac", "iql", "td3-bc", "rebrac"


def read(name: str) -> list[dict[str, str]]:
    with gzip.open(HERE / name, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


RUNS = read("runs.csv.gz")
CELLS: dict[tuple[str, str, str], dict[tuple[int, int], list[dict[str, str]]]] = defaultdict(lambda: defaultdict(list))
for _row in read("episodes.csv.gz"):
    CELLS[_row["dataset"], _row["label"], _row["target"]][int(_row["seed"]), int(_row["environment_seed"])].append(_row)
JUDGED = {run["dataset"]: run["judged_target"] for run in RUNS}  # the best return of the data
TARGETS = {run["dataset"]: run["targets"].split() for run in RUNS if run["targets"]}


class Sample(NamedTuple):
    """Which rows: of a label at a target (the dataset's best return without one), of one experiment or of all."""

    label: str
    target: str = ""
    column: str = "return"
    experiment: str = ""


def returns(dataset: str, sample: Sample) -> statistics.Returns:
    """(seeds, episodes); of a seed that was trained several times, the mean of its repetitions."""
    target = "" if sample.label in UNTARGETED else sample.target or JUDGED[dataset]
    kept = {
        place: np.mean([float(row[sample.column]) for row in rows if sample.experiment in ("", row["experiment"])])
        for place, rows in CELLS[dataset, sample.label, target].items()
    }
    seeds, episodes = ({place[axis] for place in kept} for axis in (0, 1))
    rows = [[kept[seed, episode] for episode in sorted(episodes)] for seed in sorted(seeds)]
    return np.array(rows, np.float64)


def generator() -> np.random.Generator:
    """Of the bootstrap: the same for every number, so that each can be made alone."""
    return np.random.default_rng(0)


def mean(dataset: str, sample: Sample) -> Estimate:
    """The mean return; one training seed says nothing of how training varies and has no interval."""
    rows = returns(dataset, sample)
    estimate = statistics.mean_return(rows, generator())
    return estimate if len(rows) > 1 else Estimate(estimate.value, np.nan, np.nan)


def difference(datasets: Sequence[str], ours: Sample, theirs: Sample) -> Estimate:
    """Paired by seed and episode, over the seeds of ours, which may be the first alone; the mean over datasets."""
    mine = [returns(dataset, ours) for dataset in datasets]
    others = [returns(dataset, theirs)[: len(own)] for dataset, own in zip(datasets, mine, strict=True)]
    return statistics.aggregate_difference(mine, others, generator())


def cell(estimate: Estimate, sign: bool = False) -> str:
    ends = "" if np.isnan(estimate.low) else f" {interval(estimate.low, estimate.high)}"
    return number(estimate.value, sign=sign) + ends


def name(dataset: str) -> str:
    _, robot, data = dataset.removesuffix("-v0").split("/")
    return f"{ROBOTS[robot]} {data}"


def followed(dataset: str, label: str) -> tuple[str, str]:
    """Slope of mean return over target within the data, and mean distance of the two as a share of the data's range."""
    targets = [target for target in TARGETS[dataset] if float(target) <= float(JUDGED[dataset])]
    means = np.array([returns(dataset, Sample(label, target)).mean() for target in targets])
    levels = np.array(targets, np.float64)
    distance = np.abs(means - levels).mean() / (levels.max() - levels.min())
    return f"{np.polyfit(levels, means, 1)[0]:z.2f}", share(float(distance))
