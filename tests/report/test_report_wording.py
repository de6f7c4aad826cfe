import pytest

from flowrl.report.wording import bounds, leader_told, number


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"flow": 1.0, "dt": 2.0}, "dt has the highest mean."),
        ({"flow": 1.0, "dt": 1.0, "bc": 0.5}, "flow and dt share the highest mean."),
        ({"flow": 1.0, "dt": 1.0, "bc": 1.0}, "flow, dt and bc share the highest mean."),
        ({"flow": 1.0, "dt": 1.0 + 1e-6}, "dt has the highest mean."),
    ],
)
def test_equal_leaders_are_all_named(values, told):
    assert leader_told(values, "mean") == told


@pytest.mark.parametrize(
    ("value", "told"),
    [(1234.5, "1,234"), (99.94, "99.9"), (0.0, "0.0"), (0.254, "0.25"), (-0.004, "-0.004"), (3e-5, "0.00003"),
     (-1e-9, "0.00")],
)  # fmt: skip
def test_a_number_keeps_its_sign(value, told):
    assert number(value) == told


def test_an_interval_that_leaves_zero_out_shows_it():
    assert bounds(-0.02, -0.004) == "[-0.02, -0.004]"
