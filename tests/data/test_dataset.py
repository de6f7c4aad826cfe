"""The arrays of a dataset, its returns-to-go, its statistics and its fingerprint, against numbers by hand."""

from dataclasses import fields, replace

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch
from d4rl_files import ID, arrays, save
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrl.data.d4rl import import_file
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.mixing import mix
from flowrl.data.stored_arrays import StoredArrays
from flowrl.errors import InputError

BOUNDS = {"action_low": np.array([-2.0, -1.0]), "action_high": np.array([3.0, 2.0])}


def by_hand(**changes):
    """Two episodes of 3 and 2 steps."""
    arrays = StoredArrays(
        observations=np.array([[0, 5], [1, 5], [2, 5], [3, 5], [10, 5], [11, 5], [12, 5]], np.float32),
        actions=np.array([[0, 0], [1, 1], [2, 0], [3, 1], [-2, -1]], np.float32),
        rewards=np.array([1, 2, 3, 10, 20], np.float32),
        terminations=np.array([False, False, True, False, False]),
        truncations=np.array([False, False, False, False, True]),
        lengths=np.array([3, 2]),
    )
    return replace(arrays, **changes)


def load(arrays, **bounds):
    return TrajectoryDataset.from_stored_arrays("by-hand", arrays, **(BOUNDS | bounds))


def test_two_episodes_by_hand():
    dataset = load(by_hand())
    assert dataset.returns_to_go.tolist() == [6, 5, 3, 30, 20]
    assert dataset.returns.tolist() == [6, 30]
    assert dataset.timesteps.tolist() == [0, 1, 2, 0, 1]
    assert dataset.starts.tolist() == [0, 3]
    assert dataset.ends.tolist() == [3, 3, 3, 5, 5]
    assert dataset.lengths.tolist() == [3, 2]
    assert dataset.terminated.tolist() == [True, False]
    assert dataset.observations[:, 0].tolist() == [0, 1, 2, 10, 11]
    assert dataset.final_observations[:, 0].tolist() == [3, 12]
    assert (dataset.episodes, dataset.steps) == (2, 5)
    assert dataset.action_low.tolist() == [-2, -1]
    assert dataset.action_high.tolist() == [3, 2]
    for field in fields(dataset):
        value = getattr(dataset, field.name)
        if isinstance(value, torch.Tensor):
            whole = field.name in ("timesteps", "ends", "starts", "lengths")
            flag = field.name in ("terminated", "next_known")
            assert value.dtype == (torch.int64 if whole else torch.bool if flag else torch.float32), field.name


def test_returns_to_go_lose_no_digits_over_a_large_dataset(random_arrays):
    lengths = [200] * 200
    arrays = random_arrays(lengths)
    rewards = np.random.default_rng(1).uniform(0, 10, sum(lengths)).astype(np.float32)
    dataset = load(replace(arrays, rewards=rewards))
    backwards = rewards.reshape(200, 200).astype(np.float64)[:, ::-1].cumsum(1)[:, ::-1]
    np.testing.assert_allclose(dataset.returns_to_go.numpy(), backwards.ravel(), rtol=2e-7)
    np.testing.assert_array_equal(dataset.returns_to_go.numpy()[199::200], rewards[199::200])


def test_observations_stay_beside_their_actions_to_the_last_episode(write, numbered_episode):
    lengths = [4, 1, 6, 3]
    write("test/numbered-v0", [numbered_episode(e, length) for e, length in enumerate(lengths)])
    dataset = TrajectoryDataset.from_minari("test/numbered-v0")
    assert dataset.lengths.tolist() == lengths
    for episode in (0, 1, 2, 3):
        rows = slice(int(dataset.starts[episode]), int(dataset.starts[episode]) + lengths[episode])
        steps = 100 * episode + np.arange(lengths[episode])
        np.testing.assert_array_equal(dataset.observations[rows, 0], steps)
        np.testing.assert_array_equal(dataset.actions[rows, 0], steps + 0.5)
        np.testing.assert_array_equal(dataset.rewards[rows], steps + 0.25)
        assert dataset.final_observations[episode, 0] == 100 * episode + lengths[episode]
        assert dataset.returns[episode] == steps.sum() + 0.25 * len(steps)
    assert dataset.observations.dtype == torch.float32
    assert dataset.env_spec.id == "flowrl/Reach-v0"


