"""The files of a report: page, Markdown, data, HParams."""

import csv
import json
import re
from datetime import date

import numpy as np
import pytest
from made_up_runs import load, make_run, return_of
from parsed_page import Page
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flowrl.report import Report, Run, write_report
from flowrl.report.tables import difference_table, score_table
from flowrl.report.verdict import comparison_verdict
from flowrl.text import markdown_table

DAY = date(2026, 11, 30)


@pytest.fixture(scope="module")
def written(two_datasets, tmp_path_factory):
    """The folder of a written report."""
    out = tmp_path_factory.mktemp("written") / "out"
    write_report(two_datasets, out, written=DAY)
    return out


def test_all_files_are_there(written):
    slugs = ("test-made-up-v0", "test-other-v0")
    names = ["scores", "performance-profiles"]
    names += [f"{kind}-{slug}" for slug in slugs for kind in ("result", "return-by-target", "learning-curves")]
    assert {path.name for path in written.iterdir()} == {
        "report.html", "report.md", "results.json", "figures", "data", "hparams",
    }  # fmt: skip
    assert {path.stem for path in (written / "figures").iterdir()} >= set(names)
    assert {path.stem for path in (written / "data").iterdir()} >= set(names)
    for path in (written / "figures").iterdir():
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        assert len(pixels) > 100_000
        assert 0.01 < (pixels.min(1) < 250).mean() < 0.9, "ink and paper"


def test_the_page_needs_nothing_else(written):
    page = Page((written / "report.html").read_text())
    assert page.open == []
    assert page.links
    assert all(link.startswith(("data:", "#")) for link in page.links)
    text = (written / "report.html").read_text()
    assert not re.search(r"https?://(?!www\.w3\.org)", re.sub(r"base64,[\w+/=]+", "", text))


def test_page_and_markdown_hold_the_results(two_datasets, written):
    markdown_page, html = (written / "report.md").read_text(), Page((written / "report.html").read_text())
    said = " ".join(html.texts)
    for comparison in two_datasets.comparisons:
        for table in (score_table(comparison), difference_table(comparison)):
            assert markdown_table(table) in markdown_page
            assert all(cell in html.cells for row in table for cell in row)
        for said_once in (comparison.summary(), *comparison_verdict(comparison)):
            assert said_once in said
            assert said_once in markdown_page
    for part in (
        two_datasets.summary(), "python -m scripts.train flow --targets 'a b'", "environment seeds 100 to 103",
        "Played with: torch 9.9 on cpu.", "flow 0, 1; dt 0, 1; bc 0.",
        "Acting: flow on its last 5 steps, dt on its last 5 steps, bc on the present observation.",
    ):  # fmt: skip
        assert part in markdown_page
        assert part in said
    for link in re.findall(r"\]\(([^)]+)\)", markdown_page):
        assert (written / link).is_file(), "pictures are named relative to the page"


def test_the_json_says_the_same(two_datasets, written):
    results = json.loads((written / "results.json").read_text())
    assert results["aggregate"] == two_datasets.aggregate_rows
    assert results["improvement"] == two_datasets.improvement_rows
    for comparison, stored in zip(two_datasets.comparisons, results["comparisons"], strict=True):
        assert stored["scores"] == comparison.score_rows
        assert stored["differences"] == comparison.difference_rows
        for run in stored["runs"]:
            for row in run["episodes"]:
                assert row["return"] == return_of(run["agent"], run["seed"], row["target"], row["seed"])
            assert (written / run["folder"]).resolve().is_dir()
            assert not run["folder"].startswith("/")


