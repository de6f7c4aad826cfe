"""Trainings, evaluations and collections in environments that go wrong: in time, by name, and without loss."""

import json
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import flowrl
from flowrl.analysis.studies import FILE
from flowrl.envs.collecting import collect
from flowrl.envs.tiny import Reach
from flowrl.errors import InputError

FAILING = "test/FailsLate-v0"
ALONE = "test/Alone-v0"


class FailsLate(Reach):
    """Reach that fails at step 3 of an episode while `failing`."""

    failing = False
    resets = 0

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.count += 1
        if FailsLate.failing and self.count == 3:
            sys.exit("the license has expired")
        return super().step(action)


class Alone(Reach):
    """Reach of which a single one can be made at a time."""

    held: list["Alone"] = []  # noqa: RUF012

    def __init__(self):
        if self.held:
            raise RuntimeError("the port is taken")
        super().__init__()
        self.held.append(self)

    def close(self):
        if self in self.held:
            self.held.remove(self)


@pytest.fixture(autouse=True)
def registered():
    gym.register(FAILING, entry_point=FailsLate, max_episode_steps=15)
    gym.register(ALONE, entry_point=Alone, max_episode_steps=gym.spec("flowrl/Reach-v0").max_episode_steps)
    yield
    del gym.registry[FAILING], gym.registry[ALONE]
    FailsLate.failing = False
    Alone.held.clear()


def rows(run):
    file = run / "evaluations.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_what_fails_at_once_is_refused_before_anything_is_written(tiny_train, reach_dataset, tmp_path, monkeypatch):
    def step(self, action):
        raise RuntimeError("no license")

    monkeypatch.setattr(FailsLate, "step", step)
    with pytest.raises(InputError, match=f"{FAILING} failed at step 1 .*: RuntimeError: no license"):
        tiny_train("bc", tmp_path / "run", env=FAILING)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("every", [0, 12])
def test_a_failure_after_or_amid_the_training_keeps_it(tiny_train, reach_dataset, tmp_path, every, assert_same_run):
    run, whole = tmp_path / "run", tmp_path / "whole"
    how = {"env": FAILING, "evaluate_every": every} if every else {"env": FAILING}
    tiny_train("bc", whole, **how)
    FailsLate.failing = True
    with pytest.raises(InputError, match=f"{FAILING} failed at step 3 .*license has expired; the training is kept"):
        tiny_train("bc", run, **how)
    assert not rows(run)
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] == (every or 20)
    FailsLate.failing = False
    tiny_train("bc", run, **how)
    if every:  # of step 12 there is no evaluation
        assert [row for row in rows(whole) if row["kind"] == "final"] == rows(run)
    else:
        assert_same_run(run, whole)


def test_an_evaluation_that_fails_adds_no_row(tiny_train, reach_dataset, tmp_path):
    run = tiny_train("bc", tmp_path / "run", env=FAILING)
    before = rows(run)
    FailsLate.failing = True
    with pytest.raises(InputError, match="license has expired"):
        flowrl.evaluate(run, episodes=2, device="cpu")
    assert rows(run) == before


def test_one_that_allows_one_at_a_time_is_trained_evaluated_and_studied_as_any_other(
    tiny_train, reach_dataset, tmp_path, capsys
):
    alone = tiny_train("flow", tmp_path / "alone", env=ALONE, study=True)
    assert capsys.readouterr().err.count("one after another") == 1
    together = tiny_train("flow", tmp_path / "together", study=True)
    flowrl.evaluate(alone, episodes=2, device="cpu")
    assert capsys.readouterr().err.count("one after another") == 1
    flowrl.evaluate(together, episodes=2, device="cpu")
    assert len(rows(alone)) == len(rows(together)) > 0
    for one, other in zip(rows(alone), rows(together), strict=True):
        assert [one[name] for name in ("kind", "target", "seed", "length")] == [
            other[name] for name in ("kind", "target", "seed", "length")
        ]
        assert one["return"] == pytest.approx(other["return"], abs=1e-4)
    studies = [json.loads((run / FILE).read_text()) for run in (alone, together)]
    for one, other in zip(*(study["episodes"] for study in studies), strict=True):
        assert one["return"] == pytest.approx(other["return"], abs=1e-4)


