"""The figures of an inspection as tables of text, header first, for the screen and the page alike."""

from collections.abc import Sequence

from flowrl.inspection.alignment import SHIFTS, Alignment
from flowrl.inspection.figures import Distribution, Feature, Figures
from flowrl.inspection.steering import START, Gain, Steering
from flowrl.text import figure, share, small

REFERENCES = {"dataset": "dataset's own", "D4RL": "D4RL", "own": "measured by us"}

Table = list[list[str]]


def overview_table(found: Figures) -> Table:
    """Quantiles of what an episode and a step are like."""
    percents = [*found.returns.percentiles] or [*found.lengths.percentiles]
    header = ["", "mean", "std", *({0: "min", 50: "median", 100: "max"}.get(p, f"p{p}") for p in percents)]
    rows = [
        ("return, over episodes", found.returns),
        ("return, over steps", found.returns_by_step),
        ("length of an episode", found.lengths),
        ("return still to come", found.returns_to_go),
        ("reward of a step", found.rewards),
    ]
    return [header, *([name, *_distribution(d, percents)] for name, d in rows)]


def _distribution(one: Distribution, percents: Sequence[int]) -> list[str]:
    return [figure(one.mean), figure(one.std), *(figure(one.percentiles.get(percent)) for percent in percents)]


def score_table(found: Figures, references: dict[str, tuple[float, float] | None]) -> Table:
    """Percentiles of the episodes' returns, normalised by every reference that is known, each in its own column."""
    names = [name for name in references if name in found.scores]
    table = [["return over episodes", "raw", *(REFERENCES.get(name, name) for name in names)]]
    for percent, value in found.returns.percentiles.items():
        label = {0: "min", 50: "median", 100: "max"}.get(percent, f"p{percent}")
        table.append([label, figure(value), *(f"{found.scores[name][percent]:.1f}" for name in names)])
    pairs = [references[name] for name in names]
    for row, end in enumerate(("reference: random = 0", "reference: expert = 100")):
        table.append([end, "", *("" if pair is None else figure(pair[row]) for pair in pairs)])
    return table


def flag_table(found: Figures) -> Table:
    """How the episodes end."""
    rows = [
        ("terminated (by the task)", found.terminated),
        ("truncated (by a time limit)", found.truncated),
        ("both", found.both_flags),
        ("neither flag", found.neither_flag),
        ("a flag before the last step", found.early_flags),
    ]
    return [["", "episodes", "share"], *([name, f"{n:,}", f"{n / found.episodes:.1%}"] for name, n in rows)]


def feature_table(features: Sequence[Feature], *, bounds: bool) -> Table:
    """A row per column; with `bounds`, the shares of entries that stand at one."""
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
        figures = [figure(value) for value in (one.minimum, one.mean, one.std, one.maximum)]
        table.append([one.name, *figures, *shares, note])
    return table


def alignment_table(alignment: Alignment) -> Table:
    """Errors of the simulator under every way of putting the data together."""
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
        errors = [small(shift.rewards.get(reward)) for reward in rewards]
        table.append([name, f"{shift.count:,}", small(shift.median), small(shift.maximum), *errors])
    return table


def seeded_table(alignment: Alignment) -> Table:
    """Errors of the episodes that were played again from their recorded seeds."""
    seeded = alignment.seeded
    if seeded is None:
        return []
    return [
        ["episodes", "steps", "first observation", "median error", "largest", "reward: largest", "leaves the data"],
        [
            f"{seeded.episodes:,}", f"{seeded.steps:,}", small(seeded.first_observation), small(seeded.median),
            small(seeded.maximum), small(seeded.reward), "never" if seeded.diverged is None else f"{seeded.diverged:,}",
        ],
    ]  # fmt: skip


def steering_table(steering: Steering) -> Table:
    """What the return-to-go adds to the prediction of actions."""
    table = [
        [
            "steps tested",
            "count",
            "of episodes",
            "explained without the return",
            "error less with it",
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
