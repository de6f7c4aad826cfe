"""Every space becomes the columns that Gymnasium's own flattening gives; the cache is never older than the file."""

import os
import threading
import warnings
from dataclasses import fields
from pathlib import Path

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer

from flowrl.data import reading
from flowrl.data.array_cache import CACHE_NAME
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.minari_store import open_dataset
from flowrl.data.reading import read_arrays
from flowrl.data.stored_arrays import StoredArrays
from flowrl.errors import InputError

ID = "test/spaces-v0"
UNBOUNDED = Box(-np.inf, np.inf, (2,), np.float64)
GOAL = Dict({"observation": Box(-9, 9, (3,), np.float64), "achieved_goal": UNBOUNDED, "desired_goal": UNBOUNDED})
SPACES = {
    "goal": GOAL,
    "order": Dict([("z", UNBOUNDED), ("a", Box(-9, 9, (1,)))]),
    "nested": Dict({"goal": Dict({"kettle": UNBOUNDED, "burner": Box(-9, 9, (1,))}), "flags": MultiBinary(3)}),
    "matrix": Box(-9, 9, (2, 3), np.float32),
    "tuple": Tuple((Discrete(4, start=-1), UNBOUNDED)),
    "discrete": Discrete(5, start=2),
    "scalar": Box(-9, 9, (), np.float32),
}


def stack(values):
    """Samples of a space as Minari stores them: a Dict of arrays, not an array of Dicts."""
    if isinstance(values[0], dict):
        return {key: stack([value[key] for value in values]) for key in values[0]}
    if isinstance(values[0], tuple):
        return tuple(stack(list(part)) for part in zip(*values, strict=True))
    return np.stack(values)


def write(observation_space, action_space, lengths, data_format="hdf5", seed=0):
    """A dataset of sampled observations and actions; the samples, episode by episode."""
    observation_space.seed(seed)
    action_space.seed(seed)
    episodes, buffers = [], []
    for number, length in enumerate(lengths):
        seen = [observation_space.sample() for _ in range(length + 1)]
        done = [action_space.sample() for _ in range(length)]
        last = np.arange(length) == length - 1
        terminated = bool(number % 2)
        episodes.append((seen, done))
        buffers.append(
            EpisodeBuffer(
                id=number, observations=stack(seen), actions=stack(done), rewards=np.arange(length) + number / 2,
                terminations=last & terminated, truncations=last & (not terminated),
            )
        )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            ID, buffers, observation_space=observation_space, action_space=action_space, data_format=data_format
        )
    return episodes


@pytest.mark.parametrize("name", SPACES)
def test_columns_are_those_of_gymnasiums_flatten_with_dicts_by_name(name):
    space, actions = SPACES[name], Box(-1, 1, (2,), np.float32)
    lengths = [3, 1, 4]
    episodes = write(space, actions, lengths)
    arrays = read_arrays(open_dataset(ID))
    by_name = Dict(sorted(space.spaces.items())) if isinstance(space, Dict) else space
    expected = np.concatenate([[gym.spaces.flatten(by_name, value) for value in seen] for seen, _ in episodes])
    np.testing.assert_array_equal(arrays.observations, expected.astype(np.float32))
    np.testing.assert_array_equal(arrays.actions, np.concatenate([done for _, done in episodes]))
    assert arrays.lengths.tolist() == lengths
    assert arrays.terminations.tolist() == [False] * 3 + [True] + [False] * 4
    assert arrays.truncations.tolist() == [False, False, True, False, False, False, False, True]
    dataset = TrajectoryDataset.from_minari(ID)
    np.testing.assert_array_equal(dataset.final_observations[-1], expected[-1].astype(np.float32))
    assert dataset.discrete_start is None


def test_minaris_own_episodes_give_the_same_arrays(monkeypatch):
    write(GOAL, Discrete(3, start=5), [2, 3])
    dataset = open_dataset(ID)
    expected = read_arrays(dataset, cache=False)
    monkeypatch.setattr(Path, "exists", lambda self: False if self.name == "main_data.hdf5" else os.path.exists(self))
    given = read_arrays(dataset, cache=False)
    for field in fields(StoredArrays):
        np.testing.assert_array_equal(getattr(given, field.name), getattr(expected, field.name))
        assert getattr(given, field.name).dtype == getattr(expected, field.name).dtype


def test_discrete_actions_become_one_hot_rows():
    episodes = write(UNBOUNDED, Discrete(4, start=-2), [5, 2])
    dataset = TrajectoryDataset.from_minari(ID)
    chosen = np.concatenate([done for _, done in episodes])
    assert dataset.discrete_start == -2
    assert dataset.actions.shape == (7, 4)
    np.testing.assert_array_equal(dataset.actions.argmax(1) - 2, chosen)
    assert torch.equal(dataset.actions.sum(1), torch.ones(7))
    assert (dataset.action_low.tolist(), dataset.action_high.tolist()) == ([0] * 4, [1] * 4)


@pytest.mark.parametrize(
    ("value", "message"), [(7, "hold 7: they must be 0 to 3"), (-1, "hold -1: they must be 0 to 3")]
)
def test_a_choice_that_does_not_exist_is_refused(value, message, minari_root):
    write(UNBOUNDED, Discrete(4), [3])
    with h5py.File(minari_root / ID / "data/main_data.hdf5", "a") as file:
        file["episode_0/actions"][1] = value
    with pytest.raises(InputError, match=f"episode 0: actions {message}"):
        read_arrays(open_dataset(ID))


