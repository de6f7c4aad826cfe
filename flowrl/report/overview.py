"""All runs together: scores over tasks and seeds, differences, probabilities of improvement and profiles."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flowrl.evaluation.statistics import (
    Returns,
    aggregate,
    aggregate_difference,
    performance_profile,
    probability_of_improvement,
)
from flowrl.report.comparison import Comparison
from flowrl.report.matched import baseline_of
from flowrl.report.returns import columns, generator
from flowrl.report.runs import Row, Run
from flowrl.report.sentences import (
    FewestSeeds,
    against_baseline,
    difference,
    estimate,
    fewest_seeds,
    leader,
    seed_caution,
)
from flowrl.text import counted

# Columns of episodes and what they are called, the ones to put tasks together by first.
SCORES = {
    "score_measured": "score (flowrl references)",
    "score_d4rl": "score (D4RL references)",
    "score_dataset": "score (dataset references)",
}
THRESHOLDS = 101  # of a performance profile


@dataclass(frozen=True)
class Report:
    """Comparisons on one or more datasets, with the commands that made the runs and what failed."""

    comparisons: tuple[Comparison, ...]
    commands: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        runs: Sequence[Run],
        commands: Sequence[str] = (),
        failures: Sequence[str] = (),
        baseline: str | None = None,
    ) -> "Report":
        """Group finished runs by dataset.

        Args:
            baseline: the label that differences are taken against, whether it has a run or not; by default dt where
                there is one, else the first label.

        Raises:
            InputError: runs on one dataset cannot be compared.
        """
        datasets = dict.fromkeys(run.config["dataset"] for run in runs)
        grouped = [[run for run in runs if run.config["dataset"] == dataset] for dataset in datasets]
        baseline = baseline or baseline_of([run.label for run in runs])
        return cls(tuple(Comparison.of(group, baseline) for group in grouped), tuple(commands), tuple(failures))

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels in the order of the runs."""
        return tuple(dict.fromkeys(label for comparison in self.comparisons for label in comparison.labels))

    @property
    def baseline(self) -> str:
        """The label that differences are taken against."""
        return self.comparisons[0].baseline

    @cached_property
    def score(self) -> str | None:
        """The normalised score that tasks are put together by: one that every episode has; None if there is none."""
        for name in SCORES:
            if all(row[name] is not None for c in self.comparisons for run in c.runs for row in run.episodes):
                return name
        return None

    @cached_property
    def shared(self) -> tuple[Comparison, ...]:
        """The datasets on which all labels have training seeds in common: only there are they put side by side."""
        return tuple(c for c in self.comparisons if set(c.labels) == set(self.labels) and c.common_seeds)

    @property
    def _seeds(self) -> int:
        """The fewest training seeds that all labels have on a shared dataset."""
        return min(len(c.common_seeds) for c in self.shared)

    @property
    def pooled(self) -> bool:
        """Whether there are scores to put together: over several datasets, or over the training seeds of one."""
        return bool(self.aggregate_rows) and (len(self.comparisons) > 1 or self._seeds > 1)

    @property
    def pooled_over(self) -> str:
        """What scores are put together over."""
        if len(self.comparisons) > 1:
            return "datasets and training seeds"
        return f"the {self._seeds} training seeds that all agents have"

    def tasks(self, label: str) -> list[Returns]:
        """Per shared dataset, (seeds, episodes) of scores at its headline target, of the seeds that all labels have.

        Of these alone: else an agent whose runs fail where the task is hard would score the better for it.
        """
        assert self.score is not None
        return [c.returns(label, c.headline, self.score, seeds=c.common_seeds) for c in self.shared]

    @cached_property
    def aggregate_rows(self) -> list[Row]:
        """One row per label: IQM, mean and median of scores over the shared tasks and seeds."""
        if self.score is None or not self.shared:
            return []
        rows = []
        for label in self.labels:
            tasks = self.tasks(label)
            row: Row = {"agent": label, "tasks": len(tasks), "runs": sum(map(len, tasks)), "score": self.score}
            for name, value in aggregate(tasks, generator())._asdict().items():
                row |= columns(name, value, self._seeds)
            rows.append(row)
        return rows

    @cached_property
    def improvement_rows(self) -> list[Row]:
        """One row per rival of the baseline: paired difference and probability of improvement over shared tasks."""
        if self.score is None or not self.shared or self.baseline not in self.labels:
            return []
        rows, theirs = [], self.tasks(self.baseline)
        for label in self.labels:
            if label == self.baseline:
                continue
            ours = self.tasks(label)
            mean = aggregate_difference(ours, theirs, generator())
            better = probability_of_improvement(ours, theirs, generator())
            rows.append(
                {
                    "agent": label,
                    "baseline": self.baseline,
                    "tasks": len(ours),
                    "pairs": sum(map(len, ours)),
                    "score": self.score,
                    **columns("difference", mean, self._seeds),
                    **columns("probability", better, self._seeds),
                }
            )
        return rows

    @cached_property
    def profile_rows(self) -> list[Row]:
        """One row per label and threshold: the share of runs that score above it, over the shared tasks."""
        if self.score is None or not self.shared:
            return []
        tasks = {label: self.tasks(label) for label in self.labels}
        runs = np.concatenate([returns.mean(1) for mine in tasks.values() for returns in mine])
        low, high = min(0.0, float(runs.min())), float(runs.max())
        thresholds = np.linspace(low, high + 0.02 * (high - low), THRESHOLDS)
        rows = []
        for label, mine in tasks.items():
            for values in zip(*performance_profile(mine, thresholds, generator()), strict=True):
                threshold, share, least, most = map(float, values)
                ends = {"low": least, "high": most} if self._seeds > 1 else {"low": None, "high": None}
                rows.append({"agent": label, "threshold": threshold, "share": share, **ends})
        return rows

    @cached_property
    def task_rows(self) -> list[Row]:
        """One row per dataset and label at its headline target: return and score, and how seeds differ."""
        rows = []
        for comparison in self.comparisons:
            for row in comparison.score_rows:
                if row["target"] != comparison.headline:
                    continue
                spread = None
                if self.score is not None and row["seeds"] > 1:
                    scores = comparison.returns(row["agent"], comparison.headline, self.score)
                    spread = float(scores.mean(1).std(ddof=1))
                score = None if self.score is None else row[self.score]
                rows.append({**row, "score": score, "score_std_of_seeds": spread})
        return rows

    def summary(self) -> str:
        """The result in plain words."""
        sentences = []
        if self.failures:
            sentences.append(f"{counted(len(self.failures), 'run')} failed in training or in the study.")
        if len(self.comparisons) == 1:
            return " ".join([*sentences, self.comparisons[0].summary(), *(self._left_out() if self.pooled else [])])
        if self.score is None:
            sentences.append(
                f"{len(self.comparisons)} datasets; not all of them have reference returns of one kind, so there is no"
                " score over all of them."
            )
        else:
            sentences += self._scores(SCORES[self.score])
        return " ".join([*sentences, *filter(None, [seed_caution(self.fewest_seeds())])])

    def _scores(self, name: str) -> list[str]:
        sentences, rows = [], self.aggregate_rows
        if len(rows) > 1 and rows[0]["iqm_low"] is not None:
            first = leader({row["agent"]: row["iqm"] for row in rows}, "interquartile mean")
            sentences.append(first + against_baseline(self.improvement_rows))
        if rows:
            of_agents = "; ".join(f"{row['agent']} {estimate(row, 'iqm')}" for row in rows)
            sentences.append(
                f"Interquartile mean of the {name} over {counted(rows[0]['tasks'], 'dataset')} and"
                f" {counted(rows[0]['runs'], 'run')} of each agent: {of_agents}."
            )
        sentences += self._left_out()
        sentences += [difference(row, f" points of {name}") for row in self.improvement_rows]
        if rows and self.baseline not in self.labels:
            sentences.append(f"{self.baseline}, which differences are taken against, has no run here.")
        return sentences

    def _left_out(self) -> list[str]:
        left_out = sum(len(c.runs) for c in self.comparisons) - sum(row["runs"] for row in self.aggregate_rows)
        if not left_out:
            return []
        return [
            f"The scores over {self.pooled_over} leave out {counted(left_out, 'run')} without a counterpart of every"
            " agent (same dataset, same training seed)."
        ]

    def fewest_seeds(self) -> FewestSeeds:
        """The smallest number of training seeds behind a result on any dataset, or behind the scores over datasets."""
        candidates = [fewest_seeds(comparison) for comparison in self.comparisons]
        for comparison in self.shared:
            whose = f" that all agents have on {comparison.dataset}"
            candidates.append(FewestSeeds(len(comparison.common_seeds), whose))
        fewest = min(candidates, key=lambda candidate: candidate.number)
        everywhere = all(candidate.number == fewest.number for candidate in candidates)
        return fewest._replace(whose="") if everywhere else fewest
