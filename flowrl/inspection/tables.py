"""The numbers of an inspection as tables of text, header first, for the screen and the page alike."""

from collections.abc import Sequence

from flowrl.inspection.alignment import SHIFTS, Alignment
from flowrl.inspection.distributions import Distribution
from flowrl.inspection.features import Feature
from flowrl.inspection.references import References
from flowrl.inspection.regression import Gain
from flowrl.inspection.statistics import Statistics
from flowrl.inspection.steering import START, Steering
from flowrl.text import number, share

__all__ = [
    "Table",
    "alignment_table",
    "error",
    "feature_table",
    "flag_table",
    "overview_table",
    "score_table",
    "seeded_table",
    "steering_table",
]

Table = list[list[str]]


def error(value: float | None) -> str:
    """An error in two significant digits; a dash for None."""
    return number(value, significant=2)


def overview_table(statistics: Statistics) -> Table:
    """Quantiles of what an episode and a step are like."""
    percents = [*statistics.returns.percentiles] or [*statistics.lengths.percentiles]
    header = ["", "mean", "std", *map(_percent, percents)]
    rows = [
        ("return, over episodes", statistics.returns),
        ("return, over steps", statistics.returns_by_step),
        ("length of an episode", statistics.lengths),
        ("return-to-go of a step", statistics.returns_to_go),
        ("reward of a step", statistics.rewards),
    ]
    return [header, *([name, *_distribution(d, percents)] for name, d in rows)]


def _distribution(one: Distribution, percents: Sequence[int]) -> list[str]:
    return [number(one.mean), number(one.std), *(number(one.percentiles.get(percent)) for percent in percents)]


def _percent(percent: int) -> str:
    return {0: "min", 50: "median", 100: "max"}.get(percent, f"p{percent}")


def score_table(statistics: Statistics, references: References) -> Table:
    """Percentiles of the episodes' returns, normalised by every reference that is known, each in its own column."""
    names = [name for name in references if name in statistics.scores]
    table = [["return over episodes", "raw", *(f"{name} references" for name in names)]]
    for percent, value in statistics.returns.percentiles.items():
        table.append([_percent(percent), number(value), *(f"{statistics.scores[name][percent]:.1f}" for name in names)])
    pairs = [references[name] for name in names]
    for row, end in enumerate(("reference: random = 0", "reference: expert = 100")):
        table.append([end, "", *("" if pair is None else number(pair[row]) for pair in pairs)])
    return table


def flag_table(statistics: Statistics) -> Table:
    """How the episodes end."""
    rows = [
        ("terminated (by the task)", statistics.terminated),
        ("truncated (by a time limit)", statistics.truncated),
        ("both", statistics.both_flags),
        ("neither flag", statistics.neither_flag),
        ("a flag before the last step", statistics.early_flags),
    ]
    return [["", "episodes", "share"], *([name, f"{n:,}", f"{n / statistics.episodes:.1%}"] for name, n in rows)]


def feature_table(features: Sequence[Feature], *, bounds: bool) -> Table:
    """A row per column; with `bounds`, the shares of entries at one."""
    table = [
        [
            "column",
            "min",
            "mean",
            "std",
            "max",
            *(["at lower bound or below", "at upper bound or above"] if bounds else []),
            "",
        ]
    ]
    for one in features:
        shares = ["–" if share is None else f"{share:.1%}" for share in (one.at_low, one.at_high)] if bounds else []
        note = ", ".join(
            [
                *(["constant"] if one.constant else []),
                *([f"{one.non_finite:,} not finite"] if one.non_finite else []),
                *([f"{one.outside:,} outside the bounds"] if one.outside else []),
            ]
        )
        numbers = [number(value) for value in (one.minimum, one.mean, one.std, one.maximum)]
        table.append([one.name, *numbers, *shares, note])
    return table


def alignment_table(alignment: Alignment) -> Table:
    """Errors of the simulator under every shift."""
    rewards = ("r[t-1]", "r[t]", "r[t+1]")
    table = [
        [
            "simulator's step → compared with",
            "transitions",
            "median error",
            "largest",
            *(f"reward: {r}" for r in rewards),
        ]
    ]
    for shift in alignment.shifts:
        name = SHIFTS[shift.name] + (" (as stored)" if shift.name == "stored" else "")
        errors = [error(shift.rewards.get(reward)) for reward in rewards]
        table.append(
            [
                name,
                f"{shift.count:,}",
                error(shift.median),
                error(shift.maximum),
                *errors,
            ]
        )
    return table


def seeded_table(alignment: Alignment) -> Table:
    """Errors of the episodes replayed from their recorded seeds."""
    seeded = alignment.seeded
    if seeded is None:
        return []
    return [
        ["episodes", "steps", "first observation", "median error", "largest", "reward: largest", "leaves the data"],
        [
            f"{seeded.episodes:,}", f"{seeded.steps:,}", error(seeded.first_observation), error(seeded.median),
            error(seeded.maximum), error(seeded.reward), "never" if seeded.diverged is None else f"{seeded.diverged:,}",
        ],
    ]  # fmt: skip


def steering_table(steering: Steering) -> Table:
    """How much better actions are predicted with the return-to-go."""
    table = [
        [
            "steps tested",
            "count",
            "of episodes",
            "explained without the return",
            "error reduction with it",
            "95 % interval, both together",
        ]
    ]
    for name, gain in (("any", steering.everywhere), (f"first {START} of an episode", steering.start)):
        if gain is not None:
            table.append([name, *_gain(gain)])
    return table


def _gain(gain: Gain) -> list[str]:
    shares = [share(gain.explained), share(gain.gain), f"[{share(gain.low)}, {share(gain.high)}]"]
    return [f"{gain.steps:,}", f"{gain.episodes:,}", *shares]
