"""Screen, page and summary."""

import json
import re

import numpy as np
import pytest

from flowrl.data.minari_store import open_dataset
from flowrl.inspection import Inspection, inspect_dataset, screen, write_inspection
from flowrl.inspection.alignment import Alignment, SeededReplay
from flowrl.inspection.distributions import Distribution
from flowrl.inspection.page import page
from flowrl.inspection.pictures import returns_picture
from flowrl.inspection.result import as_json
from flowrl.inspection.steering import Steering
from flowrl.inspection.stitching import Stitching

NONE = {"flowrl": None, "dataset": None, "D4RL": None}


def inspected(**keywords):
    whole = {
        "id": "a/b-v0", "fingerprint": "f", "metadata": {"description": "d"}, "references": NONE, "refused": [],
        "warnings": [], "notes": [], "statistics": None, "alignment": None, "steering": None,
    }  # fmt: skip
    return Inspection(**(whole | keywords))


def test_text_from_the_data_is_escaped_everywhere(tiny_statistics):
    evil = "<script>alert('1')</script>"
    inspection = inspected(
        id=evil, metadata={evil: evil, "environment": evil}, refused=[evil], warnings=[evil, evil], fingerprint=evil,
        alignment=Alignment("unknown", evil, env_id=evil), steering=Steering("no", evil),
        stitching=Stitching("no", evil, (evil,)),
        statistics=tiny_statistics(references={evil: (0.0, 1.0)}), references={evil: (0.0, 1.0)},
    )  # fmt: skip
    html = page(inspection)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    returns_picture(inspection.statistics, "$evil_{$")


def test_the_summary_is_strict_json(tiny_statistics):
    seeded = SeededReplay(2, 20, 0.0, 0.0, float("inf"), 0.0, None, (0.0, float("nan")))
    alignment = Alignment("aligned", "Aligned.", seeded=seeded)
    written = json.loads(
        as_json(inspected(statistics=tiny_statistics(), alignment=alignment)), parse_constant=pytest.fail
    )
    assert written["alignment"]["seeded"]["maximum"] is None
    assert written["alignment"]["seeded"]["by_step"] == [0.0, None]
    assert written["statistics"]["returns"]["percentiles"]["50"] == 3
    assert written["statistics"]["terminated"] == 1


def test_nothing_finite_at_all_still_has_statistics(tiny, tiny_statistics):
    arrays = tiny
    for array in (arrays.observations, arrays.actions, arrays.rewards):
        array[:] = np.nan
    statistics = tiny_statistics(arrays)
    assert statistics.returns == Distribution(0, None, None, {})
    assert statistics.observations[0].mean is None
    assert statistics.non_finite == 18 + 6 + 6
    inspection = inspected(statistics=statistics)
    assert "nan" in screen(inspection)
    json.loads(as_json(inspection), parse_constant=pytest.fail)
    assert "<img" not in page(inspection)


def test_the_page_stands_alone_and_the_summary_is_strict(reach_dataset, changed, tmp_path):
    evil = "</td><script src='http://evil.example/x.js'></script><img src=http://evil.example/y.png>"
    dataset_id = changed(open_dataset(reach_dataset), lambda *arrays: arrays, description=evil, author=evil)
    write_inspection(inspect_dataset(dataset_id), tmp_path)
    html = (tmp_path / "index.html").read_text()
    assert re.findall(r"<(?:script|link|iframe|object)", html) == []
    sources = re.findall(r"""<[^>]*\s(?:src|href)\s*=\s*["']?([^"'>]{0,30})""", html)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "url(" not in html
    assert "@import" not in html
    assert "&lt;script src=" in html
    assert (tmp_path / "returns.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["metadata"]["description"] == evil
    assert summary["id"] == dataset_id


def test_a_picture_of_an_earlier_state_is_removed(tiny_statistics, tmp_path):
    whole = write_inspection(inspected(statistics=tiny_statistics()), tmp_path)
    assert sorted(path.name for path in whole) == ["index.html", "returns.png", "summary.json"]
    write_inspection(inspected(refused=["it cannot be read"]), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "summary.json"]
