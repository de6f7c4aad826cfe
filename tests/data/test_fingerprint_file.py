"""A dataset that changes after its fingerprint was recorded is refused; all that keeps its content is not."""

import json
import os
import shutil
import threading
import warnings
from dataclasses import replace

import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from flowrl.data.array_cache import CACHE_NAME
from flowrl.data.d4rl import get_dataset
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.fingerprint_file import NAME
from flowrl.data.minari_store import open_dataset
from flowrl.data.reading import read_arrays
from flowrl.errors import InputError

ID = "test/numbered-v0"


@pytest.fixture
def episodes(numbered_episode):
    return [numbered_episode(e, length, terminated=e != 1) for e, length in enumerate((4, 1, 6))]


@pytest.fixture
def written(write, episodes):
    """The data folder of a dataset that flowrl wrote."""
    return write(ID, episodes) / "data"


def refusal():
    with pytest.raises(InputError) as caught:
        TrajectoryDataset.from_minari(ID)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def set_reward(folder, value=99.0, index=2):
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        file[f"episode_{index}/rewards"][0] = value


def edit_metadata(folder, **changes):
    metadata = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps(metadata | changes))


def test_what_flowrl_writes_has_one_which_names_what_a_run_names(written):
    recorded = json.loads((written / NAME).read_text())
    assert recorded["arrays"] == TrajectoryDataset.from_minari(ID).fingerprint
    assert "total_episodes" in recorded["metadata"]


@pytest.mark.parametrize("cached", [False, True])
def test_a_changed_number_is_refused_until_the_fingerprint_is_deleted(written, cached):
    if cached:
        TrajectoryDataset.from_minari(ID)
    set_reward(written)
    for _ in range(2):
        message = refusal()
        assert "the data" in message
        assert "metadata" not in message
        assert str(written / NAME) in message
    with pytest.raises(InputError, match="fingerprint"):
        get_dataset(ID)
    (written / NAME).unlink()
    assert TrajectoryDataset.from_minari(ID).rewards[5] == 99
    assert (written / NAME).exists()


@pytest.mark.parametrize(
    ("name", "value"), [("total_steps", 12), ("ref_max_score", 7.0), ("eval_env_spec", None), ("mine", "new")]
)
def test_changed_metadata_are_refused_by_name(written, name, value):
    TrajectoryDataset.from_minari(ID)
    edit_metadata(written, **{name: value})
    message = refusal()
    assert name in message
    assert "the data and" not in message


def test_words_for_readers_may_change(written):
    edit_metadata(written, description="better", author=["somebody"], dataset_size=17.0)
    assert TrajectoryDataset.from_minari(ID).episodes == 3


def test_a_flag_that_training_does_not_read_counts_too(written):
    with h5py.File(written / "main_data.hdf5", "r+") as file:
        file["episode_0/truncations"][1] = True
    assert "the data" in refusal()


def test_episodes_that_minari_adds_end_in_the_sentence(written, episodes):
    TrajectoryDataset.from_minari(ID)
    one = episodes[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.load_dataset(ID).update_dataset_from_buffer(
            [
                EpisodeBuffer(
                    id=None, observations=one.observations, actions=one.actions, rewards=one.rewards,
                    terminations=one.terminations, truncations=one.truncations,
                )
            ]
        )  # fmt: skip
    message = refusal()
    assert "total_episodes, total_steps" in message
    (written / NAME).unlink()
    assert TrajectoryDataset.from_minari(ID).episodes == 4


def test_metadata_that_minari_updates_end_in_the_sentence(written):
    minari.load_dataset(ID).storage.update_metadata({"ref_max_score": 1e6})
    assert "ref_max_score" in refusal()


def test_a_foreign_dataset_gets_one_at_its_first_load(written):
    (written / NAME).unlink()
    (written / CACHE_NAME).unlink(missing_ok=True)
    TrajectoryDataset.from_minari(ID)
    assert (written / NAME).exists()
    set_reward(written)
    assert "the data" in refusal()


def test_a_dataset_that_training_refuses_gets_none_at_its_first_load(written):
    (written / NAME).unlink()
    set_reward(written, np.nan)
    assert "NaN" in refusal()
    assert not (written / NAME).exists()
    set_reward(written, 1.0)
    TrajectoryDataset.from_minari(ID)


def test_a_read_only_folder_goes_without(written, monkeypatch):
    (written / NAME).unlink()

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "fsync", refused)
    assert TrajectoryDataset.from_minari(ID).episodes == 3
    assert not (written / NAME).exists()
    assert not list(written.glob(".*"))


def test_copied_moved_and_replaced_datasets_load(written, write, episodes, tmp_path):
    TrajectoryDataset.from_minari(ID)
    copied = shutil.copytree(written.parent, tmp_path / "copied")
    assert TrajectoryDataset.from_minari(str(copied)).episodes == 3
    moved = copied.rename(tmp_path / "moved")
    assert TrajectoryDataset.from_minari(str(moved)).episodes == 3
    write(ID, [replace(episodes[0], rewards=-episodes[0].rewards)], force=True)
    assert TrajectoryDataset.from_minari(ID).episodes == 1
    set_reward(moved / "data")
    with pytest.raises(InputError, match="fingerprint"):
        TrajectoryDataset.from_minari(str(moved))


def test_a_part_of_a_dataset_is_neither_compared_nor_recorded(written):
    (written / NAME).unlink()
    part = open_dataset(ID).filter_episodes(lambda episode: episode.id != 1)
    arrays = TrajectoryDataset.from_minari(ID)  # records the whole
    assert TrajectoryDataset.from_stored(part, read_arrays(part)).episodes == 2
    assert json.loads((written / NAME).read_text())["arrays"] == arrays.fingerprint


def test_many_first_loads_at_once_all_succeed(written):
    results, threads = [], []

    def load():
        for _ in range(5):
            (written / NAME).unlink(missing_ok=True)
            results.append(TrajectoryDataset.from_minari(ID).episodes)

    for _ in range(6):
        threads.append(threading.Thread(target=load))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert results == [3] * 30
    assert not list(written.glob(".*"))


def test_a_cache_of_other_arrays_is_read_again(written):
    TrajectoryDataset.from_minari(ID)
    with np.load(written / CACHE_NAME) as file:
        arrays = dict(file)
    for change in [
        {"rewards": -arrays["rewards"]},
        {"rewards": arrays["rewards"].astype(np.float64)},
        {"lengths": arrays["lengths"][:-1]},
        {"lengths": np.array([12, -1, 0])},
        {"observations": arrays["observations"][:, :1]},
        {"actions": arrays["actions"].astype(object)},
    ]:
        np.savez(written / CACHE_NAME, **(arrays | change))
        assert TrajectoryDataset.from_minari(ID).rewards.tolist() == arrays["rewards"].tolist()
        with np.load(written / CACHE_NAME) as file:
            assert all(np.array_equal(file[name], value) for name, value in arrays.items())


def test_a_packed_cache_is_not_unpacked(written):
    TrajectoryDataset.from_minari(ID)
    with np.load(written / CACHE_NAME) as file:
        arrays = dict(file)
    bomb = arrays | {"rewards": np.zeros(20_000_000, np.float32)}
    np.savez_compressed(written / CACHE_NAME, **bomb)
    assert (written / CACHE_NAME).stat().st_size < 200_000
    assert TrajectoryDataset.from_minari(ID).steps == 11
