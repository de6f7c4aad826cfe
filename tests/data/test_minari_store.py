"""Minari datasets: written whole or not at all, read as written, refused in one sentence where they are broken."""

import json
import os
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from flowrl.data import dataset_folder
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.minari_store import local_ids, open_dataset
from flowrl.data.reading import read_arrays
from flowrl.errors import InputError

ID = "test/numbered-v0"
LENGTHS = [4, 1, 6]


@pytest.fixture
def episodes(numbered_episode):
    return [numbered_episode(e, length, terminated=e != 1) for e, length in enumerate(LENGTHS)]


@pytest.fixture
def written(write, episodes):
    """The dataset's folder."""
    return write(ID, episodes)


def refused(dataset=ID):
    """The sentence that loading ends in."""
    with pytest.raises(InputError) as caught:
        TrajectoryDataset.from_minari(dataset)
    message = str(caught.value)
    assert "\n" not in message
    assert 10 < len(message) < 600
    return message


def edit(folder, change):
    with h5py.File(folder / "data/main_data.hdf5", "r+") as file:
        change(file)


def put(file, name, array):
    del file[name]
    file[name] = array


def test_what_is_written_is_read_back_exactly(written, episodes, minari_root):
    assert written == minari_root / ID
    arrays = read_arrays(open_dataset(ID))
    assert arrays.lengths.tolist() == LENGTHS
    for name in ("observations", "actions", "rewards", "terminations"):
        whole = np.concatenate([getattr(e, name) for e in episodes])
        np.testing.assert_array_equal(getattr(arrays, name), whole.astype(getattr(arrays, name).dtype))
    assert {arrays.observations.dtype, arrays.actions.dtype, arrays.rewards.dtype} == {np.dtype(np.float32)}
    assert arrays.terminations.dtype == bool
    for read, episode in zip(minari.load_dataset(ID), episodes, strict=True):
        for name in ("observations", "actions", "rewards", "terminations", "truncations"):
            stored = getattr(read, name)
            np.testing.assert_array_equal(stored, getattr(episode, name))
            assert stored.dtype == getattr(episode, name).dtype, name


def test_float64_observations_are_stored_as_such_and_read_as_float32(written):
    with h5py.File(written / "data/main_data.hdf5") as file:
        assert file["episode_0/observations"].dtype == np.float64
    assert open_dataset(ID).observation_space.dtype == np.float64


def test_metadata_are_kept(write, episodes):
    write(
        ID, episodes, reference_scores=(1.5, 9.5), requirements=["numpy==2.0"], author="me", code_permalink="my/file.py"
    )  # fmt: skip
    metadata = minari.load_dataset(ID).storage.metadata
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (1.5, 9.5)
    assert metadata["requirements"] == ["numpy==2.0"]
    assert metadata["description"] == "of a test"
    assert (metadata["author"], metadata["code_permalink"]) == ({"me"}, "my/file.py")
    assert minari.load_dataset(ID).env_spec.id == "flowrl/Reach-v0"
    assert [row["seed"] for row in minari.load_dataset(ID).storage.get_episode_metadata([0, 1, 2])] == [0, 1, 2]


def test_a_dataset_without_an_environment_can_be_written(write, episodes):
    write(ID, episodes, env_spec=None)
    assert TrajectoryDataset.from_minari(ID).env_spec is None


def test_a_filtered_dataset_is_read_in_its_own_episodes(written, episodes):
    dataset = minari.load_dataset(ID).filter_episodes(lambda episode: len(episode.rewards) != 1)
    arrays = read_arrays(dataset)
    assert arrays.lengths.tolist() == [4, 6]
    np.testing.assert_array_equal(arrays.rewards, np.concatenate([episodes[0].rewards, episodes[2].rewards]))
    last = read_arrays(minari.MinariDataset(written / "data", np.array([2])))
    np.testing.assert_array_equal(last.observations, episodes[2].observations)


def test_a_dataset_opens_by_its_folder_too(written, tmp_path):
    elsewhere = shutil.copytree(written, tmp_path / "copy")
    for path in (elsewhere, elsewhere / "data"):
        assert TrajectoryDataset.from_minari(str(path)).lengths.tolist() == LENGTHS


def test_local_ids_are_listed(written, reach_dataset):
    assert local_ids() == ["flowrl/reach/mixed-v0", ID]


