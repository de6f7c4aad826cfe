"""Every mistake a user can make at a script ends in one sentence on stderr and exit code 2, with no traceback."""

import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from flowrl.scripts import cli, compare, evaluate, train

REACH = "flowrl/reach/mixed-v0"


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs a script's `start` as its command line would; the sentence it ends in."""

    def end(start, argv):
        monkeypatch.setattr(sys, "argv", ["scripts/x.py", *map(str, argv)])
        with pytest.raises(SystemExit) as caught:
            cli.run(start)
        said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
        assert caught.value.code == 2
        assert len(said) == 1, said
        assert said[0].startswith("error: ")
        assert len(said[0]) < 700
        return said[0]

    return end


TRAIN = [
    (["fow"], "unknown agent 'fow': known are flow, dt, bc"),
    (["flow", "--dataset", "hopper"], "'hopper' is no dataset id"),
    (["flow", "--dataset", "mujoco/hopper/nope-v0"], "could not be downloaded"),
    (["flow", "--dataset", "flowrl/hopper/nope-v0"], "are collected, not downloaded"),
    (["flow", "--dataset", REACH, "--env", "Hoper-v5"], "unknown environment 'Hoper-v5'"),
    (["flow", "--dataset", REACH, "--env", "Hopper-v5"], "observation of Hopper-v5 has shape (11,)"),
    (["flow", "--step", "5"], "unknown option --step; did you mean --steps?"),
    (["flow", "--lr", "5"], "unknown option --lr; did you mean --learning-rate?"),
    (["flow", "--learning-rat=5"], "did you mean --learning-rate?"),
    (["flow", "dt"], "unexpected argument 'dt'"),
    (["flow", "--steps", "many"], "--steps"),
    (["flow", "--steps", "1.5"], "--steps"),
    (["flow", "--steps"], "--steps"),
    (["flow", "--steps", "0"], "steps is 0"),
    (["flow", "--steps", "-5"], "steps is -5"),
    (["flow", "--width", "15"], "width must be a multiple of heads"),
    (["flow", "--heads", "0"], "heads is 0"),
    (["flow", "--dropout", "1"], "dropout is 1.0"),
    (["flow", "--attention", "hyena"], "attention is 'hyena': known are cosformer, flow, linear, linformer, performer"),
    (
        ["flow", "--attention", "reformer", "--rollout", "recurrent"],
        "attention reformer can only act by reading a window again",
    ),
    (["flow", "--precision", "fp64"], "--precision"),
    (["flow", "--rollout", "both"], "--rollout"),
    (["flow", "--learning-rate", "0"], "learning_rate is 0.0"),
    (["flow", "--weight-decay", "nan"], "weight_decay is nan"),
    (["flow", "--episodes", "0"], "episodes is 0"),
    (["flow", "--targets"], "targets"),
    (["flow", "--targets", "most", "--dataset", REACH], "target 'most' is neither"),
    (["flow", "--evaluate-every", "-1", "--dataset", REACH], "evaluate_every is -1"),
    (["flow", "--evaluate-episodes", "0", "--dataset", REACH], "evaluate_episodes"),
    (["flow", "--top-fraction", "0", "--dataset", REACH], "top fraction is 0.0"),
    (["flow", "--device", "tpu", "--dataset", REACH], "device 'tpu' cannot be used here"),
    (["flow", "--device", "meta", "--dataset", REACH], "device 'meta' cannot be used here"),
    (["flow", "--threads", "-1", "--dataset", REACH], "threads"),
    (["flow", "--seed", "99999999999999999999", "--dataset", REACH], "seed"),
    (["bc", "--heads", "2"], "unknown option --heads"),
]


@pytest.mark.parametrize(("argv", "message"), TRAIN, ids=[" ".join(argv) for argv, _ in TRAIN])
def test_train(refused, reach_dataset, tmp_path, argv, message):
    run = tmp_path / "run"
    assert message in refused(train.start, [*argv, "--run-dir", run] if len(argv) > 1 else argv)
    assert not run.exists(), "nothing is left of a start that was refused"


EVALUATE = [
    (["--episodes", "0"], "episodes is 0"),
    (["--episode-seed", "-1"], "episode_seed is -1"),
    (["--targets", "most"], "target 'most' is neither"),
    (["--env", "Hopper-v5"], "observation of Hopper-v5 has shape (11,)"),
    (["--env", "nothing-v0"], "unknown environment 'nothing-v0'"),
    (["--rollout", "both"], "--rollout"),
    (["--vector", "thread"], "--vector"),
    (["--device", "tpu"], "device 'tpu' cannot be used here"),
    (["--video", "film.mov"], "must end in .gif or .mp4"),
    (["--target", "5"], "did you mean --targets?"),
]


@pytest.mark.parametrize(("options", "message"), EVALUATE, ids=[" ".join(options) for options, _ in EVALUATE])
def test_evaluate(refused, tiny_run, options, message):
    before = (tiny_run / "evaluations.jsonl").read_bytes()
    assert message in refused(evaluate.start, [tiny_run, *options])
    assert (tiny_run / "evaluations.jsonl").read_bytes() == before


