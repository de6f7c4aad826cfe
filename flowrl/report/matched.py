"""Finished runs on one dataset that can be compared: which they are, and their returns paired by seeds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from flowrl.errors import InputError
from flowrl.evaluation.statistics import Returns
from flowrl.report.runs import Row, Run
from flowrl.training.run_folder import NO_ENVIRONMENT

BASELINE = "dt"  # the rival that differences are taken against, where it is among the agents
JUDGED_AT = (
    "the dataset's best return or, where that is not among the targets, the highest target below it (the lowest target"
    " where all are above)"
)
_FREE = ("log_every", "checkpoint_every")  # settings that may differ between runs of one label


@dataclass(frozen=True)
class MatchedRuns:
    """Finished runs on one dataset with the same targets and environment seeds; labels may have other seeds."""

    runs: tuple[Run, ...]
    baseline: str
    """The label that differences are taken against; it may lack a run here."""

    @classmethod
    def of(cls, runs: Sequence[Run], baseline: str | None = None) -> Self:
        """Match runs.

        Args:
            baseline: by default dt where there is one, else the first label.

        Raises:
            InputError: they differ in data or episodes, or their labels mislead: two of one label and seed, or of one
                label and other settings.
        """
        first = runs[0]
        for run in runs[1:]:
            _check_alike(run, first)
        seen: dict[tuple[str, int], Run] = {}
        for run in runs:
            if other := seen.get((run.label, run.seed)):
                raise InputError(f"{run.path} and {other.path} are both {run.label} with training seed {run.seed}")
            seen[run.label, run.seed] = run
        _check_settings(runs)
        return cls(tuple(runs), baseline or baseline_of([run.label for run in runs]))

    @property
    def dataset(self) -> str:
        """The dataset's id."""
        return self.runs[0].config["dataset"]

    @property
    def dataset_returns(self) -> Row:
        """Of the whole dataset: percentiles (0 to 100), means, episodes and steps."""
        return self.runs[0].config["dataset_returns"]

    @property
    def evaluation(self) -> Row:
        """Environment, targets and environment seeds of all episodes, as in `Run.evaluation`."""
        return self.runs[0].evaluation

    @property
    def targets(self) -> list[float]:
        """Target returns in ascending order."""
        return self.evaluation["targets"]

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels in the order of the runs."""
        return tuple(dict.fromkeys(run.label for run in self.runs))

    @property
    def rivals(self) -> tuple[str, ...]:
        """Every label but the baseline's."""
        return tuple(label for label in self.labels if label != self.baseline)

    @property
    def headline(self) -> float:
        """The target that agents are judged at, `JUDGED_AT`."""
        best = self.dataset_returns["percentiles"][-1]
        return max([target for target in self.targets if target <= best], default=min(self.targets))

    @property
    def pairs(self) -> dict[str, int]:
        """How many training seeds each rival shares with the baseline."""
        theirs = self.runs_of(self.baseline).keys()
        return {label: len(self.runs_of(label).keys() & theirs) for label in self.rivals}

    @property
    def common_seeds(self) -> list[int]:
        """The training seeds that every label has."""
        return sorted(set.intersection(*(set(self.runs_of(label)) for label in self.labels)))

    def runs_of(self, label: str) -> dict[int, Run]:
        """The runs of a label by training seed."""
        return {run.seed: run for run in sorted(self.runs, key=lambda run: run.seed) if run.label == label}

    def returns(
        self, label: str, target: float, name: str = "return", *, seeds: Sequence[int] | None = None
    ) -> Returns:
        """(seeds, episodes) of the last checkpoints, in the order of seeds and environment seeds.

        Args:
            name: the column of the episodes.
            seeds: training seeds, of those that the label has; by default all.
        """
        runs = self.runs_of(label)
        return np.array([runs[seed].values(target, name) for seed in (runs if seeds is None else seeds)], np.float64)

    def paired(self, label: str, target: float) -> tuple[Returns, Returns] | None:
        """(seeds, episodes) of a label and of the baseline at the training seeds that both have; None without any."""
        theirs = self.runs_of(self.baseline)
        if not (common := [seed for seed in self.runs_of(label) if seed in theirs]):
            return None
        return self.returns(label, target, seeds=common), self.returns(self.baseline, target, seeds=common)

    def studied(self, label: str) -> Run | None:
        """The first training seed of the label that was studied."""
        return next((run for run in self.runs_of(label).values() if run.study is not None), None)

    def circumstances(self) -> list[str]:
        """Versions and device of the episodes, each combination once."""
        rows = (row for run in self.runs for row in run.played)
        combinations = (
            ", ".join(f"{n} {v}" for n, v in row["versions"].items()) + f" on {row['device']}" for row in rows
        )
        return list(dict.fromkeys(combinations))


def baseline_of(labels: Sequence[str]) -> str:
    """The label that differences are taken against."""
    return BASELINE if BASELINE in labels else labels[0]


def _check_alike(run: Run, first: Run) -> None:
    """Raise InputError where two runs differ in their data or in the episodes that they played."""
    for name in ("dataset", "fingerprint", "env_spec"):
        mine, theirs = run.config[name], first.config[name]
        if name == "fingerprint":  # of each part of a mixture, what follows the slash says how it was filtered
            mine, theirs = (re.sub(r"/[^+*]*", "", fingerprint) for fingerprint in (mine, theirs))
        free = name == "env_spec" and NO_ENVIRONMENT in (mine, theirs)  # trained without one: any can be played
        if mine != theirs and not free:
            values = f": {mine} and {theirs}" if name == "dataset" else ""
            raise InputError(f"runs cannot be compared: {run.path} differs in {name} from {first.path}{values}")
    mine, theirs = (each.config["dataset_returns"].get("reference") for each in (run, first))
    if mine != theirs and any(row["score_dataset"] is not None for each in (run, first) for row in each.played):
        raise InputError(
            f"runs cannot be compared: the reference scores stored with the dataset were {theirs} for {first.path} and"
            f" {mine} for {run.path}: train one of them again"
        )
    for name, mine in run.evaluation.items():
        if mine != first.evaluation[name]:
            raise InputError(
                f"runs cannot be compared: {run.path} was evaluated with {name} {mine},"
                f" {first.path} with {first.evaluation[name]}"
            )


def _check_settings(runs: Sequence[Run]) -> None:
    """Raise InputError where runs of one label were trained with other settings."""
    firsts: dict[str, Run] = {}
    for run in runs:
        first = firsts.setdefault(run.label, run)
        for part in ("agent", "agent_config", "training", "selection"):
            mine, theirs = run.config.get(part), first.config.get(part)
            if isinstance(mine, dict) and isinstance(theirs, dict):
                names = [n for n in mine.keys() | theirs.keys() if mine.get(n) != theirs.get(n) and n not in _FREE]
                part = f"{part}.{min(names)}" if names else part
                if not names:
                    continue
            elif mine == theirs:
                continue
            raise InputError(f"{run.path} and {first.path} are both called {run.label} and differ in {part}")
