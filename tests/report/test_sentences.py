"""Sentences about rows: ties are ties, and no sentence claims more than its interval."""

import pytest

from flowrl.report.sentences import against_baseline, difference, leader


@pytest.mark.parametrize(
    ("values", "leaders"),
    [
        ({"flow": 1.0, "dt": 2.0}, "dt has "),
        ({"flow": 1.0, "dt": 1.0, "bc": 0.5}, "flow and dt share "),
        ({"flow": 1.0, "dt": 1.0, "bc": 1.0}, "flow, dt and bc share "),
        ({"flow": 1.0, "dt": 1.0 + 1e-6}, "dt has "),
    ],
)
def test_equal_leaders_are_all_named(values, leaders):
    assert leader(values, "mean").startswith(leaders)


def row(agent, low, high):
    value = 1.0 if low is None else (low + high) / 2
    return {"agent": agent, "baseline": "dt", "difference": value, "difference_low": low, "difference_high": high}


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.0, 2.0, "in favour of flow"),
        (-2.0, -1.0, "in favour of dt"),
        (0.0, 2.0, "includes 0"),
        (-1.0, 0.0, "includes 0"),
        (0.0, 0.0, "includes 0"),
        (None, None, "no interval"),
    ],
)
def test_a_difference_is_in_favour_of_one_only_where_its_interval_leaves_zero_out(low, high, verdict):
    said = difference(row("flow", low, high))
    verdicts = ("in favour of flow", "in favour of dt", "includes 0", "no interval")
    assert [one for one in verdicts if one in said] == [verdict]


def test_rivals_are_sorted_by_what_their_intervals_say():
    rows = [row("a", 1, 2), row("b", -2, -1), row("c", -1, 1), row("d", 0, 1), row("e", None, None), row("f", 2, 3)]
    said = against_baseline(rows)
    assert "a and f are better" in said
    assert "b is worse" in said
    assert "c and d do not differ" in said
    assert against_baseline([row("e", None, None)]) == against_baseline([]) == ""
