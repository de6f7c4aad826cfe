"""All runs on one dataset: what each returns at every target, and how they differ."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from flowrl.errors import InputError
from flowrl.evaluation.statistics import Estimate, Returns, interquartile_mean, mean_return, paired_difference
from flowrl.report.runs import Row, Run
from flowrl.report.wording import bounds, leader_told, number, seeds_told

BASELINE = "dt"  # the rival that differences are taken against, where it is among the agents
FEW_SEEDS = 5  # with fewer, a bootstrap over seeds is too narrow
JUDGED_AT = (
    "the dataset's best return, or the highest target below it where that was not asked for (where none is below, the"
    " lowest above)"
)
NARROW = 0.1  # the share of the best return below which the spread of a dataset's returns cannot steer
FOLLOWS = 0.5  # the slope of achieved over asked-for return from which an agent is steered


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
        return cls(tuple(runs), baseline or baseline_of([run.label for run in runs]))

    @property
    def dataset(self) -> str:
        return self.runs[0].config["dataset"]

    @property
    def dataset_returns(self) -> Row:
        """Of the whole dataset: percentiles (0 to 100), means, episodes and steps."""
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
        """The target that an agent is judged by, `JUDGED_AT`."""
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
        """One row per target and label: what it returned, with an interval over seeds and episodes, and its scores.

        Of one training seed there is no interval: low and high are None, here and in all rows.
        """
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
                    **named("mean", mean_return(returns, generator()), len(returns)),
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
                    seeds = len(pair[0])
                    rows.append({**names, "seeds": seeds, **named("difference", estimate, seeds)})
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
                    "slope": float(np.polyfit(inside, means, 1)[0]) if len(set(inside)) > 1 else None,
                    "error": float(np.abs(means - inside).mean() / (high - low))
                    if len(inside) and high > low
                    else None,
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
            runs = self.runs_of(label).values()
            curves = [run.curve(self.headline) for run in runs]
            rows.append(
                {
                    "dataset": self.dataset,
                    "agent": label,
                    "last": float(np.mean([curve[max(curve)] for curve in curves])),
                    "best": float(np.mean([max(curve.values()) for curve in curves])),
                    "evaluations": min(len(curve) for curve in curves),
                    "episodes": min((n for run in runs if (n := run.config.get("evaluate_episodes"))), default=None),
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
        """Why returns cannot steer the agents that take one, as judged of the data they were trained on; an agent that
        was steered after all speaks for all that were trained on the same."""
        asked = [run for run in self.runs if run.episodes[0].get("rollout") != "memoryless"]
        # Runs of earlier versions have no verdict.
        judged = [run for run in asked if "steering" in run.config["dataset_returns"]]
        if not asked or judged:
            slopes = {row["agent"]: row["slope"] or 0.0 for row in self.calibration_rows}
            steered = {run.config["fingerprint"] for run in asked if slopes[run.label] >= FOLLOWS}
            doomed: dict[str, list[str]] = {}  # labels by the reason
            for run in judged:
                verdict = run.config["dataset_returns"]["steering"]
                if verdict["verdict"] == "no" and run.config["fingerprint"] not in steered:
                    labels = doomed.setdefault(verdict["reason"], [])
                    labels += [run.label] * (run.label not in labels)
            everyone = {run.label for run in asked}
            told = []
            for reason, labels in doomed.items():
                data = "these data" if {*labels} == everyone else f"the data of {', '.join(labels)}"
                told.append(
                    f"From {data} it was not to be expected that an agent follows the return asked for: {reason}."
                )
            return " ".join(told) or None
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
        differences = [row for row in self.difference_rows if row["target"] == self.headline]
        asked, returns = number(self.headline), self.dataset_returns
        told = []
        if len(scores) > 1 and all(row["mean_low"] is not None for row in scores.values()):
            leader = leader_told({label: row["mean"] for label, row in scores.items()}, "mean return")
            told.append(leader + against(differences))
        told.append(
            f"Asked for {asked}, "
            + "; ".join(f"{label} returns {estimated(row, 'mean')}" for label, row in scores.items())
            + f". The dataset's mean return is {number(returns['mean'])} an episode and"
            f" {number(returns['mean_by_step'])} a step (of the episode that the step is in)."
        )
        if self.baseline not in self.labels:
            told.append(f"{self.baseline}, which differences are taken against, has no run here.")
        for row in differences:
            told.append(
                f"{row['agent']} − {row['baseline']} is {estimated(row, 'difference', sign=True)} (paired),"
                f" {verdict(row)}."
            )
        for label, count in self.pairs.items() if self.baseline in self.labels else ():
            if not count:
                told.append(f"{label} and {self.baseline} have no training seed in common and are not paired.")
        return " ".join([*told, *([caution] if (caution := seed_caution(fewest_seeds(self))) else [])])


class FewestSeeds(NamedTuple):
    """The smallest number of training seeds that a figure of a report is made of."""

    number: int
    of_whom: str
    """Whose they are, as words that follow; empty where every figure has as many."""


def fewest_seeds(comparison: Comparison) -> FewestSeeds:
    """Of the agents of one dataset, each alone and beside the baseline."""
    own = {label: len(comparison.runs_of(label)) for label in comparison.labels}
    paired = {label: count for label, count in comparison.pairs.items() if count}
    fewest = min([*own.values(), *paired.values()])
    if {*own.values(), *paired.values()} == {fewest}:
        return FewestSeeds(fewest, "")
    if alone := [label for label, count in own.items() if count == fewest]:
        return FewestSeeds(fewest, f" of {', '.join(alone)} on {comparison.dataset}")
    beside = ", ".join(label for label, count in paired.items() if count == fewest)
    return FewestSeeds(fewest, f" of {beside} beside {comparison.baseline} on {comparison.dataset}")


def seed_caution(fewest: FewestSeeds) -> str | None:
    """What so few training seeds leave unsaid."""
    if fewest.number >= FEW_SEEDS:
        return None
    if fewest.number == 1:
        return (
            f"One training seed{fewest.of_whom}: no interval can be given, since nothing is known of how training"
            " varies, and it cannot rank the agents."
        )
    return f"{seeds_told(fewest.number)}{fewest.of_whom}: so few that the intervals understate how training varies."


def verdict(row: Row) -> str:
    """What the interval of a paired difference says."""
    if row["difference_low"] is None:
        return "which one training seed cannot tell from chance"
    if row["difference_low"] > 0:
        return f"in favour of {row['agent']}"
    if row["difference_high"] < 0:
        return f"in favour of {row['baseline']}"
    return "an interval that holds zero"


def against(differences: Sequence[Row]) -> str:
    """Who is better and who is worse than the baseline, and who cannot be told apart from it: a sentence that follows.

    Empty where nothing is paired, or where one training seed says nothing.
    """
    known = [row for row in differences if row["difference_low"] is not None]
    parts = []
    for verb, found in (
        ("better", [row["agent"] for row in known if row["difference_low"] > 0]),
        ("worse", [row["agent"] for row in known if row["difference_high"] < 0]),
        ("not told apart", [r["agent"] for r in known if r["difference_low"] <= 0 <= r["difference_high"]]),
    ):
        if found:
            names = " and ".join(filter(None, [", ".join(found[:-1]), found[-1]]))
            parts.append(f"{names} {'is' if len(found) == 1 else 'are'} {verb}")
    return f" Beside {known[0]['baseline']}, {'; '.join(parts)}." if parts else ""


def estimated(row: Row, name: str, *, sign: bool = False) -> str:
    """A figure and its interval, if it has one."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    value = number(row[name], sign=sign)
    return value if low is None else f"{value} {bounds(low, high)}"


def baseline_of(labels: Sequence[str]) -> str:
    """The label that differences are taken against."""
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


def named(name: str, estimate: Estimate, seeds: int) -> dict[str, Any]:
    """An estimate as columns of a row; the ends of its interval are None where it is of one training seed."""
    low, high = (estimate.low, estimate.high) if seeds > 1 else (None, None)
    return {name: estimate.value, f"{name}_low": low, f"{name}_high": high}