@pytest.mark.parametrize("data", [False, True])
def test_a_foreign_folder_in_the_root_is_passed_over(written, minari_root, data):
    (minari_root / "notes" / ("data" if data else "more")).mkdir(parents=True)
    (minari_root / "test/broken-v0/data").mkdir(parents=True)
    assert local_ids() == [ID]
    assert ID in refused("test/other-v0")


# Writing


def test_a_taken_id_is_refused_and_force_replaces(write, written, episodes):
    with pytest.raises(InputError, match=f"{ID} exists already .*replacing it must be allowed"):
        write(ID, episodes)
    write(ID, episodes[:1], force=True)
    assert read_arrays(open_dataset(ID)).lengths.tolist() == [4]


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "terminations", "truncations"])
@pytest.mark.parametrize("by", [-1, 1])
def test_lengths_that_disagree_are_refused_before_anything_is_written(write, episodes, minari_root, name, by):
    array = getattr(episodes[2], name)
    array = array[:by] if by < 0 else np.concatenate([array, array[-1:]])
    with pytest.raises(InputError, match="episode 2: .* have shape"):
        write(ID, [*episodes[:2], replace(episodes[2], **{name: array})])
    assert not list(minari_root.iterdir())


def test_no_episode_and_an_empty_episode_are_refused(write, episodes, numbered_episode, minari_root):
    with pytest.raises(InputError, match=f"{ID} would hold no episode"):
        write(ID, [])
    one, names = numbered_episode(1, 1), ("actions", "rewards", "terminations", "truncations")
    empty = replace(one, **{name: getattr(one, name)[:0] for name in names})
    with pytest.raises(InputError, match="episode 1 has no steps"):
        write(ID, [episodes[0], replace(empty, observations=empty.observations[:1])])
    assert not list(minari_root.iterdir())


@pytest.mark.parametrize("bad", ["", "hopper", "hopper-v", "a b-v0", "../up-v0", "/root-v0", "test/x-v0/y"])
def test_a_malformed_id_is_not_written(write, episodes, minari_root, bad):
    with pytest.raises(InputError, match="is no dataset id: write NAMESPACE/NAME-vN"):
        write(bad, episodes)
    assert not list(minari_root.iterdir())


def tree(root):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), ValueError("minari")])
@pytest.mark.parametrize("before", [False, True])
def test_an_interrupted_write_leaves_what_was_there(write, episodes, minari_root, monkeypatch, error, before):
    if before:
        write(ID, episodes)
    stood = tree(minari_root)
    original = minari.MinariDataset.__init__

    def half_way(self, data, *arguments, **keywords):  # the files are there, the last touch is not
        original(self, data, *arguments, **keywords)
        raise error

    monkeypatch.setattr(minari.MinariDataset, "__init__", half_way)
    with pytest.raises(type(error)):
        write(ID, episodes[:1], force=True)
    assert tree(minari_root) == stood
    assert os.environ["MINARI_DATASETS_PATH"] == str(minari_root)


def test_a_failed_exchange_puts_the_old_dataset_back(write, episodes, minari_root, monkeypatch):
    write(ID, episodes)
    stood, original = tree(minari_root), os.replace

    def failing(source, target):
        if Path(target) == minari_root / ID and "replaced" not in str(source):
            raise OSError("no")
        return original(source, target)

    monkeypatch.setattr(dataset_folder, "_exchanged", lambda new, path: False)
    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="no"):
        write(ID, episodes[:1], force=True)
    assert tree(minari_root) == stood


def test_a_new_namespace_can_be_listed_by_minari(written):
    assert "test" in minari.namespace.list_local_namespaces()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(minari.list_local_datasets()) == [ID]


# Broken datasets


def test_observations_that_are_not_one_more_than_the_steps_are_refused(written):
    edit(written, lambda file: put(file, "episode_2/observations", np.zeros((6, 3))))
    message = refused()
    assert "episode 2: observations have shape (6, 3) instead of (7, 3)" in message
    assert "T+1 observations" in message


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("actions", (5, 2)), ("actions", (6, 1)), ("actions", (6,)), ("observations", (7, 2)), ("observations", (7,)),
        ("rewards", (5,)), ("rewards", (6, 1)), ("terminations", (7,)),
    ],
)  # fmt: skip
def test_shapes_that_disagree_are_refused(written, name, shape):
    edit(written, lambda file: put(file, f"episode_2/{name}", np.zeros(shape)))
    assert "episode 2: " in refused()


