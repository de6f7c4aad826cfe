"""How the results of a report were made, in sentences."""

from flowrl.report.overview import Report
from flowrl.scores import RESAMPLES


def protocol(report: Report) -> list[str]:
    """What a reader must know to believe or repeat the figures."""
    told = [
        "The last checkpoint is the result. Targets come from the dataset's returns or were given by hand, and the one"
        " that agents are judged by is the dataset's best return: none is picked by its outcome.",
    ]
    for comparison in report.comparisons:
        evaluation = comparison.evaluation
        last = evaluation["episode_seed"] + evaluation["episodes"] - 1
        seeds = "; ".join(f"{label} {', '.join(map(str, comparison.runs_of(label)))}" for label in comparison.labels)
        told.append(
            f"{comparison.dataset}: every agent plays {evaluation['env']} with environment seeds"
            f" {evaluation['episode_seed']} to {last} at every target. Training seeds: {seeds}."
        )
    told += [
        "Agents with the same training seed draw the same windows in the same order, and begin with the same weights"
        " where names and shapes agree; differences are taken where training seed and environment seed agree.",
        f"Intervals are 95 % percentile bootstraps ({RESAMPLES:,} resamples): training seeds are drawn with"
        " replacement, then episodes, the same ones for every seed; over several datasets this is done within each"
        " (stratified), the set of datasets being fixed. Probability of improvement: the chance that a run of one agent"
        " scores above a run of the other on the same dataset, averaged over datasets.",
        "D4RL score is 100·(return − random)/(expert − random) with D4RL's reference returns, own score the same with"
        " ours for this very environment; the two are not to be mixed.",
    ]
    played = dict.fromkeys(told for comparison in report.comparisons for told in comparison.circumstances())
    return [*told, f"Played with: {'; '.join(played)}."]
