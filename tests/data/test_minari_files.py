"""What we write is what Minari writes; a disk that is full at any byte ends in one error and leaves nothing."""

import gc
import json
import warnings

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from flowrl.data.minari_files import ARRAYS, DatasetDescription, Episode
from flowrl.data.minari_store import local_ids, open_dataset, write_dataset
from flowrl.data.reading import read_arrays

ID, MINARIS = "test/ours-v0", "test/minaris-v0"
ABOUT = DatasetDescription(
    gym.spaces.Box(-9, 9, (3,), np.float64),
    gym.spaces.Box(-1, 1, (2,), np.float32),
    "some policy",
    "some data",
    env_spec=gym.spec("flowrl/Reach-v0"),
    reference_scores=(0.5, 2.5),
    requirements=["numpy"],
    author="me",
    code_permalink="here",
    metadata={"mine": 3},
)


@pytest.fixture
def episodes(numbered_episode):
    return [numbered_episode(number, length) for number, length in enumerate([4, 1, 60])]


def contents(dataset):
    """Every array and attribute of the HDF5 file, with its type and layout."""
    found = {}

    def note(name, item):
        found[name, "attributes"] = {key: int(value) for key, value in item.attrs.items()}
        if isinstance(item, h5py.Dataset):
            found[name, "array"] = (item[()].tolist(), str(item.dtype), item.shape, item.chunks, item.maxshape)

    with h5py.File(open_dataset(dataset).storage.data_path / "main_data.hdf5") as file:
        file.visititems(note)
    return found


def metadata(dataset):
    own = json.loads((open_dataset(dataset).storage.data_path / "metadata.json").read_text(encoding="utf-8"))
    # Minari says that scores which it was given are means of 100 episodes.
    return {name: value for name, value in own.items() if name not in ("dataset_id", "num_episodes_average_score")}


def test_it_is_what_minari_writes(episodes):
    write_dataset(ID, episodes, ABOUT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = minari.create_dataset_from_buffers(
            MINARIS,
            [
                EpisodeBuffer(id=number, seed=episode.seed, **{name: getattr(episode, name) for name in ARRAYS})
                for number, episode in enumerate(episodes)
            ],
            env=ABOUT.env_spec,
            eval_env=ABOUT.env_spec,
            observation_space=ABOUT.observation_space,
            action_space=ABOUT.action_space,
            algorithm_name=ABOUT.algorithm,
            description=ABOUT.description,
            author=ABOUT.author,
            code_permalink=ABOUT.code_permalink,
            requirements=list(ABOUT.requirements),
            ref_min_score=0.5,
            ref_max_score=2.5,
        )
    written.storage.update_metadata({"mine": 3})
    assert contents(ID) == contents(MINARIS)
    assert metadata(ID) == metadata(MINARIS)


def test_minari_can_append_to_it(episodes):
    write_dataset(ID, episodes, ABOUT)
    more = EpisodeBuffer(id=None, **{name: getattr(episodes[0], name) for name in ARRAYS})
    open_dataset(ID).storage.update_episodes([more])
    assert read_arrays(open_dataset(ID)).lengths.tolist() == [4, 1, 60, 4]


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_byte_keeps_what_was_there(minari_root):
    resource = pytest.importorskip("resource")
    ends = np.arange(300) == 299
    rows = np.random.default_rng(0).normal(size=(301, 3))
    large = [Episode(rows, rows[1:, :2].astype(np.float32), rows[1:, 0], ends, ~ends) for _ in range(20)]
    write_dataset(ID, large, ABOUT)
    size = (open_dataset(ID).storage.data_path / "main_data.hdf5").stat().st_size
    before = sorted(minari_root.rglob("*")), contents(ID)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in [0, 1, 100, 500, 1000, 2000, *np.linspace(4000, size - 1, 9).astype(int).tolist()]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large") as caught:
                write_dataset(ID, large, ABOUT, force=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert caught.value.filename
        del caught
        gc.collect()  # HDF5 would try once more where it had the file
        assert (sorted(minari_root.rglob("*")), contents(ID)) == before
        assert local_ids() == [ID]
    write_dataset(ID, large[:2], ABOUT, force=True)
    assert open_dataset(ID).total_episodes == 2
