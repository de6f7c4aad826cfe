"""Numbers, lists and tables as text."""

import pytest

from flowrl.text import (
    counted,
    duration,
    interval,
    joined,
    listed,
    markdown,
    markdown_table,
    number,
    share,
    span,
    table,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1,234"), (99.94, "99.9"), (0.0, "0.0"), (0.254, "0.25"), (-0.004, "-0.004"), (3e-5, "0.00003"),
     (-1e-9, "0.00"), (-0.0, "0.0"), (None, "–")],
)  # fmt: skip
def test_a_number_keeps_its_sign(value, text):
    assert number(value) == text


def test_numbers_with_sign_and_significant_digits():
    assert [number(value, sign=True) for value in (2.0, -2.0, 0.0, 1234)] == ["+2.0", "-2.0", "+0.0", "+1,234"]
    values = (1.234e-15, 0.0456, 12.3, 1234.5, 0.0, None)
    assert [number(value, significant=2) for value in values] == ["1.2e-15", "0.046", "12", "1,234", "0", "–"]


def test_an_interval_that_leaves_zero_out_shows_it():
    assert interval(-0.02, -0.004) == "[-0.02, -0.004]"
    assert interval(None, None) == "–"


def test_shares_spans_and_durations():
    assert [share(value) for value in (0.123, -0.0001, 0.0, 1.0, None)] == ["12.3 %", "0.0 %", "0.0 %", "100.0 %", "–"]
    assert (span([5, 5]), span([2000, 5, 40])) == ("5", "5 to 2,000")
    assert [duration(seconds) for seconds in (48.4, 59.6, 370, 7500)] == ["48s", "1m00s", "6m10s", "2h05m"]


def test_lists():
    assert [counted(count, "run") for count in (0, 1, 2000)] == ["0 runs", "1 run", "2,000 runs"]
    assert listed([1, 2, 3]) == "1, 2, 3"
    assert listed(range(30)).endswith("18, 19 and 10 more")
    assert [joined(names) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]


def test_columns_of_numbers_stand_to_the_right():
    rows = [["agent", "mean", "interval", "note"], ["flow", "1,000", "[1.0, 2.0]", "a"], ["d", "–", "–", ""]]
    assert table(rows) == (
        "agent   mean    interval  note\n"
        "flow   1,000  [1.0, 2.0]  a\n"
        "d          –           –"
    )  # fmt: skip
    assert markdown_table(rows).splitlines()[1] == "|---|---:|---:|---|"
    assert table([["a", "bb"]]) == "a  bb"


def test_markdown_shows_any_text_as_it_is():
    assert markdown("a|b <i>&amp;</i> *x* `y` [l](u)\nz") == (
        "a\\|b &lt;i&gt;&amp;amp;&lt;/i&gt; \\*x\\* \\`y\\` [l]\\(u) z"
    )
    assert markdown_table([["a|b"], ["<b>"]]) == "| a\\|b |\n|---|\n| &lt;b&gt; |"
