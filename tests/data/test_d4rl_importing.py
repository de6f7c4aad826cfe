"""A D4RL file becomes a Minari dataset: by path, by file name or by D4RL's name, once, whole or not at all."""

import os

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from d4rl_files import ID, arrays, save

from flowrl.data.d4rl import d4rl_reference, import_d4rl, import_file, importing, resolve
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.minari_store import local_ids, open_dataset
from flowrl.errors import InputError


def tree(root):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))}


def test_what_is_imported_is_read_back(imported, minari_root):
    file = imported(arrays(), reference_scores=(1.5, 9.5))
    dataset = minari.load_dataset(ID)
    for stored, episode in zip(dataset, file.episodes, strict=True):
        for name in ("observations", "actions", "rewards", "terminations", "truncations"):
            np.testing.assert_array_equal(getattr(stored, name), getattr(episode, name))
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
    for part in ("last observation of each episode is not real", "no timeouts", "cut at 6 steps"):
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
    with pytest.raises(InputError, match=r"observations have 3 numbers, and the observation space of Hopper-v4 is Box"):
        imported(arrays(), env_spec=gym.spec("Hopper-v4"))
    assert not list(minari_root.iterdir())


def test_a_taken_id_is_refused_before_reading_and_force_replaces(imported, path, minari_root):
    imported(arrays())
    stood = tree(minari_root)
    with pytest.raises(InputError, match=f"{ID} exists already"):
        import_file("/no/such/file", ID, env_spec=None, reference_scores=None)
    with pytest.raises(InputError, match="does not exist"):
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


# By file or by name


