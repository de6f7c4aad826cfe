"""All runs on one dataset: what each returns at every target, and how they differ."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from flowrl.errors import InputError
from flowrl.report.runs import Row, Run
from flowrl.report.wording import bounds, number, seeds_told
from flowrl.scores import Estimate, Returns, interquartile_mean, mean_return, paired_difference

BASELINE = "dt"  # the rival that differences are taken against, where it is among the agents
FEW_SEEDS = 5  # with fewer, a bootstrap over seeds is too narrow
NARROW = 0.1  # the share of the best return below which the spread of a dataset's returns cannot steer


def generator() -> np.random.Generator:
    """Of every bootstrap: each starts anew, so that no interval depends on what else a report holds."""
    return np.random.default_rng(0)


# What may differ between runs that have one name.
_FREE = ("log_every", "checkpoint_every")


@dataclass(frozen=True)
class Comparison:
    """Finished runs on one dataset with the same targets and environment seeds; labels may have seeds of their own."""

    runs: tuple[Run, ...]
    baseline: str
    """The label that differences are taken against; it need not have a run here."""

    @classmethod
    def of(cls, runs: Sequence[Run], baseline: str | None = None) -> "Comparison":
        """Compare runs.

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
        return cls(tuple(runs), baseline or baseline_of(runs))

    @property
    def dataset(self) -> str:
        return self.runs[0].config["dataset"]

    @property
    def dataset_returns(self) -> Row:
        """Percentiles (0 to 100), mean, episodes and steps of the whole dataset."""
        return self.runs[0].config["dataset_returns"]

    @property
    def evaluation(self) -> Row:
        return self.runs[0].evaluation

    @property
    def targets(self) -> list[float]:
        return self.evaluation["targets"]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(run.label for run in self.runs))

    @property
    def rivals(self) -> tuple[str, ...]:
        """Every label but the baseline's."""
        return tuple(label for label in self.labels if label != self.baseline)

    @property
    def headline(self) -> float:
        """The target that an agent is judged by: the dataset's best return, else the highest target not beyond it."""
        best = self.dataset_returns["percentiles"][-1]
        return max([target for target in self.targets if target <= best], default=self.targets[-1])

    @property
    def pairs(self) -> dict[str, int]:
        """How many training seeds each rival shares with the baseline; of a single label, how many it has."""
        if not self.rivals or self.baseline not in self.labels:
            return {label: len(self.runs_of(label)) for label in self.labels}
        return {label: len(self.runs_of(label).keys() & self.runs_of(self.baseline).keys()) for label in self.rivals}

    @property
    def common_seeds(self) -> list[int]:
        """The training seeds that every label has."""
        return sorted(set.intersection(*(set(self.runs_of(label)) for label in self.labels)))

    def runs_of(self, label: str) -> dict[int, Run]:
        """By training seed."""
        return {run.seed: run for run in sorted(self.runs, key=lambda run: run.seed) if run.label == label}

    def returns(
        self, label: str, target: float, name: str = "return", *, seeds: Sequence[int] | None = None
    ) -> Returns:
        """(seeds, episodes) of the last checkpoints, in the order of seeds and environment seeds.

        Args:
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

    @cached_property
    def score_rows(self) -> list[Row]:
        """One row per target and label: what it returned, with an interval over seeds and episodes, and its scores."""
        rows = []
        for target in self.targets:
            for label in self.labels:
                returns = self.returns(label, target)
                of_seeds = returns.mean(1)
                row = {
                    "dataset": self.dataset,
                    "target": target,
                    "agent": label,
                    "seeds": len(returns),
                    "episodes": returns.shape[1],
                    **named("mean", mean_return(returns, generator())),
                    "std_of_seeds": float(of_seeds.std(ddof=1)) if len(returns) > 1 else None,
                    "iqm": float(interquartile_mean(returns.ravel())),
                    "length": float(self.returns(label, target, "length").mean()),
                }
                for name in ("score_d4rl", "score_measured"):
                    scores = self.returns(label, target, name)
                    row[name] = None if np.isnan(scores).any() else float(scores.mean())
                rows.append(row)
        return rows

    @cached_property
    def difference_rows(self) -> list[Row]:
        """One row per target and rival of the baseline: the paired difference over common seeds, and its interval."""
        rows = []
        for target in self.targets:
            for label in self.rivals:
                if (pair := self.paired(label, target)) is not None:
                    estimate = paired_difference(*pair, generator())
                    names = {"dataset": self.dataset, "target": target, "agent": label, "baseline": self.baseline}
                    rows.append({**names, "seeds": len(pair[0]), **named("difference", estimate)})
        return rows

    @cached_property
    def calibration_rows(self) -> list[Row]:
        """One row per label: how closely the mean return follows the target within the range of the data.

        `slope` is of the least-squares line of mean return over target; `error` the distance of the mean return from
        the target, as a share of the range and averaged over targets; `change` how far actions move when the worst
        return is asked for instead of the best, from the study of the label's first seed, in the study's `unit`.
        """
        low, high = self.dataset_returns["percentiles"][0], self.dataset_returns["percentiles"][-1]
        inside = np.array([target for target in self.targets if low <= target <= high])
        rows = []
        for label in self.labels:
            means = np.array([self.returns(label, target).mean() for target in inside])
            studied = self.studied(label)
            sensitivity = studied.study["sensitivity"] if studied and studied.study else {}
            rows.append(
                {
                    "dataset": self.dataset,
                    "agent": label,
                    "targets": len(inside),
                    "slope": float(np.polyfit(inside, means, 1)[0]) if np.ptp(inside) > 0 else None,
                    "error": float(np.abs(means - inside).mean() / (high - low)) if high > low else None,
                    "change": sensitivity.get("worst_to_best"),
                    "unit": sensitivity.get("unit"),
                }
            )
        return rows

    @cached_property
    def curve_rows(self) -> list[Row]:
        """One row per run and evaluation: the mean return at the headline target against steps and training time."""
        rows = []
        for run in self.runs:
            minutes = run.minutes()
            for step, value in run.curve(self.headline).items():
                rows.append(
                    {
                        "dataset": self.dataset,
                        "agent": run.label,
                        "seed": run.seed,
                        "target": self.headline,
                        "step": step,
                        "minutes": float(np.interp(step, list(minutes), list(minutes.values()))),
                        "mean": value,
                    }
                )
        return rows

    @cached_property
    def best_over_training_rows(self) -> list[Row]:
        """One row per label: the best evaluation of every seed, picked by its own outcome, beside the last."""
        rows = []
        for label in self.labels:
            curves = [run.curve(self.headline) for run in self.runs_of(label).values()]
            rows.append(
                {
                    "dataset": self.dataset,
                    "agent": label,
                    "last": float(np.mean([curve[max(curve)] for curve in curves])),
                    "best": float(np.mean([max(curve.values()) for curve in curves])),
                    "evaluations": min(len(curve) for curve in curves),
                }
            )
        return rows

    @cached_property
    def cost_rows(self) -> list[Row]:
        """One row per run: training speed and time, time of the final evaluation, memory, size."""
        rows = []
        for run in self.runs:
            speeds = [row["steps_per_second"] for row in run.metrics if "steps_per_second" in row]
            rows.append(
                {
                    "dataset": self.dataset,
                    "agent": run.label,
                    "seed": run.seed,
                    "steps": run.config["training"]["steps"],
                    "steps_per_second": float(np.median(speeds)) if speeds else None,
                    "minutes": max(run.minutes().values()),
                    "evaluation_seconds": run.metric("evaluate/seconds"),
                    "peak_bytes": run.metric("memory/peak_bytes"),
                    "peak_gpu_bytes": run.metric("memory/peak_gpu_bytes"),
                }
            )
        return rows

    def circumstances(self) -> list[str]:
        """Versions and device of the episodes, each combination once."""
        rows = (row for run in self.runs for row in run.episodes)
        told = (", ".join(f"{n} {v}" for n, v in row["versions"].items()) + f" on {row['device']}" for row in rows)
        return list(dict.fromkeys(told))

    def steering_warning(self) -> str | None:
        """Why this dataset's returns cannot steer an agent, if they hardly vary."""
        percentiles = self.dataset_returns["percentiles"]
        low, high = percentiles[10], percentiles[90]
        if high - low >= NARROW * max(abs(percentiles[0]), abs(percentiles[-1])):
            return None
        return (
            f"Four fifths of the dataset's returns lie between {number(low)} and {number(high)}: they hardly vary, so"
            " the return asked for cannot steer an agent here, and following it is not to be expected."
        )

    def summary(self) -> str:
        """The result in plain words, at the headline target: no target is picked by its outcome."""
        scores = {row["agent"]: row for row in self.score_rows if row["target"] == self.headline}
        returns = self.dataset_returns
        told = [
            f"Asked for {number(self.headline)}, "
            + "; ".join(
                f"{label} returns {number(row['mean'])} [{number(row['mean_low'])}, {number(row['mean_high'])}]"
                for label, row in scores.items()
            )
            + f". The dataset's mean return is {number(returns['mean'])} an episode and"
            f" {number(returns['mean_by_step'])} a step (of the episode that the step is in)."
        ]
        if self.baseline not in self.labels:
            told.append(f"{self.baseline}, which differences are taken against, has no run here.")
        for label in self.rivals if self.baseline in self.labels else ():
            found = [r for r in self.difference_rows if r["agent"] == label and r["target"] == self.headline]
            if not found:
                told.append(f"{label} and {self.baseline} have no training seed in common and are not paired.")
            for row in found:
                interval = bounds(row["difference_low"], row["difference_high"])
                difference = number(row["difference"], sign=True)
                told.append(
                    f"{label} − {self.baseline} is {difference} {interval} (paired), {verdict(row, row['seeds'])}."
                )
        return " ".join([*told, *([caution] if (caution := seed_caution(self)) else [])])