@pytest.mark.parametrize("name", ["observations", "actions", "rewards"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_that_are_not_finite_are_refused(written, name, value):
    def spoil(file):
        array = file[f"episode_2/{name}"][()].astype(np.float64)
        array[-1] = value
        put(file, f"episode_2/{name}", array)

    edit(written, spoil)
    assert refused() == f"{name} hold NaN or infinity, first in episode 2"


def emptied(*episodes):
    """An edit after which these have no steps, as a recording that was broken off after a reset."""

    def empty(file):
        for episode in episodes:
            for name in ("actions", "rewards", "terminations", "truncations"):
                put(file, f"episode_{episode}/{name}", file[f"episode_{episode}/{name}"][:0])
            put(file, f"episode_{episode}/observations", file[f"episode_{episode}/observations"][:1])

    return empty


def test_an_episode_without_steps_is_left_out_with_a_caution(written):
    edit(written, emptied(1))
    (written / "data/flowrl_fingerprint.json").unlink()
    dataset = TrajectoryDataset.from_minari(ID)
    assert dataset.lengths.tolist() == [LENGTHS[0], *LENGTHS[2:]]
    assert dataset.left_out == (1,)
    assert re.search(r"no steps.*\b1$", dataset.cautions[0])


def test_a_dataset_of_episodes_without_steps_is_refused(written):
    edit(written, emptied(*range(len(LENGTHS))))
    assert "no episode has a step" in refused()


def test_an_episode_that_lost_its_rewards_is_not_taken_for_one_without_steps(written):
    edit(written, lambda file: put(file, "episode_1/rewards", file["episode_1/rewards"][:0]))
    assert refused().startswith("episode 1 has no steps, but")


def test_messages_count_the_episodes_that_are_left_out(written):
    def spoil(file):
        emptied(0)(file)
        rewards = file["episode_2/rewards"][()]
        rewards[0] = np.nan
        put(file, "episode_2/rewards", rewards)

    edit(written, spoil)
    assert refused() == "rewards hold NaN or infinity, first in episode 2"


def test_a_dataset_without_episodes_is_refused(written):
    def empty(file):
        for name in list(file):
            del file[name]

    edit(written, empty)
    metadata = json.loads((written / "data/metadata.json").read_text())
    assert metadata["total_episodes"] == 3
    (written / "data/metadata.json").write_text(json.dumps(metadata | {"total_episodes": 0, "total_steps": 0}))
    assert f"{ID} holds no episode" in refused()


def test_a_missing_array_is_refused(written):
    edit(written, lambda file: file.__delitem__("episode_1/actions"))
    assert "cannot be read" in refused()
    edit(written, lambda file: file.__delitem__("episode_2"))
    assert "cannot be read" in refused()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9])
def test_a_truncated_file_is_refused(written, share):
    file = written / "data/main_data.hdf5"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    assert "cannot be" in refused()


def test_garbage_is_refused(written):
    (written / "data/main_data.hdf5").write_bytes(b"not an HDF5 file at all\n" * 100)
    assert "cannot be" in refused()


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no dataset")
    message = refused(str(tmp_path))
    assert str(tmp_path) in message
    assert "cannot be opened" in message


