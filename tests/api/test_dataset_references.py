"""Reference scores that are stored with a dataset: in rows, tables and reports, named as what they are."""

import json
import shutil
from dataclasses import replace

import gymnasium as gym
import pytest

import flowrl
from flowrl.api.training import default_options
from flowrl.data.dataset import TrajectoryDataset
from flowrl.errors import InputError
from flowrl.experiments.cells import MatrixAgent, finished_cells, make_cells
from flowrl.experiments.options import with_options
from flowrl.report import Comparison, Report, Run, overview_tables, tables_of, write_report
from flowrl.report.tables import score_table
from flowrl.training.run_folder import RunFolder

DATASET, ENV, OTHER = "own/toy-v0", "own/Toy-v0", "own/Other-v0"
NAMED = "score (dataset references)"


@pytest.fixture(autouse=True)
def environments(monkeypatch):
    """Reach under names that nobody has reference scores of."""
    monkeypatch.setattr(gym.envs.registration, "registry", dict(gym.registry))
    for name in (ENV, OTHER):
        gym.register(name, "flowrl.envs.tiny:Reach", max_episode_steps=16)


@pytest.fixture
def data(write, numbered_episode, minari_root):
    """Writes the dataset with such reference scores."""

    def make(pair, name=DATASET, **about):
        write(name, [numbered_episode(0, 5), numbered_episode(1, 8)] * 3, env_spec=gym.spec(ENV), **about)
        file = minari_root / name / "data/metadata.json"
        metadata = json.loads(file.read_text())
        if pair is not None:
            metadata |= {"ref_min_score": pair[0], "ref_max_score": pair[1]}
        file.write_text(json.dumps(metadata))
        (file.parent / "flowrl_fingerprint.json").unlink(missing_ok=True)

    return make


@pytest.fixture
def run(data, tiny_train, tmp_path):
    """A run on data whose references are 2 and 42."""
    data((2.0, 42.0))
    return tiny_train("bc", tmp_path / "bc-seed0", dataset=DATASET, evaluate_every=10)


def rows(run):
    return [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]


def edit_config(run, change):
    config = json.loads((run / "config.json").read_text())
    change(config)
    (run / "config.json").write_text(json.dumps(config))


def expected(row):
    return pytest.approx(100 * (row["return"] - 2) / 40)


def test_rows_metrics_and_table_have_the_score(run, capsys):
    assert {row["kind"] for row in rows(run)} == {"training", "final"}
    for row in rows(run):
        assert row["score_dataset"] == expected(row)
        assert row["score_d4rl"] is row["score_measured"] is None
    final = [row for row in rows(run) if row["kind"] == "final"]
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["eval/score"] == pytest.approx(sum(row["score_dataset"] for row in final) / len(final))
    flowrl.evaluate(run, episodes=1, device="cpu")
    printed = capsys.readouterr()
    assert NAMED in printed.out
    assert "reference scores" not in printed.err


def test_an_evaluation_needs_no_dataset_for_it(run, minari_root):
    shutil.rmtree(minari_root)
    for row in flowrl.evaluate(run, episodes=2, device="cpu"):
        assert row["score_dataset"] == expected(row)


@pytest.mark.parametrize("env", [OTHER, "flowrl/Reach-v0"])
def test_scores_in_another_environment_are_not_by_the_datasets_references(run, env):
    for row in flowrl.evaluate(run, episodes=1, device="cpu", env=env):
        assert row["score_dataset"] is None
        assert (row["score_measured"] is None) == (env == OTHER)


def test_a_training_in_another_environment_uses_none(data, tiny_train, tmp_path):
    data((2.0, 42.0))
    run = tiny_train("bc", tmp_path / "run", dataset=DATASET, env=OTHER, steps=1)
    assert {row["score_dataset"] for row in rows(run)} == {None}
    back = flowrl.evaluate(run, env=ENV, episodes=1, device="cpu")
    assert [row["score_dataset"] for row in back] == [expected(back[0])]


def test_a_dataset_without_an_environment_lends_them_to_the_one_that_is_chosen(data, tiny_train, tmp_path):
    data((2.0, 42.0))
    named = TrajectoryDataset.from_minari(DATASET)
    nameless = replace(named, env_spec=None, declared=replace(named.declared, evaluation_env=None))
    run = tiny_train("bc", tmp_path / "run", dataset=nameless, env=OTHER, steps=1)
    assert all(row["score_dataset"] == expected(row) for row in rows(run))


def test_a_report_names_them_and_pools_by_them(run, tiny_train, tmp_path, capsys):
    second = tiny_train("bc", tmp_path / "bc-seed1", dataset=DATASET, seed=1)
    runs = [Run.load(RunFolder(folder), "bc") for folder in (run, second)]
    report, comparison = Report.of(runs), Comparison.of(runs)
    scores = [row["score_dataset"] for folder in (run, second) for row in rows(folder) if row["kind"] == "final"]
    assert comparison.score_rows[0]["score_dataset"] == pytest.approx(sum(scores) / len(scores))
    assert report.score == "score_dataset"
    assert report.aggregate_rows[0]["mean"] == pytest.approx(sum(scores) / len(scores))
    tables = [table for _, table in [*tables_of(comparison), *overview_tables(report)]]
    assert NAMED in score_table(comparison)[0]
    assert any(NAMED in table[0] for table in tables)
    page = write_report(report, tmp_path / "out")[0].read_text()
    assert "stored with the dataset" in page
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["score"] == "score_dataset"
    assert results["comparisons"][0]["runs"][0]["episodes"][0]["score_dataset"] is not None


