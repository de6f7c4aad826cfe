"""flowrl.scripts.evaluate: the rows it adds, the targets it understands, the videos it makes or refuses."""

import json
import os
import shutil
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image

from flowrl.data.minari_store import Episode
from flowrl.envs.tiny import Reach
from flowrl.errors import InputError
from flowrl.evaluation.episodes import EvaluationConfig, choose_device, read_keywords, resolve_targets
from flowrl.scripts import evaluate, train

PERCENTILES = [float(p) for p in range(1, 102)]  # the p-th percentile is p + 1


def rows(run):
    return [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]


def start(run, *options):
    evaluate.start([str(run), "--device", "cpu", *options])


def test_rows_are_added_to_those_that_are_there(any_tiny_run, minari_root, capsys):
    before = rows(any_tiny_run)
    start(any_tiny_run, "--episodes", "2", "--targets", "p50", "best", "3.5", "--episode-seed", "77")
    after = rows(any_tiny_run)
    assert after[: len(before)] == before
    config = json.loads((any_tiny_run / "config.json").read_text())
    percentiles = config["dataset_returns"]["percentiles"]
    added = after[len(before) :]
    assert [(row["target"], row["seed"]) for row in added] == [
        (target, seed) for target in (percentiles[50], percentiles[100], 3.5) for seed in (77, 78)
    ]
    assert {(row["kind"], row["step"], row["env"]) for row in added} == {("evaluate", 20, "flowrl/Reach-v0")}
    said = capsys.readouterr().out
    mean = np.mean([row["return"] for row in added if row["target"] == 3.5])
    assert f"{mean:,.1f}" in said
    assert "at step 20, 2 episodes per target" in said
    assert not list(minari_root.iterdir()), "no dataset is needed"


def test_the_same_seeds_give_the_rows_of_the_final_evaluation(any_tiny_run):
    final = rows(any_tiny_run)
    start(any_tiny_run, "--episodes", "3")
    again = rows(any_tiny_run)[len(final) :]
    assert [row | {"kind": "final"} for row in again] == final


def test_async_and_sync_give_the_same_rows(tiny_run):
    for vector in ("sync", "async"):
        start(tiny_run, "--episodes", "2", "--targets", "best", "--vector", vector)
    found = rows(tiny_run)
    assert found[-2:] == found[-4:-2]


def test_a_finished_run_stays_finished(tiny_run, tiny_argv, reach_dataset, capsys):
    start(tiny_run, "--episodes", "1")
    train.start(tiny_argv("flow", tiny_run))
    assert "is finished: nothing to do" in capsys.readouterr().out


def test_the_rollout_is_told_in_its_rows(tiny_run, tiny_runs):
    start(tiny_run, "--episodes", "2", "--targets", "best", "--rollout", "recurrent")
    assert [row["rollout"] for row in rows(tiny_run)[-2:]] == ["recurrent"] * 2
    with pytest.raises(InputError, match="agent bc has no rollout to choose"):
        start(tiny_runs / "bc", "--rollout", "window")


def test_how_many_steps_are_read_is_told_in_its_rows(tiny_run):
    start(tiny_run, "--episodes", "2", "--targets", "best", "--acting-context", "2")
    start(tiny_run, "--episodes", "2", "--targets", "best", "--rollout", "recurrent")
    assert [row["acting_context"] for row in rows(tiny_run)] == [5] * 6 + [2] * 2 + [None] * 2
    with pytest.raises(InputError, match="acting_context is 9: it must be at least 1 and at most context, 5"):
        start(tiny_run, "--acting-context", "9")


def test_another_environment_can_be_named(tiny_run):
    gym.register("test/Reach-v3", entry_point="flowrl.envs.tiny:Reach", max_episode_steps=2)
    try:
        start(tiny_run, "--episodes", "2", "--targets", "best", "--env", "test/Reach-v3")
    finally:
        del gym.registry["test/Reach-v3"]
    found = rows(tiny_run)[-2:]
    assert {(row["env"], row["length"], row["terminated"]) for row in found} == {("test/Reach-v3", 2, False)}
    assert {row["score_measured"] for row in found} == {None}


