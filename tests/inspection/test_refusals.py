"""What training refuses is named."""

import os

import h5py
import numpy as np
import pytest

from flowrl.data.minari_store import open_dataset
from flowrl.inspection import inspect_dataset
from flowrl.inspection.refusals import load


def break_file(path, name, change):
    with h5py.File(path / "data/main_data.hdf5", "r+") as file:
        array = file[name][()]
        del file[name]
        file[name] = change(array)


@pytest.fixture
def stored(write, numbered_episode):
    return write("test/whole-v0", [numbered_episode(i, i + 2) for i in range(4)])


def test_a_sound_dataset_is_not_refused(stored):
    arrays, loaded, refused = load(open_dataset("test/whole-v0"))
    assert refused == []
    assert loaded.episodes == len(arrays.lengths) == 4


@pytest.mark.parametrize(
    ("name", "change", "part", "readable"),
    [
        ("episode_1/observations", lambda a: a[:-1], "episode 1: observations have shape", False),
        ("episode_1/actions", lambda a: a[:, :1], "episode 1: actions have shape", False),
        ("episode_2/rewards", lambda a: a[:0], "episode 2 has no steps", False),
        ("episode_2/rewards", lambda a: a * np.nan, "rewards hold NaN or infinity, first in episode 2", True),
    ],
)
def test_what_training_refuses_is_named(stored, name, change, part, readable):
    break_file(stored, name, change)
    arrays, loaded, refused = load(open_dataset("test/whole-v0"))
    assert part in refused[0]
    assert loaded is None
    assert (arrays is not None) == readable


def test_all_episodes_of_wrong_length_are_named(stored):
    for index in (1, 3):
        break_file(stored, f"episode_{index}/observations", lambda a: a[:-1])
    _, _, refused = load(open_dataset("test/whole-v0"))
    assert refused[1].startswith("2 episodes")
    assert refused[1].endswith("1, 3")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
@pytest.mark.parametrize("at", ["episode_1", "episode_1/rewards", "episode_1/infos"])
def test_an_inspection_opens_no_other_file(reach_dataset, minari_root, tmp_path, at):
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(minari_root / reach_dataset / "data/main_data.hdf5", "r+") as file:
        if at in file:
            del file[at]
        file[at] = h5py.ExternalLink(str(tmp_path / "pipe"), "x")
    inspection = inspect_dataset(reach_dataset)
    if at == "episode_1/infos":  # which nobody reads
        assert inspection.refused == []
        assert inspection.alignment.verdict == "aligned"
    else:
        assert "is a link" in inspection.refused[0]
