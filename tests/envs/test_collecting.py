"""Collected datasets are the same to the byte, aligned, whole, and never half written."""

import json
from pathlib import Path

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest

import flowrl
from flowrl.envs import collecting
from flowrl.envs.collecting import collect
from flowrl.envs.tiny import ReachPolicy
from flowrl.errors import InputError
from flowrl.evaluation.reference_scores import reference_scores

REACH = "flowrl/reach/mixed-v0"
OWN = "me/reach/mine-v0"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def arrays(root: Path, dataset_id: str) -> dict[str, bytes]:
    """Every array in the file, by its name."""
    contents = {}
    with h5py.File(root / dataset_id / "data/main_data.hdf5") as file:
        file.visititems(
            lambda name, item: contents.update({name: item[()].tobytes()}) if isinstance(item, h5py.Dataset) else None
        )
    return contents


@pytest.mark.parametrize("dataset_id", [REACH, "flowrl/hopper/medium-expert-v0"])
def test_the_same_arguments_give_the_same_bytes(dataset_id, root):
    collect(dataset_id, steps=300)
    first = arrays(root, dataset_id)
    collect(dataset_id, steps=300, force=True)
    assert arrays(root, dataset_id) == first
    assert len(first) >= 2 * 5
    collect(dataset_id, steps=300, seed=1, force=True)
    assert arrays(root, dataset_id) != first


@pytest.mark.parametrize("dataset_id", [REACH, "flowrl/hopper/random-v0"])
def test_stored_actions_replayed_from_the_stored_seed_give_the_stored_episode(dataset_id):
    collect(dataset_id, steps=200)
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
    collect(REACH, steps=600)
    dataset = minari.load_dataset(REACH)
    assert 600 <= dataset.total_steps <= 600 + 6 * 16
    for episode in dataset:
        ends = episode.terminations | episode.truncations
        assert ends.tolist() == [False] * (len(ends) - 1) + [True]
    returns = [episode.rewards.sum() for episode in dataset]
    assert min(returns) < 3 < 12 < max(returns)


def test_the_metadata_say_where_it_comes_from():
    collect(REACH, steps=100, seed=3)
    metadata = minari.load_dataset(REACH).storage.metadata
    reference = reference_scores("flowrl/Reach-v0").flowrl
    assert (metadata["collection_steps"], metadata["collection_seed"]) == (100, 3)
    assert "mujoco==" in metadata["description"]
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (reference.random, reference.expert)
    assert gym.envs.registration.EnvSpec.from_json(metadata["env_spec"]).id == "flowrl/Reach-v0"


def test_an_existing_dataset_is_kept_unless_forced(root):
    collect(REACH, steps=100)
    before = arrays(root, REACH)
    with pytest.raises(InputError, match="exists already"):
        collect(REACH, steps=200)
    assert arrays(root, REACH) == before
    collect(REACH, steps=200, force=True)
    assert arrays(root, REACH) != before


@pytest.mark.parametrize("dataset_id", ["flowrl/hopper/replay-v0", "hopper", "flowrl/reach/mixed-v1", ""])
def test_an_unknown_id_lists_the_known_ones(dataset_id):
    with pytest.raises(
        InputError,
        match=r"unknown dataset .*; known are .*\{poor,mixed,good\}-v0.*needs an environment and policies",
    ):
        collect(dataset_id)


@pytest.mark.parametrize(
    ("name", "value", "least"), [("steps", 0, 1), ("steps", -5, 1), ("seed", -1, 0), ("jobs", -1, 0)]
)
def test_numbers_out_of_range_are_refused(name, value, least):
    with pytest.raises(InputError, match=f"{name} is {value}: it must be at least {least}"):
        collect(REACH, **{name: value})


