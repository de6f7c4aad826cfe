"""Collected datasets are the same to the byte, aligned, whole, and never half made."""

from pathlib import Path

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest

from envs import facts
from flowrl.errors import InputError
from scripts import collect
from scripts.collect import Args, main

REACH = "flowrl/reach/mixed-v0"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def arrays(root: Path, dataset_id: str) -> dict[str, bytes]:
    """Every array in the file, by its name."""
    found = {}
    with h5py.File(root / dataset_id / "data/main_data.hdf5") as file:
        file.visititems(
            lambda name, item: found.update({name: item[()].tobytes()}) if isinstance(item, h5py.Dataset) else None
        )
    return found


@pytest.mark.parametrize("dataset_id", [REACH, "flowrl/hopper/medium-expert-v0"])
def test_the_same_command_makes_the_same_bytes(dataset_id, root):
    main(Args(dataset_id, steps=300))
    first = arrays(root, dataset_id)
    main(Args(dataset_id, steps=300, force=True))
    assert arrays(root, dataset_id) == first
    assert len(first) >= 2 * 5
    main(Args(dataset_id, steps=300, seed=1, force=True))
    assert arrays(root, dataset_id) != first


@pytest.mark.parametrize("dataset_id", [REACH, "flowrl/hopper/random-v0"])
def test_stored_actions_replayed_from_the_stored_seed_give_the_stored_episode(dataset_id):
    main(Args(dataset_id, steps=200))
    dataset = minari.load_dataset(dataset_id)
    metadata = dataset.storage.get_episode_metadata(dataset.episode_indices)
    seeds = [int(row["seed"]) for row in metadata]
    env = gym.make(dataset.env_spec.id)
    for index in (0, len(seeds) // 2, len(seeds) - 1):
        episode = dataset[index]
        assert len(episode.observations) == len(episode.actions) + 1
        observation, _ = env.reset(seed=seeds[index])
        np.testing.assert_array_equal(observation, episode.observations[0])
        for time, action in enumerate(episode.actions):
            observation, reward, terminated, truncated, _ = env.step(action)
            np.testing.assert_array_equal(observation, episode.observations[time + 1])
            assert (reward, terminated, truncated) == (
                episode.rewards[time],
                episode.terminations[time],
                episode.truncations[time],
            )
        assert terminated or truncated


def test_every_policy_has_its_share_and_episodes_are_whole():
    main(Args(REACH, steps=600))
    dataset = minari.load_dataset(REACH)
    assert 600 <= dataset.total_steps <= 600 + 6 * 16
    for episode in dataset:
        ends = episode.terminations | episode.truncations
        assert ends.tolist() == [False] * (len(ends) - 1) + [True]
    returns = [episode.rewards.sum() for episode in dataset]
    assert min(returns) < 3 < 12 < max(returns)


def test_the_metadata_say_where_it_comes_from():
    main(Args(REACH, steps=100, seed=3))
    metadata = minari.load_dataset(REACH).storage.metadata
    reference = facts("flowrl/Reach-v0").measured
    assert f"python -m scripts.collect {REACH} --steps 100 --seed 3" in metadata["description"]
    assert "mujoco==" in metadata["description"]
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (reference.random, reference.expert)
    assert gym.envs.registration.EnvSpec.from_json(metadata["env_spec"]).id == "flowrl/Reach-v0"


def test_the_summary_says_what_there_is_and_what_to_do_next(capsys):
    main(Args(REACH))
    output = capsys.readouterr().out
    assert "episodes, 2,0" in output
    assert "returns: mean" in output
    assert f"python -m scripts.train flow --dataset {REACH}" in output


def test_progress_is_reported_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(collect, "PROGRESS_EVERY", 0.0)
    main(Args(REACH, steps=100))
    assert "of 100 steps" in capsys.readouterr().out


def test_an_existing_dataset_is_kept_unless_forced(root, capsys):
    main(Args(REACH, steps=100))
    before = arrays(root, REACH)
    with pytest.raises(InputError, match=r"exists already.*--force"):
        main(Args(REACH, steps=200))
    main(Args(REACH, steps=200, if_missing=True))
    assert "exists already" in capsys.readouterr().out
    assert arrays(root, REACH) == before
    main(Args(REACH, steps=200, force=True))
    assert arrays(root, REACH) != before


@pytest.mark.parametrize("dataset_id", ["flowrl/hopper/replay-v0", "hopper", "flowrl/reach/mixed-v1", ""])
def test_an_unknown_id_lists_the_known_ones(dataset_id):
    with pytest.raises(InputError, match=r"unknown dataset .*; known are .*hopper/medium-replay-v0.*reach/mixed-v0"):
        main(Args(dataset_id))


@pytest.mark.parametrize("bad", [{"steps": 0}, {"steps": -5}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(InputError, match="--steps must be at least 1 and --seed at least 0"):
        main(Args(REACH, **bad))


@pytest.mark.parametrize("existing", [False, True])
def test_an_interrupted_collection_leaves_nothing_half_made(root, monkeypatch, existing):
    if existing:
        main(Args(REACH, steps=100))
    before = sorted(root.rglob("*"))

    def interrupted(*arguments, **keywords):
        yield from list(original(*arguments, **keywords))[:3]
        raise KeyboardInterrupt

    original = collect.rollout_episodes
    monkeypatch.setattr(collect, "rollout_episodes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(Args(REACH, steps=100, force=True))
    assert sorted(root.rglob("*")) == before


def test_the_command_line(capsys):
    collect.start([REACH, "--steps", "50", "--seed", "2"])
    collect.start([REACH, "--if-missing"])
    assert "exists already" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"unknown option --step.*did you mean --steps"):
        collect.start([REACH, "--step=3"])
