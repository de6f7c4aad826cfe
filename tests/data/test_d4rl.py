"""D4RL files: every quirk read as it is, every broken file refused, and D4RL's views row by row."""

import os
import re
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowrl.data import d4rl
from flowrl.data.d4rl import (
    d4rl_name,
    find_file,
    get_dataset,
    get_normalized_score,
    import_file,
    minari_id,
    qlearning_dataset,
    read_file,
    sequence_dataset,
)
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.minari_store import open_dataset
from flowrl.errors import InputError

ID = "d4rl/test/some-v0"


def arrays(steps=12, terminals=(3,), timeouts=(8,), following=True, dtype=np.float32):
    """A file's arrays: row t has the observation (t, -t, t / 2), the action (t / 100, -t / 100) and the reward
    t + 0.25; what follows the last row of an episode is (1000 + t, 0, 0)."""
    t = np.arange(steps, dtype=dtype)
    observations = np.stack([t, -t, t / 2], 1)
    after = np.stack([t + 1, -t - 1, (t + 1) / 2], 1)
    ends = sorted({*terminals, *(timeouts or ()), steps - 1})
    after[ends] = np.stack([1000 + t[ends], 0 * t[ends], 0 * t[ends]], 1)
    found = {
        "observations": observations,
        "actions": np.stack([t / 100, -t / 100], 1),
        "rewards": t + dtype(0.25),
        "terminals": np.isin(np.arange(steps), terminals),
    }
    if timeouts is not None:
        found["timeouts"] = np.isin(np.arange(steps), timeouts)
    if following:
        found["next_observations"] = after
    return found


def save(path, content, **keywords):
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            file.create_dataset(name, data=value, **keywords)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.hdf5"


@pytest.fixture
def imported(path):
    """Imports arrays under `ID`."""

    def do(content, **keywords):
        keywords = {"env_spec": None, "reference_scores": None, "force": True} | keywords
        return import_file(save(path, content), ID, **keywords)

    return do


def refused(path, **keywords):
    """The sentence that reading ends in."""
    with pytest.raises(InputError) as caught:
        read_file(path, **keywords)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert 10 < len(message) < 500
    return message


def tree(root):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))}


# Reading, by hand


def test_a_file_by_hand(path):
    recording = read_file(save(path, arrays()))
    assert [len(e.rewards) for e in recording.episodes] == [4, 5]
    first, last = recording.episodes
    np.testing.assert_array_equal(first.observations[:, 0], [0, 1, 2, 3, 1003])
    np.testing.assert_array_equal(last.observations, [*[[t, -t, t / 2] for t in (4, 5, 6, 7, 8)], [1008, 0, 0]])
    np.testing.assert_array_equal(last.actions, np.float32([[t / 100, -t / 100] for t in (4, 5, 6, 7, 8)]))
    np.testing.assert_array_equal(last.rewards, [4.25, 5.25, 6.25, 7.25, 8.25])
    assert first.terminations.tolist() == [False, False, False, True]
    assert not first.truncations.any()
    assert not last.terminations.any()
    assert last.truncations.tolist() == [False, False, False, False, True]
    assert (recording.dropped, recording.repeated, recording.mismatches, recording.horizon) == (3, 0, 0, None)
    assert recording.steps == 9
    assert {e.observations.dtype for e in recording.episodes} == {np.dtype(np.float32)}


def test_without_next_observations_the_last_one_is_repeated_and_never_the_next_rows(path):
    recording = read_file(save(path, arrays(following=False)))
    assert recording.episodes[0].observations[:, 0].tolist() == [0, 1, 2, 3, 3]
    assert recording.episodes[1].observations[:, 0].tolist() == [4, 5, 6, 7, 8, 8]
    assert (recording.repeated, recording.mismatches) == (2, None)
    assert "The last observation of each episode is not real" in " ".join(recording.notes())
    assert "unchecked" in " ".join(recording.notes())


def test_next_observations_that_are_the_rows_shifted_by_one_are_no_last_observations(path):
    content = arrays()
    content["next_observations"] = np.concatenate([content["observations"][1:], content["observations"][:1]])
    recording = read_file(save(path, content))
    assert recording.episodes[0].observations[:, 0].tolist() == [0, 1, 2, 3, 3]
    assert (recording.repeated, recording.mismatches) == (2, None)
    content["next_observations"][3] = [77, 7, 7]
    recording = read_file(save(path, content))
    assert recording.episodes[0].observations[:, 0].tolist() == [0, 1, 2, 3, 77]
    assert (recording.repeated, recording.mismatches) == (1, 0)
    assert "of 1 of 2 episodes" in " ".join(recording.notes())


