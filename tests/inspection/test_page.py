"""Screen, page and summary."""

import json

import numpy as np
import pytest

from flowrl.inspection import Alignment, Inspection, SeededReplay, screen
from flowrl.inspection.figures import Distribution
from flowrl.inspection.page import page
from flowrl.inspection.pictures import returns_picture
from flowrl.inspection.result import summary
from flowrl.inspection.steering import Steering

NONE = {"own": None, "dataset": None, "D4RL": None}


def inspected(**keywords):
    whole = {
        "id": "a/b-v0", "fingerprint": "f", "metadata": {"description": "d"}, "references": NONE, "refused": [],
        "warnings": [], "figures": None, "alignment": None, "steering": None,
    }  # fmt: skip
    return Inspection(**(whole | keywords))


def test_text_from_the_data_is_escaped_everywhere(tiny_figures):
    evil = "<script>alert('1')</script>"
    inspection = inspected(
        id=evil, metadata={evil: evil, "environment": evil}, refused=[evil], warnings=[evil, evil], fingerprint=evil,
        alignment=Alignment("unknown", evil, env_id=evil), steering=Steering("no", evil),
        figures=tiny_figures(references={evil: (0.0, 1.0)}), references={evil: (0.0, 1.0)},
    )  # fmt: skip
    made = page(inspection)
    assert "<script" not in made
    assert "&lt;script&gt;" in made
    returns_picture(inspection.figures, "$evil_{$")


def test_the_summary_is_strict_json(tiny_figures):
    seeded = SeededReplay(2, 20, 0.0, 0.0, float("inf"), 0.0, None, (0.0, float("nan")))
    alignment = Alignment("aligned", "Aligned.", seeded=seeded)
    made = json.loads(summary(inspected(figures=tiny_figures(), alignment=alignment)), parse_constant=pytest.fail)
    assert made["alignment"]["seeded"]["maximum"] is None
    assert made["alignment"]["seeded"]["by_step"] == [0.0, None]
    assert made["figures"]["returns"]["percentiles"]["50"] == 3
    assert made["figures"]["terminated"] == 1


def test_nothing_finite_at_all_still_has_figures(tiny, tiny_figures):
    arrays = tiny
    for array in (arrays.observations, arrays.actions, arrays.rewards):
        array[:] = np.nan
    found = tiny_figures(arrays)
    assert found.returns == Distribution(0, None, None, {})
    assert found.observations[0].mean is None
    assert found.non_finite == 18 + 6 + 6
    inspection = inspected(figures=found)
    assert "nan" in screen(inspection)
    json.loads(summary(inspection), parse_constant=pytest.fail)
    assert "<img" not in page(inspection)
