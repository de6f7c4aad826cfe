"""D4RL files: every quirk read as it is, every broken file refused."""

import os
import shutil
import struct

import h5py
import numpy as np
import pytest
from d4rl_files import arrays, files, read_slowly, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowrl.data.d4rl import read_file
from flowrl.errors import InputError


def refused(path, **keywords):
    """The sentence that reading ends in."""
    with pytest.raises(InputError) as caught:
        read_file(path, **keywords)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert 10 < len(message) < 500
    return message


# Reading, by hand


def test_a_file_by_hand(path):
    d4rl_file = read_file(save(path, arrays()))
    assert [len(e.rewards) for e in d4rl_file.episodes] == [4, 5]
    first, last = d4rl_file.episodes
    np.testing.assert_array_equal(first.observations[:, 0], [0, 1, 2, 3, 1003])
    np.testing.assert_array_equal(last.observations, [*[[t, -t, t / 2] for t in (4, 5, 6, 7, 8)], [1008, 0, 0]])
    np.testing.assert_array_equal(last.actions, np.float32([[t / 100, -t / 100] for t in (4, 5, 6, 7, 8)]))
    np.testing.assert_array_equal(last.rewards, [4.25, 5.25, 6.25, 7.25, 8.25])
    assert first.terminations.tolist() == [False, False, False, True]
    assert not first.truncations.any()
    assert not last.terminations.any()
    assert last.truncations.tolist() == [False, False, False, False, True]
    assert (d4rl_file.dropped, d4rl_file.repeated, d4rl_file.mismatches, d4rl_file.horizon) == (3, 0, 0, None)
    assert d4rl_file.steps == 9
    assert {e.observations.dtype for e in d4rl_file.episodes} == {np.dtype(np.float32)}


def test_without_next_observations_the_last_one_is_repeated_and_never_the_next_rows(path):
    d4rl_file = read_file(save(path, arrays(following=False)))
    assert d4rl_file.episodes[0].observations[:, 0].tolist() == [0, 1, 2, 3, 3]
    assert d4rl_file.episodes[1].observations[:, 0].tolist() == [4, 5, 6, 7, 8, 8]
    assert (d4rl_file.repeated, d4rl_file.mismatches) == (2, None)
    assert "The last observation of each episode is not real" in " ".join(d4rl_file.notes())
    assert "The file has no next_observations" in " ".join(d4rl_file.notes())


def test_next_observations_that_are_the_rows_shifted_by_one_are_no_last_observations(path):
    content = arrays()
    content["next_observations"] = np.concatenate([content["observations"][1:], content["observations"][:1]])
    d4rl_file = read_file(save(path, content))
    assert d4rl_file.episodes[0].observations[:, 0].tolist() == [0, 1, 2, 3, 3]
    assert (d4rl_file.repeated, d4rl_file.mismatches) == (2, None)
    content["next_observations"][3] = [77, 7, 7]
    d4rl_file = read_file(save(path, content))
    assert d4rl_file.episodes[0].observations[:, 0].tolist() == [0, 1, 2, 3, 77]
    assert (d4rl_file.repeated, d4rl_file.mismatches) == (1, 0)
    assert "of 1 of 2 episodes" in " ".join(d4rl_file.notes())


def test_the_last_row_may_end_an_episode(path):
    d4rl_file = read_file(save(path, arrays(12, terminals=(3,), timeouts=(11,))))
    assert d4rl_file.episodes[-1].observations[:, 0].tolist() == [4, 5, 6, 7, 8, 9, 10, 11, 1011]
    assert (d4rl_file.dropped, d4rl_file.repeated) == (0, 0)


def test_a_file_without_timeouts_is_cut_at_the_horizon(path):
    save(path, arrays(14, terminals=(3, 9), timeouts=None, following=False))
    d4rl_file = read_file(path, horizon=3)
    #                       0 1 2 | 3 | 4 5 6 | 7 8 9 | 10 11 12 | 13 is dropped
    assert [e.observations[0, 0] for e in d4rl_file.episodes] == [0, 3, 4, 7, 10]
    assert [e.terminations[-1] for e in d4rl_file.episodes] == [False, True, False, True, False]
    # The step that fails at the very limit is both, as Gymnasium has it.
    assert [e.truncations[-1] for e in d4rl_file.episodes] == [True, False, True, True, True]
    assert (d4rl_file.dropped, d4rl_file.horizon) == (1, 3)
    assert "cut at 3 steps" in " ".join(d4rl_file.notes())
    assert [len(e.rewards) for e in read_file(path).episodes] == [4, 6]


def test_a_file_without_timeouts_and_without_a_horizon_is_refused(path):
    save(path, arrays(timeouts=None))
    assert "a horizon is needed" in refused(path, horizon=None)