SIZES = {"hopper": (11, 3), "walker2d": (17, 6), "kitchen": (5, 2), "pen": (45, 24)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """`$D4RL_DATASET_DIR`."""
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    (tmp_path / "d4rl").mkdir()
    return tmp_path / "d4rl"


def save_task(path, task="hopper", steps=50, without=()):
    """Episodes of 8 steps of that task's sizes, each reward 1, and a last one that no flag ends."""
    generator = np.random.default_rng(0)
    observation_size, action_size = SIZES[task]
    content = arrays(steps, terminals=(), timeouts=range(7, steps, 8))
    content["observations"] = generator.normal(size=(steps, observation_size)).astype(np.float32)
    content["next_observations"] = np.roll(content["observations"], -1, axis=0)
    content["next_observations"][content["timeouts"]] += 1
    content["actions"] = generator.uniform(-1, 1, (steps, action_size)).astype(np.float32)
    content["rewards"] = np.ones((steps, 1), np.float32)
    return save(path, {name: value for name, value in content.items() if name not in without}, compression="gzip")


def test_a_file_is_imported_under_the_id_of_its_name(folder):
    imported = import_d4rl(str(save_task(folder / "hopper_medium_replay-v2.hdf5")))
    assert imported.dataset_id == "d4rl/hopper/medium-replay-v2"
    assert imported.env_spec.id == "Hopper-v4"
    assert imported.reference == d4rl_reference("hopper-medium-v2")
    dataset = open_dataset(imported.dataset_id)
    assert dataset.env_spec.id == "Hopper-v4"
    metadata = dataset.storage.metadata
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (-20.272305, 3234.3)
    assert TrajectoryDataset.from_minari(dataset.id).lengths.tolist() == [8] * 6
    summary = " ".join(imported.summary())
    for part in (
        "d4rl/hopper/medium-replay-v2: 6 episodes, 48 steps, environment Hopper-v4",
        "mean 8.0  quantiles 0% 8.0",
        *imported.file.notes(),
        "random -20.3, expert 3,234.3",
    ):
        assert part in summary


def test_d4rls_name_finds_the_file(folder):
    path = save_task(folder / "walker2d_medium_expert-v2.hdf5", "walker2d")
    assert import_d4rl("walker2d-medium-expert-v2").source == path
    assert local_ids() == ["d4rl/walker2d/medium-expert-v2"]
    assert open_dataset(local_ids()[0]).env_spec.id == "Walker2d-v4"


def test_ids_of_flowrl_are_reserved(folder):
    path = save_task(folder / "hopper_medium-v2.hdf5")
    with pytest.raises(InputError, match="flowrl/hopper/x-v0: ids in flowrl/ are reserved"):
        import_d4rl(str(path), "flowrl/hopper/x-v0")


def test_the_horizon_of_other_tasks_is_not_guessed(folder):
    path = save_task(folder / "kitchen_complete-v0.hdf5", "kitchen", without=("timeouts",))
    with pytest.raises(InputError, match="a horizon is needed"):
        import_d4rl(str(path))
    import_d4rl(str(path), horizon=8)
    assert TrajectoryDataset.from_minari("d4rl/kitchen/complete-v0").lengths.tolist() == [8] * 6


def test_the_horizon_of_locomotion_is_1000(folder):
    path = save_task(folder / "hopper_medium.hdf5", steps=2_003, without=("next_observations", "timeouts"))
    assert import_d4rl(str(path)).dataset_id == "d4rl/hopper/medium-v0"
    assert TrajectoryDataset.from_minari("d4rl/hopper/medium-v0").lengths.tolist() == [1000, 1000]


def test_a_task_that_gymnasium_does_not_have_keeps_its_reference(folder):
    imported = import_d4rl(str(save_task(folder / "pen-human-v1.hdf5", "pen")))
    assert imported.env_spec is None
    assert "no environment" in imported.summary()[0]
    dataset = open_dataset("d4rl/pen/human-v1")
    assert dataset.env_spec is None
    assert dataset.storage.metadata["ref_max_score"] == d4rl_reference("pen-human-v1").expert


def test_another_name_needs_an_id(folder):
    path = str(save_task(folder / "mine.hdf5"))
    with pytest.raises(InputError, match=r"mine.hdf5 is no D4RL name.*a dataset id is needed"):
        import_d4rl(path)
    assert import_d4rl(path, "my/own-v0").reference is None
    assert open_dataset("my/own-v0").env_spec is None
    import_d4rl(path, "my/own-v1", env="Hopper-v5")
    assert open_dataset("my/own-v1").env_spec.id == "Hopper-v5"
    assert open_dataset("my/own-v1").storage.metadata["ref_max_score"] == 3234.3
    import_d4rl(path, "d4rl/hopper/expert-v2")
    assert open_dataset("d4rl/hopper/expert-v2").env_spec.id == "Hopper-v4"


def test_the_environment_may_be_another_or_none(folder):
    path = str(save_task(folder / "hopper_medium-v2.hdf5"))
    import_d4rl(path, env="Hopper-v5")
    assert open_dataset("d4rl/hopper/medium-v2").env_spec.id == "Hopper-v5"
    import_d4rl(path, env="none", force=True)
    assert open_dataset("d4rl/hopper/medium-v2").env_spec is None
    with pytest.raises(InputError, match="unknown environment 'Hoper-v4'"):
        import_d4rl(path, env="Hoper-v4", force=True)
    with pytest.raises(InputError, match="observations have 11 numbers, and the observation space of Walker2d-v4"):
        import_d4rl(path, env="Walker2d-v4", force=True)


def test_an_existing_dataset_is_kept_unless_forced(folder):
    path = str(save_task(folder / "hopper_medium-v2.hdf5"))
    import_d4rl(path)
    save_task(folder / "hopper_medium-v2.hdf5", steps=80)
    with pytest.raises(InputError, match=r"d4rl/hopper/medium-v2 exists already"):
        import_d4rl(path)
    assert open_dataset("d4rl/hopper/medium-v2").total_steps == 48
    import_d4rl(path, force=True)
    assert open_dataset("d4rl/hopper/medium-v2").total_steps == 80


# resolve


def test_a_d4rl_name_is_imported_once(folder, capsys):
    path = save_task(folder / "hopper_medium-v2.hdf5")
    assert resolve("hopper-medium-v2") == "d4rl/hopper/medium-v2"
    assert "6 episodes" in capsys.readouterr().out
    path.unlink()
    assert resolve("hopper-medium-v2") == "d4rl/hopper/medium-v2"
    assert not capsys.readouterr().out


@pytest.mark.parametrize("other", ["flowrl/reach/mixed-v0", "d4rl/hopper/medium-v2", "hopper", "mine-v0", "", "a b"])
def test_everything_else_stays(other):
    assert resolve(other) == other


def test_a_folder_or_a_dataset_of_that_name_stays(tmp_path, monkeypatch, write, numbered_episode):
    write("hopper-expert-v2", [numbered_episode(0, 3)])
    assert resolve("hopper-expert-v2") == "hopper-expert-v2"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hopper-medium-v2").mkdir()
    assert resolve("hopper-medium-v2") == "hopper-medium-v2"


def test_a_d4rl_name_without_a_file_says_how_to_get_it(folder):
    with pytest.raises(InputError, match=f"{folder}, neither as hopper_medium-v2.hdf5 .*download it from D4RL"):
        resolve("hopper-medium-v2")


def test_a_broken_file_is_refused(folder):
    (folder / "hopper_medium-v2.hdf5").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot be read as HDF5"):
        resolve("hopper-medium-v2")
    assert not local_ids()


def test_an_import_by_another_process_meanwhile_is_taken(folder, monkeypatch):
    save_task(folder / "hopper_medium-v2.hdf5")
    original = importing.find_file

    def slow(name):  # the other one finishes between the look and the import
        monkeypatch.setattr(importing, "find_file", original)
        import_d4rl(name)
        return original(name)

    monkeypatch.setattr(importing, "find_file", slow)
    assert resolve("hopper-medium-v2") == "d4rl/hopper/medium-v2"