def test_what_is_loaded_is_what_minari_gives(reach, reach_dataset):
    episodes = list(minari.load_dataset(reach_dataset))
    assert reach.episodes == len(episodes) > 10
    for number, start, length in zip(range(len(episodes)), reach.starts, reach.lengths, strict=True):
        rows = slice(int(start), int(start + length))
        np.testing.assert_array_equal(reach.observations[rows], episodes[number].observations[:-1].astype(np.float32))
        np.testing.assert_array_equal(reach.final_observations[number], episodes[number].observations[-1].astype("f4"))
        np.testing.assert_array_equal(reach.actions[rows], episodes[number].actions)
        assert bool(reach.terminated[number]) == bool(episodes[number].terminations[-1])
        np.testing.assert_allclose(reach.returns[number], episodes[number].rewards.sum(), rtol=1e-6)
    np.testing.assert_array_equal(reach.action_low, [-2, -1])
    np.testing.assert_array_equal(reach.action_high, [3, 2])


@pytest.mark.parametrize(("name", "row", "episode"), [("observations", 5, 1), ("actions", 4, 1), ("rewards", 0, 0)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_refused_with_its_episode(name, row, episode, value):
    array = getattr(by_hand(), name).copy()
    array[row] = value
    with pytest.raises(InputError, match=f"^{name} hold NaN or infinity, first in episode {episode}$"):
        load(by_hand(**{name: array}))


def test_infinities_that_cancel_are_refused_too():
    rewards = np.array([np.inf, -np.inf, 0, 0, 0], np.float32)
    with pytest.raises(InputError, match="rewards hold NaN or infinity, first in episode 0"):
        load(by_hand(rewards=rewards))


def test_infinite_action_bounds_become_the_extremes_of_the_data():
    dataset = load(by_hand(), action_low=np.array([-np.inf, -1]), action_high=np.array([np.inf, np.inf]))
    assert dataset.action_low.tolist() == [-2, -1]
    assert dataset.action_high.tolist() == [3, 1]


def test_top_keeps_the_best_episodes_in_their_order(random_arrays):
    lengths = [3, 1, 4, 2, 5]
    rewards = np.concatenate([np.full(n, r / n) for n, r in zip(lengths, [10, 50, 20, 40, 30], strict=True)])
    dataset = load(replace(random_arrays(lengths), rewards=rewards.astype(np.float32)))
    best = dataset.top(0.4)
    assert best.lengths.tolist() == [1, 2]
    assert best.starts.tolist() == [0, 1]
    assert best.ends.tolist() == [1, 3, 3]
    assert best.timesteps.tolist() == [0, 0, 1]
    rows = [3, 8, 9]
    for name in ("observations", "actions", "rewards", "returns_to_go"):
        assert torch.equal(getattr(best, name), getattr(dataset, name)[rows]), name
    assert torch.equal(best.final_observations, dataset.final_observations[[1, 3]])
    assert torch.equal(best.terminated, dataset.terminated[[1, 3]])
    assert torch.equal(best.returns, dataset.returns[[1, 3]])


def test_top_of_everything_and_of_next_to_nothing(random_dataset):
    dataset = random_dataset([3, 1, 4, 2, 5])
    whole = dataset.top(1.0)
    for field in fields(dataset):
        if isinstance(getattr(dataset, field.name), torch.Tensor):
            assert torch.equal(getattr(whole, field.name), getattr(dataset, field.name)), field.name
    least = dataset.top(1e-9)
    assert least.episodes == 1
    assert least.returns[0] == dataset.returns.max()


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_a_fraction_outside_is_refused(random_dataset, fraction):
    with pytest.raises(InputError, match=f"top fraction is {fraction}"):
        random_dataset([3]).top(fraction)


def test_the_fingerprint_is_of_every_array_training_reads():
    changes = [
        {"observations": by_hand().observations + np.eye(7, 2, dtype=np.float32) * 1e-3},
        {"actions": by_hand().actions * np.float32(1.001)},
        {"rewards": by_hand().rewards[::-1].copy()},
        {"lengths": np.array([2, 3])},
    ]
    fingerprints = {load(by_hand(**change)).fingerprint for change in changes} | {load(by_hand()).fingerprint}
    assert len(fingerprints) == 5
    assert load(by_hand()).fingerprint == load(by_hand()).fingerprint
    assert load(by_hand()).top(0.5).fingerprint != load(by_hand()).fingerprint


def test_another_device(random_dataset):
    dataset = random_dataset([3, 1, 4])
    moved = dataset.to("cpu")
    assert torch.equal(moved.observations, dataset.observations)
    assert moved.fingerprint == dataset.fingerprint


# Parts and mixtures


def numbered(lengths, first=0, **bounds):
    """Every number names its step: observation (n, -n) from `first` on, action n + 0.5, reward n + 0.25."""
    steps, episodes = sum(lengths), len(lengths)
    n = first + np.arange(steps + episodes, dtype=np.float32)
    row = first + np.arange(steps, dtype=np.float32)
    arrays = StoredArrays(
        observations=np.stack([n, -n], 1),
        actions=np.stack([row + 0.5, -row], 1),
        rewards=row + np.float32(0.25),
        terminations=np.isin(np.arange(steps), np.cumsum(lengths)[::2] - 1),
        truncations=np.zeros(steps, bool),
        lengths=np.array(lengths),
    )
    return load(arrays, **bounds)


def tensors(dataset):
    values = {field.name: getattr(dataset, field.name) for field in fields(dataset)}
    return {name: value.tolist() for name, value in values.items() if isinstance(value, torch.Tensor)}


def test_selected_episodes_by_hand_in_the_given_order():
    dataset = replace(numbered([2, 1, 3]), weights=torch.tensor([1.0, 2.0, 4.0]))
    assert tensors(dataset.select(torch.tensor([2, 0]), "odd")) == {
        "observations": [[5, -5], [6, -6], [7, -7], [0, 0], [1, -1]],
        "actions": [[3.5, -3], [4.5, -4], [5.5, -5], [0.5, 0], [1.5, -1]],
        "rewards": [3.25, 4.25, 5.25, 0.25, 1.25],
        "returns_to_go": [12.75, 9.5, 5.25, 1.5, 1.25],
        "timesteps": [0, 1, 2, 0, 1],
        "ends": [3, 3, 3, 5, 5],
        "starts": [0, 3],
        "lengths": [3, 2],
        "returns": [12.75, 1.5],
        "terminated": [True, True],
        "next_known": [True, True],
        "final_observations": [[8, -8], [2, -2]],
        "action_low": [-2, -1],
        "action_high": [3, 2],
        "weights": [4, 1],
    }


def test_at_least_is_inclusive_and_keeps_the_order():
    dataset = numbered([2, 1, 3])  # returns 1.5, 2.25, 12.75
    assert dataset.at_least(2.25).returns.tolist() == [2.25, 12.75]
    assert dataset.at_least(-1e9).returns.tolist() == [1.5, 2.25, 12.75]
    assert tensors(dataset.at_least(2.3)) == tensors(dataset.select(torch.tensor([2]), ""))
    with pytest.raises(InputError, match="no episode of by-hand has a return of 12.76 or more: the best is 12.8"):
        dataset.at_least(12.76)


def test_a_mixture_by_hand():
    one = numbered([2, 1], action_low=np.array([-5.0, 0]), action_high=np.array([1.0, 7]))
    two = numbered([1, 2], first=100)
    mixture = mix("both", [one, two], [3.0, 1.0])
    assert tensors(mixture) == {
        "observations": [[0, 0], [1, -1], [3, -3], [100, -100], [102, -102], [103, -103]],
        "actions": [[0.5, 0], [1.5, -1], [2.5, -2], [100.5, -100], [101.5, -101], [102.5, -102]],
        "rewards": [0.25, 1.25, 2.25, 100.25, 101.25, 102.25],
        "returns_to_go": [1.5, 1.25, 2.25, 100.25, 203.5, 102.25],
        "timesteps": [0, 1, 0, 0, 0, 1],
        "ends": [2, 2, 3, 4, 6, 6],
        "starts": [0, 2, 3, 4],
        "lengths": [2, 1, 1, 2],
        "returns": [1.5, 2.25, 100.25, 203.5],
        "terminated": [True, False, True, False],
        "next_known": [True, True, True, True],
        "final_observations": [[2, -2], [4, -4], [101, -101], [104, -104]],
        "action_low": [-5, -1],
        "action_high": [3, 7],
        "weights": [1 / 3, 1 / 3, 1 / 9, 1 / 9],
    }
    assert (mixture.id, mixture.episodes, mixture.steps) == ("both", 4, 6)


def test_a_mixture_of_one_is_that_one():
    dataset = numbered([2, 1, 3])
    assert tensors(mix("one", [dataset])) == tensors(dataset)


def test_the_environment_of_a_mixture_is_the_first_there_is():
    spec, other = gym.spec("flowrl/Reach-v0"), gym.spec("Pendulum-v1")
    parts = [replace(numbered([2]), env_spec=s) for s in (None, spec, other)]
    assert mix("m", parts).env_spec is spec
    assert mix("m", parts[:1]).env_spec is None


def test_every_mixture_has_its_fingerprint():
    one, two = numbered([2, 1]), numbered([1, 2], first=100)
    kinds = [
        one, two, mix("m", [one, two]), mix("m", [two, one]), mix("m", [one, two, two]),
        mix("m", [one, two], [1, 1]), mix("m", [one, two], [2, 1]), mix("m", [one, two], [1, 2]),
        mix("m", [one.top(0.5), two]), mix("m", [one, two.top(0.5)]),
    ]  # fmt: skip
    assert len({dataset.fingerprint for dataset in kinds}) == len(kinds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observations": torch.zeros(3, 5)}, "observation size is 2 and 5"),
        ({"actions": torch.zeros(3, 3)}, "action size is 2 and 3"),
        ({"discrete_start": 0}, "first discrete action is None and 0"),
    ],
)
def test_what_cannot_be_mixed_is_refused(change, message):
    with pytest.raises(InputError, match=f"^by-hand and other cannot be mixed: {message}$"):
        mix("m", [numbered([2, 1]), replace(numbered([1, 2]), id="other", **change)])
    with pytest.raises(ValueError, match="zip"):
        mix("m", [numbered([2, 1]), numbered([1])], [1.0])


@settings(max_examples=30)
@given(st.data())
def test_parts_of_parts_and_mixtures_keep_every_episode_whole(data):
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    others = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    whole = mix("m", [numbered(lengths), numbered(others, first=1000)])
    kept = data.draw(st.lists(st.integers(0, whole.episodes - 1), min_size=1, max_size=8))
    part = whole.select(torch.tensor(kept), "kept")
    again = data.draw(st.lists(st.integers(0, part.episodes - 1), min_size=1, max_size=8))
    twice = part.select(torch.tensor(again), "again")
    for dataset, numbers in ((part, kept), (twice, [kept[number] for number in again])):
        assert dataset.steps == int(dataset.lengths.sum())
        for new, old in enumerate(numbers):
            mine, its = int(dataset.starts[new]), int(whole.starts[old])
            length = int(whole.lengths[old])
            for name in ("observations", "actions", "rewards", "returns_to_go", "timesteps"):
                assert torch.equal(getattr(dataset, name)[mine:][:length], getattr(whole, name)[its:][:length]), name
            assert (dataset.ends[mine:][:length] == mine + length).all()
            for name in ("lengths", "returns", "terminated", "next_known", "final_observations"):
                assert torch.equal(getattr(dataset, name)[new], getattr(whole, name)[old]), name


def test_bounds_are_not_changed_in_the_callers_hands():
    low, high = np.array([-np.inf, -1], np.float32), np.array([1, np.inf], np.float32)
    dataset = load(by_hand(), action_low=low, action_high=high)
    assert (low.tolist(), high.tolist()) == ([-np.inf, -1], [1, np.inf])
    assert (dataset.action_low.tolist(), dataset.action_high.tolist()) == ([-2, -1], [1, 1])


# Whether what follows an episode is known


def test_the_next_of_a_repeated_last_observation_is_unknown():
    repeated = by_hand().observations.copy()
    repeated[3], repeated[6] = repeated[2], repeated[5]
    dataset = load(by_hand(observations=repeated))
    assert dataset.terminated.tolist() == [True, False]
    assert dataset.next_known.tolist() == [True, False]  # of the terminated one nothing follows that one could need
    nearly = repeated.copy()
    nearly[6, 1] = np.nextafter(nearly[6, 1], np.float32(9))
    assert load(by_hand(observations=nearly)).next_known.tolist() == [True, True]
    inside = by_hand().observations.copy()
    inside[5] = inside[4]  # a repetition before the last step says nothing
    assert load(by_hand(observations=inside)).next_known.tolist() == [True, True]


def test_the_next_of_genuine_trajectories_is_known(reach):
    assert not reach.terminated.all()
    assert reach.next_known.all()


@pytest.mark.parametrize("following", [False, True])
def test_the_next_in_a_d4rl_file_is_known_where_the_file_has_it(tmp_path, following):
    content = arrays(12, terminals=(3,), timeouts=(8, 11), following=following)
    import_file(save(tmp_path / "some.hdf5", content), ID, env_spec=None, reference_scores=None)
    dataset = TrajectoryDataset.from_minari(ID)
    assert dataset.terminated.tolist() == [True, False, False]
    assert dataset.next_known.tolist() == [True, following, following]


def test_parts_and_mixtures_keep_what_is_known():
    repeated = by_hand().observations.copy()
    repeated[6] = repeated[5]
    known, unknown = load(by_hand()), load(by_hand(observations=repeated))
    assert unknown.select(torch.tensor([1]), "last").next_known.tolist() == [False]
    assert unknown.top(0.5).next_known.tolist() == [False]
    assert mix("m", [unknown, known]).next_known.tolist() == [True, False, True, True]
    assert unknown.to("cpu").next_known.tolist() == [True, False]