@pytest.mark.parametrize("existing", [False, True])
def test_an_interrupted_collection_leaves_nothing_half_made(root, monkeypatch, existing):
    if existing:
        collect(REACH, steps=100)
    before = sorted(root.rglob("*"))

    def interrupted(*arguments, **keywords):
        yield from list(original(*arguments, **keywords))[:3]
        raise KeyboardInterrupt

    original = collecting.play_episodes
    monkeypatch.setattr(collecting, "play_episodes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(REACH, steps=100, force=True)
    assert sorted(root.rglob("*")) == before


def test_a_full_disk_leaves_nothing_half_made(root, monkeypatch):
    collect(REACH, steps=100)
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
        collect(REACH, steps=300, force=True)
    monkeypatch.undo()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    assert (arrays(root, REACH), sorted(root.rglob("*"))) == before
    collect(REACH, steps=300, force=True)
    assert arrays(root, REACH) != before[0]


def test_jobs_change_nothing(root):
    collect(REACH, steps=300)
    alone = arrays(root, REACH)
    collect(REACH, steps=300, jobs=2, force=True)
    assert arrays(root, REACH) == alone


def test_a_users_own_policies_in_any_environment(root, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def still(observation, generator):\n    return [0.0, 0.0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    collect(OWN, env="flowrl/Reach-v0", policies=["mine:still", "random"], steps=100)
    dataset = minari.load_dataset(OWN)
    assert dataset.env_spec.id == "flowrl/Reach-v0"
    assert 100 <= dataset.total_steps <= 116 + 16
    still = [not np.any(episode.actions) for episode in dataset]
    assert still == sorted(still, reverse=True), "first the one, then the other"
    assert 4 == sum(still) < len(still)  # 50 steps of episodes of 16
    metadata = dataset.storage.metadata
    assert metadata["algorithm_name"] == "mine:still, random"
    assert metadata["collection_seed"] == 0


def test_both_references_are_kept_and_not_mixed(root):
    collect("flowrl/hopper/random-v0", steps=50)
    metadata, known = minari.load_dataset("flowrl/hopper/random-v0").storage.metadata, reference_scores("Hopper-v5")
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (known.flowrl.random, known.flowrl.expert)
    assert (metadata["d4rl_ref_min_score"], metadata["d4rl_ref_max_score"]) == (-20.272305, 3234.3)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"policies": ["random"]}, "needs both an environment and policies"),
        ({"env": "Hopper-v5"}, "needs both an environment and policies"),
        ({"normalizer": Path("x.pkl")}, "normalizer x.pkl needs a policy that is a model"),
        ({"env": "Hopper-v5", "policies": ["random"], "normalizer": Path("x.pkl")}, "needs a policy that is a model"),
        ({"env": "Hoper-v5", "policies": ["random"]}, "unknown environment 'Hoper-v5'; near names are"),
        ({"env": "FrozenLake-v1", "policies": ["random"]}, "observation space of FrozenLake-v1 is Discrete"),
        ({"env": "Hopper-v5", "policies": ["ppo:none.zip"]}, "there is no file none.zip"),
        ({"env": "Hopper-v5", "policies": ["math:sin"], "steps": 5}, "policy math:sin failed: TypeError"),
    ],
)
def test_what_cannot_be_collected_is_one_sentence(keywords, message, root):
    with pytest.raises(InputError, match=message):
        collect(OWN, **keywords)
    assert not (root / OWN).exists()


def test_a_policy_may_be_an_object(root):
    collected = collect(OWN, env="flowrl/Reach-v0", policies=[ReachPolicy(1.0), ReachPolicy(0.0)], steps=100)
    dataset = minari.load_dataset(OWN)
    assert dataset.storage.metadata["algorithm_name"] == "ReachPolicy, ReachPolicy"
    assert (collected.path, collected.steps) == (root / OWN, dataset.total_steps)
    assert collected.returns.tolist() == [episode.rewards.sum() for episode in dataset]
    assert max(collected.returns) > 13


def test_an_environment_without_its_version_is_the_newest():
    with pytest.warns(UserWarning, match="Using the latest versioned environment"):
        collect(OWN, env="Hopper", policies=["random"], steps=20)
    assert minari.load_dataset(OWN).env_spec.id == "Hopper-v5"


