"""Numbers and names as a report writes them."""

from collections.abc import Mapping
from typing import Any

MOST_DIGITS = 6  # what is smaller is a zero


def number(value: float, *, sign: bool = False) -> str:
    """A return or score: whole from 100 on, with one decimal from 1 on, else with two, or as many as keep its sign."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 1 or value == 0 else 2
    digits = next((more for more in range(digits, MOST_DIGITS + 1) if round(value, more)), digits)
    rounded = round(value, digits) + 0.0  # no -0.0
    return f"{rounded:+,.{digits}f}" if sign else f"{rounded:,.{digits}f}"


def bounds(low: float | None, high: float | None) -> str:
    """The ends of an interval; a dash where there is none."""
    return "–" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def span(values: list[int]) -> str:
    """One whole number, or from the least to the largest."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def seeds_told(count: int) -> str:
    """How many training seeds."""
    return "1 training seed" if count == 1 else f"{count} training seeds"


def leader_told(values: Mapping[str, float], what: str) -> str:
    """Who has the highest value, or who all share it."""
    best = max(values.values())
    *others, last = [label for label, value in values.items() if value == best]
    if not others:
        return f"{last} has the highest {what}."
    return f"{', '.join(others)} and {last} share the highest {what}."


def env_told(env_id: str, told: Mapping[str, Any]) -> str:
    """An environment's id, and what its constructor was told."""
    return f"{env_id} ({', '.join(f'{name}={value}' for name, value in told.items())})" if told else env_id


def unit_told(unit: str) -> str:
    """The unit of a change of action, as `scripts.studies` names it, in words."""
    if unit == "half the action range":
        return "as a root mean square in units of half the action range"
    return "as the share of situations in which another action is chosen"