def test_the_last_row_may_end_an_episode(path):
    recording = read_file(save(path, arrays(12, terminals=(3,), timeouts=(11,))))
    assert recording.episodes[-1].observations[:, 0].tolist() == [4, 5, 6, 7, 8, 9, 10, 11, 1011]
    assert (recording.dropped, recording.repeated) == (0, 0)


def test_a_file_without_timeouts_is_cut_at_the_horizon(path):
    save(path, arrays(14, terminals=(3, 9), timeouts=None, following=False))
    recording = read_file(path, horizon=3)
    #                       0 1 2 | 3 | 4 5 6 | 7 8 9 | 10 11 12 | 13 is dropped
    assert [e.observations[0, 0] for e in recording.episodes] == [0, 3, 4, 7, 10]
    assert [e.terminations[-1] for e in recording.episodes] == [False, True, False, True, False]
    # The step that fails at the very limit is both, as Gymnasium has it.
    assert [e.truncations[-1] for e in recording.episodes] == [True, False, True, True, True]
    assert (recording.dropped, recording.horizon) == (1, 3)
    assert "cut at 3 steps" in " ".join(recording.notes())
    assert [len(e.rewards) for e in read_file(path).episodes] == [4, 6]


def test_a_file_without_timeouts_and_without_a_horizon_is_refused(path):
    save(path, arrays(timeouts=None))
    assert "--horizon must say after how many steps an episode is cut" in refused(path, horizon=None)


def test_next_rows_in_another_precision_are_no_last_observations(path):
    content = arrays(dtype=np.float64)
    content["observations"] = content["observations"] + 1 / 3
    content["next_observations"] = np.roll(content["observations"], -1, 0).astype(np.float32)
    recording = read_file(save(path, content))
    assert recording.repeated == len(recording.episodes), "the file's last row tells no more than the others"
    for episode in recording.episodes:
        np.testing.assert_array_equal(episode.observations[-1], episode.observations[-2])


def test_a_horizon_does_not_cut_a_file_that_has_timeouts(path):
    assert [len(e.rewards) for e in read_file(save(path, arrays()), horizon=2).episodes] == [4, 5]


def test_a_step_that_is_terminal_and_timeout_keeps_both(path):
    recording = read_file(save(path, arrays(terminals=(3, 8), timeouts=(8,))))
    assert recording.episodes[1].terminations[-1]
    assert recording.episodes[1].truncations[-1]


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize(
    "layout",
    [
        {}, {"chunks": (5, 1)}, {"compression": "gzip", "chunks": True}, {"compression": "lzf", "shuffle": True},
        {"compression": "gzip", "fletcher32": True, "maxshape": (None, None)},
    ],
    ids=["flat", "chunked", "gzip", "lzf", "resizable"],
)  # fmt: skip
def test_every_layout_gives_the_same(path, tmp_path, layout, libver):
    content = arrays()
    expected = read_file(save(path, content))
    columns = {k: v[:, None] if v.ndim == 1 else v for k, v in content.items()}
    with h5py.File(tmp_path / "other.hdf5", "w", libver=libver) as file:
        for name, value in columns.items():
            file.create_dataset(name, data=value, **layout)
        file.create_dataset("infos/qpos", data=np.zeros((12, 6)))
        file["metadata/algorithm"] = "SAC"
        file["metadata/policy/fc0/weight"] = np.zeros((4, 3))
    found = read_file(tmp_path / "other.hdf5")
    assert found.left_out == ("infos", "metadata")
    for ours, theirs in zip(found.episodes, expected.episodes, strict=True):
        for name in ("observations", "actions", "rewards", "terminations", "truncations"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
            assert getattr(ours, name).dtype == getattr(theirs, name).dtype


@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f4", "<f8", ">f8", "<i4", "u1"])
def test_every_type_keeps_its_figures(path, kind):
    content = arrays()
    content["rewards"] = np.arange(12).astype(kind)
    content["terminals"] = content["terminals"].astype(kind)
    rewards = read_file(save(path, content)).episodes[1].rewards
    assert rewards.tolist() == [4, 5, 6, 7, 8]
    assert rewards.dtype == (np.float32 if kind[1:] in ("f2", "f4") else np.float64)


def test_float64_figures_are_kept_as_such(path):
    content = arrays(dtype=np.float64)
    content["rewards"][5] = 0.1
    assert read_file(save(path, content)).episodes[1].rewards[1] == 0.1


@dataclass
class Row:
    """One line of the oracle's episodes."""

    observation: list
    action: list
    reward: float
    terminal: bool
    timeout: bool


def read_slowly(content, horizon):
    """Episodes as lists of rows with the observation after each, row by row; and the steps dropped."""
    episodes, rows = [], []
    for t in range(len(content["rewards"])):
        terminal = bool(content["terminals"][t])
        timeout = bool(content["timeouts"][t]) if "timeouts" in content else len(rows) + 1 == horizon
        rows.append(
            Row(content["observations"][t].tolist(), content["actions"][t].tolist(), float(content["rewards"][t]),
                terminal, timeout)
        )  # fmt: skip
        if terminal or timeout:
            final = content["next_observations"] if "next_observations" in content else content["observations"]
            episodes.append((rows, final[t].tolist()))
            rows = []
    return episodes, len(rows)


@st.composite
def files(draw):
    """Arrays of a file with random flags; no two observations are equal."""
    steps = draw(st.integers(1, 40))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    often = draw(st.sampled_from([0.05, 0.3, 0.9]))
    content = {
        "observations": generator.normal(size=(steps, 3)).astype(dtype),
        "actions": generator.uniform(-1, 1, size=(steps, 2)).astype(dtype),
        "rewards": generator.normal(size=steps).astype(dtype),
        "terminals": generator.random(steps) < often,
    }
    horizon = draw(st.integers(1, 12))
    if draw(st.booleans()):
        content["timeouts"] = generator.random(steps) < often
    if draw(st.booleans()):
        after = np.concatenate([content["observations"][1:], generator.normal(size=(1, 3))]).astype(dtype)
        ends = np.concatenate([[len(rows) for rows, _ in read_slowly(content, horizon)[0]]]).cumsum().astype(int) - 1
        after[ends] = generator.normal(size=(len(ends), 3))
        content["next_observations"] = after
    return content, horizon


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files(), st.booleans(), st.booleans())
def test_reading_is_what_a_slow_loop_finds(tmp_path, file, packed, columns):
    content, horizon = file
    stored = {k: v[:, None] if columns and v.ndim == 1 else v for k, v in content.items()}
    path = save(tmp_path / "x.hdf5", stored, **({"compression": "gzip", "shuffle": True} if packed else {}))
    expected, dropped = read_slowly(content, horizon)
    if not expected:
        assert "no whole episode" in refused(path, horizon=horizon)
        return
    recording = read_file(path, horizon=horizon)
    assert len(recording.episodes) == len(expected)
    assert recording.dropped == dropped
    assert recording.repeated == (0 if "next_observations" in content else len(expected))
    for episode, (rows, final) in zip(recording.episodes, expected, strict=True):
        assert episode.observations.tolist() == [row.observation for row in rows] + [final]
        assert episode.actions.tolist() == [row.action for row in rows]
        assert episode.rewards.tolist() == [row.reward for row in rows]
        assert episode.terminations.tolist() == [row.terminal for row in rows]
        assert episode.truncations.tolist() == [row.timeout for row in rows]


