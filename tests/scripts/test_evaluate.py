"""scripts.evaluate: its options reach the evaluation, and a video needs nothing but a GL library."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from flowrl.errors import InputError
from flowrl.scripts import evaluate


def rows(run):
    return [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]


def test_options_reach_the_evaluation(tiny_run, capsys):
    before = len(rows(tiny_run))
    options = "--episodes 2 --targets p50 3.5 -1 --episode-seed 77 --rollout recurrent --vector async --device cpu"
    evaluate.start([str(tiny_run), *options.split()])
    played = rows(tiny_run)[before:]
    percentiles = json.loads((tiny_run / "config.json").read_text())["dataset_returns"]["percentiles"]
    assert [(row["target"], row["seed"], row["rollout"]) for row in played] == [
        (target, seed, "recurrent") for target in (percentiles[50], 3.5, -1.0) for seed in (77, 78)
    ]
    assert f"rows appended to {tiny_run / 'evaluations.jsonl'}" in capsys.readouterr().out


def test_several_runs_make_a_report_that_names_the_command(tiny_runs, tmp_path):
    for agent in ("flow", "dt"):
        shutil.copytree(tiny_runs / agent, tmp_path / f"{agent}-seed0")
    runs = [str(tmp_path / f"{agent}-seed0") for agent in ("flow", "dt")]
    evaluate.start([*runs, "--device", "cpu", "--episodes", "2", "--no-study", "--out", str(tmp_path / "out")])
    (command,) = json.loads((tmp_path / "out/results.json").read_text())["commands"]
    assert command.startswith("python -m scripts.")


def test_no_run_is_refused():
    with pytest.raises(InputError, match="no run folder is given|are required"):
        evaluate.start([])


def gl_library():
    """Whether a new process can render here at all."""
    code = "import os; os.environ['MUJOCO_GL'] = 'egl'; import mujoco; mujoco.GLContext(8, 8).make_current()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.slow
def test_a_video_is_recorded_or_what_is_missing_is_named(pendulum_run, tmp_path, repository):
    video = tmp_path / "deep/folder/episode.gif"
    environment = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "DISPLAY")}
    argv = [str(pendulum_run), "--episodes", "1", "--device", "cpu", "--video", str(video)]
    done = subprocess.run(
        [sys.executable, "-m", "flowrl.scripts.evaluate", *argv],
        cwd=repository, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if not gl_library():
        assert done.returncode == 2
        assert "apt install libegl1 libgl1" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    length = rows(pendulum_run)[-1]["length"]
    assert f"{length + 1:,} frames" in done.stdout
    with Image.open(video) as picture:
        assert picture.n_frames >= 2
        assert min(picture.size) >= 100
        first = np.asarray(picture.convert("RGB")).astype(int)
        picture.seek(picture.n_frames - 1)
        last = np.asarray(picture.convert("RGB")).astype(int)
    assert first.std() > 5, "a picture of one colour"
    assert abs(first - last).max() > 20, "nothing moves"
    assert [path.name for path in video.parent.iterdir()] == ["episode.gif"]