def test_choices_that_are_no_whole_numbers_are_refused(minari_root):
    write(UNBOUNDED, Discrete(4), [3])
    with h5py.File(minari_root / ID / "data/main_data.hdf5", "a") as file:
        del file["episode_0/actions"]
        file["episode_0/actions"] = np.array([0.0, 1.5, 2.0])
    with pytest.raises(InputError, match="actions are float64: they must be whole numbers"):
        read_arrays(open_dataset(ID))


# The cache


@pytest.fixture
def cached(minari_root: Path) -> Path:
    """The cache of a dataset that was read once."""
    write(GOAL, Discrete(3), [2, 3])
    read_arrays(open_dataset(ID))
    path = minari_root / ID / "data" / CACHE_NAME
    assert path.exists()
    return path


def same(one: StoredArrays, other: StoredArrays) -> bool:
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(StoredArrays))


def test_the_cache_is_read_and_gives_the_same_arrays(cached, monkeypatch):
    fresh = read_arrays(open_dataset(ID), cache=False)
    monkeypatch.setattr(reading, "read_hdf5", lambda *_: pytest.fail("the file was read"))
    assert same(read_arrays(open_dataset(ID)), fresh)


def test_a_changed_file_makes_a_new_cache(cached):
    before = read_arrays(open_dataset(ID))
    with h5py.File(cached.parent / "main_data.hdf5", "a") as file:
        file["episode_0/rewards"][0] = 99.0  # in place: the size stays
    after = read_arrays(open_dataset(ID))
    assert after.rewards[0] == 99.0 != before.rewards[0]
    assert same(after, read_arrays(open_dataset(ID)))


def test_a_file_that_was_replaced_by_one_of_the_same_size_and_time_is_read_again(cached):
    file = cached.parent / "main_data.hdf5"
    stat = file.stat()
    other = file.with_name("other")
    other.write_bytes(file.read_bytes())
    with h5py.File(other, "a") as opened:
        opened["episode_0/rewards"][0] = 99.0
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.replace(other, file)
    assert read_arrays(open_dataset(ID)).rewards[0] == 99.0


@pytest.mark.parametrize("damage", ["truncated", "flipped", "garbage", "empty"])
def test_a_damaged_cache_is_made_again(cached, damage):
    fresh = read_arrays(open_dataset(ID), cache=False)
    content = bytearray(cached.read_bytes())
    if damage == "flipped":
        at = content.find(fresh.observations.tobytes())
        assert at > 0
        content[at + 5] ^= 0xFF
    damaged = {"truncated": content[: len(content) // 2], "garbage": b"no zip", "empty": b""}.get(damage, content)
    cached.write_bytes(bytes(damaged))
    assert same(read_arrays(open_dataset(ID)), fresh)
    assert same(reading._load_cache(cached, _key_of(cached)), fresh), "the cache is whole again"


def _key_of(cached: Path) -> str:
    with np.load(cached) as file:
        return str(file["key"])


def test_a_folder_that_cannot_be_written_is_read_without_a_cache(cached, monkeypatch):
    cached.unlink()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(read_arrays(open_dataset(ID)).rewards) == 5
    assert sorted(path.name for path in cached.parent.iterdir()) == ["main_data.hdf5", "metadata.json"]


def test_a_part_of_a_dataset_makes_no_cache_and_takes_none(cached):
    part = open_dataset(ID).filter_episodes(lambda episode: episode.id == 1)
    assert read_arrays(part).lengths.tolist() == [3]
    cached.unlink()
    read_arrays(part)
    assert not cached.exists()


def test_many_readers_at_once_all_get_the_whole(cached):
    fresh = read_arrays(open_dataset(ID), cache=False)
    results, threads = [], []
    for _ in range(8):

        def read_and_spoil():
            for _ in range(5):
                cached.unlink(missing_ok=True)
                results.append(same(read_arrays(open_dataset(ID)), fresh))

        threads.append(threading.Thread(target=read_and_spoil))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 40
    assert not list(cached.parent.glob(".*"))


# Fuzzing: whatever the file holds, the answer is arrays or one sentence


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory) -> tuple[Path, bytes, StoredArrays]:
    root = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        write(GOAL, Discrete(3), [2, 3])
        arrays = read_arrays(open_dataset(ID), cache=False)
    file = root / ID / "data/main_data.hdf5"
    return file, file.read_bytes(), arrays


def loaded_or_refused(file: Path, content: bytes) -> TrajectoryDataset | None:
    file.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return TrajectoryDataset.from_minari(str(file.parent.parent))
        except InputError:
            return None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_give_a_dataset_or_one_sentence(whole_file, data):
    file, content, arrays = whole_file
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 8))):
        changed[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    dataset = loaded_or_refused(file, bytes(changed))
    if dataset is not None:
        assert dataset.lengths.tolist() == arrays.lengths.tolist() or dataset.steps == int(dataset.lengths.sum())
        assert dataset.observations.shape == (dataset.steps, 7)
        assert torch.isfinite(dataset.observations).all()
        assert torch.equal(dataset.actions.sum(1), torch.ones(dataset.steps))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.floats(0, 1, exclude_max=True), tail=st.binary(max_size=64))
def test_a_cut_file_is_refused(whole_file, kept, tail):
    file, content, _ = whole_file
    assert loaded_or_refused(file, content[: int(kept * len(content) * 0.99)] + tail) is None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=4096))
def test_random_bytes_are_refused(whole_file, content):
    assert loaded_or_refused(whole_file[0], content) is None


def test_an_array_that_claims_more_than_the_file_can_hold_is_refused(cached):
    with h5py.File(cached.parent / "main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
        file.create_dataset("episode_0/rewards", (2**40,), np.float64, chunks=(2**20,))  # nothing of it is written
    with pytest.raises(InputError, match=r"episode 0: rewards of shape \(1099511627776,\) are not wholly in"):
        read_arrays(open_dataset(ID))