# Alignment


@pytest.mark.parametrize("by", [-1, 1])
def test_flags_that_stand_off_their_row_are_refused(path, by):
    content = arrays(60, terminals=(), timeouts=range(9, 60, 10))
    content["timeouts"] = np.roll(content["timeouts"], by)
    message = refused(save(path, content))
    assert "next_observations is not the next row's observation at 5 steps" in message
    assert "--allow-misaligned" in message
    recording = read_file(path, allow_misaligned=True)
    assert recording.mismatches == 5
    assert "At 5 steps inside an episode" in " ".join(recording.notes())


def test_a_rare_mismatch_is_said_and_one_of_rounding_is_not(path):
    content = arrays(600, terminals=(), timeouts=range(9, 600, 10))
    content["next_observations"][13] += 1
    assert read_file(save(path, content)).mismatches == 1
    content["next_observations"][13] -= 1
    content["next_observations"] *= 1 + 1e-6
    assert read_file(save(path, content)).mismatches == 0


def test_what_follows_the_last_flag_is_not_compared(path):
    content = arrays(12, terminals=(3,), timeouts=(8,))
    content["next_observations"][9:] = 5
    assert read_file(save(path, content)).mismatches == 0


def test_figures_near_the_edge_of_float32_do_not_overflow_the_comparison(path):
    content = arrays()
    content["observations"][1], content["observations"][2] = 3e38, -3e38
    content["next_observations"][0], content["next_observations"][1] = 3e38, -3e38
    assert read_file(save(path, content)).mismatches == 0


# Files that are refused


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "terminals"])
def test_a_missing_array_is_named_with_those_present(path, name):
    content = arrays()
    del content[name]
    message = refused(save(path, content))
    assert f": no {name}; it has " in message
    assert "next_observations" in message


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "terminals", "timeouts", "next_observations"])
def test_arrays_that_do_not_fit_are_refused(path, name):
    for change in [lambda a: a[:-1], lambda a: a[:0], lambda a: a[None], lambda a: a[..., None, None]]:
        content = arrays()
        content[name] = change(content[name])
        message = refused(save(path, content))
        assert name in message or "observations" in message
        assert "shape" in message


