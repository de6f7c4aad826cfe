"""What the rows of a report say, in words."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flowrl.report.matched import MatchedRuns
from flowrl.report.runs import Row
from flowrl.text import counted, interval, joined, number

FEW_SEEDS = 5  # with fewer, a bootstrap over seeds is too narrow


class FewestSeeds(NamedTuple):
    """The smallest number of training seeds behind a result."""

    number: int
    whose: str
    """As words that follow the number; empty where every result has as many."""


def fewest_seeds(runs: MatchedRuns) -> FewestSeeds:
    """Of the agents of one dataset, each alone and beside the baseline."""
    seeds = {label: len(runs.runs_of(label)) for label in runs.labels}
    paired = {label: count for label, count in runs.pairs.items() if count}
    fewest = min([*seeds.values(), *paired.values()])
    if {*seeds.values(), *paired.values()} == {fewest}:
        return FewestSeeds(fewest, "")
    if alone := [label for label, count in seeds.items() if count == fewest]:
        return FewestSeeds(fewest, f" of {', '.join(alone)} on {runs.dataset}")
    beside = ", ".join(label for label, count in paired.items() if count == fewest)
    return FewestSeeds(fewest, f" of {beside} beside {runs.baseline} on {runs.dataset}")


def seed_caution(fewest: FewestSeeds) -> str | None:
    """What so few training seeds leave open; None where there are enough."""
    if fewest.number >= FEW_SEEDS:
        return None
    if fewest.number == 1:
        return f"One training seed{fewest.whose}: no interval and no ranking, since training may vary by any amount."
    seeds = counted(fewest.number, "training seed")
    return f"{seeds}{fewest.whose}: so few that the intervals understate how training varies."


def leader(values: Mapping[str, float], what: str) -> str:
    """Who has the highest value, or who all share it."""
    best = max(values.values())
    leaders = [label for label, value in values.items() if value == best]
    return f"{joined(leaders)} {'has' if len(leaders) == 1 else 'share'} the highest {what}."


def against_baseline(differences: Sequence[Row]) -> str:
    """Who is better or worse than the baseline, and who does not differ significantly: a sentence that follows.

    Empty where nothing is paired, or where one training seed gives no interval.
    """
    known = [row for row in differences if row["difference_low"] is not None]
    parts = []
    for one, many, labels in (
        ("is better", "are better", [row["agent"] for row in known if row["difference_low"] > 0]),
        ("is worse", "are worse", [row["agent"] for row in known if row["difference_high"] < 0]),
        (
            "does not differ significantly",
            "do not differ significantly",
            [row["agent"] for row in known if row["difference_low"] <= 0 <= row["difference_high"]],
        ),
    ):
        if labels:
            parts.append(f"{joined(labels)} {one if len(labels) == 1 else many}")
    return f" Compared with {known[0]['baseline']}, {'; '.join(parts)}." if parts else ""


def difference(row: Row, unit: str = "") -> str:
    """A paired difference and what its interval says."""
    value = (
        f"The paired difference {row['agent']} − {row['baseline']} is {estimate(row, 'difference', sign=True)}{unit}"
    )
    if row["difference_low"] is None:
        return f"{value}; one training seed gives no interval."
    if row["difference_low"] > 0:
        return f"{value}, in favour of {row['agent']}."
    if row["difference_high"] < 0:
        return f"{value}, in favour of {row['baseline']}."
    return f"{value}: no significant difference; 95 % interval includes 0."


def estimate(row: Row, name: str, *, sign: bool = False) -> str:
    """A value and its interval, if it has one."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    value = number(row[name], sign=sign)
    return value if low is None else f"{value} {interval(low, high)}"


def environment_name(env_id: str, keywords: Mapping[str, Any]) -> str:
    """An environment's id, and its keyword arguments."""
    return f"{env_id} ({', '.join(f'{name}={value}' for name, value in keywords.items())})" if keywords else env_id


def unit_name(unit: str) -> str:
    """The unit of a change of action, as a study names it, in words."""
    if unit == "half the action range":
        return "as a root mean square in units of half the action range"
    return "as the share of situations in which another action is chosen"