def test_next_rows_in_another_precision_are_no_last_observations(path):
    content = arrays(dtype=np.float64)
    content["observations"] = content["observations"] + 1 / 3
    content["next_observations"] = np.roll(content["observations"], -1, 0).astype(np.float32)
    d4rl_file = read_file(save(path, content))
    assert d4rl_file.repeated == len(d4rl_file.episodes), "the file's last row tells no more than the others"
    for episode in d4rl_file.episodes:
        np.testing.assert_array_equal(episode.observations[-1], episode.observations[-2])


def test_a_horizon_does_not_cut_a_file_that_has_timeouts(path):
    assert [len(e.rewards) for e in read_file(save(path, arrays()), horizon=2).episodes] == [4, 5]


def test_a_step_that_is_terminal_and_timeout_keeps_both(path):
    d4rl_file = read_file(save(path, arrays(terminals=(3, 8), timeouts=(8,))))
    assert d4rl_file.episodes[1].terminations[-1]
    assert d4rl_file.episodes[1].truncations[-1]


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
    other = read_file(tmp_path / "other.hdf5")
    assert other.left_out == ("infos", "metadata")
    for ours, theirs in zip(other.episodes, expected.episodes, strict=True):
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


def test_float64_numbers_are_kept_as_such(path):
    content = arrays(dtype=np.float64)
    content["rewards"][5] = 0.1
    assert read_file(save(path, content)).episodes[1].rewards[1] == 0.1


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
    d4rl_file = read_file(path, horizon=horizon)
    assert len(d4rl_file.episodes) == len(expected)
    assert d4rl_file.dropped == dropped
    assert d4rl_file.repeated == (0 if "next_observations" in content else len(expected))
    for episode, (rows, final) in zip(d4rl_file.episodes, expected, strict=True):
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
    d4rl_file = read_file(path, allow_misaligned=True)
    assert d4rl_file.mismatches == 5
    assert "At 5 steps inside an episode" in " ".join(d4rl_file.notes())


def test_a_rare_mismatch_is_said_and_one_of_rounding_is_not(path):
    content = arrays(600, terminals=(), timeouts=range(9, 600, 10))
    content["next_observations"][13] += 1
    assert read_file(save(path, content)).mismatches == 1
    content["next_observations"][13] -= 1
    content["next_observations"] *= 1 + 1e-6
    assert read_file(save(path, content)).mismatches == 0


@pytest.mark.parametrize(("offset", "unit"), [(0.0, 1e-8), (4e6, 1.0), (1.7e9, 1.0)])
def test_the_last_observation_is_judged_alike_in_all_units(path, offset, unit):
    content = arrays(60, terminals=(), timeouts=range(9, 60, 10), dtype=np.float64)
    content["next_observations"][[9, 29]] = content["observations"][[10, 30]]  # these alone repeat
    expected = read_file(save(path, content))
    assert (expected.repeated, expected.mismatches) == (2, 0)
    for name in ("observations", "next_observations"):
        content[name] = offset + unit * content[name]
    read = read_file(save(path, content))
    assert (read.repeated, read.mismatches) == (2, 0)
    assert read.episodes[1].observations[-1].tolist() == content["next_observations"][19].tolist()


def test_the_wider_type_of_two_is_kept(path):
    content = arrays()
    content["next_observations"] = content["next_observations"].astype(np.float64) + 1e-9
    assert read_file(save(path, content)).episodes[0].observations[-1].tolist() == [1003 + 1e-9, 1e-9, 1e-9]


def test_what_follows_the_last_flag_is_not_compared(path):
    content = arrays(12, terminals=(3,), timeouts=(8,))
    content["next_observations"][9:] = 5
    assert read_file(save(path, content)).mismatches == 0


def test_numbers_near_the_edge_of_float32_do_not_overflow_the_comparison(path):
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
def test_numbers_that_are_not_finite_are_refused_with_their_row(path, name, value):
    content = arrays(dtype=np.float64)
    content[name][7] = value
    assert f"{name} hold NaN, infinity or a number beyond float32, first in row 7" in refused(save(path, content))


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
    assert "does not exist" in refused(tmp_path / "nothing.hdf5")
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
    """The file's episodes, or None for a file that is refused, in one sentence that names it."""
    try:
        return read_file(path, allow_misaligned=True)
    except InputError as error:
        message = str(error)
    assert str(path) in message
    assert "\n" not in message


def consistent(d4rl_file):
    """Whether the episodes are what `read_file` promises."""
    for episode in d4rl_file.episodes:
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
    d4rl_file = read_or_refused(path)
    if d4rl_file is None:
        return
    consistent(d4rl_file)
    with h5py.File(path) as file:
        rewards = file["rewards"][()].reshape(-1)
        np.testing.assert_array_equal(
            np.concatenate([e.rewards for e in d4rl_file.episodes]), rewards[: d4rl_file.steps]
        )
        whole = np.concatenate([e.observations[:-1] for e in d4rl_file.episodes])
        np.testing.assert_array_equal(whole, file["observations"][: d4rl_file.steps])


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
    d4rl_file = read_or_refused(path)
    if d4rl_file is not None:
        consistent(d4rl_file)