@pytest.mark.parametrize(
    "value", [np.float32(3), h5py.Empty("f4"), "text", np.array([b"ab"] * 12), np.zeros(12, complex), None],
    ids=["scalar", "null", "text", "texts", "complex", "group"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["observations", "rewards", "timeouts"])
def test_anything_but_an_array_of_numbers_is_refused(path, name, value):
    content = arrays()
    del content[name]
    save(path, content)
    with h5py.File(path, "r+") as file:
        if value is None:
            file.create_group(name)
        else:
            file[name] = value
    assert name in refused(path)


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "next_observations"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_figures_that_are_not_finite_are_refused_with_their_row(path, name, value):
    content = arrays(dtype=np.float64)
    content[name][7] = value
    assert f"{name} hold NaN, infinity or a figure beyond float32, first in row 7" in refused(save(path, content))


@pytest.mark.parametrize("value", [2, -1, 0.5, np.nan])
def test_flags_other_than_0_and_1_are_refused(path, value):
    content = arrays()
    content["terminals"] = content["terminals"].astype(np.float32)
    content["terminals"][5] = value
    assert "terminals hold " in refused(save(path, content))


def test_a_boolean_that_is_neither_is_refused(path):
    save(path, arrays())
    with h5py.File(path) as file:
        at = file["timeouts"].id.get_offset() + 5
    content = bytearray(path.read_bytes())
    content[at] = 2
    path.write_bytes(content)
    assert "timeouts hold 2 in row 5" in refused(path)


def test_no_whole_episode_is_refused(path):
    assert "no terminal or timeout is set in 12 steps" in refused(save(path, arrays(terminals=(), timeouts=())))
    save(path, arrays(terminals=(), timeouts=None))
    assert "no timeouts to go with a horizon of 1,000 steps" in refused(path)
    assert read_file(path, horizon=12, allow_misaligned=True).steps == 12


def test_a_horizon_below_one_is_refused(path):
    with pytest.raises(InputError, match="horizon is 0: it must be at least 1"):
        read_file(save(path, arrays()), horizon=0)


def test_what_is_no_file_is_refused(tmp_path):
    assert "is not there" in refused(tmp_path / "nothing.hdf5")
    assert "is no file" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is no file" in refused(tmp_path / "pipe")  # and does not wait for a writer


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"no HDF5 at all\n" * 100])
def test_a_foreign_file_is_refused(path, content):
    path.write_bytes(content)
    assert "cannot be read as HDF5" in refused(path)