def seed_caution(comparison: Comparison) -> str | None:
    """What so few training seeds leave unsaid."""
    pairs = {label: count for label, count in comparison.pairs.items() if 0 < count < FEW_SEEDS}
    if not pairs:
        return None
    fewest = min(pairs.values())
    if set(comparison.pairs.values()) == {fewest}:
        of_what = seeds_told(fewest)
    else:
        labels = ", ".join(label for label, count in pairs.items() if count == fewest)
        of_what = f"{seeds_told(fewest)} of {labels} beside {comparison.baseline} on {comparison.dataset}"
    of_what = of_what[0].upper() + of_what[1:] if fewest > 1 else "One" + of_what[1:]
    if fewest == 1:
        return (
            f"{of_what}: the intervals are over episodes alone and say nothing of how training varies, so they cannot"
            " rank the agents."
        )
    return f"{of_what}: so few that the intervals understate how training varies."


def verdict(row: Row, seeds: int) -> str:
    """What the interval of a paired difference says.

    Args:
        seeds: the most training seeds that are paired on a dataset.
    """
    if seeds == 1:
        return "which one training seed cannot tell from chance"
    if row["difference_low"] > 0:
        return f"in favour of {row['agent']}"
    if row["difference_high"] < 0:
        return f"in favour of {row['baseline']}"
    return "an interval that holds zero"


def baseline_of(runs: Sequence[Run]) -> str:
    """The label that differences are taken against."""
    labels = [run.label for run in runs]
    return BASELINE if BASELINE in labels else labels[0]


def _check_alike(run: Run, first: Run) -> None:
    """Raise InputError where two runs were not made of the same data and played on the same episodes."""
    for name in ("dataset", "fingerprint", "env_spec"):
        mine, theirs = run.config[name], first.config[name]
        if name == "fingerprint":  # of each part of a mixture, what follows the slash says how it was filtered
            mine, theirs = (re.sub(r"/[^+*]*", "", fingerprint) for fingerprint in (mine, theirs))
        if mine != theirs:
            told = f": {mine} and {theirs}" if name == "dataset" else ""
            raise InputError(f"runs cannot be compared: {run.path} differs in {name} from {first.path}{told}")
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


def named(name: str, estimate: Estimate) -> dict[str, Any]:
    """An estimate as columns of a row."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
