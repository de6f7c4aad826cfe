"""How the results of a report were obtained, in sentences."""

from flowrl.evaluation.statistics import RESAMPLES
from flowrl.report.comparison import Comparison
from flowrl.report.matched import JUDGED_AT
from flowrl.report.overview import SCORES, Report
from flowrl.report.sentences import environment_name, unit_name
from flowrl.text import number


def method(report: Report) -> list[str]:
    """What a reader must know to believe or repeat the results."""
    by_dataset = any(row["score_dataset"] is not None for c in report.comparisons for row in c.score_rows)
    played = dict.fromkeys(text for comparison in report.comparisons for text in comparison.circumstances())
    return [
        "The last checkpoint is the result. Targets come from the dataset's returns or were given by hand. Agents are"
        f" judged at {JUDGED_AT}: none is picked by its outcome.",
        *map(_evaluation, report.comparisons),
        "Agents with the same training seed, data, context and batch size draw the same batches in the same order where"
        " all are trained on windows of one kind (or on whole episodes, or on chunks with a carried state), and those"
        " with the same layers, width and observed features begin with the same weights (reformer has no keys, so its"
        " weights differ from its first layer on). Differences are taken where training seed and environment seed"
        " agree.",
        f"Intervals are 95 % percentile bootstraps ({RESAMPLES:,} resamples): training seeds are drawn with"
        " replacement, then episodes, the same ones for every seed. Over several datasets this is done within each"
        " (stratified), with the training seeds that all agents have; the set of datasets is fixed.",
        "One training seed gives no interval.",
        "All targets and episodes are played in one batch. Another batch (other targets, a clip) rounds differently,"
        " and in a simulator that leads to another episode: only the same command repeats a single episode.",
        "Probability of improvement: the chance that a run of one agent scores above a run of the other on the same"
        " dataset, averaged over datasets.",
        "A normalised score is 100·(return − random)/(expert − random). The"
        f" {SCORES['score_d4rl']} takes D4RL's reference returns, the {SCORES['score_measured']} those that we measured"
        " in the same environment with its registered keyword arguments. The two cannot be compared."
        + (f" The {SCORES['score_dataset']} takes those that its maker stored with the dataset." if by_dataset else ""),
        f"Played with: {'; '.join(played)}.",
    ]


def _evaluation(comparison: Comparison) -> str:
    """Which episodes were played on one dataset, and how."""
    evaluation = comparison.evaluation
    last = evaluation["episode_seed"] + evaluation["episodes"] - 1
    seeds = "; ".join(f"{label} {', '.join(map(str, comparison.runs_of(label)))}" for label in comparison.labels)
    once = [
        label
        for label in comparison.labels
        if next(iter(comparison.runs_of(label).values())).played[0]["target"] is None
    ]
    without_target = (
        f" Episodes without a target, of {', '.join(once)}, are played once and count at every target." if once else ""
    )
    return (
        f"{comparison.dataset}: every agent plays {environment_name(evaluation['env'], evaluation['env_kwargs'])} with"
        f" environment seeds {evaluation['episode_seed']} to {last} at every target, and is judged at"
        f" {number(comparison.headline)}.{without_target} Training seeds: {seeds}. Acting: {_acting(comparison)}."
    )


def _acting(comparison: Comparison) -> str:
    """How each label's first run acts."""
    parts = []
    for label in comparison.labels:
        row = next(iter(comparison.runs_of(label).values())).played[0]
        steps = row.get("acting_context")
        window = "on its whole past, read again" if "acting_context" in row else "on its window"  # older rows lack it
        ways = {
            "window": f"on its last {steps} steps" if steps else window,
            "recurrent": "on its whole past",
            "staggered": f"on its last {steps} to {2 * (steps or 0)} steps",
        }
        parts.append(f"{label} {ways.get(row.get('rollout', ''), 'on the present observation')}")
    return ", ".join(parts)


def calibration_columns(comparison: Comparison) -> str:
    """The columns of the calibration table."""
    units = {row["unit"] for row in comparison.calibration_rows if row["unit"]}
    unit = f", {unit_name(units.pop())}" if len(units) == 1 else ""
    left_out = [label for label in comparison.labels if label not in {r["agent"] for r in comparison.calibration_rows}]
    no_target = f" No target is given to {', '.join(left_out)}." if left_out else ""
    return (
        "Within the range of the data: the slope of the mean return over the target return (1 follows, 0 does not); the"
        " distance between the two as a share of the range; and how far actions move between the worst and the best"
        f" return as target{unit}.{no_target}"
    )


def best_over_training_choice(comparison: Comparison) -> str:
    """How the best over training was picked, and why it flatters."""
    known = {row["episodes"] for row in comparison.best_over_training_rows} - {None}
    episodes = (
        f" ({known.pop()} episodes each, {comparison.evaluation['episodes']} at the last)" if len(known) == 1 else ""
    )
    return (
        f"The best of each run's evaluations{episodes}, picked by its outcome, as it is often published. The largest of"
        " several noisy means lies above what the agent returns, even where training changes nothing."
    )
