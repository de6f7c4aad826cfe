"""A report over datasets, and the files it is written to: page, Markdown, data, HParams."""

import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from made_up_runs import AGENTS, achieved, load, made_up_study, make_run
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flowrl.report import Report, Run, console, write_report
from flowrl.report.tables import (
    aggregate_table,
    attention_table,
    cost_table,
    dataset_table,
    difference_table,
    improvement_table,
    markdown,
    score_table,
    task_table,
)


def score(agent, seed):
    """The own score at the headline target: twice the return."""
    return 2 * np.mean([achieved(agent, seed, 10.0, episode) for episode in range(100, 104)])


def test_scores_over_datasets(two_datasets):
    rows = {row["agent"]: row for row in two_datasets.aggregate_rows}
    assert rows.keys() == set(AGENTS)
    # Of the second dataset the seed that all have counts alone.
    assert rows["dt"]["mean"] == pytest.approx(((score("dt", 0) + score("dt", 1)) / 2 + score("dt", 0)) / 2)
    assert {(row["tasks"], row["runs"]) for row in rows.values()} == {(2, 3)}
    assert rows["dt"]["mean_low"] is rows["dt"]["mean_high"] is None, "one seed of the second dataset"
    (flow, bc) = two_datasets.improvement_rows
    # 3 behind in every episode, twice that in score.
    assert (flow["agent"], flow["baseline"], flow["tasks"], flow["pairs"]) == ("flow", "dt", 2, 3)
    assert [flow[n] for n in ("difference", "difference_low", "difference_high")] == [pytest.approx(-6), None, None]
    # flow's scores 19 and 39 against dt's 25 and 45: one pair of four is won; then 19 against 25.
    assert flow["probability"] == pytest.approx((0.25 + 0) / 2)
    assert (bc["agent"], bc["pairs"]) == ("bc", 3)


def test_a_profile_falls_from_all_to_none(two_datasets):
    for agent in AGENTS:
        shares = [row["share"] for row in two_datasets.profile_rows if row["agent"] == agent]
        assert shares[0] == 1
        assert shares[-1] == 0
        assert (np.diff(shares) <= 0).all()


def test_the_summary_of_many_datasets(two_datasets):
    said = two_datasets.summary()
    assert "flow − dt is -6.0 points of own score (paired), which one training seed cannot tell from chance." in said
    assert "over 2 datasets and 3 runs" in said
    assert "2 runs without a counterpart of every agent" in said
    assert "One training seed of bc on test/other-v0: no interval can be given" in said
    assert "the highest" not in said


def test_what_few_seeds_leave_unsaid_is_of_the_fewest(elsewhere):
    """Every pair has seeds enough, and all agents together one."""
    seeds = {"flow": (0, 1, 2), "bc": (0, 3, 4), "dt": (0, 1, 2, 3, 4)}
    runs = [
        make_run(elsewhere / place / f"{agent}-seed{seed}", agent, seed, dataset=f"test/{place}-v0")
        for place in ("one", "two")
        for agent, own in seeds.items()
        for seed in own
    ]
    report = Report.of(load(*runs))
    assert report.aggregate_rows[0]["iqm_low"] is report.improvement_rows[0]["probability_low"] is None
    assert "One training seed that all agents have on test/one-v0: no interval" in report.summary()
    (one, two) = report.comparisons
    assert one.pairs == two.pairs == {"flow": 3, "bc": 3}
    assert "3 training seeds of flow, bc on test/one-v0: so few" in one.summary()
    write_report(report, elsewhere / "out")


def test_the_summary_begins_with_who_leads(elsewhere):
    runs = [
        make_run(elsewhere / place / f"{agent}-seed{seed}", agent, seed, dataset=f"test/{place}-v0")
        for place in ("one", "two")
        for agent in AGENTS
        for seed in (0, 1)
    ]
    report = Report.of(load(*runs))
    rows = {row["agent"]: row for row in report.improvement_rows}
    assert rows["flow"]["difference_high"] < 0 < rows["bc"]["difference_high"]
    assert report.summary().startswith(
        "dt and bc share the highest interquartile mean. Beside dt, flow is worse; bc is not told apart."
    )
    assert "2 training seeds: so few" in report.summary()


def test_the_baseline_stays_where_all_its_runs_failed(folders):
    report = Report.of(load(folders["flow", 0], folders["bc", 0]), baseline="dt")
    assert report.improvement_rows == report.comparisons[0].difference_rows == []
    assert "dt, which differences are taken against, has no run here." in report.summary()