def test_evaluate_without_a_run(refused, tmp_path, tiny_run):
    assert "is no run folder" in refused(evaluate.start, [tmp_path])
    assert "no run folder is given" in refused(evaluate.start, [])
    (tiny_run / "checkpoint.pt").unlink()
    assert "holds no checkpoint yet" in refused(evaluate.start, [tiny_run])


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_checkpoints(refused, tiny_run, tiny_argv, reach_dataset, share):
    for file in tiny_run.glob("checkpoint*.pt"):
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    (tiny_run / "evaluations.jsonl").unlink()  # else the run is finished
    assert "checkpoint.pt is " in refused(evaluate.start, [tiny_run])
    assert "checkpoint.pt is " in refused(train.start, tiny_argv("flow", tiny_run))


def test_a_checkpoint_of_another_agent(refused, tiny_run, tiny_runs, tiny_argv, reach_dataset):
    (tiny_run / "checkpoint.pt").write_bytes((tiny_runs / "bc/checkpoint.pt").read_bytes())
    (tiny_run / "evaluations.jsonl").unlink()
    assert "of another agent: its agent is bc, not flow" in refused(evaluate.start, [tiny_run])
    assert "of another agent: its agent is bc, not flow" in refused(train.start, tiny_argv("flow", tiny_run))


@pytest.mark.parametrize("name", ["config.json", "evaluations.jsonl", "metrics.jsonl"])
def test_a_damaged_file_in_the_run_folder(refused, tiny_run, tiny_argv, reach_dataset, name):
    lines = (tiny_run / name).read_text().splitlines(keepends=True)
    lines[1] = "{nonsense\n"
    (tiny_run / name).write_text("".join(lines))
    if name == "metrics.jsonl":
        (tiny_run / "evaluations.jsonl").unlink()
    assert f"{name} is damaged" in refused(train.start, tiny_argv("flow", tiny_run))


@pytest.mark.parametrize("content", [{}, {"agent": "flow"}, {"agent": "flow", "agent_config": {"width": "wide"}}])
def test_a_configuration_that_lacks_what_is_needed(refused, tiny_run, content):
    (tiny_run / "config.json").write_text(json.dumps(content))
    assert "config.json" in refused(evaluate.start, [tiny_run])


@pytest.mark.parametrize("missing", ["env_spec", "dataset", "dataset_returns"])
def test_a_configuration_that_lacks_what_evaluation_needs(refused, tiny_run, missing):
    config = json.loads((tiny_run / "config.json").read_text())
    del config[missing]
    (tiny_run / "config.json").write_text(json.dumps(config))
    assert "config.json" in refused(evaluate.start, [tiny_run])


BROKEN = {
    "NaN": ("observations", lambda a: np.where(np.arange(len(a))[:, None] == 2, np.nan, a), "hold NaN or infinity"),
    "infinity": ("rewards", lambda a: np.where(np.arange(len(a)) == 2, np.inf, a), "hold NaN or infinity"),
    "T observations": ("observations", lambda a: a[:-1], "T+1 observations"),
    "a narrow action": ("actions", lambda a: a[:, :1], "actions have shape"),
    "no steps": ("rewards", lambda a: a[:0], "episode 3"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_dataset(refused, reach_dataset, minari_root, tiny_argv, tmp_path, broken):
    name, change, message = BROKEN[broken]
    with h5py.File(minari_root / REACH / "data/main_data.hdf5", "r+") as file:
        array = file[f"episode_3/{name}"][()]
        del file[f"episode_3/{name}"]
        file[f"episode_3/{name}"] = change(array)
    assert message in refused(train.start, tiny_argv("bc", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_truncated_dataset(refused, reach_dataset, minari_root, tiny_argv, tmp_path):
    file = minari_root / REACH / "data/main_data.hdf5"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "cannot be" in refused(train.start, tiny_argv("bc", tmp_path / "run"))


COMPARE = [
    (["--agents", "flow", "gpt"], "unknown agent 'gpt'"),
    (["--datasets", "nope"], "'nope' is no dataset id"),
    (["--seeds", "0"], "seeds is 0"),
    (["--seeds", "two"], "--seeds"),
    (["--dataset", REACH], "did you mean --datasets?"),
    (["--device", "tpu"], "device 'tpu'"),
]


@pytest.mark.parametrize(("options", "message"), COMPARE, ids=[" ".join(options) for options, _ in COMPARE])
def test_compare(refused, reach_dataset, tmp_path, options, message):
    rest = [] if options[0] == "--datasets" else ["--datasets", REACH]
    argv = [*rest, *options, "--out", tmp_path / "out", "--steps", "1", "--jobs", "1"]
    assert message in refused(compare.start, argv)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["flowrl", "trian"], "unknown command 'trian': did you mean train?"),
        (["flowrl.scripts.evaluate", "/nowhere"], "is no run folder"),
        (["flowrl.scripts.compare", "--sede", "1"], "did you mean --seed"),
    ],
)
def test_in_a_process(repository, minari_root, argv, message):
    done = subprocess.run(
        [sys.executable, "-m", *argv], cwd=repository, env=dict(os.environ), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
