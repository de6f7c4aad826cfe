"""Studies of runs in a report: sensitivity to the target, attention maps, clips."""

import csv

import pytest
from made_up_runs import load, made_up_study, make_run
from parsed_page import Page

from flowrl.report import Report, write_report
from flowrl.report.tables import attention_table


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
    assert sum(attributes.get("class") == "still" for _, attributes in page.tags) == 2, "a still stands for each"
    assert any(text.startswith("flow, seed 0: return 12.0;") for text in page.texts)
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
    runs = [make_run(elsewhere / f"{agent}-seed0", agent, 0) for agent in ("dt", "flow")]
    write_report(Report.of(load(*runs, studies={"dt": bare, "flow": gaps})), elsewhere / "out")
    assert [r["agent"] for r in data(elsewhere / "out", "sensitivity")] == ["dt", "flow", "flow"]
    (row, _) = Report.of(load(*runs, studies={"dt": bare})).comparisons[0].calibration_rows
    assert (row["change"], row["unit"]) == (None, "share of states")


def test_changes_of_discrete_actions_have_their_own_unit(elsewhere):
    study = made_up_study()
    study["sensitivity"]["unit"] = "share of states"
    run = make_run(elsewhere / "flow-seed0", "flow", 0)
    write_report(Report.of(load(run, studies={"flow": study})), elsewhere / "out")
    text = (elsewhere / "out/report.html").read_text()
    assert "share of situations" in text
    assert "half the action range" not in text