@pytest.fixture
def short_env():
    """An environment of Reach that ends after `steps`, 3 unless told."""
    gym.register("test/Short-v0", entry_point=_short, kwargs={"steps": 3})
    yield "test/Short-v0"
    del gym.registry["test/Short-v0"]


def _short(steps: int, render_mode: str | None = None) -> gym.Env:
    return gym.wrappers.TimeLimit(Reach(render_mode=render_mode), steps)


def test_the_environment_can_be_told_otherwise(tiny_run, short_env, capsys):
    start(tiny_run, "--episodes", "1", "--targets", "best", "--env", short_env)
    start(tiny_run, "--episodes", "1", "--targets", "best", "--env", short_env, "--env-kwargs", "steps=2")
    assert [(row["env_kwargs"], row["length"]) for row in rows(tiny_run)[-2:]] == [({"steps": 3}, 3), ({"steps": 2}, 2)]
    assert "test/Short-v0 (steps=2)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steps"], "--env-kwargs steps: it must be NAME=VALUE, as length=300"),
        (["=2"], "--env-kwargs =2: it must be NAME=VALUE"),
        (["steps=0,5.x"], "'0,5.x' is no value"),
        (["steps={1}"], "is no value; write a finite number"),
        (["steps={[]: 1}"], "is no value"),
        (["steps=1e999"], "'1e999' is no value"),
        (["steps=inf"], "'inf' is no value"),
        (["steps=2", "steps=3"], "--env-kwargs steps=3: steps is given twice"),
        (["render_mode=human"], "render_mode is not to be chosen here"),
        (
            ["length=2"],
            "--env-kwargs length=2: test/Short-v0 cannot be told so: .*unexpected keyword argument 'length'",
        ),
        (
            ["steps=long"],
            "--env-kwargs steps=long: test/Short-v0 cannot be told so: Expect the `max_episode_steps` to be an integer",
        ),
    ],
)
def test_what_an_environment_cannot_be_told_is_refused(tiny_run, short_env, words, message):
    before = rows(tiny_run)
    with pytest.raises(InputError, match=message):
        start(tiny_run, "--env", short_env, "--env-kwargs", *words)
    assert rows(tiny_run) == before


def test_the_words_of_an_environments_values():
    words = ["a=1", "b=0.5", "c=false", "d=None", "e=(0.7, 2)", "f=ant.xml", "g='two words'", "h=[1, 'x']", "i=TRUE"]
    assert read_keywords(words) == {
        "a": 1, "b": 0.5, "c": False, "d": None, "e": [0.7, 2], "f": "ant.xml", "g": "two words", "h": [1, "x"],
        "i": True,
    }  # fmt: skip


def test_a_value_that_only_the_first_step_cannot_use_is_refused_before_training(tiny_argv, reach_dataset, tmp_path):
    gym.register("test/Scaled-v0", entry_point=_Scaled)
    told = ("--env", "test/Scaled-v0", "--env-kwargs")
    try:
        for word, message in (
            ("scale=abc", "test/Scaled-v0 cannot be told so: can't multiply"),
            ("scale=1e308", "its first step is not of finite numbers"),
            ("other=1", "unexpected keyword argument 'other'"),
        ):
            with pytest.raises(InputError, match=message):
                train.start(tiny_argv("bc", tmp_path / "run", *told, word))
            assert not (tmp_path / "run" / "checkpoint.pt").exists()
        train.start(tiny_argv("bc", tmp_path / "run", *told, "scale=2"))  # which it must be told
        gym.register("test/Nameless-v0", entry_point=lambda **keywords: Reach(**keywords))
        with pytest.raises(InputError, match="environment test/Nameless-v0 cannot be kept with the run: Callable"):
            train.start(tiny_argv("bc", tmp_path / "other", "--env", "test/Nameless-v0"))
    finally:
        gym.registry.pop("test/Scaled-v0")
        gym.registry.pop("test/Nameless-v0", None)
    assert {json.dumps(row["env_kwargs"]) for row in rows(tmp_path / "run")} == {'{"scale": 2}'}