def test_collecting_in_one_that_fails_ends_in_its_words(minari_root):
    FailsLate.failing = True
    with pytest.raises(InputError, match=r"FailsLate-v0 failed at step 3 of the episode .*the license has expired"):
        collect("me/reach/mine-v0", env=FAILING, policies=["random"], steps=30, jobs=1)
    assert not list(minari_root.rglob("metadata.json"))


@pytest.mark.slow
def test_collecting_where_a_process_cannot_make_it_ends_in_its_words(minari_root, tmp_path, monkeypatch, capfd):
    (tmp_path / "at_home.py").write_text(
        "import multiprocessing\nfrom flowrl.envs.tiny import Reach\n"
        "class AtHome(Reach):\n    def __init__(self):\n        super().__init__()\n"
        "        if multiprocessing.parent_process():\n            raise RuntimeError('no license for a guest')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    gym.register("test/AtHome-v0", entry_point="at_home:AtHome", max_episode_steps=16)
    try:
        with pytest.raises(InputError, match=r"test/AtHome-v0.* cannot be made here: RuntimeError: no license"):
            collect("me/reach/mine-v0", env="test/AtHome-v0", policies=["random"], steps=30, jobs=2)
    finally:
        del gym.registry["test/AtHome-v0"]
    assert "Traceback" not in capfd.readouterr().err


def test_collecting_in_one_that_allows_one_at_a_time(minari_root, capsys):
    collected = collect("me/reach/mine-v0", env=ALONE, policies=["random"], steps=30, jobs=2)
    assert "one after another" in capsys.readouterr().err
    expected = collect("me/reach/theirs-v0", env="flowrl/Reach-v0", policies=["random"], steps=30)
    np.testing.assert_array_equal(collected.returns, expected.returns)


UNREADABLE = [
    ("{broken", "JSONDecodeError"),
    ('{"id": "Reach-v0"}', "KeyError"),
    (json.dumps({**json.loads(gym.spec("flowrl/Reach-v0").to_json()), "backend": "gpu"}), "backend"),
    (json.dumps({**json.loads(gym.spec("flowrl/Reach-v0").to_json()), "id": "not an id!"}), "Malformed"),
    ({"id": "flowrl/Reach-v0"}, "TypeError"),
    ("[]", "TypeError"),
]


def with_spec(root: Path, name: str, spec):
    file = root / "flowrl/reach/mixed-v0/data/metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: spec}))
    (file.parent / "flowrl_fingerprint.json").unlink(missing_ok=True)


@pytest.mark.parametrize(("spec", "words"), UNREADABLE)
@pytest.mark.parametrize("name", ["env_spec", "eval_env_spec"])
def test_an_unreadable_specification_does_not_block_another_environment(
    tiny_train, reach_dataset, minari_root, tmp_path, spec, words, name
):
    with_spec(minari_root, name, spec)
    with pytest.raises(InputError, match=rf"cannot be read \(.*{words}.*\): choose one \(env\)"):
        tiny_train("bc", tmp_path / "run")
    run = tiny_train("bc", tmp_path / "run", env="flowrl/Reach-v0", steps=2)
    assert {row["env"] for row in rows(run)} == {"flowrl/Reach-v0"}


def test_an_unreadable_specification_of_a_run_does_not_block_another_environment(tiny_run):
    config = json.loads((tiny_run / "config.json").read_text())
    (tiny_run / "config.json").write_text(json.dumps(config | {"env_spec": UNREADABLE[2][0]}))
    with pytest.raises(InputError, match=r"cannot be read \(.*backend.*\): choose one \(env\)"):
        flowrl.evaluate(tiny_run, episodes=1, device="cpu")
    assert flowrl.evaluate(tiny_run, episodes=1, device="cpu", env="flowrl/Reach-v0")