def test_a_foreign_hdf5_file_is_refused(path, write, numbered_episode):
    folder = write("test/minari-v0", [numbered_episode(0, 3)])
    shutil.copy(folder / "data/main_data.hdf5", path)
    assert "no observations, actions, rewards, terminals; it has episode_0" in refused(path)
    with h5py.File(path, "w") as file:
        for number in range(5000):
            file.create_group(f"episode\n{number}")
    assert r"'episode\n0', 'episode\n1', " in refused(path)
    h5py.File(path, "w").close()
    assert "it has nothing at all" in refused(path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_cut_at_any_byte_is_refused(path, packed):
    content = save(path, arrays(), **({"compression": "gzip"} if packed else {})).read_bytes()
    assert read_file(path).steps == 9
    for share in range(60):
        path.write_bytes(content[: len(content) * share // 60])
        refused(path)
    path.write_bytes(content[:-1])
    refused(path)


def test_links_out_of_the_file_are_not_followed(path, tmp_path):
    content = arrays()
    save(tmp_path / "other.hdf5", {"rewards": content.pop("rewards")})
    save(path, content)
    for link in [h5py.ExternalLink("other.hdf5", "/rewards"), h5py.SoftLink("/actions"), h5py.SoftLink("/rewards")]:
        with h5py.File(path, "r+") as file:
            file["rewards"] = link
        assert "rewards is a link" in refused(path)
        with h5py.File(path, "r+") as file:
            del file["rewards"]


def test_rows_that_were_never_written_are_not_read_as_zeros(path):
    for keywords in [
        {"shape": (10**12, 3), "dtype": "f4", "chunks": (1000, 3), "compression": "gzip"},
        {"shape": (10**12, 3), "dtype": "f4", "chunks": (1000, 3)},
        {"shape": (12, 3), "dtype": "f4"},
    ]:
        save(path, {k: v for k, v in arrays().items() if k != "observations"})
        with h5py.File(path, "r+") as file:
            file.create_dataset("observations", **keywords)
        assert "are not wholly in the file" in refused(path)
        with h5py.File(path, "r+") as file:
            if file["observations"].chunks:
                file["observations"][0] = 1
        assert "are not wholly in the file" in refused(path)


def test_a_chunk_that_was_never_written_is_not_read_as_zeros(path):
    content = arrays()
    save(path, {k: v for k, v in content.items() if k != "observations"})
    with h5py.File(path, "r+") as file:
        stored = file.create_dataset("observations", (12, 3), "f4", chunks=(4, 3), compression="gzip")
        for rows in (slice(0, 4), slice(8, 12)):
            stored[rows] = content["observations"][rows]
    assert "observations of shape (12, 3) are not wholly in the file" in refused(path)


def test_a_shape_beyond_the_file_is_refused_before_memory_is_taken(path):
    save(path, arrays(37))
    with h5py.File(path) as file:
        places = [(item.id.get_offset(), item.nbytes) for item in file.values()]
    content = path.read_bytes().replace(struct.pack("<Q", 37), struct.pack("<Q", 37 << 33))
    for offset, size in places:
        content = content.replace(struct.pack("<QQ", offset, size), struct.pack("<QQ", offset, size << 33))
    path.write_bytes(content)
    refused(path)  # by HDF5 itself or, for a release of it that opens such a file, by us


def test_rows_of_other_files_are_not_read(path, tmp_path):
    content = arrays()
    (tmp_path / "raw").write_bytes(content["rewards"].tobytes())
    save(path, {k: v for k, v in content.items() if k not in ("rewards", "timeouts")})
    with h5py.File(path, "r+") as file:
        file.create_dataset("rewards", (12,), "f4", external=[(str(tmp_path / "raw"), 0, 48)])
    assert "rewards of shape (12,) are not wholly in the file" in refused(path)
    with h5py.File(path, "r+") as file:
        del file["rewards"]
        layout = h5py.VirtualLayout((12,), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "x.hdf5"), "rewards", (12,))
        file.create_virtual_dataset("rewards", layout)
    assert "rewards of shape (12,) are not wholly in the file" in refused(path)


# Fuzzing


def read_or_refused(path):
    """The recording, or None for a file that is refused, in one sentence that names it."""
    try:
        return read_file(path, allow_misaligned=True)
    except InputError as error:
        message = str(error)
    assert str(path) in message
    assert "\n" not in message


def consistent(recording):
    """Whether the episodes are what `read_file` promises."""
    for episode in recording.episodes:
        length = len(episode.rewards)
        assert length >= 1
        assert len(episode.observations) == length + 1
        assert len(episode.actions) == len(episode.terminations) == len(episode.truncations) == length
        ends = episode.terminations | episode.truncations
        assert ends.tolist() == [False] * (length - 1) + [True]
        for array in (episode.observations, episode.actions, episode.rewards):
            assert np.isfinite(array.astype(np.float32)).all()


FUZZ = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_are_refused(tmp_path, content, signed):
    path = tmp_path / "x.hdf5"
    path.write_bytes((b"\x89HDF\r\n\x1a\n" if signed else b"") + content)
    refused(path)


@settings(FUZZ, derandomize=True)  # should HDF5 itself crash, then always
@given(st.integers(0, 3), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6))
def test_a_file_with_changed_bytes_is_refused_or_read_as_h5py_reads_it(tmp_path, kind, changes):
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w", libver="latest" if kind & 1 else "earliest") as file:
        for name, value in arrays().items():
            file.create_dataset(name, data=value, **({"compression": "gzip"} if kind & 2 else {}))
    content = bytearray(path.read_bytes())
    for place, byte in changes:
        content[int(place * len(content))] = byte
    path.write_bytes(content)
    recording = read_or_refused(path)
    if recording is None:
        return
    consistent(recording)
    with h5py.File(path) as file:
        rewards = file["rewards"][()].reshape(-1)
        np.testing.assert_array_equal(
            np.concatenate([e.rewards for e in recording.episodes]), rewards[: recording.steps]
        )
        whole = np.concatenate([e.observations[:-1] for e in recording.episodes])
        np.testing.assert_array_equal(whole, file["observations"][: recording.steps])


SHAPES = st.lists(st.sampled_from([0, 1, 2, 12, 13]), max_size=3).map(tuple)
TYPES = st.sampled_from(["f4", "f8", "i8", "u1", "?", "S3", "c8", "f2", ">f4"])


@FUZZ
@given(st.dictionaries(st.sampled_from([*arrays(), "infos"]), st.one_of(st.none(), st.tuples(SHAPES, TYPES))))
def test_wrong_shapes_types_and_groups_are_refused_or_fit(tmp_path, changes):
    content = {name: value for name, value in arrays().items() if name not in changes}
    path = save(tmp_path / "x.hdf5", content)
    with h5py.File(path, "r+") as file:
        for name, change in changes.items():
            if change is None:
                file.create_group(name)
            else:
                file[name] = np.ones(change[0], change[1])
    recording = read_or_refused(path)
    if recording is not None:
        consistent(recording)


# Importing


def test_what_is_imported_is_read_back(imported, minari_root):
    recording = imported(arrays(), reference_scores=(1.5, 9.5))
    dataset = minari.load_dataset(ID)
    for found, episode in zip(dataset, recording.episodes, strict=True):
        for name in ("observations", "actions", "rewards", "terminations", "truncations"):
            np.testing.assert_array_equal(getattr(found, name), getattr(episode, name))
    last = list(dataset)[-1]
    assert last.observations[-1].tolist() == [1008, 0, 0]
    metadata = dataset.storage.metadata
    assert metadata["repeated_final_observations"] == 0
    for part in ("some.hdf5", "D4RL", "CC BY 4.0", "last 3 steps", "last observation of every episode is real"):
        assert part in metadata["description"]
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (1.5, 9.5)
    loaded = TrajectoryDataset.from_minari(ID)
    assert loaded.lengths.tolist() == [4, 5]
    assert loaded.terminated.tolist() == [True, False]
    assert loaded.final_observations[:, 0].tolist() == [1003, 1008]
    assert sorted(p.name for p in minari_root.iterdir()) == ["d4rl"]


def test_the_metadata_say_what_is_not_real(imported):
    imported(arrays(following=False, timeouts=None), horizon=6)
    metadata = open_dataset(ID).storage.metadata
    assert metadata["repeated_final_observations"] == 2
    for part in ("last observation of each episode is not real", "no timeouts", "cut at 6 steps", "unchecked"):
        assert part in metadata["description"]


def test_spaces_are_those_of_the_data_without_an_environment(imported):
    imported(arrays())
    dataset = open_dataset(ID)
    assert dataset.env_spec is None
    assert dataset.observation_space == gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    assert dataset.action_space == gym.spaces.Box(-1, 1, (2,), np.float32)
    imported(arrays() | {"actions": np.full((12, 2), 1.5)})
    assert open_dataset(ID).action_space == gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)