class _Scaled(Reach):
    """Reach that pays `scale` times 1.5e10, whatever `scale` is; it must be told."""

    def __init__(self, scale, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.scale = scale

    def step(self, action):
        observation, _, *flags = super().step(action)
        return observation, self.scale * 1.5e10, *flags


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("flowrl/Reech-v0", "unknown environment 'flowrl/Reech-v0'.*flowrl/Reach-v0"),
        ("Pendulum-v1", r"action of Pendulum-v1 has shape \(1,\): the data have \(2,\)"),
        ("CartPole-v1", r"observation of CartPole-v1 has shape \(4,\)"),
    ],
)
def test_an_unfit_environment_is_refused(tiny_run, env, message):
    before = rows(tiny_run)
    with pytest.raises(InputError, match=message):
        start(tiny_run, "--env", env)
    assert rows(tiny_run) == before


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
input()
"""


def test_a_run_that_is_being_trained_is_left_alone(tiny_run):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tiny_run / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    before = rows(tiny_run)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="in use by another process"):
            start(tiny_run, "--episodes", "1")
    finally:
        holder.communicate("\n")
    assert rows(tiny_run) == before


def test_what_is_no_run_is_refused_and_not_made_one(tmp_path):
    with pytest.raises(InputError, match="is no run folder"):
        start(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_truncated_checkpoint_is_refused(tiny_run):
    file = tiny_run / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match="checkpoint.pt is damaged"):
        start(tiny_run)


# Targets


@pytest.mark.parametrize(
    ("words", "targets"),
    [
        (["best"], [101.0]),
        (["p0", "p5", "p50", "p100"], [1.0, 6.0, 51.0, 101.0]),
        (["p90", "best", "2.5", "1e1"], [91.0, 101.0, 2.5, 10.0]),
        (["best", "p100", "101", "101.0"], [101.0]),
        (["60", "p50", "60"], [60.0, 51.0]),
        (["r0", "r25", "r50", "r100", "r125", "r200"], [1.0, 26.0, 51.0, 101.0, 126.0, 201.0]),
        (["r100", "best", "r7"], [101.0, 1.0 + 100.0 * 0.07]),
    ],
)
def test_targets_are_percentiles_or_numbers_each_once(words, targets, capsys):
    assert resolve_targets(words, PERCENTILES) == targets
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "word",
    ["worst", "p101", "p-1", "p1.5", "P50", "nan", "inf", "-inf", "", "p", "bestt", "r", "r201", "r-1", "r1.5", "R50"],
)
def test_other_words_are_refused(word):
    with pytest.raises(InputError, match=f"target '{word}' is neither a number, nor pNN .* nor rNN"):
        resolve_targets(["best", word], PERCENTILES)


@pytest.mark.parametrize(
    ("word", "percentiles", "warning"),
    [
        ("-5", PERCENTILES, "target -5.0 has the wrong sign: returns in the dataset are 1.0 to 101.0"),
        ("5", [-p for p in PERCENTILES[::-1]], "target 5.0 has the wrong sign"),
        ("1000", PERCENTILES, "target 1,000.0 is far beyond the data"),
        ("127", PERCENTILES, "is far beyond the data"),
        ("-3000", [-p for p in PERCENTILES[::-1]], "is far beyond the data"),
        ("-900", [-10.0, *PERCENTILES[1:]], "is far beyond the data"),
        ("125", PERCENTILES, None),
        ("0", PERCENTILES, None),
        ("1", PERCENTILES, None),
        ("-20", [-p for p in PERCENTILES[::-1]], None),
    ],
)
def test_a_target_far_from_the_data_is_warned_of_and_kept(word, percentiles, warning, capsys):
    assert resolve_targets([word], percentiles) == [float(word)]
    said = capsys.readouterr().err
    assert (warning or "") in said
    assert said.startswith("warning: ") if warning else said == ""


def test_another_past_than_was_trained_is_warned_of(tiny_argv, reach_dataset, tmp_path, capsys):
    train.start(tiny_argv("flow", tmp_path / "run", "--rollout", "recurrent"))
    told = "warning: the agent learns from windows of 5 steps: a state that is carried over a whole episode is another"
    assert capsys.readouterr().err.count(told) == 1
    evaluate.start([str(tmp_path / "run"), "--episodes", "1"])
    assert capsys.readouterr().err.count(told) == 1
    evaluate.start([str(tmp_path / "run"), "--episodes", "1", "--rollout", "window"])
    assert "warning" not in capsys.readouterr().err


def test_warned_of_or_not_it_is_played(tiny_run, capsys):
    start(tiny_run, "--episodes", "1", "--targets", "-100", "9999")
    captured = capsys.readouterr()
    assert captured.err.count("warning:") == 2
    assert [row["target"] for row in rows(tiny_run)[-2:]] == [-100, 9999]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, "episodes is 0"),
        ({"episode_seed": -1}, "episode_seed is -1"),
        ({"targets": ()}, "targets is empty"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EvaluationConfig(**options)


# Devices


def test_devices():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "cuda:99", "tpu", ""):
        with pytest.raises(InputError, match=f"device '{name}' cannot be used here: ") as caught:
            choose_device(name)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_cuda_is_refused_where_there_is_none(tiny_run, monkeypatch):
    if torch.cuda.is_available():  # then the device of torch's own message is used
        assert choose_device("cuda").type == "cuda"
        return
    with pytest.raises(InputError, match="device 'cuda' cannot be used here"):
        evaluate.start([str(tiny_run), "--device", "cuda"])


# Videos


@pytest.fixture
def pendulum_run(write, tiny_argv, tmp_path):
    """A run on MuJoCo's inverted pendulum, whose episodes are short under a bad policy."""
    generator = np.random.default_rng(0)
    episodes = [
        Episode(
            generator.normal(size=(9, 4)), generator.uniform(-3, 3, (8, 1)).astype(np.float32), np.ones(8),
            np.arange(8) == 7, np.zeros(8, bool), seed=0,
        )
        for _ in range(3)
    ]  # fmt: skip
    write(
        "test/pendulum-v0",
        episodes,
        env_spec=gym.spec("InvertedPendulum-v5"),
        observation_space=gym.spaces.Box(-np.inf, np.inf, (4,)),
        action_space=gym.spaces.Box(-3, 3, (1,), np.float32),
    )
    run = tmp_path / "pendulum"
    train.start(tiny_argv("bc", run, "--dataset", "test/pendulum-v0", "--steps", "2", "--episodes", "1"))
    return run


