"""Training without an environment (env none): weights and a loss, and nothing is played until one is chosen."""

import json

import pytest
import torch

import flowrl
from flowrl.errors import InputError
from flowrl.report import Run
from flowrl.scripts import compare
from flowrl.scripts.cli import parse
from flowrl.training.run_folder import RunFolder

NAMELESS = "test/nameless-v0"
ENV = "flowrl/Reach-v0"


@pytest.fixture
def nameless(write, numbered_episode):
    """A dataset that names no environment."""
    write(NAMELESS, [numbered_episode(0, 5), numbered_episode(1, 8)] * 3, env_spec=None)
    return NAMELESS


@pytest.fixture
def run(nameless, tiny_train, tmp_path):
    """A run that played nothing."""
    return tiny_train("flow", tmp_path / "flow-seed0", dataset=nameless, env="none")


def learner_of(run):
    return RunFolder(run).load()["learner"]["actor"]


def test_the_weights_are_those_of_a_run_that_plays(tiny_train, tiny_runs, reach_dataset, tmp_path, capsys):
    run = tiny_train("flow", tmp_path / "run", env="none", evaluate_every=5)
    weights, known = learner_of(run), learner_of(tiny_runs / "flow")
    assert all(torch.equal(weights[name], known[name]) for name in known)
    assert not (run / "evaluations.jsonl").exists()
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics if "train/loss" in row] == [5, 10, 15, 20]
    assert not [name for row in metrics for name in row if name.startswith("eval/")]
    assert "nothing was played" in capsys.readouterr().out


def test_it_is_finished_at_its_last_step(run, nameless, tiny_train, capsys):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    capsys.readouterr()
    tiny_train("flow", run, dataset=nameless, env="none")
    assert "is finished: nothing to do" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    folder = RunFolder(run)
    config = folder.config()
    assert folder.is_finished(config)
    assert not folder.is_finished(config | {"training": config["training"] | {"steps": 21}})
    (run / "checkpoint.pt").unlink()
    assert not folder.is_finished(config)


def test_it_is_played_later_in_an_environment_that_is_chosen(run):
    rows = flowrl.evaluate(run, env=ENV, episodes=2, targets="best", device="cpu")
    assert [(row["kind"], row["step"], row["env"], row["seed"]) for row in rows] == [
        ("evaluate", 20, ENV, seed) for seed in (10_000, 10_001)
    ]
    assert [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()] == rows
    assert all(row["score_measured"] is not None for row in rows)


def test_runs_without_an_environment_are_compared_once_they_are_played(
    run, nameless, tiny_train, tmp_path, minari_root
):
    other = tiny_train("bc", tmp_path / "bc-seed0", dataset=nameless, env="none")
    played = tiny_train("dt", tmp_path / "dt-seed0", dataset=nameless, env=ENV)
    flowrl.evaluate([run, other, played], env=ENV, episodes=2, device="cpu", out=tmp_path / "out")
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert {row["agent"] for row in results["comparisons"][0]["scores"]} == {"flow", "bc", "dt"}
    assert results["comparisons"][0]["evaluation"]["env"] == ENV


def test_without_an_environment_it_is_not_played(run, tmp_path):
    for options in ({}, {"env": "none"}, {"env_kwargs": "length=3"}):
        with pytest.raises(InputError, match="environment.*env|env.*environment"):
            flowrl.evaluate(run, episodes=1, device="cpu", out=tmp_path / "out", **options)
    assert not (run / "evaluations.jsonl").exists()
    assert not (tmp_path / "out").exists()


def test_an_unfinished_one_has_no_report(run):
    config = json.loads((run / "config.json").read_text())
    config["training"]["steps"] = 40
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="not finished.*step"):
        Run.load(RunFolder(run), "flow", episodes=())


def test_it_does_not_go_on_with_an_environment(run, nameless, tiny_train):
    with pytest.raises(InputError, match="env_spec"):
        tiny_train("flow", run, dataset=nameless, env=ENV)


def test_a_simulator_that_is_not_on_this_machine_is_not_asked_for(write, numbered_episode, tiny_train, tmp_path):
    metadata = write("test/gone-v0", [numbered_episode(0, 5), numbered_episode(1, 8)] * 3) / "data/metadata.json"
    stored = json.loads(metadata.read_text())
    spec = json.loads(stored["env_spec"]) | {"id": "Gone-v0", "entry_point": "no.such.module:Gone"}
    metadata.write_text(json.dumps(stored | {"env_spec": json.dumps(spec), "eval_env_spec": json.dumps(spec)}))
    (metadata.parent / "flowrl_fingerprint.json").unlink(missing_ok=True)
    with pytest.raises(InputError, match="Gone"):
        tiny_train("bc", tmp_path / "bc", dataset="test/gone-v0")
    assert (tiny_train("bc", tmp_path / "bc", dataset="test/gone-v0", env="none") / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [({}, "env none"), ({"env": "none", "study": True}, "study"), ({"env": "none", "env_kwargs": "a=1"}, "env_kwargs")],
)
def test_what_cannot_be_is_refused_and_no_folder_is_left(options, named, nameless, tiny_train, tmp_path):
    with pytest.raises(InputError, match=named):
        tiny_train("bc", tmp_path / "bc", dataset=nameless, **options)
    assert not (tmp_path / "bc").exists()


def test_a_comparison_needs_an_environment_and_says_so(nameless, tmp_path):
    with pytest.raises(InputError, match="comparison.*needs an environment"):
        flowrl.compare(nameless, "bc", out=tmp_path / "out", env="none", device="cpu")
    with pytest.raises(InputError, match=r"choose one \(env\)"):
        flowrl.compare(nameless, "bc", out=tmp_path / "out", device="cpu", study=False)
    assert not (tmp_path / "out").exists()


def test_the_environment_of_a_comparison_is_that_of_all_its_runs():
    words = ["--env", ENV, "--env-kwargs", "length=300", "render=False", "--agents", "bc", "x=flow --width 8"]
    args = parse(compare.Args, words)
    for text in args.agents:
        options = compare.parse_agent(text, compare.common_words(args)).options
        assert (options.env, options.env_kwargs) == (ENV, ("length=300", "render=False"))
    options = compare.parse_agent("bc", compare.common_words(parse(compare.Args, []))).options
    assert (options.env, options.env_kwargs) == (None, ())
