"""Values from Python are checked against the types of their options."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from flowrl.errors import InputError
from flowrl.experiments.option_values import value_for


@pytest.mark.parametrize(
    ("hint", "given", "value"),
    [
        (int, np.int64(3), 3),
        (float, 3, 3.0),
        (float, np.float32(0.5), 0.5),
        (int | None, None, None),
        (int | Literal["episode"], "episode", "episode"),
        (Path | None, "runs", Path("runs")),
        (tuple[str, ...], "best", ("best",)),
        (tuple[str, ...], [5.0, "p90"], ("5.0", "p90")),
        (tuple[str, ...], {"length": 5, "name": "x"}, ("length=5", "name='x'")),
        (tuple[int, ...], [1, 2], (1, 2)),
        (dict, {"any": "thing"}, {"any": "thing"}),
    ],
)
def test_a_value_that_fits_is_taken(hint, given, value):
    taken = value_for("option", hint, given)
    assert taken == value
    assert type(taken) is type(value)


@pytest.mark.parametrize(
    ("hint", "given"),
    [(int, "6"), (int, 4.5), (int, True), (float, "0.1"), (bool, "no"), (bool, 1), (str, 3), (Literal["a", "b"], "c"),
     (int | None, "x"), (tuple[int, ...], ["x"]), (Path | None, 5)],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_refused_naming_the_option(hint, given):
    with pytest.raises(InputError, match="^option is "):
        value_for("option", hint, given)
