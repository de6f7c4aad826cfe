"""Behavior policies are trained, killed, resumed, measured and published; their numpy twin acts as SB3 does."""

import csv
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from flowrl.envs import training
from flowrl.envs.behavior import POLICIES, UniformPolicy, read_policy, snapshot_path
from flowrl.envs.recipes import HYPERPARAMETERS, RECIPES, Recipe, stages
from flowrl.envs.training import train_behavior
from flowrl.errors import InputError

TINY = Recipe(
    "Hopper-v5", "TRPO", steps=4096, chunk=2048, snapshots=(0, 2048, 4096), early=2048, medium=2048, expert=4096
)
TINY_TD3 = Recipe(
    "HalfCheetah-v5", "TD3", steps=256, chunk=128, snapshots=(0, 128, 256), early=128, medium=128, expert=256
)


def test_a_training_that_stopped_early_has_every_stage():
    assert stages(TINY, [0, 2048, 4096]) == {"random": 0, "early": 2048, "medium": 2048, "expert": 4096}
    assert stages(TINY, [0, 2048]) == {"random": 0, "early": 2048, "medium": 2048, "expert": 2048}


def test_impossible_recipes_are_refused():
    with pytest.raises(ValueError, match=r"multiples of 2048, not \[1000\]"):
        replace(TINY, snapshots=(0, 1000, 2048, 4096))
    with pytest.raises(ValueError, match=r"stages must be snapshots; \[6144\] are not"):
        replace(TINY, medium=6144)


def test_bad_requests_are_refused():
    with pytest.raises(InputError, match="no recipe for 'hoper'; known are hopper"):
        train_behavior("hoper")
    with pytest.raises(InputError, match="must be at least 1, not 0 and 100"):
        train_behavior("hopper", steps=0)


