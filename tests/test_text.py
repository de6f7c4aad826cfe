"""Numbers, lists and tables as text."""

import html
import re
import unicodedata

import pytest
from markdown_it import MarkdownIt

from flowrl.html import escaped
from flowrl.text import (
    counted,
    duration,
    interval,
    joined,
    listed,
    markdown,
    markdown_table,
    number,
    one_line,
    printable,
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


MARKED = "\x1b[2Jred\x07 \x9b31m \r\x7f \u202egnp.exe\u2066 \u200f \u2028 \udcff \U000e0041 tab\tend"


def steering(text):
    """The characters of a text that would steer a terminal, or that no encoding holds."""
    allowed = {"\n", "\t"}
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in allowed]


def test_text_of_others_steers_no_terminal_and_is_still_seen():
    assert steering(MARKED)
    shown = printable(MARKED + "\nä – 漢字 🙂")
    assert not steering(shown)
    assert shown.startswith(r"\x1b[2Jred\x07 \x9b31m \r\x7f \u202egnp.exe\u2066 \u200f \u2028 \udcff \U000e0041 tab")
    assert shown.endswith("tab\tend\nä – 漢字 🙂")
    assert one_line("a\nb\x1b") == r"a b\x1b"
    for text in (table([["name"], [MARKED + "\nrow"]]), markdown(MARKED), escaped(MARKED), one_line(MARKED)):
        assert not steering(text)
    assert len(table([["name"], ["a\nb"]]).splitlines()) == 2


def rendered(source):
    """Markdown as HTML, with GitHub's tables and struck text."""
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(source)


HOSTILE = [
    "[here](http://evil.example)", "![x](http://evil.example/x.png)", "[here]: http://evil.example", "[^1]: note",
    "# Title", "- item", "+ item", "1. item", "2) item", "---", "===", "```", "~~~", "> said", "    indented", "\\",
    "<script>alert(1)</script>", "<http://evil.example>", "<img src=x onerror=alert(1)>", "&lt;b&gt;", "<!-- ", "]]>",
    "</details>", "<a href='javascript:alert(1)'>x</a>", "a|b|c", "|---|", "*bold* **x**", "`code`", "\\*x*", "[x][y]",
    "a\n\nb", "a\n# b",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_makes_nothing_of_a_text_but_text(text):
    shown = " ".join(html.unescape(re.sub(r"</?(p|li|ul)>", "", rendered(markdown(text)))).split())
    assert shown == " ".join(text.split())
    item = rendered(f"- {markdown(text)}\n- [here] [^1]")
    assert item.count("<li>") == 2
    assert not re.search(r"<(?!/?(ul|li|p)>)", item)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_table_stays_one_whatever_is_in_it(text):
    page = rendered(markdown_table([["agent", "mean"], [text, "1.0"], ["b", "2.0"]]))
    assert (page.count("<tr>"), page.count("<td")) == (3, 4)
    assert not re.search(r"<(?!/?(table|thead|tbody|tr|th|td)\b)", page)


@pytest.mark.parametrize("text", ["http://evil.example/x", "https://evil.example", "www.evil.example"])
def test_an_address_is_not_made_a_link_by_github(text):
    assert not re.search(r"://|www\.", markdown(f"see {text}"))


def test_numbers_in_markdown_stay_as_they_are():
    for text in ("-3.2", "[-1.0, 2.0]", "+1", "1,234", "–", "12.5 %", "1.5", "~3", "a_b-c/d v0", "[1, 2]: x, 0 [0, 1]"):
        assert markdown(text).replace("\\[", "[") == text