def hopper_arrays(scale=1.0):
    content = arrays(following=False)
    content["observations"] = np.arange(132, dtype=np.float32).reshape(12, 11)
    content["actions"] = scale * np.linspace(-1, 1, 36, dtype=np.float32).reshape(12, 3)
    return content


def test_spaces_are_the_environments_where_the_data_lie_in_them(imported):
    imported(hopper_arrays(), env_spec=gym.spec("Hopper-v4"))  # and its being out of date is no warning
    env = gym.make("Hopper-v5")
    dataset = open_dataset(ID)
    assert dataset.env_spec.id == "Hopper-v4"
    assert (dataset.observation_space, dataset.action_space) == (env.observation_space, env.action_space)
    imported(hopper_arrays(scale=1.1), env_spec=gym.spec("Hopper-v4"))
    assert open_dataset(ID).action_space == gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    assert open_dataset(ID).env_spec.id == "Hopper-v4"


def test_another_environment_is_refused(imported, minari_root):
    with pytest.raises(InputError, match=r"observations have 3 figures, and the observation space of Hopper-v4 is Box"):
        imported(arrays(), env_spec=gym.spec("Hopper-v4"))
    assert not list(minari_root.iterdir())


def test_a_taken_id_is_refused_before_reading_and_force_replaces(imported, path, minari_root):
    imported(arrays())
    stood = tree(minari_root)
    with pytest.raises(InputError, match=f"{ID} exists already .*--force"):
        import_file("/no/such/file", ID, env_spec=None, reference_scores=None)
    with pytest.raises(InputError, match="is not there"):
        import_file("/no/such/file", ID, env_spec=None, reference_scores=None, force=True)
    assert tree(minari_root) == stood
    imported(arrays(timeouts=()), force=True)
    assert open_dataset(ID).total_episodes == 1


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("at", [1, 9])
def test_a_full_disk_or_an_interrupt_half_way_leaves_what_was_there(
    imported, minari_root, monkeypatch, error, before, at
):
    if before:
        imported(arrays())
    stood = tree(minari_root)
    original, made = h5py.Group.create_dataset, []

    def failing(self, *arguments, **keywords):
        made.append(keywords.get("name", arguments[:1]))
        if len(made) == at and "episode" in self.name:
            raise error
        return original(self, *arguments, **keywords)

    def run():
        with monkeypatch.context() as patch:
            patch.setattr(h5py.Group, "create_dataset", failing)
            import_file(source, ID, env_spec=None, reference_scores=None, force=True)

    source = save(minari_root.parent / f"source-{minari_root.name}.hdf5", arrays(20, terminals=(3, 5, 7)))
    with pytest.raises(type(error)):
        run()
    assert len(made) == at
    assert tree(minari_root) == stood
    assert os.environ["MINARI_DATASETS_PATH"] == str(minari_root)


# Views


def d4rls_qlearning(flat):
    """The rows of D4RL's `qlearning_dataset`, one by one: no timeout, and not the last, which has no next row."""
    rows = []
    for t in range(len(flat["rewards"]) - 1):
        if not flat["timeouts"][t]:
            rows.append((t, flat["observations"][t], flat["actions"][t], flat["rewards"][t], flat["terminals"][t]))
    return rows