def test_a_dataset_that_appeared_meanwhile_is_kept(root, monkeypatch):
    def meanwhile(*arguments, **keywords):
        monkeypatch.setattr(collecting, "play_episodes", original)
        collect(REACH, steps=100)
        return original(*arguments, **keywords)

    original = collecting.play_episodes
    monkeypatch.setattr(collecting, "play_episodes", meanwhile)
    with pytest.raises(InputError, match="exists already"):
        collect(REACH, steps=300)
    assert minari.load_dataset(REACH).total_steps < 200


def test_a_killed_process_is_one_sentence(root, tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text("import os\ndef dies(observation, generator):\n    os._exit(9)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="a process that played was killed: nothing is written"):
        collect(OWN, env="flowrl/Reach-v0", policies=["deadly:dies"], jobs=2)
    assert not (root / OWN).exists()


def test_flowrls_own_names_are_taken():
    with pytest.raises(InputError, match="flowrl/mine/x-v0: names in flowrl/ are flowrl's own"):
        collect("flowrl/mine/x-v0", env="Hopper-v5", policies=["random"])


def test_nothing_is_played_where_nothing_can_be_written(root, monkeypatch, tmp_path):
    def played(*arguments, **keywords):
        raise AssertionError("played")

    monkeypatch.setattr(collecting, "play_episodes", played)
    with pytest.raises(InputError, match=r"disk of .* is full: .* needs \d+,.*MB"):
        collect(REACH, steps=10**15)
    (tmp_path / "file").write_text("a file")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file" / "below"))
    with pytest.raises((InputError, OSError), match="file"):
        collect(REACH)


class Wheel(gym.Env):
    """Ten places; an action turns by a whole number, which the environment then changes, as a careless one may."""

    observation_space = gym.spaces.Box(0, 9, (1,), np.float32)

    def __init__(self, actions):
        self.action_space = WHEELS[actions]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.array([int(self.np_random.integers(10))])
        return self.place.astype(np.float64), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.place = (self.place + int(np.sum(action))) % 10
        if np.shape(action):
            action += 100
        return self.place / 3, 1.0, False, False, {}


WHEELS = {
    "Discrete": gym.spaces.Discrete(4),
    "Begins": gym.spaces.Discrete(3, start=-1),
    "Whole": gym.spaces.Box(-2, 3, (2,), np.int64),
}


@pytest.fixture(params=WHEELS)
def wheel(request):
    """The id of an environment whose actions are whole numbers."""
    name = f"test/Wheel{request.param}-v0"
    gym.register(name, "test_collecting:Wheel", max_episode_steps=7, kwargs={"actions": request.param})
    yield name
    del gym.registry[name]


def test_actions_of_whole_numbers_are_stored_as_they_were_received(wheel):
    collect(OWN, env=wheel, policies=["random"], steps=300)
    dataset = minari.load_dataset(OWN)
    space = WHEELS[wheel.removeprefix("test/Wheel").removesuffix("-v0")]
    assert dataset.action_space == space
    episodes = list(dataset)
    taken = np.concatenate([episode.actions for episode in episodes])
    low, high = (space.start, space.start + space.n - 1) if isinstance(space, gym.spaces.Discrete) else (-2, 3)
    assert taken.dtype == np.int64
    assert taken.shape == (len(taken), *space.shape)
    assert set(taken.ravel().tolist()) == set(range(low, high + 1))
    for episode in episodes:
        assert episode.observations.dtype == np.float64
        places = [round(episode.observations[0, 0])]
        for action in episode.actions:
            places.append((places[-1] + int(np.sum(action))) % 10)
        np.testing.assert_array_equal(episode.observations[1:, 0], np.array(places[1:]) / 3)


def test_a_dataset_of_discrete_actions_can_be_trained_on(tmp_path):
    collect(OWN, env="CartPole-v1", policies=["random"], steps=300)
    common = {"dataset": OWN, "steps": 4, "batch_size": 8, "width": 16, "episodes": 1, "device": "cpu"}
    for agent, own in {"bc": {}, "iql": {}, "flow": {"heads": 2, "layers": 1}}.items():
        flowrl.train(agent, run_dir=tmp_path / agent, **common, **own)
        rows = (tmp_path / agent / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()
        assert all(json.loads(row)["return"] >= 8 for row in rows)