def test_an_environment_without_a_picture_says_so(tiny_run, tmp_path):
    with pytest.raises(InputError, match=r"no video: flowrl/Reach-v0 has no picture to render"):
        start(tiny_run, "--episodes", "1", "--video", str(tmp_path / "x.gif"))
    assert not (tmp_path / "x.gif").exists()


@pytest.mark.parametrize("name", ["x.avi", "x", "gif"])
def test_another_kind_of_file_is_refused(tiny_run, tmp_path, name):
    with pytest.raises(InputError, match="must end in .gif or .mp4"):
        start(tiny_run, "--video", str(tmp_path / name))


def test_mp4_without_an_encoder_says_how_to_get_one(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match="an .mp4 needs ffmpeg"):
        start(tiny_run, "--video", str(tmp_path / "x.mp4"))


@pytest.mark.parametrize(
    "error",
    [
        ImportError("Cannot initialize a EGL device display.\nmore"),
        AttributeError("'NoneType' object has no attribute 'eglQueryString'"),
        NotImplementedError(),
    ],
)
def test_without_a_gl_library_the_message_says_what_to_install(pendulum_run, tmp_path, monkeypatch, error):
    from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

    def render(self):
        raise error

    monkeypatch.setattr(InvertedPendulumEnv, "render", render)
    before = rows(pendulum_run)
    with pytest.raises(InputError, match=r"no video: .*renderer does not start.*apt install libegl1 libgl1") as caught:
        start(pendulum_run, "--episodes", "1", "--video", str(tmp_path / "x.gif"))
    assert "\n" not in str(caught.value)
    assert type(error).__name__ in str(caught.value)
    assert not list(tmp_path.glob("*x*gif"))
    assert rows(pendulum_run) == before


def gl_library():
    """Whether a process of its own can render here at all."""
    code = "import os; os.environ['MUJOCO_GL'] = 'egl'; import mujoco; mujoco.GLContext(8, 8).make_current()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.slow
def test_a_video_is_made_or_what_is_missing_is_told(pendulum_run, tmp_path, repository):
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


