"""Figures, shares and lists as words."""

from collections.abc import Sequence

LISTED = 20  # of many faulty places or episodes so many are named


def figure(value: float | None) -> str:
    """A figure in as many digits as it needs; a dash for None."""
    if value is None:
        return "–"
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:,.{0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 3}f}"


def share(value: float) -> str:
    """A share in per cent; no minus before a zero."""
    return f"{value:.1%}" if round(value, 3) else "0.0%"


def named(things: Sequence[int] | Sequence[str]) -> str:
    """Numbers or names in a row, the first few of many."""
    told = ", ".join(map(str, things[:LISTED]))
    return told if len(things) <= LISTED else f"{told} and {len(things) - LISTED:,} more"


def small(value: float | None) -> str:
    """An error in two digits; a dash for None."""
    return "–" if value is None else f"{value:.2g}"