def d4rls_sequences(flat):
    """The episodes of D4RL's `sequence_dataset`, each a list of row numbers; one that no flag ends is not yielded."""
    episodes, rows = [], []
    for t in range(len(flat["rewards"])):
        rows.append(t)
        if flat["terminals"][t] or flat["timeouts"][t]:
            episodes.append(rows)
            rows = []
    return episodes


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files())
def test_the_views_are_d4rls_row_by_row(imported, file):
    content, horizon = file
    episodes, dropped = read_slowly(content, horizon)
    if not episodes:
        return
    recording = imported(content, horizon=horizon)
    # What D4RL would have read: the file's rows, less those of an episode that no flag ends.
    kept = len(content["rewards"]) - dropped
    flat = {name: value[:kept] for name, value in content.items()}
    flat["timeouts"] = np.array([row.timeout for rows, _ in episodes for row in rows])
    flat = {k: v if v.dtype == bool else v.astype(np.float32) for k, v in flat.items()}

    found = get_dataset(ID)
    assert list(found) == ["observations", "actions", "rewards", "next_observations", "terminals", "timeouts"]
    for name, value in flat.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype
    following = np.concatenate([e.observations[1:] for e in recording.episodes]).astype(np.float32)
    np.testing.assert_array_equal(found["next_observations"], following)

    table = qlearning_dataset(ID)
    assert list(table) == ["observations", "actions", "next_observations", "rewards", "terminals"]
    expected = d4rls_qlearning(flat)
    assert {len(value) for value in table.values()} == {len(expected)}
    for index, (t, observation, action, reward, terminal) in enumerate(expected):
        np.testing.assert_array_equal(table["observations"][index], observation)
        np.testing.assert_array_equal(table["actions"][index], action)
        assert (table["rewards"][index], table["terminals"][index]) == (reward, terminal)
        if not terminal:  # there D4RL has the next episode's first observation
            np.testing.assert_array_equal(table["next_observations"][index], flat["observations"][t + 1])
        else:
            np.testing.assert_array_equal(table["next_observations"][index], following[t])
    assert (table["observations"].dtype, table["terminals"].dtype) == (np.float32, bool)

    sequences = list(sequence_dataset(ID))
    for sequence, rows in zip(sequences, d4rls_sequences(flat), strict=True):
        assert list(sequence) == list(found)
        for name, value in flat.items():
            np.testing.assert_array_equal(sequence[name], value[rows])


def test_timeouts_are_kept_on_demand(imported):
    imported(arrays())
    table = qlearning_dataset(ID, keep_timeouts=True)
    assert len(table["rewards"]) == 9
    assert table["next_observations"][:, 0].tolist() == [1, 2, 3, 1003, 5, 6, 7, 8, 1008]
    assert table["terminals"].tolist() == [t == 3 for t in range(9)]
    assert qlearning_dataset(ID)["rewards"].tolist() == [t + 0.25 for t in range(8)]


def test_timeouts_are_not_kept_where_what_follows_them_is_not_real(imported):
    imported(arrays(following=False))
    with pytest.raises(InputError, match=f"keep_timeouts .* {ID} does not have it in 2 episodes"):
        qlearning_dataset(ID, keep_timeouts=True)
    assert len(qlearning_dataset(ID)["rewards"]) == 8


def test_the_last_terminal_row_is_left_out_as_d4rl_does(imported):
    imported(arrays(12, terminals=(3, 11), timeouts=()))
    assert qlearning_dataset(ID)["rewards"].tolist() == [t + 0.25 for t in range(11)]
    assert len(qlearning_dataset(ID, keep_timeouts=True)["rewards"]) == 12


def test_any_minari_dataset_has_the_views(reach_dataset):
    flat, episodes = get_dataset(reach_dataset), list(minari.load_dataset(reach_dataset))
    assert len(list(sequence_dataset(reach_dataset))) == len(episodes)
    np.testing.assert_array_equal(
        flat["next_observations"], np.concatenate([e.observations[1:] for e in episodes]).astype(np.float32)
    )
    np.testing.assert_array_equal(flat["timeouts"], np.concatenate([e.truncations for e in episodes]))


def test_an_episode_that_nothing_ends_ends_by_timeout(write, numbered_episode):
    write("test/open-v0", [numbered_episode(0, 3), numbered_episode(1, 2, terminated=False), numbered_episode(2, 2)])
    with h5py.File(minari.load_dataset("test/open-v0").storage.data_path / "main_data.hdf5", "r+") as file:
        file["episode_1/truncations"][-1] = False
    assert get_dataset("test/open-v0")["timeouts"].tolist() == [False] * 4 + [True] + [False] * 2
    assert [len(s["rewards"]) for s in sequence_dataset("test/open-v0")] == [3, 2, 2]


