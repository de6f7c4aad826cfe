"""A dataset from a user's own arrays: what it holds, and each mistake named with its episode."""

import re
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrl.data import TrajectoryDataset
from flowrl.data.samplers import Windows
from flowrl.errors import InputError

LENGTHS = [3, 1, 2]


def episodes(lengths=LENGTHS, **changes):
    """Arguments of `from_arrays`: observations (n, -n), actions n / 10, rewards n, n counted through all steps."""
    starts = np.cumsum([0, *lengths])
    rows = [np.arange(start, start + length) for start, length in zip(starts, lengths, strict=False)]
    return {
        "observations": [np.stack([np.append(n, n[-1] + 1), -np.append(n, n[-1] + 1)], 1) for n in rows],
        "actions": [n[:, None] / 10 for n in rows],
        "rewards": [n.astype(float) for n in rows],
        "terminations": [index % 2 == 0 for index in range(len(lengths))],
    } | changes


def changed(name, index, array):
    """The arguments with another array for one episode."""
    arguments = episodes()
    return arguments | {name: [*arguments[name][:index], array, *arguments[name][index + 1 :]]}


def same(one, other):
    for field in fields(TrajectoryDataset):
        mine, its = getattr(one, field.name), getattr(other, field.name)
        assert torch.equal(mine, its) if isinstance(mine, torch.Tensor) else mine == its, field.name


def refused(arguments, **keywords):
    """The sentence that building ends in."""
    with pytest.raises(InputError) as caught:
        TrajectoryDataset.from_arrays(**arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300
    return message


def test_three_episodes_by_hand():
    dataset = TrajectoryDataset.from_arrays(**episodes(), id="mine", env="flowrl/Reach-v0")
    assert (dataset.id, dataset.env_spec.id) == ("mine", "flowrl/Reach-v0")
    assert dataset.lengths.tolist() == LENGTHS
    assert dataset.observations.tolist() == [[n, -n] for n in range(6)]
    assert dataset.final_observations[:, 0].tolist() == [3, 4, 6]
    assert dataset.returns_to_go.tolist() == [3, 3, 2, 3, 9, 5]
    assert dataset.terminated.tolist() == [True, False, True]
    assert dataset.next_known.tolist() == [True, True, True]
    assert dataset.action_low.item() == 0
    assert dataset.action_high.item() == np.float32(0.5)
    assert dataset.discrete_start is None
    assert Windows(dataset, 4, 2).draw(torch.Generator()).observations.shape == (4, 2, 2)


def test_flags_a_step_are_flags_an_episode():
    flags = [
        np.arange(length) == length - 1 if index % 2 == 0 else [0] * length for index, length in enumerate(LENGTHS)
    ]
    same(TrajectoryDataset.from_arrays(**episodes(terminations=flags)), TrajectoryDataset.from_arrays(**episodes()))


def test_what_is_written_to_minari_is_the_same_dataset(write, numbered_episode):
    recorded = [numbered_episode(index, length, terminated=index != 1) for index, length in enumerate(LENGTHS)]
    write("test/mine-v0", recorded)
    plain = TrajectoryDataset.from_arrays(
        *([getattr(episode, name) for episode in recorded] for name in ("observations", "actions", "rewards")),
        [episode.terminations for episode in recorded],
        id="test/mine-v0",
    )
    stored = TrajectoryDataset.from_minari("test/mine-v0")
    # Arrays in memory do not say how many they are, or how they were reset.
    assert plain.declared.action_bounds == stored.declared.action_bounds
    same(replace(plain, env_spec=stored.env_spec, declared=stored.declared), stored)


def test_the_arrays_of_the_caller_are_not_shared():
    arguments = episodes(lengths=[2])
    arguments = {name: [np.asarray(array, np.float32) for array in arrays] for name, arrays in arguments.items()}
    dataset = TrajectoryDataset.from_arrays(**arguments)
    arguments["rewards"][0][:] = 99
    arguments["observations"][0][:] = 99
    assert dataset.rewards.tolist() == [0, 1]
    assert dataset.observations[:, 0].tolist() == [0, 1]


def test_without_a_last_observation_the_next_is_unknown_unless_the_task_ended_it():
    arguments = episodes()
    arguments["observations"] = [array[:-1] for array in arguments["observations"]]
    dataset = TrajectoryDataset.from_arrays(**arguments)
    assert dataset.final_observations[:, 0].tolist() == [2, 3, 5]
    assert dataset.next_known.tolist() == [True, False, True]


def test_bounds_are_kept_or_taken_from_the_data():
    dataset = TrajectoryDataset.from_arrays(**episodes(), action_low=-2, action_high=[3.0])
    assert (dataset.action_low.tolist(), dataset.action_high.tolist()) == ([-2], [3])
    dataset = TrajectoryDataset.from_arrays(**episodes(), action_high=np.inf)
    assert (dataset.action_low.item(), dataset.action_high.item()) == (0, np.float32(0.5))


def test_discrete_actions_become_one_hot_rows():
    choices = [[0, 3, 1], [2], np.array([3, 3], np.uint8)]
    dataset = TrajectoryDataset.from_arrays(**episodes(actions=choices), discrete_actions=4)
    assert dataset.actions.dtype == torch.float32
    assert dataset.actions.argmax(1).tolist() == [0, 3, 1, 2, 3, 3]
    assert torch.equal(dataset.actions.sum(1), torch.ones(6))
    assert (dataset.action_low.tolist(), dataset.action_high.tolist()) == ([0] * 4, [1] * 4)
    assert dataset.discrete_start == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_any_episodes_are_found_again(lengths, observation_size, action_size, seed):
    generator = np.random.default_rng(seed)
    arguments = {
        "observations": [generator.normal(size=(length + 1, observation_size)) for length in lengths],
        "actions": [generator.normal(size=(length, action_size)) for length in lengths],
        "rewards": [generator.normal(size=length) for length in lengths],
        "terminations": (generator.random(len(lengths)) < 0.5).tolist(),
    }
    dataset = TrajectoryDataset.from_arrays(**arguments)
    for index, (start, length) in enumerate(zip(dataset.starts.tolist(), lengths, strict=True)):
        for name, tensor in (("observations", dataset.observations), ("actions", dataset.actions)):
            expected = arguments[name][index][:length].astype(np.float32)
            np.testing.assert_array_equal(tensor[start : start + length], expected)
        np.testing.assert_array_equal(dataset.rewards[start : start + length], arguments["rewards"][index].astype("f4"))
        np.testing.assert_array_equal(
            dataset.final_observations[index], arguments["observations"][index][-1].astype("f4")
        )
    assert dataset.terminated.tolist() == arguments["terminations"]
    assert dataset.next_known.all()


# Mistakes


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "terminations"])
def test_lists_of_different_lengths_are_refused(name):
    assert f"2 of {name}" in refused(episodes() | {name: episodes()[name][:2]})