# Several runs


@pytest.fixture
def pair(tiny_runs, tmp_path):
    """Copies of finished tiny runs as folders of seeds."""
    for agent in ("flow", "dt"):
        shutil.copytree(tiny_runs / agent, tmp_path / f"{agent}-seed0")
    return [tmp_path / "flow-seed0", tmp_path / "dt-seed0"]


def evaluate_all(runs, *options):
    evaluate.start([*map(str, runs), "--device", "cpu", *options])


def test_several_runs_are_compared_by_the_episodes_they_now_play(pair, tmp_path, capsys):
    evaluate_all(
        pair, "--episodes", "4", "--episode-seed", "70", "--targets", "p50", "best", "--out", str(tmp_path / "out")
    )
    said = capsys.readouterr().out
    for part in ("paired differences", "flow − dt", "One training seed", "following the target", "report.html"):
        assert part in said
    results = json.loads((tmp_path / "out/results.json").read_text())
    (comparison,) = results["comparisons"]
    assert comparison["evaluation"]["episodes"] == 4
    for row in comparison["scores"]:
        played = [r for r in rows(tmp_path / f"{row['agent']}-seed0")[-8:] if r["target"] == row["target"]]
        assert [r["seed"] for r in played] == [70, 71, 72, 73]
        assert row["mean"] == pytest.approx(np.mean([r["return"] for r in played]))
    assert "python -m scripts.evaluate" in (tmp_path / "out/report.md").read_text()


def test_data_that_cannot_steer_are_warned_of(pair, capsys):
    for run in pair:
        config = json.loads((run / "config.json").read_text())
        config["dataset_returns"]["steering"] = {"verdict": "no", "reason": "they are alike"}
        (run / "config.json").write_text(json.dumps(config))
    evaluate_all(pair, "--episodes", "2", "--targets", "best")  # one target has no slope
    warning = "it was not to be expected that an agent follows the return asked for: they are alike"
    assert capsys.readouterr().err.count(warning) == 1
    evaluate_all(pair[:1], "--episodes", "2", "--targets", "best")
    assert capsys.readouterr().err.count(warning) == 1, "of one run too"
    (pair[1] / "evaluations.jsonl").write_text("")
    evaluate_all(pair[1:], "--episodes", "2", "--targets", "best")
    assert len(rows(pair[1])) == 2, "not finished: played all the same"


def test_one_run_can_have_a_report_too(pair, tmp_path):
    evaluate_all(pair[:1], "--episodes", "2", "--out", str(tmp_path / "out"))
    assert (tmp_path / "out/report.html").exists()


def test_runs_of_different_datasets_are_refused_before_they_play(pair):
    config = json.loads((pair[1] / "config.json").read_text())
    (pair[1] / "config.json").write_text(json.dumps(config | {"dataset": "flowrl/other-v0"}))
    before = [rows(run) for run in pair]
    with pytest.raises(InputError, match="different datasets, .*flow-seed0 of flowrl/reach.*dt-seed0 of flowrl/other"):
        evaluate_all(pair)
    assert [rows(run) for run in pair] == before


def test_an_unfinished_run_is_refused_before_any_plays(pair):
    (pair[1] / "evaluations.jsonl").write_text("")
    before = rows(pair[0])
    with pytest.raises(InputError, match="dt-seed0 is not finished: it lacks a final evaluation"):
        evaluate_all(pair)
    assert rows(pair[0]) == before


def test_runs_with_one_name_and_seed_are_refused(pair, tmp_path):
    again = shutil.copytree(pair[0], tmp_path / "again/flow-seed0")
    with pytest.raises(InputError, match="are both flow with training seed 0"):
        evaluate_all([*pair, again])


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--video", "x.gif"], "--video records one run, and 2 are given"), (["--targets", "most"], "target 'most'")],
)
def test_mistakes_with_several_runs(pair, options, message):
    with pytest.raises(InputError, match=message):
        evaluate_all(pair, *options)


def test_no_run_and_one_run_twice(pair):
    with pytest.raises(InputError, match="no run folder is given|are required"):
        evaluate_all([])
    with pytest.raises(InputError, match="named twice"):
        evaluate_all([pair[0], pair[0]])
