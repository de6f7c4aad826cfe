"""Figures as words."""

import pytest

from flowrl.text import figure


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0.000"), (0.0001, "1.0e-04"), (1.5, "1.500"), (-12.34, "-12.3"), (3234.3, "3,234")],
)
def test_a_figure_has_the_digits_that_it_needs(value, text):
    assert figure(value) == text