def minari_dataset(observation_space, action_space, observations, actions):
    """Written by Minari itself: `write_dataset` takes flat Boxes alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            ID,
            [
                EpisodeBuffer(
                    id=0, observations=observations, actions=actions, rewards=np.zeros(2),
                    terminations=np.zeros(2, bool), truncations=np.array([False, True]),
                )
            ],
            observation_space=observation_space,
            action_space=action_space,
        )  # fmt: skip


BOX = gym.spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("what", "space", "values", "named"),
    [
        ("observation", gym.spaces.Dict({"a": BOX, "b": gym.spaces.Text(3)}), None, "observation space part b is Text"),
        ("observation", gym.spaces.Box(0, 255, (8, 8, 3), np.uint8), np.zeros((3, 8, 8, 3), np.uint8), "no pictures"),
        ("observation", gym.spaces.Box(-1, 1, (200, 60)), np.zeros((3, 200, 60)), "has 12,000 features"),
        ("action", gym.spaces.Box(-1, 1, (2, 2)), np.zeros((2, 2, 2)), "flat Box .* or Discrete is needed"),
        ("action", gym.spaces.MultiDiscrete([2, 2]), np.zeros((2, 2), int), "flat Box .* or Discrete is needed"),
    ],
    ids=["text", "picture", "huge", "two-dimensional action", "multi-discrete action"],
)
def test_other_spaces_are_refused_with_what_is_supported(what, space, values, named):
    if values is None:
        values = {"a": np.zeros((3, 2)), "b": ["a", "b", "c"]}
    if what == "observation":
        minari_dataset(space, BOX, values, np.zeros((2, 2), np.float32))
    else:
        minari_dataset(BOX, space, np.zeros((3, 2), np.float32), values)
    assert re.search(named, refused())


# Ids


@pytest.mark.parametrize("bad", ["hopper", "mujoco/hopper/medium", "", "a b-v0", "x-v", "no/such/folder"])
def test_a_malformed_id_is_refused_with_an_example(bad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search("mujoco/hopper/medium-v0|cannot be opened", refused(bad))


def test_an_id_of_flowrl_that_is_not_here_is_not_downloaded(written, capsys):
    message = refused("flowrl/hopper/medium-v0")
    assert "flowrl/hopper/medium-v0 is not here" in message
    assert "downloading" not in capsys.readouterr().out
    assert ID in message


class DownloadError(Exception):
    """Like those of huggingface_hub: no OSError."""


def test_a_failed_download_says_so_with_what_is_here(written, monkeypatch, capsys):
    requested = []

    def failing(dataset_id):
        requested.append(dataset_id)
        raise DownloadError("the hub is not to be reached\nand more lines\n")

    monkeypatch.setattr(minari, "download_dataset", failing)
    message = refused("mujoco/hopper/medium-v0")
    assert requested == ["mujoco/hopper/medium-v0"]
    for part in ("mujoco/hopper/medium-v0", "the hub is not to be reached", ID):
        assert part in message
    assert "downloading" in capsys.readouterr().out


def test_a_failed_download_without_a_word_still_says_something(monkeypatch):
    def failing(dataset_id):
        raise DownloadError

    monkeypatch.setattr(minari, "download_dataset", failing)
    message = refused("mujoco/hopper/medium-v0")
    assert "DownloadError" in message
    assert "there is no local dataset" in message


def test_the_real_download_fails_in_one_sentence_offline():
    message = refused("mujoco/hopper/medium-v0")
    assert "could not be downloaded" in message


def test_a_download_is_opened(write, episodes, monkeypatch):
    monkeypatch.setattr(minari, "download_dataset", lambda dataset_id: write(dataset_id, episodes))
    assert TrajectoryDataset.from_minari("mujoco/hopper/medium-v0").lengths.tolist() == LENGTHS


def test_an_interrupted_download_leaves_nothing_that_would_stop_the_next(write, episodes, monkeypatch, minari_root):
    def cut_short(dataset_id):
        folder = Path(os.environ["MINARI_DATASETS_PATH"]) / dataset_id / "data"
        folder.mkdir(parents=True)
        (folder / "metadata.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(minari, "download_dataset", cut_short)
    with pytest.raises(KeyboardInterrupt):
        TrajectoryDataset.from_minari("mujoco/hopper/medium-v0")
    assert not [path for path in minari_root.rglob("*") if path.is_file()]
    monkeypatch.setattr(minari, "download_dataset", lambda dataset_id: write(dataset_id, episodes))
    assert TrajectoryDataset.from_minari("mujoco/hopper/medium-v0").lengths.tolist() == LENGTHS


# Formats that Minari alone can read (arrow)


def foreign_format(folder, episodes, observation_size=3):
    """A dataset as `read_arrays` meets it whose files are not HDF5."""
    return SimpleNamespace(
        id=ID,
        observation_space=gym.spaces.Box(-1, 1, (observation_size,)),
        action_space=gym.spaces.Box(-1, 1, (2,)),
        episode_indices=np.arange(len(episodes)),
        storage=SimpleNamespace(data_path=folder),
        iterate_episodes=lambda indices: (
            SimpleNamespace(id=int(i), **{k: v for k, v in vars(episodes[int(i)]).items() if k != "seed"})
            for i in indices
        ),
    )


def test_another_format_gives_the_same_arrays(written, episodes, tmp_path):
    arrays, expected = read_arrays(foreign_format(tmp_path, episodes)), read_arrays(open_dataset(ID))
    for name in ("observations", "actions", "rewards", "terminations", "lengths"):
        np.testing.assert_array_equal(getattr(arrays, name), getattr(expected, name))
        assert getattr(arrays, name).dtype == getattr(expected, name).dtype


@pytest.mark.parametrize("name", ["observations", "actions"])
@pytest.mark.parametrize("axis", [0, 1])
def test_another_format_with_shapes_that_disagree_is_refused(episodes, tmp_path, name, axis):
    array = getattr(episodes[1], name)
    array = array[:-1] if axis == 0 else array[:, :-1]
    with pytest.raises(InputError, match=r"episode 1\b"):
        read_arrays(foreign_format(tmp_path, [episodes[0], replace(episodes[1], **{name: array}), episodes[2]]))


def test_another_format_of_which_files_are_missing_is_refused(episodes, tmp_path):
    stored = foreign_format(tmp_path, episodes)
    stored.iterate_episodes = lambda indices: foreign_format(tmp_path, episodes).iterate_episodes(indices[:-1])
    with pytest.raises(InputError, match="2 of 3 episodes"):
        read_arrays(stored)


def test_another_format_with_another_size_than_its_space_is_refused(episodes, tmp_path):
    with pytest.raises(InputError, match="observations have shape"):
        read_arrays(foreign_format(tmp_path, episodes, observation_size=4))


def test_the_arrow_format_loads_or_says_what_it_needs(written, episodes):
    try:
        import pyarrow  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        (written / "data/main_data.hdf5").unlink()
        metadata = '{"data_format": "arrow", "dataset_id": "test/numbered-v0", "minari_version": "0.5.4"}'
        (written / "data/metadata.json").write_text(metadata)
        assert "cannot be opened" in refused()
        return
    shutil.rmtree(written)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            ID,
            [
                EpisodeBuffer(
                    id=i, observations=e.observations, actions=e.actions, rewards=e.rewards,
                    terminations=e.terminations, truncations=e.truncations,
                )
                for i, e in enumerate(episodes)
            ],
            observation_space=gym.spaces.Box(-np.inf, np.inf, (3,), np.float64),
            action_space=gym.spaces.Box(-np.inf, np.inf, (2,), np.float32),
            data_format="arrow",
        )  # fmt: skip
    arrays = read_arrays(open_dataset(ID))
    np.testing.assert_array_equal(arrays.actions, np.concatenate([e.actions for e in episodes]))


# A relative folder that could be an id too


@pytest.fixture
def copies(write, numbered_episode, minari_root, tmp_path, monkeypatch):
    """The working directory, with a copy of a dataset of one episode in copies/reach-v0; the original is gone."""
    monkeypatch.chdir(tmp_path)
    shutil.move(write("test/original-v0", [numbered_episode(0, 3)]), tmp_path / "copies/reach-v0")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["copies/reach-v0", "./copies/reach-v0", "copies/reach-v0/", "copies/reach-v0/data", "reach-v0"]
)
def test_a_relative_folder_comes_before_the_network(copies, name, monkeypatch):
    if name == "reach-v0":
        monkeypatch.chdir("copies")
    assert open_dataset(name).total_episodes == 1


def test_a_local_dataset_comes_before_a_folder_of_its_name_and_that_is_said(copies, write, numbered_episode, capsys):
    write("copies/reach-v0", [numbered_episode(0, 3), numbered_episode(1, 4)])
    assert open_dataset("copies/reach-v0").total_episodes == 2
    assert "folder" in capsys.readouterr().out
    assert open_dataset("./copies/reach-v0").total_episodes == 1
    assert capsys.readouterr().out == ""


def test_nothing_is_said_where_both_are_one_folder(copies, write, numbered_episode, monkeypatch, capsys):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(copies))
    assert open_dataset("copies/reach-v0").total_episodes == 1
    assert capsys.readouterr().out == ""


def test_a_folder_that_holds_no_dataset_is_not_taken_for_one(copies, capsys):
    (copies / "copies/empty-v0").mkdir()
    assert "could not be downloaded" in refused("copies/empty-v0")
    assert "folder copies/empty-v0 holds no dataset" in capsys.readouterr().out
