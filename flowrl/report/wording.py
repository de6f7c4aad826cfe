"""Numbers as a report writes them."""


def number(value: float, *, sign: bool = False) -> str:
    """A return or score: whole from 100 on, else with one decimal."""
    digits = 0 if abs(value) >= 100 else 1
    return f"{value:+,.{digits}f}" if sign else f"{value:,.{digits}f}"


def bounds(low: float, high: float) -> str:
    """The ends of an interval."""
    return f"[{number(low)}, {number(high)}]"


def seeds_told(count: int) -> str:
    """How many training seeds."""
    return "1 training seed" if count == 1 else f"{count} training seeds"