def test_the_data_of_a_picture(two_datasets, written):
    with open(written / "data/return-by-target-test-made-up-v0.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = two_datasets.comparisons[0].score_rows
    by_target = [r for r in rows if r["agent"] != "bc"]
    assert {(float(r["target"]), r["agent"], float(r["mean"])) for r in by_target} == {
        (r["target"], r["agent"], r["mean"]) for r in expected if r["agent"] != "bc"
    }
    assert [r["target"] for r in rows if r["agent"] == "bc"] == [""], "it takes no target"


def test_hparams_hold_settings_and_results(written):
    folder = written / "hparams/test-made-up-v0/dt-seed1"
    events = EventAccumulator(str(folder)).Reload()
    assert events.Scalars("result/return")[0].value == 22.5
    assert events.Scalars("result/score_measured")[0].value == 45
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= set(
        events.summary_metadata  # plugin data of HParams
    )
    assert len(list((written / "hparams").rglob("events*"))) == 11


def test_datasets_whose_names_look_alike_keep_their_own_files(elsewhere):
    runs = [
        make_run(elsewhere / n / "dt-seed0", "dt", 0, dataset=name) for n, name in (("1", "a/b-v0"), ("2", "a-b-v0"))
    ]
    write_report(Report.of(load(*runs)), elsewhere / "out")
    assert {"return-by-target-a-b-v0.png", "return-by-target-a-b-v0-2.png"} <= {
        path.name for path in (elsewhere / "out/figures").iterdir()
    }


def test_a_report_that_cannot_be_written_leaves_the_old_one(folders, elsewhere, monkeypatch):
    out = elsewhere / "out"
    write_report(Report.of(load(*folders.values())), out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flowrl.report.files.csv_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(Report.of(load(folders["dt", 0])), out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_new_report_leaves_nothing_of_the_old_one(folders, elsewhere):
    out = elsewhere / "out"
    write_report(Report.of(load(*folders.values())), out)
    write_report(Report.of(load(folders["dt", 0])), out)
    assert len(list((out / "hparams").rglob("events*"))) == 1
    assert sorted(path.name for path in out.iterdir()) == [
        "data", "figures", "hparams", "report.html", "report.md", "results.json",
    ]  # fmt: skip


def test_writing_it_again_changes_nothing(two_datasets, written):
    def files():
        return {
            path: path.read_bytes() for path in written.rglob("*") if path.is_file() and "hparams" not in path.parts
        }

    before = files()
    write_report(two_datasets, written, written=DAY)
    assert files() == before
    assert len(list((written / "hparams").rglob("events*"))) == 11


def test_what_a_report_did_not_write_stays(folders, elsewhere):
    out, other = elsewhere / "out", "test-other-v0"
    for place in ("data/precious/main_data.hdf5", "figures/mine.png", "data/bc-seed0/config.json"):
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        (out / place).write_text("mine")
    more = make_run(elsewhere / "dt-seed0", "dt", 0, dataset="test/other-v0")
    write_report(Report.of(load(*folders.values(), more)), out)
    mine = {path for path in out.rglob("*") if path.is_file() and path.read_bytes() == b"mine"}
    assert len(mine) == 3
    assert list(out.glob(f"*/*{other}*"))
    (out / "figures/also-mine.png").write_text("mine")
    write_report(Report.of(load(*folders.values())), out)
    assert {path for path in out.rglob("*") if path.is_file() and path.read_bytes() == b"mine"} > mine
    assert not list(out.glob(f"*/*{other}*")), "the earlier report's files are gone, and their folders"


def test_a_list_that_leads_elsewhere_removes_nothing(folders, elsewhere, monkeypatch):
    monkeypatch.setattr("flowrl.report.files.comparison_pictures", lambda *arguments: [])  # the slow part
    out = elsewhere / "out"
    write_report(Report.of(load(folders["dt", 0])), out)
    (elsewhere / "precious.txt").write_text("mine")
    (out / "precious.txt").write_text("mine")
    results = json.loads((out / "results.json").read_text())
    results["files"] = ["data/../../precious.txt", "precious.txt", str(elsewhere / "precious.txt")]
    (out / "results.json").write_text(json.dumps(results))
    write_report(Report.of(load(folders["dt", 0])), out)
    assert (elsewhere / "precious.txt").exists()
    assert (out / "precious.txt").exists()
    for damaged in ("", "[]", '{"files": 3}', '{"files": [3]}', '{"files": ["", "data"]}'):
        (out / "results.json").write_text(damaged)
        write_report(Report.of(load(folders["dt", 0])), out)


def test_one_evaluation_makes_no_curve(elsewhere):
    run = make_run(elsewhere / "dt-seed0", "dt", 0)
    others = [row for row in run.rows("evaluations.jsonl") if row["kind"] == "evaluate"]
    others = [row | {"env": "test/Other-v0"} for row in others]
    write_report(Report.of([Run.load(run, "dt", episodes=others)]), elsewhere / "out")
    drawn = {path.stem for path in (elsewhere / "out/figures").iterdir()}
    assert drawn == {"result-test-made-up-v0", "return-by-target-test-made-up-v0"}
    assert "Best over training" not in (elsewhere / "out/report.html").read_text()


def test_texts_from_outside_are_escaped(elsewhere):
    run = make_run(elsewhere / "x-seed0", "dt", 0, dataset="<script>alert(1)</script>|*a*")
    report = Report.of(load(run), commands=["echo '```'"], failures=["dt seed 1 [a](b) `<b>`\n# no heading"])
    write_report(report, elsewhere / "out")
    page, markdown = ((elsewhere / "out" / name).read_text() for name in ("report.html", "report.md"))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert Page(page).open == []
    assert "## &lt;script&gt;alert(1)&lt;/script&gt;\\|\\*a\\*\n" in markdown
    assert "- dt seed 1 [a]\\(b) \\`&lt;b&gt;\\` # no heading\n" in markdown
    assert "````\necho '```'\n````" in markdown


def test_page_and_markdown_have_the_same_sections(written):
    page, markdown = (written / "report.html").read_text(), (written / "report.md").read_text()
    sections = re.findall("^## (.*)$", markdown, re.M)
    assert sections == re.findall('<h2 id="s[0-9]+">(.*?)</h2>', page)
    assert sections == re.findall('<a href="#s[0-9]+">(.*?)</a>', page)
    titles = re.findall("^### (.*)$", markdown, re.M)
    assert titles
    assert set(titles) <= set(re.findall("<h3>(.*?)</h3>", page))


def test_one_agent_one_seed_and_one_dataset_can_be_reported(elsewhere):
    run = make_run(elsewhere / "flow-seed3", "flow", 3, score=False)
    report = Report.of(load(run))
    assert "One training seed" in report.summary()
    paths = write_report(report, elsewhere / "out")
    assert [path.name for path in paths] == ["report.html", "report.md", "results.json"]