def test_what_not_all_have_run_is_said(folders, elsewhere):
    more = make_run(elsewhere / "dt-seed0", "dt", 0, dataset="test/other-v0")
    report = Report.of(load(*folders.values(), more), failures=["flow seed 0 on test/other-v0 (why)"])
    assert {row["tasks"] for row in report.aggregate_rows} == {1}
    said = report.summary()
    assert "1 runs without a counterpart of every agent" in said
    assert "1 of the runs failed" in said
    assert task_table(report)[2] == ["test/other-v0", "10.0", "–", "25.0", "–"]


def test_the_baseline_is_the_same_on_every_dataset(elsewhere):
    """dt has no run on the first dataset, and flow comes first there."""
    made = [("one", "flow"), ("one", "bc"), ("two", "bc"), ("two", "flow"), ("two", "dt")]
    runs = [make_run(elsewhere / place / f"{a}-seed0", a, 0, dataset=f"test/{place}-v0") for place, a in made]
    report = Report.of(load(*runs))
    assert {(r["agent"], r["baseline"]) for r in report.improvement_rows} == {("flow", "dt"), ("bc", "dt")}
    assert report.improvement_rows[0]["difference"] == -6
    assert report.comparisons[0].difference_rows == []
    assert "dt, which differences are taken against, has no run here" in report.comparisons[0].summary()
    assert "flow − dt is -6.0 points of own score (paired), which one training seed cannot tell" in report.summary()
    write_report(report, elsewhere / "out")


def test_runs_that_failed_where_it_is_hard_make_no_agent_better(elsewhere):
    def runs(place, agents_and_seeds):
        return [
            make_run(elsewhere / place / f"{a}-seed{s}", a, s, dataset=f"test/{place}-v0") for a, s in agents_and_seeds
        ]

    every = [(agent, seed) for agent in ("flow", "dt") for seed in (0, 1)]
    some = [pair for pair in every if pair != ("flow", 0)]
    easy, hard = runs("easy", every), runs("hard", some)
    rows = {row["agent"]: row for row in Report.of(load(*easy, *hard)).aggregate_rows}
    # Of the hard dataset seed 1 is left for both.
    for agent in ("flow", "dt"):
        expected = ((score(agent, 0) + score(agent, 1)) / 2 + score(agent, 1)) / 2
        assert rows[agent]["mean"] == pytest.approx(expected)
        assert rows[agent]["runs"] == 3


def test_no_score_without_references(folders, elsewhere):
    bare = make_run(elsewhere / "dt-seed0", "dt", 0, dataset="test/other-v0", score=False)
    report = Report.of(load(*folders.values(), bare))
    assert report.score is None
    assert report.aggregate_rows == report.improvement_rows == report.profile_rows == []
    assert "no score over all of them" in report.summary()
    assert task_table(report)[2][3] == "12.5"
    write_report(report, elsewhere / "out")


def test_the_tables(comparison, two_datasets):
    scores = score_table(comparison)
    assert scores[0][:4] == ["target", "agent", "seeds", "mean"]
    assert scores[1] == ["2.0", "flow", "2", "10.5", scores[1][4], "7.1", "10.5", "8", "–", "21.0"]
    differences = difference_table(comparison)
    assert differences[1] == ["2.0", "flow − dt", "2", "+1.0", "[1.0, 1.0]"]
    assert differences[3] == ["10.0", "flow − dt", "2", "-3.0", "[-3.0, -3.0]"]
    assert dataset_table(comparison)[1] == ["1,234", "45,678", "5.0", "6.5", "0.0", "5.0", "7.5", "9.0", "10.0"]
    assert cost_table(comparison)[1] == ["flow", "40", "7.50", "0.1 min", "4 s", "1,024 MiB", "–"]
    assert task_table(two_datasets)[1][:4] == ["test/made-up-v0", "10.0", "29.0 ± 14.1", "35.0 ± 14.1"]
    assert improvement_table(two_datasets)[1][:4] == ["flow − dt", "2", "3", "-6.0"]
    tables = (scores, differences, aggregate_table(two_datasets), improvement_table(two_datasets))
    assert all(len({len(row) for row in table}) == 1 for table in tables)


def test_a_table_on_the_console_and_in_markdown():
    table = [["a", "bbb"], ["1,000", "2"]]
    assert console(table) == "    a  bbb\n1,000    2"
    assert markdown(table) == "| a | bbb |\n|---:|---:|\n| 1,000 | 2 |"


