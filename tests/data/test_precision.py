"""Numbers that need more digits than float32 has are centred, or named; all others are as they were, to the bit."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer

from flowrl.data import TrajectoryDataset
from flowrl.data.array_cache import CACHE_NAME
from flowrl.data.d4rl import get_dataset
from flowrl.data.minari_store import open_dataset
from flowrl.data.mixing import mix
from flowrl.data.reading import read_arrays
from flowrl.data.selection import Selection, load
from flowrl.data.stored_arrays import flags
from flowrl.errors import InputError

ID = "test/precise-v0"
LENGTHS = [5, 3, 8]
STARTS = np.cumsum([0, *(length + 1 for length in LENGTHS)])
GENERATOR = np.random.default_rng(0)
NOISE = GENERATOR.normal(size=(STARTS[-1], 2))
SECONDS = np.concatenate([np.arange(length + 1.0) for length in LENGTHS])


def with_first(values):
    """Observations (rows, 2) whose second feature is an ordinary one."""
    return np.stack([values, NOISE[:, 1].astype(np.asarray(values).dtype)], 1)


def write(observations, rewards=None, actions=None, flag=np.bool_, space=None, dataset_id=ID):
    """Write a dataset with Minari itself, types and all."""
    steps = sum(LENGTHS)
    rewards = np.arange(steps) % 3 if rewards is None else rewards
    actions = NOISE[:steps, :1].astype(np.float32) if actions is None else actions
    buffers, ends = [], np.cumsum(LENGTHS)
    for number, (length, end) in enumerate(zip(LENGTHS, ends.tolist(), strict=True)):
        last = np.arange(length) == length - 1
        rows = slice(end - length, end)
        buffers.append(
            EpisodeBuffer(
                id=number, observations=observations[STARTS[number] : STARTS[number + 1]], actions=actions[rows],
                rewards=rewards[rows], terminations=last.astype(flag), truncations=(last & False).astype(flag),
            )
        )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            dataset_id,
            buffers,
            observation_space=space or gym.spaces.Box(-np.inf, np.inf, (2,), np.float64),
            action_space=gym.spaces.Box(-np.inf, np.inf, (1,), np.float32),
        )
    return dataset_id


def arrays_of(observations, **others):
    write(observations, **others)
    return read_arrays(open_dataset(ID))


CENTRED = {
    "seconds": 1.7e9 + SECONDS,
    "map": 4e6 + NOISE[:, 0],
    "nanoseconds": 1.7e18 + 1e9 * SECONDS,
    "whole nanoseconds": (1_700_000_000_000_000_000 + 1_000_000_000 * SECONDS.astype(np.int64)),
    "below zero": -3e7 + 1e-2 * NOISE[:, 0],
}


@pytest.mark.parametrize("name", CENTRED)
def test_what_lies_around_a_large_number_is_centred(name):
    stored = CENTRED[name]
    arrays = arrays_of(with_first(stored))
    assert arrays.observations.dtype == np.float32
    exact = stored.astype(np.float64)
    np.testing.assert_allclose(arrays.observations[:, 0], exact - exact.mean(), rtol=1e-6, atol=1e-6 * exact.std())
    assert arrays.offset.tolist() == [exact.mean(), 0.0]
    assert not len(arrays.rounded)
    np.testing.assert_array_equal(
        get_dataset(ID)["observations"][:2, 0], (arrays.observations[:2, 0] + arrays.offset[0])
    )


AS_THEY_ARE = {
    "ordinary": NOISE[:, 0],
    "far from zero": 1e3 + NOISE[:, 0],
    "tiny": 1e-12 * NOISE[:, 0],
    "constant": np.full(STARTS[-1], 0.1),
    "large constant": np.full(STARTS[-1], 1.7e9 + 0.3),
    "zero": np.zeros(STARTS[-1]),
    "constant but for float64's rounding": 0.3 + 1e-16 * np.round(NOISE[:, 0]),
    "float32": np.float32(4e6 + NOISE[:, 0]),
    "at rest but for a tremor": np.where(np.arange(STARTS[-1]) % 4, NOISE[:, 0], 1.0 + 1e-10 * NOISE[:, 0]),
    "rests at last": np.where(SECONDS < 3, NOISE[:, 0], 1.0 + 1e-10 * NOISE[:, 0]),
    "goal of an episode": np.repeat([1e5, 2e5, 3e5], [length + 1 for length in LENGTHS]),
}


@pytest.mark.parametrize("name", AS_THEY_ARE)
def test_all_else_is_rounded_to_float32_and_nothing_more(name):
    stored = with_first(AS_THEY_ARE[name])
    dataset = TrajectoryDataset.from_minari(write(stored))
    rows = np.delete(np.arange(len(stored)), STARTS[1:] - 1)
    np.testing.assert_array_equal(dataset.observations.numpy(), stored[rows].astype(np.float32))
    assert dataset.offset is None
    assert dataset.cautions == ()


def test_the_offset_is_in_the_fingerprint():
    one = TrajectoryDataset.from_minari(write(with_first(2.0**31 + SECONDS)))
    other = TrajectoryDataset.from_minari(write(with_first(2.0**32 + SECONDS), dataset_id="test/other-v0"))
    assert torch.equal(one.observations, other.observations)
    assert one.fingerprint != other.fingerprint


def test_the_cache_keeps_all_of_it(minari_root):
    write(with_first(1.7e9 + SECONDS), rewards=1e10 + np.arange(sum(LENGTHS)) % 3)
    fresh = read_arrays(open_dataset(ID))
    assert (minari_root / ID / "data" / CACHE_NAME).exists()
    again = read_arrays(open_dataset(ID))
    assert again.offset.tolist() == fresh.offset.tolist() != [0, 0]
    assert again.rounded.tolist() == fresh.rounded.tolist() == ["the reward"]
    np.testing.assert_array_equal(again.observations, fresh.observations)


@pytest.mark.parametrize("stored", [1.7e9 + SECONDS, NOISE[:, 0]], ids=["clock", "ordinary"])
def test_other_formats_and_plain_arrays_give_the_same(stored):
    observations = with_first(stored)
    expected = arrays_of(observations)
    parts = np.split(observations, STARTS[1:-1])
    actions = np.split(NOISE[: sum(LENGTHS), :1].astype(np.float32), np.cumsum(LENGTHS)[:-1])
    rewards = np.split(np.arange(sum(LENGTHS)) % 3, np.cumsum(LENGTHS)[:-1])
    plain = TrajectoryDataset.from_arrays(parts, actions, rewards, [True] * 3, action_low=-9, action_high=9)
    stored_dataset = open_dataset(ID)
    foreign = SimpleNamespace(
        **{name: getattr(stored_dataset, name) for name in ("id", "observation_space", "action_space")},
        episode_indices=stored_dataset.episode_indices,
        iterate_episodes=stored_dataset.iterate_episodes,
        storage=SimpleNamespace(data_path="no/such/folder"),
    )
    joined = read_arrays(foreign)
    np.testing.assert_array_equal(joined.observations, expected.observations)
    np.testing.assert_array_equal(joined.offset, expected.offset)
    np.testing.assert_array_equal(plain.final_observations.numpy(), expected.observations[STARTS[1:] - 1])
    assert (plain.offset is None) == (not expected.offset.any())
    assert plain.offset is None or plain.offset.tolist() == expected.offset.tolist()


@settings(max_examples=60, deadline=None)
@given(
    offset=st.floats(-1e12, 1e12),
    spread=st.floats(1e-6, 1e6),
    seed=st.integers(0, 99),
)
def test_no_offset_costs_more_than_a_thousandth_of_the_spread(offset, spread, seed):
    values = offset + spread * np.random.default_rng(seed).normal(size=(40, 1))
    dataset = TrajectoryDataset.from_arrays([values], [np.zeros((39, 1))], [np.zeros(39)], [False])
    kept = dataset.observations.numpy().astype(np.float64) + (0.0 if dataset.offset is None else dataset.offset)
    exact = values[:-1]
    if exact.std() > 1e-9 * np.abs(exact).max():
        assert np.abs(kept - exact).max() < 1e-3 * values.std()


@pytest.mark.parametrize("start", [0.0, 1.7e9])
def test_of_many_episodes_a_part_decides_and_all_are_centred(start):
    values = [np.stack([start + np.arange(3.0) + 10 * number, np.full(3, 0.1)], 1) for number in range(450)]
    dataset = TrajectoryDataset.from_arrays(values, [np.zeros((2, 1))] * 450, [np.zeros(2)] * 450, [True] * 450)
    assert (dataset.offset is not None) == (start > 0)
    times = dataset.observations.numpy()[:, 0] + (0.0 if dataset.offset is None else dataset.offset[0])
    np.testing.assert_allclose(times, np.concatenate([value[:-1, 0] for value in values]), rtol=0, atol=2e-4)


# What is lost all the same is named


@pytest.mark.parametrize(
    ("others", "name"),
    [
        ({"observations": with_first(1e9 * (np.arange(STARTS[-1]) > 9) + SECONDS)}, "observation feature 0"),
        ({"observations": with_first(np.where(SECONDS == 0, 0.0, 1.7e9 + SECONDS))}, "observation feature 0"),
        ({"rewards": 1e9 + NOISE[: sum(LENGTHS), 0]}, "the reward"),
        ({"rewards": 10**12 + np.arange(sum(LENGTHS))}, "the reward"),
        ({"actions": 4e8 + NOISE[: sum(LENGTHS), :1]}, "action 0"),
    ],
    ids=["two clocks", "clock with gaps", "rewards", "whole rewards", "actions"],
)
def test_lost_digits_are_said(others, name):
    dataset = TrajectoryDataset.from_minari(write(**{"observations": NOISE} | others))
    assert len(dataset.cautions) == 1
    assert "precision" in dataset.cautions[0]
    assert name in dataset.cautions[0]


# Mixtures


def clock(name, start):
    return TrajectoryDataset.from_minari(write(with_first(start + SECONDS), dataset_id=f"test/{name}-v0"))


def test_a_mixture_has_one_offset_and_each_part_its_own_times():
    early, late = clock("early", 1.7e9), clock("late", 1.7e9 + 1e4)
    mixed = mix("m", [early, late])
    raw = mixed.observations.numpy().astype(np.float64) + mixed.offset
    times = SECONDS[np.delete(np.arange(STARTS[-1]), STARTS[1:] - 1)]
    np.testing.assert_allclose(raw[:, 0], np.concatenate([1.7e9 + times, 1.7e9 + 1e4 + times]), rtol=0, atol=1e-3)
    np.testing.assert_array_equal(mixed.observations[:, 1], torch.cat([early.observations, late.observations])[:, 1])
    finals = mixed.final_observations.numpy().astype(np.float64) + mixed.offset
    np.testing.assert_allclose(finals[:3, 0], 1.7e9 + np.array(LENGTHS), rtol=0, atol=1e-3)
    assert mixed.cautions == ()


def test_a_mixture_of_equal_offsets_is_joined_to_the_bit():
    one = clock("one", 1.7e9)
    mixed = mix("m", [one, replace(one, id="again")])
    assert mixed.offset.tolist() == one.offset.tolist()
    assert torch.equal(mixed.observations, torch.cat([one.observations, one.observations]))


def test_a_mixture_that_loses_digits_says_so():
    mixed = mix("m", [clock("now", 1.7e9), clock("zero", 0.0)])
    assert any("feature 0" in caution and "precision" in caution for caution in mixed.cautions)


# Flags of any type, and episodes without steps


@pytest.mark.parametrize("flag", [np.float64, np.float32, np.float16, np.int64, np.uint8, np.int8, np.bool_])
def test_flags_are_read_of_any_type(flag):
    arrays = arrays_of(NOISE, flag=flag)
    assert arrays.terminations.dtype == np.bool_
    assert np.flatnonzero(arrays.terminations).tolist() == (np.cumsum(LENGTHS) - 1).tolist()
    assert not arrays.truncations.any()


@pytest.mark.parametrize("value", [0.5, 2.0, np.nan, -1.0])
@pytest.mark.parametrize("name", ["terminations", "truncations"])
def test_numbers_that_are_no_flags_are_refused_by_name(name, value, minari_root):
    write(NOISE, flag=np.float64)
    with h5py.File(minari_root / ID / "data/main_data.hdf5", "a") as file:
        file[f"episode_1/{name}"][0] = value
    with pytest.raises(InputError, match=f"episode 1: {name} hold {value}"):
        read_arrays(open_dataset(ID))


def test_flags_as_objects_and_as_an_enumeration():
    assert flags(0, "terminations", np.array([True, False, 1], object)).tolist() == [True, False, True]
    for bad in (np.array([None]), np.array(["yes"]), np.array([b"1"])):
        with pytest.raises(InputError, match="episode 3: truncations"):
            flags(3, "truncations", bad)


def test_flags_of_another_enumeration_are_read(minari_root):
    write(NOISE)
    with h5py.File(minari_root / ID / "data/main_data.hdf5", "a") as file:
        del file["episode_0/terminations"]
        kind = h5py.enum_dtype({"GOES_ON": 0, "OVER": 1}, basetype="i2")
        file.create_dataset("episode_0/terminations", data=np.array([0, 0, 0, 0, 1], "i2"), dtype=kind)
    assert read_arrays(open_dataset(ID)).terminations[:5].tolist() == [False] * 4 + [True]


def test_a_selection_counts_episodes_as_the_dataset_does(minari_root):
    write(NOISE)
    with h5py.File(minari_root / ID / "data/main_data.hdf5", "a") as file:
        for name, kept in (
            ("observations", 1),
            ("actions", 0),
            ("rewards", 0),
            ("terminations", 0),
            ("truncations", 0),
        ):
            rows = file[f"episode_1/{name}"][:kept]
            del file[f"episode_1/{name}"]
            file[f"episode_1/{name}"] = rows
    lengths = {text: load(ID, Selection(text)).selected.lengths.tolist() for text in (":", ":2", "1:", "2", "-2:")}
    assert lengths == {":": [5, 8], ":2": [5], "1:": [8], "2": [8], "-2:": [8]}
    with pytest.raises(InputError, match="without steps"):
        load(ID, Selection("1"))
