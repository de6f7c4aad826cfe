import pytest

from flowrl.report.wording import leader_told


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