def test_runs_of_earlier_versions_lack_the_column_and_are_compared_all_the_same(run, tiny_train, tmp_path):
    old = shutil.copytree(run, tmp_path / "bc-seed1")
    lines = [{name: value for name, value in row.items() if name not in ("score_dataset", "run")} for row in rows(old)]
    (old / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))

    def older(config):
        del config["dataset_returns"]["reference"]

    edit_config(old, older)
    report = Report.of([Run.load(RunFolder(old), "bc")])
    assert report.score is None
    assert NAMED not in score_table(report.comparisons[0])[0]
    played = flowrl.evaluate(old, episodes=3, device="cpu")
    assert {row["score_dataset"] for row in played} == {None}


def test_runs_with_other_references_are_not_put_in_one_column(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "bc-seed1")
    lines = [{name: value for name, value in row.items() if name != "run"} for row in rows(other)]
    (other / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    edit_config(
        other, lambda config: config["dataset_returns"]["reference"].update(expert=99.0) or config.update(seed=1)
    )
    with pytest.raises(InputError, match="reference scores .* 42.* 99"):
        Report.of([Run.load(RunFolder(folder), "bc") for folder in (run, other)])


@pytest.mark.parametrize("pair", [(4.0, 4.0), (5.0, 4.0), (float("nan"), 4.0), (0.0, float("inf"))])
def test_nonsense_is_warned_of_and_not_used(pair, data, tiny_train, tmp_path, capsys):
    data(pair)
    run = tiny_train("bc", tmp_path / "run", dataset=DATASET, steps=1)
    printed = capsys.readouterr()
    assert printed.err.count("reference scores") == 1
    assert NAMED not in printed.out
    assert {row["score_dataset"] for row in rows(run)} == {None}
    assert flowrl.evaluate(run, episodes=1, device="cpu")[0]["score_dataset"] is None


def test_a_comparison_warns_of_nonsense_before_it_starts(data, tmp_path, capsys):
    data((4.0, 4.0))
    tiny = {"steps": 1, "width": 8, "layers": 1, "context": 5, "episodes": 1, "device": "cpu"}
    default = default_options("bc")
    agents = [MatrixAgent(label, with_options(default, tiny), default) for label in ("one", "two")]
    assert finished_cells(make_cells([DATASET], agents, 2, tmp_path)) == set()
    assert capsys.readouterr().err.count("reference scores") == 1


def test_a_mixture_warns_where_its_datasets_disagree(data, tiny_train, tmp_path, capsys):
    data((0.0, 40.0), "own/a-v0")
    data((0.0, 50.0), "own/b-v0")
    data(None, "own/c-v0")
    run = tiny_train("bc", tmp_path / "differ", dataset="own/a-v0+own/b-v0", steps=1)
    assert "different reference scores" in capsys.readouterr().err
    assert rows(run)[0]["score_dataset"] is None
    run = tiny_train("bc", tmp_path / "agree", dataset="own/c-v0+own/a-v0:2", steps=1)
    assert "reference scores" not in capsys.readouterr().err
    assert rows(run)[0]["score_dataset"] == pytest.approx(100 * rows(run)[0]["return"] / 40)


def test_a_reference_that_d4rl_measured_is_taken_where_there_is_no_other(data):
    data(None, metadata={"d4rl_ref_min_score": -1.0, "d4rl_ref_max_score": 9.0})
    assert TrajectoryDataset.from_minari(DATASET).declared.references == ((-1.0, 9.0),)
    data((2.0, 42.0), metadata={"d4rl_ref_min_score": -1.0, "d4rl_ref_max_score": 9.0}, force=True)
    assert TrajectoryDataset.from_minari(DATASET).declared.references == ((2.0, 42.0),)


def test_our_own_references_are_not_shown_twice(tiny_run, capsys):
    stored = json.loads((tiny_run / "config.json").read_text())["dataset_returns"]["reference"]
    assert stored == {"random": 5.197, "expert": 14.423, "env": "flowrl/Reach-v0"}
    row = flowrl.evaluate(tiny_run, episodes=1, device="cpu", targets="best")[0]
    assert row["score_measured"] is not None
    assert row["score_dataset"] is None
    assert NAMED not in capsys.readouterr().out


@pytest.mark.parametrize("damage", [3, {"random": 1.0}, {"random": "a", "expert": 2.0, "env": None}])
def test_a_damaged_reference_in_the_configuration_is_one_sentence(tiny_run, damage):
    edit_config(tiny_run, lambda config: config["dataset_returns"].update(reference=damage))
    before = (tiny_run / "evaluations.jsonl").read_bytes()
    with pytest.raises(InputError, match="config.json is damaged"):
        flowrl.evaluate(tiny_run, episodes=1, device="cpu")
    assert (tiny_run / "evaluations.jsonl").read_bytes() == before


def test_a_damaged_score_is_one_sentence(run):
    lines = [row | {"score_dataset": "high"} for row in rows(run)]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    with pytest.raises(InputError, match="score_dataset"):
        Run.load(RunFolder(run), "bc")
