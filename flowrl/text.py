"""Numbers, lists and tables as text: one format each, for the console, Markdown and pages; and text of others made safe
for these."""

import html
import re
from collections.abc import Sequence

LISTED = 20  # of many faulty places or episodes so many are named
DASH = "–"  # stands for a value that is missing

# What steers a terminal or turns the direction of writing, and what no encoding holds; not tabs and new lines.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]"
)
_MARKDOWN = [  # what would be more than text, and how it is written
    (r"([\\`*|])", r"\\\1"),
    (r"\]\(", r"]\\("),  # a link or a picture
    (r"^\[(?=.*\]:)", r"\\["),  # the address of one
    (r"://", r":\\//"),  # GitHub makes a link of an address
    (r"www\.", r"www\\."),
    (r"~~", r"\\~\\~"),
    (r"^(#{1,6}|[-+]|-{2,}|=+)(?=\s|$)", r"\\\1"),  # a heading, a list, a rule
    (r"^(\d+)([.)])(?=\s|$)", r"\1\\\2"),
]
_MOST_DIGITS = 6  # what is smaller is a zero
_NUMERIC = re.compile(rf"{DASH}?$|[\[<>~±]?[+\-−]?\.?\d")  # how the cells of a column of numbers begin


def number(value: float | None, *, sign: bool = False, significant: int | None = None) -> str:
    """A return, score or error; a dash for None.

    Whole from 100 on, one decimal from 1 on, else two or, up to six, as many as keep its sign.

    Args:
        sign: also write a plus.
        significant: write so many significant digits instead, for values of any magnitude.
    """
    if value is None:
        return DASH
    plus = "+" if sign else ""
    if significant is not None:
        return f"{value:{plus},.0f}" if abs(value) >= 10**significant else f"{value:{plus},.{significant}g}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 1 or value == 0 else 2
    digits = next((more for more in range(digits, _MOST_DIGITS + 1) if round(value, more)), digits)
    rounded = round(value, digits) + 0.0  # no -0.0
    return f"{rounded:{plus},.{digits}f}"


def interval(low: float | None, high: float | None) -> str:
    """The ends of an interval; a dash where there is none."""
    return DASH if low is None or high is None else f"[{number(low)}, {number(high)}]"


def span(values: Sequence[int]) -> str:
    """One whole number, or from the least to the largest."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def share(value: float | None) -> str:
    """A share in per cent; no minus before a zero, a dash for None."""
    return DASH if value is None else f"{100 * value:.1f} %" if round(value, 3) else "0.0 %"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 48s, 6m10s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def counted(count: int, noun: str) -> str:
    """A number of things: `1 run`, `2 runs`, `1,000 runs`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(things: Sequence[object]) -> str:
    """Numbers or names in a row, the first few of many."""
    first = ", ".join(map(str, things[:LISTED]))
    return first if len(things) <= LISTED else f"{first} and {len(things) - LISTED:,} more"


def joined(names: Sequence[str]) -> str:
    """Names as a sentence lists them: `a`, `a and b`, `a, b and c`."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def printable(text: str) -> str:
    """Text from anywhere for a terminal or a page: a character that would steer it is shown as `\\x1b`."""
    return _STEERING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """The same in one line."""
    return printable(" ".join(text.split("\n")))


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table for the console, header first: columns of numbers to the right, columns of words to the left."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = _columns_of_numbers(rows)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_the_right else cell.ljust(width)
            for cell, width, to_the_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    )


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """The same in Markdown."""
    header, *body = ["| " + " | ".join(map(markdown, row)) + " |" for row in rows]
    rule = "|" + "".join("---:|" if right else "---|" for right in _columns_of_numbers(rows))
    return "\n".join([header, rule, *body])


def markdown(text: str) -> str:
    """Any text as one line of Markdown that shows it as it is."""
    escaped = html.escape(" ".join(printable(text).splitlines()).strip(), quote=False)
    for pattern, written in _MARKDOWN:
        escaped = re.sub(pattern, written, escaped)
    return escaped


def _columns_of_numbers(rows: Sequence[Sequence[str]]) -> list[bool]:
    """Which columns hold numbers, intervals and dashes alone below the header."""
    return [all(map(_NUMERIC.match, column[1:])) for column in zip(*rows, strict=True)]


# The names below are those of flowrl.inspection, until it uses `number` and `listed`.