def test_views_of_nothing_are_refused_at_the_call():
    for view in (get_dataset, qlearning_dataset, sequence_dataset, lambda i: get_normalized_score(i, 1.0)):
        with pytest.raises(InputError, match="is not here"):
            view("flowrl/none-v0")


def test_an_edited_sequence_leaves_the_others_alone(imported):
    imported(arrays())
    sequences = sequence_dataset(ID)
    first = next(sequences)
    first["observations"] += 100
    assert first["next_observations"][:, 0].tolist() == [1, 2, 3, 1003]
    assert next(sequences)["observations"][:, 0].tolist() == [4, 5, 6, 7, 8]


def test_scores_are_fractions(imported):
    imported(arrays(), reference_scores=(-20.272305, 3234.3))
    assert get_normalized_score(ID, 3234.3) == 1.0
    assert get_normalized_score(ID, np.array([-20.272305, 1607.0138475])) == pytest.approx([0.0, 0.5])
    assert minari.get_normalized_score(open_dataset(ID), np.float64(99.0)) == get_normalized_score(ID, 99)


def test_scores_without_references_are_refused(imported):
    imported(arrays())
    with pytest.raises(InputError, match=f"dataset {ID} has no reference scores"):
        get_normalized_score(ID, 1.0)


# Names


NAMES = {
    "hopper-medium-v2": ("hopper_medium-v2", "d4rl/hopper/medium-v2"),
    "hopper-medium-replay-v2": ("hopper_medium_replay-v2", "d4rl/hopper/medium-replay-v2"),
    "hopper-medium-v0": ("hopper_medium", "d4rl/hopper/medium-v0"),
    "walker2d-medium-replay-v0": ("walker_mixed", "d4rl/walker2d/medium-replay-v0"),
    "halfcheetah-medium-expert-v2": ("halfcheetah_medium_expert-v2", "d4rl/halfcheetah/medium-expert-v2"),
    "ant-random-v2": ("ant_random-v2", "d4rl/ant/random-v2"),
    "antmaze-umaze-diverse-v0": (
        "Ant_maze_u-maze_noisy_multistart_True_multigoal_True_sparse",
        "d4rl/antmaze/umaze-diverse-v0",
    ),
    "antmaze-large-play-v2": (
        "Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse_fixed",
        "d4rl/antmaze/large-play-v2",
    ),
    "pen-human-v1": ("pen-human-v1", "d4rl/pen/human-v1"),
    "door-expert-v0": ("door-v0_expert_clipped", "d4rl/door/expert-v0"),
    "maze2d-umaze-v1": ("maze2d-umaze-sparse-v1", "d4rl/maze2d/umaze-v1"),
    "maze2d-umaze-dense-v1": ("maze2d-umaze-dense-v1", "d4rl/maze2d/umaze-dense-v1"),
    "kitchen-complete-v0": ("mini_kitchen_microwave_kettle_light_slider-v0", "d4rl/kitchen/complete-v0"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_files_and_ids(name, tmp_path, monkeypatch):
    stem, dataset_id = NAMES[name]
    assert minari_id(name) == dataset_id
    minari.dataset.minari_dataset.parse_dataset_id(dataset_id)
    dashed, scored = f"{name}.hdf5", f"{name.rpartition('-v')[0].replace('-', '_')}-v{name[-1]}.hdf5"
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    for text in (f"{stem}.hdf5", dashed, scored):
        assert d4rl_name(text) == name
        (tmp_path / text).touch()
        assert find_file(name) == tmp_path / text
        (tmp_path / text).unlink()
    assert d4rl_name(name) == name


@pytest.mark.parametrize(
    "text", ["", "hopper", "hopper-v2", "my-data-v0", "hopper-medium", "HOPPER", "d4rl/hopper/x-v0"]
)
def test_other_names_are_none(text):
    assert d4rl_name(text) is None
    with pytest.raises(InputError, match="is no D4RL name: .*hopper-medium-v2"):
        find_file(text)


def test_a_file_that_is_not_there_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    pattern = f"{re.escape(str(tmp_path))}, neither as hopper_medium_replay-v2.hdf5 nor as hopper-medium-replay-v2.hdf5"
    with pytest.raises(InputError, match=f"{pattern}: download it .*D4RL_DATASET_DIR"):
        find_file("hopper-medium-replay-v2")
    monkeypatch.delenv("D4RL_DATASET_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(InputError, match=re.escape(str(Path("home/.d4rl/datasets")))):
        find_file("hopper-medium-v2")


def test_every_irregular_file_has_one_name():
    assert len(set(d4rl._FILES.values())) == len(d4rl._FILES)
    for name in d4rl._FILES:
        minari_id(name)
