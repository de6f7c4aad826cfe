"""All runs on one dataset: what each returns at every target, and how they differ."""

from functools import cached_property

from flowrl.report import calibration, costs, returns
from flowrl.report.matched import MatchedRuns
from flowrl.report.runs import Row
from flowrl.report.sentences import against_baseline, difference, estimate, fewest_seeds, leader, seed_caution
from flowrl.text import number


class Comparison(MatchedRuns):
    """Matched runs with the rows of every subject, each computed once, and their summary."""

    @cached_property
    def score_rows(self) -> list[Row]:
        """`returns.score_rows`: a row per target and label."""
        return returns.score_rows(self)

    @cached_property
    def difference_rows(self) -> list[Row]:
        """`returns.difference_rows`: a row per target and rival of the baseline."""
        return returns.difference_rows(self)

    @cached_property
    def calibration_rows(self) -> list[Row]:
        """`calibration.calibration_rows`: a row per label that takes a target."""
        return calibration.calibration_rows(self)

    @cached_property
    def curve_rows(self) -> list[Row]:
        """`costs.curve_rows`: a row per run and evaluation."""
        return costs.curve_rows(self)

    @cached_property
    def best_over_training_rows(self) -> list[Row]:
        """`costs.best_over_training_rows`: a row per label."""
        return costs.best_over_training_rows(self)

    @cached_property
    def cost_rows(self) -> list[Row]:
        """`costs.cost_rows`: a row per run."""
        return costs.cost_rows(self)

    def steering_warning(self) -> str | None:
        """`calibration.steering_warning`: why a target return cannot steer the agents here."""
        return calibration.steering_warning(self)

    def summary(self) -> str:
        """The result in plain words, at the headline target: no target is picked by its outcome."""
        scores = {row["agent"]: row for row in self.score_rows if row["target"] == self.headline}
        differences = [row for row in self.difference_rows if row["target"] == self.headline]
        sentences = []
        if len(scores) > 1 and all(row["mean_low"] is not None for row in scores.values()):
            first = leader({label: row["mean"] for label, row in scores.items()}, "mean return")
            sentences.append(first + against_baseline(differences))
        of_agents = "; ".join(f"{label} returns {estimate(row, 'mean')}" for label, row in scores.items())
        data = self.dataset_returns
        sentences += [
            f"At target {number(self.headline)}, {of_agents}.",
            f"The dataset's mean return is {number(data['mean'])} over episodes and {number(data['mean_by_step'])} over"
            " steps (each step counts with the return of its episode).",
        ]
        if self.baseline not in self.labels:
            sentences.append(f"{self.baseline}, which differences are taken against, has no run here.")
        else:
            unpaired = [label for label, count in self.pairs.items() if not count]
            sentences += [difference(row) for row in differences]
            sentences += [f"{label} and {self.baseline} have no training seed in common." for label in unpaired]
        return " ".join([*sentences, *filter(None, [seed_caution(fewest_seeds(self))])])