def test_another_training_does_not_take_the_place_of_the_shipped_policies(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *arguments: None)
    monkeypatch.setattr(training, "measure", lambda *arguments: {})
    published = []
    monkeypatch.setattr(training, "publish", lambda *arguments: published.append(arguments[-1]))
    for options in ({}, {"steps": 2048}, {"seed": 1}, {"steps": 2048, "out": tmp_path / "mine"}):
        train_behavior("hopper", run_dir=tmp_path / "run", **options)
    own = tmp_path / "run/policies/hopper"
    assert published == [POLICIES / "hopper", own, own, tmp_path / "mine/hopper"]
    with pytest.raises(InputError, match="holds a training of hopper: choose another"):
        train_behavior("walker2d", run_dir=tmp_path / "run")
    with pytest.raises(InputError, match="seed is -1"):
        train_behavior("hopper", seed=-1, run_dir=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_missing_extra_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    with pytest.raises(InputError, match="needs the extra `behavior`"):
        train_behavior("hopper", run_dir=tmp_path / "run", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_the_shipped_policies_are_of_this_recipe(name, repository):
    folder = repository / "envs/policies" / name
    index = json.loads((folder / "snapshots.json").read_text())
    kept = [row["steps"] for row in index["snapshots"]]
    assert kept == list(RECIPES[name].snapshots)
    assert sorted(int(path.stem) for path in folder.glob("*.npz")) == kept
    assert stages(RECIPES[name], kept) == index["stages"]
    assert index["recipe"] == json.loads(json.dumps(asdict(RECIPES[name])))


def test_the_shipped_policies_are_small_and_hold_no_pickle(repository):
    files = list((repository / "envs/policies").rglob("*.npz"))
    assert len(files) > 30
    assert sum(path.stat().st_size for path in files) < 10e6
    for path in files:
        with np.load(path, allow_pickle=False) as arrays:
            assert all(arrays[name].dtype.kind in "fiU" for name in arrays.files)


@pytest.mark.slow
def test_train_kill_resume_measure_publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("sb3_contrib")
    monkeypatch.setattr(training, "STATE_EVERY", 0.0)
    monkeypatch.setitem(RECIPES, "hopper", TINY)
    run_dir, out = tmp_path / "run", tmp_path / "policies"
    keywords = {"episodes": 2, "out": out, "run_dir": run_dir}

    saves = []

    def killed_after_the_first(*arguments):
        original(*arguments)
        saves.append(arguments)
        raise KeyboardInterrupt

    original = training.save_model
    monkeypatch.setattr(training, "save_model", killed_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        train_behavior("hopper", **keywords)
    assert not out.exists(), "nothing is published before the end"
    monkeypatch.setattr(training, "save_model", original)
    train_behavior("hopper", **keywords)

    with (run_dir / "curve.csv").open() as file:
        assert [row["steps"] for row in csv.DictReader(file)] == ["2048", "4096"]
    index = json.loads((out / "hopper/snapshots.json").read_text())
    assert [row["steps"] for row in index["snapshots"]] == [0, 2048, 4096]
    assert {"env_id", "algorithm", "date", "versions", "recipe", "stages"} < set(index)
    assert (index["steps"], index["seed"]) == (4096, 0)
    assert index["resumed"] == [2048]
    assert index["hyperparameters"]["gae_lambda"] == 0.95
    assert (out / "hopper/curve.csv").read_text() == (run_dir / "curve.csv").read_text()
    assert (out / "hopper/curve.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.rglob("*.partial"))
    with pytest.raises(InputError, match="holds a training with seed 0 at step 4,096"):
        train_behavior("hopper", **keywords, seed=1)

    model = saves[0][0]
    normalizer = model.get_vec_normalize_env()
    policy = read_policy(snapshot_path(out / "hopper", 2048))
    observations = np.random.default_rng(0).normal(size=(50, 11)) * 2
    expected, _ = model.predict(normalizer.normalize_obs(observations), deterministic=True)
    actions = np.array([policy.act(observation) for observation in observations])
    np.testing.assert_array_equal(policy.log_std, model.policy.log_std.detach().numpy())
    np.testing.assert_allclose(actions, expected, atol=1e-5)


@pytest.mark.slow
def test_td3_resumes_with_its_replay_buffer_and_its_policies_are_sb3s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("sb3_contrib")
    monkeypatch.setitem(RECIPES, "halfcheetah", TINY_TD3)
    monkeypatch.setitem(HYPERPARAMETERS["TD3"], "learning_starts", 64)
    monkeypatch.setitem(HYPERPARAMETERS["TD3"], "buffer_size", 512)
    models = []
    original = training.save_model
    monkeypatch.setattr(training, "save_model", lambda model, state: (models.append(model), original(model, state)))
    run_dir, out = tmp_path / "run", tmp_path / "policies"
    train_behavior("halfcheetah", episodes=1, out=out, run_dir=run_dir, steps=128)
    filled = models[0].replay_buffer.size()
    train_behavior("halfcheetah", episodes=1, out=out, run_dir=run_dir)
    assert models[-1].replay_buffer.size() == 2 * filled == 128  # two environments a row
    assert models[-1]._n_updates > models[0]._n_updates > 0

    assert isinstance(read_policy(snapshot_path(out / "halfcheetah", 0)), UniformPolicy)
    policy = read_policy(snapshot_path(out / "halfcheetah", 256))
    observations = np.random.default_rng(0).normal(size=(50, 17)) * 2
    expected, _ = models[-1].predict(observations, deterministic=True)
    np.testing.assert_allclose([policy.act(observation) for observation in observations], expected, atol=1e-5)
    least, dimension = np.unravel_index(np.abs(expected).argmin(), expected.shape)
    assert abs(expected[least, dimension]) < 0.8, "else the noise is clipped at the bound"
    noise = [policy.act(observations[least], np.random.default_rng(seed))[dimension] for seed in range(400)]
    np.testing.assert_allclose(np.std(noise), 0.05, rtol=0.15)  # the expert's, half of TD3's
    early = read_policy(snapshot_path(out / "halfcheetah", 128))
    np.testing.assert_allclose(np.exp(early.log_std), 0.1)
