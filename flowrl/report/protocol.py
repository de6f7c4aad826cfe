"""How the results of a report were made, in sentences."""

from flowrl.evaluation.statistics import RESAMPLES
from flowrl.report.comparison import JUDGED_AT, Comparison
from flowrl.report.overview import Report
from flowrl.report.wording import env_told, number, unit_told


def protocol(report: Report) -> list[str]:
    """What a reader must know to believe or repeat the figures."""
    told = [
        "The last checkpoint is the result. Targets come from the dataset's returns or were given by hand. Agents are"
        f" judged at {JUDGED_AT}: none is picked by its outcome.",
    ]
    for comparison in report.comparisons:
        evaluation = comparison.evaluation
        last = evaluation["episode_seed"] + evaluation["episodes"] - 1
        seeds = "; ".join(f"{label} {', '.join(map(str, comparison.runs_of(label)))}" for label in comparison.labels)
        told.append(
            f"{comparison.dataset}: every agent plays {env_told(evaluation['env'], evaluation['env_kwargs'])} with"
            f" environment seeds {evaluation['episode_seed']} to {last} at every target, and is judged at"
            f" {number(comparison.headline)}. Training seeds: {seeds}. Acting: {_acting_told(comparison)}."
        )
    told += [
        "Agents with the same training seed, data, context and batch size draw the same batches in the same order where"
        " all are trained on windows of one kind (or on whole episodes, or on chunks with a carried state), and those"
        " with the same layers, width and observed features begin with the same weights (reformer's have no keys, and"
        " so other weights from its first one on). Differences are taken where training seed and environment seed"
        " agree.",
        f"Intervals are 95 % percentile bootstraps ({RESAMPLES:,} resamples): training seeds are drawn with"
        " replacement, then episodes, the same ones for every seed; over several datasets this is done within each"
        " (stratified), the set of datasets being fixed, with the training seeds that all agents have.",
        "Of one training seed no interval is given.",
        "All targets and episodes are played in one batch. Another batch (other targets, a clip) rounds otherwise, and"
        " a simulator makes another episode of that: single episodes are repeated by the same command alone.",
        "Probability of improvement: the chance that a run of one agent scores above a run of the other on the same"
        " dataset, averaged over datasets.",
        "D4RL score is 100·(return − random)/(expert − random) with D4RL's reference returns, own score the same with"
        " ours for this very environment as it is registered, whatever else it was told; the two are not to be mixed.",
    ]
    played = dict.fromkeys(told for comparison in report.comparisons for told in comparison.circumstances())
    return [*told, f"Played with: {'; '.join(played)}."]


def _acting_told(comparison: Comparison) -> str:
    """How each label's first run acts."""
    told = []
    for label in comparison.labels:
        row = next(iter(comparison.runs_of(label).values())).episodes[0]
        steps = row.get("acting_context")
        window = "on its whole past, read again" if "acting_context" in row else "on its window"  # older rows lack it
        how = {
            "window": f"on its last {steps} steps" if steps else window,
            "recurrent": "on its whole past",
            "staggered": f"on its last {steps} to {2 * (steps or 0)} steps",
        }
        told.append(f"{label} {how.get(row.get('rollout', ''), 'on what it observes')}")
    return ", ".join(told)


def calibration_told(comparison: Comparison) -> str:
    """What the columns of the calibration table are."""
    units = {row["unit"] for row in comparison.calibration_rows if row["unit"]}
    change = f", {unit_told(units.pop())}" if len(units) == 1 else ""
    return (
        "Following the return asked for, within the range of the data: slope of the mean return over the return asked"
        " for (1 follows, 0 does not); distance between the two as a share of the range; and how far actions move when"
        f" the worst return is asked for instead of the best{change}."
    )


def best_over_training_told(comparison: Comparison) -> str:
    """How the best over training was picked, and why it flatters."""
    known = {row["episodes"] for row in comparison.best_over_training_rows} - {None}
    episodes = (
        f" ({known.pop()} episodes each, {comparison.evaluation['episodes']} at the last)" if len(known) == 1 else ""
    )
    return (
        f"The best of each run's evaluations{episodes}, picked by its own outcome, as it is often published: the"
        " largest of several noisy means lies above what the agent returns, even where training changes nothing."
    )