class Page(HTMLParser):
    """Notes tags that are opened and not closed, links and texts."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.texts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)


@pytest.fixture(scope="module")
def written(two_datasets, tmp_path_factory):
    """The folder of a written report."""
    out = tmp_path_factory.mktemp("written") / "out"
    write_report(two_datasets, out)
    return out


def test_all_files_are_there(written):
    slugs = ("test-made-up-v0", "test-other-v0")
    names = ["scores", "performance-profiles"]
    names += [f"{kind}-{slug}" for slug in slugs for kind in ("return-by-target", "learning-curves")]
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


def test_page_and_markdown_tell_the_results(two_datasets, written):
    markdown_page, html = (written / "report.md").read_text(), Page((written / "report.html").read_text())
    said = " ".join(html.texts)
    for comparison in two_datasets.comparisons:
        for table in (score_table(comparison), difference_table(comparison)):
            assert markdown(table) in markdown_page
            assert all(cell in html.texts for row in table for cell in row)
        assert comparison.summary() in markdown_page
    for part in (
        two_datasets.summary(), "python -m scripts.train flow --targets 'a b'", "environment seeds 100 to 103",
        "Played with: torch 9.9 on cpu.", "flow 0, 1; dt 0, 1; bc 0.",
        "Acting: flow on its last 5 steps, dt on its last 5 steps, bc on what it observes.",
    ):  # fmt: skip
        assert part in markdown_page
        assert part in said
    for link in re.findall(r"\]\(([^)]+)\)", markdown_page):
        assert (written / link).is_file(), "pictures are named relative to the page"


def test_the_json_says_the_same(two_datasets, written):
    found = json.loads((written / "results.json").read_text())
    assert found["aggregate"] == two_datasets.aggregate_rows
    assert found["improvement"] == two_datasets.improvement_rows
    for comparison, told in zip(two_datasets.comparisons, found["comparisons"], strict=True):
        assert told["scores"] == comparison.score_rows
        assert told["differences"] == comparison.difference_rows
        for run in told["runs"]:
            for row in run["episodes"]:
                assert row["return"] == achieved(run["agent"], run["seed"], row["target"], row["seed"])
            assert (written / run["folder"]).resolve().is_dir()
            assert not run["folder"].startswith("/")


def test_the_data_of_a_figure(two_datasets, written):
    with open(written / "data/return-by-target-test-made-up-v0.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = two_datasets.comparisons[0].score_rows
    assert [(float(r["target"]), r["agent"], float(r["mean"])) for r in rows] == [
        (r["target"], r["agent"], r["mean"]) for r in expected
    ]


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
    write_report(two_datasets, written)
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
    assert not list(out.glob(f"*/*{other}*")), "the earlier report's own are gone, and their folders"


def test_a_list_that_leads_elsewhere_removes_nothing(folders, elsewhere):
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


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """The folder of a report of runs that were studied."""
    root = tmp_path_factory.mktemp("studied")
    runs = [make_run(root / f"{agent}-seed{seed}", agent, seed) for agent in ("flow", "dt") for seed in (0, 1)]
    studies = {agent: made_up_study(flows=agent == "flow") for agent in ("flow", "dt")}
    write_report(Report.of(load(*runs, studies=studies)), root / "out")
    return root / "out"


def data(folder, name):
    with open(folder / f"data/{name}-test-made-up-v0.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_sensitivity_and_clips_are_shown(studied):
    page = Page((studied / "report.html").read_text())
    assert sum(link.startswith("data:image/gif") for link in page.links) == 2
    assert "flow, seed 0: return 12.0; an episode of its own, in no table" in page.texts
    assert [(r["agent"], float(r["target"]), float(r["change"])) for r in data(studied, "sensitivity")] == [
        (a, t, (10 - t) / 16) for a in ("flow", "dt") for t in (2.0, 10.0)
    ]


def test_what_is_attended_to_is_shown(studied):
    said = " ".join(Page((studied / "report.html").read_text()).texts)
    for title in ("Effective attention weights", "How many tokens", "flow: Incoming flow I", "flow: Competition C"):
        assert title in said
    assert "dt: Incoming" not in said, "softmax has no flows"
    weights = data(studied, "attention-weights")
    assert len(weights) == 2 * 2 * 21, "two agents, two layers, the lower triangle of 6 tokens"
    # The row sums to 1, the sum over all that the token looks at was 2.
    assert {(r["query"], r["key"]): float(r["weight"]) for r in weights}["observation 7", "return 7"] == 0.25
    attended = [r for r in data(studied, "attended") if (r["agent"], r["layer"], r["step"]) == ("dt", "2", "4")]
    assert [float(r["tokens"]) for r in attended] == [0.25 * (1 + 1 + 1 + 4)], "the mean over three heads"
    incoming = data(studied, "incoming-flow")
    assert len(incoming) == 2 * 3 * 5
    assert float(incoming[-1]["incoming"]) == 1 + 1 + 2 + 4


def test_weights_on_a_longer_past_are_shares_of_all_of_it(elsewhere):
    run = make_run(elsewhere / "flow-seed0", "flow", 0)
    write_report(Report.of(load(run, studies={"flow": made_up_study(before=94)})), elsewhere / "out")
    weights = data(elsewhere / "out", "attention-weights")
    assert {(r["query"], r["key"]): float(r["weight"]) for r in weights}["return 7", "return 7"] == 0.5
    assert "the last 6 of 100 tokens" in (elsewhere / "out/report.html").read_text()


def test_agents_of_other_tokens_are_shown_beside_each_other(elsewhere):
    """Three tokens a step, and the observation's alone."""
    few = made_up_study()
    few["maps"]["share"] = {"observation": few["maps"]["share"]["observation"]}
    few["maps"]["picture"]["tokens"] = [f"observation {step}" for step in range(3, 9)]
    runs = [make_run(elsewhere / f"{agent}-seed0", agent, 0) for agent in ("dt", "flow")]
    report = Report.of(load(*runs, studies={"dt": made_up_study(flows=False), "flow": few}))
    write_report(report, elsewhere / "out")
    shares = {(row[0], row[1]): row[3:6] for row in attention_table(report.comparisons[0])[1:]}
    assert shares["flow", "1"] == ["–", "8.0 %", "–"]  # the mean of 0.02 · (1 + head + step), three heads, five steps
    assert "–" not in shares["dt", "1"]
    text = (elsewhere / "out/report.html").read_text()
    assert "dt: return, observation, action; flow: observation." in text


