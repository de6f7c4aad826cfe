"""What a dataset says about itself: reset options, the environment for evaluation, totals, old specifications."""

import json
import warnings

import gymnasium as gym
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.declared import MOST_READ, Declared, of_several
from flowrl.data.minari_store import open_dataset
from flowrl.envs.corridor import corridor_spec
from flowrl.errors import InputError

ID = "test/declared-v0"
SPACES = {"observation_space": gym.spaces.Box(-1, 1, (2,)), "action_space": gym.spaces.Box(-2, 3, (1,))}


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def written(options, **about):
    """The folder of a dataset of three steps an episode, one episode for each of the options."""
    buffers = [
        EpisodeBuffer(
            id=number, seed=7 + number, options=each, observations=np.full((4, 2), number / 1000, np.float32),
            actions=np.zeros((3, 1), np.float32), rewards=np.ones(3), terminations=np.arange(3) == 2,
            truncations=np.zeros(3, bool),
        )
        for number, each in enumerate(options)
    ]  # fmt: skip
    dataset = minari.create_dataset_from_buffers(ID, buffers, algorithm_name="x", **(SPACES | about))
    return dataset.storage.data_path


def edited(folder, **changes):
    path = folder / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (folder / "flowrl_fingerprint.json").unlink(missing_ok=True)


def test_the_options_of_all_episodes_are_one_entry():
    options = {"goal": np.float64(2.5), "cell": np.array([1, 2]), "nest": {"on": True, "name": "left"}}
    written([options] * 3)
    declared = Declared.of(open_dataset(ID))
    assert declared.reset_options == ({"goal": 2.5, "cell": [1, 2], "nest": {"on": True, "name": "left"}},)
    assert json.loads(json.dumps(declared.reset_options[0])) == declared.reset_options[0]
    assert declared.first_seed == 7
    assert declared.action_bounds == ((-2.0,), (3.0,))
    assert (declared.total_episodes, declared.total_steps) == (3, 9)


def test_options_that_differ_are_kept_in_the_order_of_the_episodes():
    written([{"goal": 1}, None, {"goal": 3}, {"goal": 1}])
    assert Declared.of(open_dataset(ID)).reset_options == ({"goal": 1}, {}, {"goal": 3}, {"goal": 1})


@pytest.mark.parametrize("options", [None, {}, {"minari_autoseed": False}])
def test_no_options_are_no_entry(options):
    written([options] * 3)
    assert Declared.of(open_dataset(ID)).reset_options == ()


def test_of_many_episodes_some_are_read_in_their_order_the_first_among_them():
    count = MOST_READ + 50
    written([{"goal": number} for number in range(count)])
    goals = [each["goal"] for each in Declared.of(open_dataset(ID)).reset_options]
    assert len(set(goals)) == MOST_READ
    assert goals == sorted(goals)
    assert goals[0] == 0
    assert goals[-1] >= MOST_READ  # not the first ones


def test_an_evaluation_environment_is_kept():
    short = corridor_spec(20)
    written([None], env="flowrl/Reach-v0", eval_env=short, **SPACES)
    stored = open_dataset(ID)
    assert Declared.of(stored).evaluation_env == short
    dataset = TrajectoryDataset.from_minari(ID)
    assert dataset.env_spec is not None
    assert dataset.env_spec.id == "flowrl/Reach-v0"
    assert dataset.evaluation_env == short


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"total_steps": 9}, False),
        ({"total_steps": 10}, True),
        ({"total_episodes": 2}, True),  # six steps, and nine are said to be there
        ({"total_episodes": 2, "total_steps": 6}, False),
        ({"total_steps": 8}, False),
    ],
)
def test_fewer_steps_than_the_metadata_say_are_refused(changes, refused):
    edited(written([None] * 3), **changes)
    if not refused:
        TrajectoryDataset.from_minari(ID)
        return
    with pytest.raises(InputError, match="total_steps"):
        TrajectoryDataset.from_minari(ID)


def test_more_episodes_than_the_metadata_say():
    edited(written([None] * 3), total_episodes=2, total_steps=6)
    assert Declared.of(open_dataset(ID)).more_episodes


def test_a_part_keeps_the_options_and_no_totals():
    written([{"goal": 1}] * 3)
    part = TrajectoryDataset.from_minari(ID).top(0.4)
    assert part.episodes == 1
    assert part.declared.reset_options == ({"goal": 1},)
    assert part.declared.total_steps is part.declared.total_episodes is part.declared.first_seed is None


def test_several_datasets_take_turns_with_their_options():
    one = Declared(reset_options=({"a": 1},), total_steps=3, total_episodes=1, action_bounds=((-1.0,), (2.0,)))
    two = Declared(reset_options=({"b": 1}, {"b": 2}), total_steps=4, total_episodes=2, action_bounds=((-2.0,), (1.0,)))
    both = of_several([one, two])
    assert both.reset_options == ({"a": 1}, {"b": 1}, {"a": 1}, {"b": 2})
    assert (both.total_steps, both.total_episodes, both.action_bounds) == (7, 3, ((-2.0,), (2.0,)))
    assert of_several([one, one]).reset_options == ({"a": 1},)
    assert of_several([Declared(), Declared()]).reset_options == ()
    assert of_several([Declared(), one]).reset_options == ({}, {"a": 1})


@pytest.mark.parametrize("older", [{"autoreset": True}, {"autoreset": False}, {"apply_api_compatibility": True}])
def test_a_specification_of_an_older_gymnasium_is_read(older):
    folder = written([None], env="flowrl/Reach-v0")
    text = json.loads((folder / "metadata.json").read_text())["env_spec"]
    edited(folder, env_spec=json.dumps(json.loads(text) | older))
    assert open_dataset(ID).env_spec == gym.spec("flowrl/Reach-v0")