def test_no_episode_is_refused():
    assert "at least one is needed" in refused(episodes(lengths=[]))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("observations", np.zeros((1, 2))), ("observations", np.zeros((4, 2))), ("observations", np.zeros(3)),
        ("observations", np.zeros((3, 0))), ("observations", np.zeros((3, 2, 2))),
        ("actions", np.zeros((1, 1))), ("actions", np.zeros((3, 1))), ("actions", np.zeros(2)),
        ("actions", np.zeros((2, 0))), ("rewards", np.zeros((2, 1))), ("rewards", np.zeros(0)), ("rewards", 1.0),
        ("terminations", np.zeros(3)), ("terminations", np.zeros((2, 1))),
    ],
)  # fmt: skip
def test_other_shapes_are_refused_with_the_episode(name, array):
    message = refused(changed(name, 2, array))
    assert message.startswith(f"episode 2: {name} have shape {np.shape(array)}: they must be ")


@pytest.mark.parametrize("name", ["observations", "actions"])
def test_other_sizes_than_in_the_first_episode_are_refused(name):
    array = np.concatenate([episodes()[name][1]] * 2, axis=1)
    assert f"episode 1: {name} have {array.shape[1]} numbers a row" in refused(changed(name, 1, array))


@pytest.mark.parametrize("name", ["observations", "actions", "rewards"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_that_are_not_finite_are_refused_with_the_episode(name, value):
    array = episodes()[name][1].astype(float)
    array[-1] = value
    assert refused(changed(name, 1, array)) == f"{name} hold NaN or infinity, first in episode 1"


@pytest.mark.parametrize("array", [["a", "b"], [1j, 2], [[1], [1, 2]], [None, None]])
def test_what_is_no_array_of_numbers_is_refused(array):
    assert refused(changed("rewards", 2, array)).startswith("episode 2: rewards are ")


def test_a_termination_before_the_last_step_is_refused():
    assert "episode 0 is terminated at step 1 of 3" in refused(changed("terminations", 0, [False, True, False]))


@pytest.mark.parametrize("flags", [[0, 2], 0.5, "yes", [np.nan, 0], None])
def test_flags_that_are_neither_true_nor_false_are_refused(flags):
    message = refused(changed("terminations", 2, flags))
    assert re.match(r"episode 2: terminations (hold|are of type) .*: they must be True or False", message)


@pytest.mark.parametrize(
    ("keywords", "part"),
    [
        ({"action_low": [0, 1]}, "action_low is [0, 1]: it must be a number"),
        ({"action_high": np.nan}, "action_high is nan"),
        ({"action_low": 2, "action_high": 1}, "action_low 2 is above action_high 1"),
        ({"env": "Hoper-v5"}, "unknown environment 'Hoper-v5'"),
        ({"discrete_actions": 0}, "discrete_actions is 0: it must be at least 1"),
        ({"discrete_actions": 3}, "episode 0: actions have shape (3, 1): they must be (3,)"),
    ],
)
def test_other_mistakes_name_the_value(keywords, part):
    assert part in refused(episodes(), **keywords)


@pytest.mark.parametrize(
    ("choices", "part"),
    [([4, 0], "hold 4: they must be 0 to 3"), ([0, -1], "hold -1"), ([0.0, 1.0], "are float64: they must be whole")],
)
def test_choices_that_do_not_exist_are_refused(choices, part):
    assert f"episode 2: actions {part}" in refused(episodes(actions=[[0, 0, 0], [0], choices]), discrete_actions=4)


def test_bounds_of_discrete_actions_are_refused():
    arguments = episodes(actions=[[0, 0, 0], [0], [1, 1]])
    assert "discrete actions have no bounds" in refused(arguments, discrete_actions=2, action_low=0)