def test_studies_with_nothing_to_show_are_shown_so(elsewhere):
    """What a study may lack: maps (no sequence agent), a clip (no renderer), figures that are not finite."""
    bare = made_up_study()
    bare |= {"maps": None, "clip": {"file": None, "reason": "no GL"}}
    bare["sensitivity"] |= {"change": [None, 0.0], "worst_to_best": None, "unit": "share of states"}
    gaps = made_up_study()
    gaps["maps"]["attended"][0][0][0] = gaps["maps"]["flows"]["incoming"][0][0][0] = None
    runs = [make_run(elsewhere / f"{agent}-seed0", agent, 0) for agent in ("bc", "flow")]
    write_report(Report.of(load(*runs, studies={"bc": bare, "flow": gaps})), elsewhere / "out")
    assert [r["agent"] for r in data(elsewhere / "out", "sensitivity")] == ["bc", "flow", "flow"]
    (row, _) = Report.of(load(*runs, studies={"bc": bare})).comparisons[0].calibration_rows
    assert (row["change"], row["unit"]) == (None, "share of states")


def test_changes_of_discrete_actions_have_their_own_unit(elsewhere):
    study = made_up_study()
    study["sensitivity"]["unit"] = "share of states"
    run = make_run(elsewhere / "flow-seed0", "flow", 0)
    write_report(Report.of(load(run, studies={"flow": study})), elsewhere / "out")
    text = (elsewhere / "out/report.html").read_text()
    assert "share of situations in which another action is chosen" in text
    assert "half the action range" not in text


def test_one_evaluation_makes_no_curve(elsewhere):
    run = make_run(elsewhere / "dt-seed0", "dt", 0)
    others = [row for row in run.rows("evaluations.jsonl") if row["kind"] == "evaluate"]
    others = [row | {"env": "test/Other-v0"} for row in others]
    write_report(Report.of([Run.load(run, "dt", episodes=others)]), elsewhere / "out")
    assert [path.stem for path in (elsewhere / "out/figures").iterdir()] == ["return-by-target-test-made-up-v0"]
    assert "Best over training" not in (elsewhere / "out/report.html").read_text()


def test_names_from_outside_are_escaped(elsewhere):
    run = make_run(elsewhere / "x-seed0", "dt", 0, dataset="<script>alert(1)</script>")
    write_report(Report.of(load(run)), elsewhere / "out")
    text = (elsewhere / "out/report.html").read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_one_agent_one_seed_and_one_dataset_can_be_reported(elsewhere):
    run = make_run(elsewhere / "flow-seed3", "flow", 3, score=False)
    report = Report.of(load(run))
    assert "One training seed" in report.summary()
    made = write_report(report, elsewhere / "out")
    assert [path.name for path in made] == ["report.html", "report.md", "results.json"]
