"""Collected datasets are the same to the byte, aligned, whole, and never half made."""

from pathlib import Path

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest

from flowrl.errors import InputError
from flowrl.evaluation.reference_scores import facts
from flowrl.scripts import collect
from flowrl.scripts.collect import Args, main

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


def test_progress_is_shown(capsys):
    main(Args(REACH, steps=100))
    assert "100%" in capsys.readouterr().err


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
    with pytest.raises(
        InputError,
        match=r"unknown dataset .*; known are .*\{poor,mixed,good\}-v0.*--env and --policy",
    ):
        main(Args(dataset_id))


@pytest.mark.parametrize("bad", [{"steps": 0}, {"steps": -5}, {"seed": -1}, {"jobs": -1}])
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(InputError, match="--steps must be at least 1, --seed and --jobs at least 0"):
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


def test_a_full_disk_leaves_nothing_half_made(root, monkeypatch):
    main(Args(REACH, steps=100))
    before = arrays(root, REACH), sorted(root.rglob("*"))
    original = h5py.Group.create_dataset
    written = []

    def full(self, *arguments, **keywords):
        written.append(1)
        if len(written) > 20:
            raise OSError(28, "No space left on device")
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(h5py.Group, "create_dataset", full)
    with pytest.raises(OSError, match="No space left"):
        main(Args(REACH, steps=300, force=True))
    monkeypatch.undo()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    assert (arrays(root, REACH), sorted(root.rglob("*"))) == before
    main(Args(REACH, steps=300, force=True))
    assert arrays(root, REACH) != before[0]


def test_jobs_change_nothing(root):
    main(Args(REACH, steps=300))
    alone = arrays(root, REACH)
    main(Args(REACH, steps=300, jobs=2, force=True))
    assert arrays(root, REACH) == alone


OWN = "me/reach/mine-v0"


def test_a_users_own_policies_in_any_environment(root, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def still(observation, generator):\n    return [0.0, 0.0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    collect.start([OWN, "--env", "flowrl/Reach-v0", "--policy", "mine:still", "random", "--steps", "100"])
    dataset = minari.load_dataset(OWN)
    assert dataset.env_spec.id == "flowrl/Reach-v0"
    assert 100 <= dataset.total_steps <= 116 + 16
    still = [not np.any(episode.actions) for episode in dataset]
    assert still == sorted(still, reverse=True), "first the one, then the other"
    assert 4 == sum(still) < len(still)  # 50 steps of episodes of 16
    metadata = dataset.storage.metadata
    assert metadata["algorithm_name"] == "mine:still, random"
    assert "--env flowrl/Reach-v0 --policy mine:still random --steps 100 --seed 0" in metadata["description"]
    assert metadata["collection_seed"] == 0


def test_both_references_are_kept_and_not_mixed(root):
    main(Args("flowrl/hopper/random-v0", steps=50))
    metadata, known = minari.load_dataset("flowrl/hopper/random-v0").storage.metadata, facts("Hopper-v5")
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (known.measured.random, known.measured.expert)
    assert (metadata["d4rl_ref_min_score"], metadata["d4rl_ref_max_score"]) == (-20.272305, 3234.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy", "random"], "needs both --env and --policy"),
        (["--env", "Hopper-v5"], "needs both --env and --policy"),
        (["--normalizer", "x.pkl"], "--normalizer goes with --policy"),
        (["--env", "Hopper-v5", "--policy", "random", "--normalizer", "x.pkl"], "no --policy is a model"),
        (["--env", "Hoper-v5", "--policy", "random"], "unknown environment 'Hoper-v5'; near names are"),
        (["--env", "CartPole-v1", "--policy", "random"], "action space of CartPole-v1 is Discrete"),
        (["--env", "FrozenLake-v1", "--policy", "random"], "observation space of FrozenLake-v1 is Discrete"),
        (["--env", "Hopper-v5", "--policy", "ppo:none.zip"], "there is no file none.zip"),
        (["--env", "Hopper-v5", "--policy", "math:sin", "--steps", "5"], "policy math:sin failed: TypeError"),
    ],
)
def test_what_cannot_be_collected_is_one_sentence(options, message, root):
    with pytest.raises(InputError, match=message):
        collect.start([OWN, *options])
    assert not (root / OWN).exists()


def test_an_environment_without_its_version_is_the_newest():
    with pytest.warns(UserWarning, match="Using the latest versioned environment"):
        collect.start([OWN, "--env", "Hopper", "--policy", "random", "--steps", "20"])
    assert minari.load_dataset(OWN).env_spec.id == "Hopper-v5"


def test_a_dataset_that_appeared_meanwhile_is_kept(root, monkeypatch):
    def meanwhile(*arguments, **keywords):
        monkeypatch.setattr(collect, "rollout_episodes", original)
        main(Args(REACH, steps=100))
        return original(*arguments, **keywords)

    original = collect.rollout_episodes
    monkeypatch.setattr(collect, "rollout_episodes", meanwhile)
    with pytest.raises(InputError, match="exists already"):
        main(Args(REACH, steps=300))
    assert minari.load_dataset(REACH).total_steps < 200


def test_a_killed_process_is_one_sentence(root, tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text("import os\ndef dies(observation, generator):\n    os._exit(9)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="a process that played was killed: nothing is written"):
        collect.start([OWN, "--env", "flowrl/Reach-v0", "--policy", "deadly:dies", "--jobs", "2"])
    assert not (root / OWN).exists()


def test_flowrls_own_names_are_taken():
    with pytest.raises(InputError, match="flowrl/mine/x-v0: names in flowrl/ are flowrl's own"):
        collect.start(["flowrl/mine/x-v0", "--env", "Hopper-v5", "--policy", "random"])


def test_the_command_line(capsys):
    collect.start([REACH, "--steps", "50", "--seed", "2"])
    collect.start([REACH, "--if-missing"])
    assert "exists already" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"unknown option --step.*did you mean --steps"):
        collect.start([REACH, "--step=3"])
