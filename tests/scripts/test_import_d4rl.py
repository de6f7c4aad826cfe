"""A D4RL file becomes a dataset that trains, by file or by D4RL's name, once, and says what is in it."""

import sys

import h5py
import numpy as np
import pytest

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.minari_store import local_ids, open_dataset
from flowrl.errors import InputError
from flowrl.evaluation.reference_scores import d4rl_reference
from flowrl.scripts import cli, import_d4rl, train
from flowrl.scripts.import_d4rl import Args, main, resolve

SIZES = {"hopper": (11, 3), "halfcheetah": (17, 6), "walker2d": (17, 6)}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """`$D4RL_DATASET_DIR`."""
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    (tmp_path / "d4rl").mkdir()
    return tmp_path / "d4rl"


def save(path, task="hopper", steps=50, sizes=None, without=()):
    """Episodes of 8 steps, each reward 1, and a last one that no flag ends."""
    generator = np.random.default_rng(0)
    observation_size, action_size = sizes or SIZES[task]
    observations = generator.normal(size=(steps, observation_size)).astype(np.float32)
    timeouts = np.arange(steps) % 8 == 7
    following = np.roll(observations, -1, axis=0)
    following[timeouts] += 1
    content = {
        "observations": observations,
        "actions": generator.uniform(-1, 1, (steps, action_size)).astype(np.float32),
        "rewards": np.ones((steps, 1), np.float32),
        "terminals": np.zeros(steps, bool),
        "timeouts": timeouts,
        "next_observations": following,
        "infos/qpos": observations,
    }
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            if name not in without:
                file.create_dataset(name, data=value, compression="gzip")
    return path


def test_flowrls_own_names_are_taken(folder):
    path = save(folder / "hopper_medium-v2.hdf5")
    with pytest.raises(InputError, match="flowrl/hopper/x-v0: names in flowrl/ are flowrl's own"):
        main(Args(str(path), dataset_id="flowrl/hopper/x-v0"))


def test_the_horizon_of_other_tasks_is_not_guessed(folder):
    path = save(folder / "kitchen_complete-v0.hdf5", sizes=(5, 2), without=("timeouts",))
    with pytest.raises(InputError, match="--horizon must say"):
        main(Args(str(path)))
    main(Args(str(path), horizon=8))
    assert TrajectoryDataset.from_minari("d4rl/kitchen/complete-v0").lengths.tolist() == [8] * 6


def test_a_file_is_imported_under_the_id_of_its_name(folder, capsys):
    main(Args(str(save(folder / "hopper_medium_replay-v2.hdf5"))))
    output = capsys.readouterr().out
    for part in (
        "d4rl/hopper/medium-replay-v2: 6 episodes, 48 steps, environment Hopper-v4",
        "returns: mean 8.0  quantiles 0% 8.0",
        "The last 2 steps, of an episode that no flag ends, were dropped.",
        "The last observation of every episode is real.",
        "reference scores (D4RL's): random -20.3, expert 3,234.3",
        "next: python -m scripts.train flow --dataset d4rl/hopper/medium-replay-v2",
    ):
        assert part in output
    dataset = open_dataset("d4rl/hopper/medium-replay-v2")
    assert dataset.env_spec.id == "Hopper-v4"
    metadata = dataset.storage.metadata
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (-20.272305, 3234.3)
    assert TrajectoryDataset.from_minari(dataset.id).lengths.tolist() == [8] * 6


def test_d4rls_name_finds_the_file(folder):
    save(folder / "walker2d_medium_expert-v2.hdf5", "walker2d")
    main(Args("walker2d-medium-expert-v2"))
    assert local_ids() == ["d4rl/walker2d/medium-expert-v2"]
    assert open_dataset(local_ids()[0]).env_spec.id == "Walker2d-v4"


def test_a_task_that_gymnasium_does_not_have_keeps_its_reference(folder, capsys):
    main(Args(str(save(folder / "pen-human-v1.hdf5", sizes=(45, 24)))))
    assert "48 steps, no environment" in capsys.readouterr().out
    dataset = open_dataset("d4rl/pen/human-v1")
    assert dataset.env_spec is None
    assert dataset.storage.metadata["ref_max_score"] == d4rl_reference("pen-human-v1").expert


def test_another_name_needs_an_id(folder, capsys):
    path = str(save(folder / "mine.hdf5"))
    with pytest.raises(InputError, match=r"mine.hdf5 is no name of D4RL's.*--dataset-id"):
        main(Args(path))
    main(Args(path, dataset_id="my/own-v0"))
    assert "reference scores: none are known" in capsys.readouterr().out
    assert open_dataset("my/own-v0").env_spec is None
    main(Args(path, dataset_id="my/own-v1", env="Hopper-v5"))
    assert open_dataset("my/own-v1").env_spec.id == "Hopper-v5"
    assert open_dataset("my/own-v1").storage.metadata["ref_max_score"] == 3234.3
    main(Args(path, dataset_id="d4rl/hopper/expert-v2"))
    assert open_dataset("d4rl/hopper/expert-v2").env_spec.id == "Hopper-v4"


def test_the_environment_may_be_another_or_none(folder):
    path = str(save(folder / "hopper_medium-v2.hdf5"))
    main(Args(path, env="Hopper-v5"))
    assert open_dataset("d4rl/hopper/medium-v2").env_spec.id == "Hopper-v5"
    main(Args(path, env="none", force=True))
    assert open_dataset("d4rl/hopper/medium-v2").env_spec is None
    with pytest.raises(InputError, match="unknown environment 'Hoper-v4'"):
        main(Args(path, env="Hoper-v4", force=True))
    with pytest.raises(InputError, match="observations have 11 figures, and the observation space of Walker2d-v4"):
        main(Args(path, env="Walker2d-v4", force=True))


def test_a_file_without_what_follows_says_so(folder, capsys):
    main(Args(str(save(folder / "hopper_medium.hdf5", without=("next_observations", "timeouts"))), horizon=20))
    output = capsys.readouterr().out
    assert "d4rl/hopper/medium-v0: 2 episodes, 40 steps" in output
    assert "The file has no timeouts: episodes were cut at 20 steps." in output
    assert "The last observation of each episode is not real" in output


def test_flags_off_their_row_are_refused_or_warned_of(folder, capsys):
    path = save(folder / "hopper_medium-v2.hdf5")
    with h5py.File(path, "r+") as file:
        file["timeouts"][...] = np.roll(file["timeouts"][()], 1)
    with pytest.raises(InputError, match="the flags do not stand where the episodes end"):
        main(Args(str(path)))
    main(Args(str(path), allow_misaligned=True))
    assert "warning: " in capsys.readouterr().err


def test_an_existing_dataset_is_kept_unless_forced(folder):
    path = str(save(folder / "hopper_medium-v2.hdf5"))
    main(Args(path))
    save(folder / "hopper_medium-v2.hdf5", steps=80)
    with pytest.raises(InputError, match=r"d4rl/hopper/medium-v2 exists already.*--force"):
        main(Args(path))
    assert open_dataset("d4rl/hopper/medium-v2").total_steps == 48
    main(Args(path, force=True))
    assert open_dataset("d4rl/hopper/medium-v2").total_steps == 80


BAD = [
    (["/no/such.hdf5"], "'/no/such.hdf5' is neither a file nor a D4RL name"),
    (["hoper-medium-v2"], "'hoper-medium-v2' is neither a file nor a D4RL name"),
    (["hopper-medium-v2"], "no file of hopper-medium-v2 is in"),
    ([".", "--dataset-id", "my/own-v0"], "'.' is neither a file nor a D4RL name"),
    (["FILE", "--dataset-id", "hopper"], "'hopper' is no dataset id"),
    (["FILE", "--horizon", "0"], "horizon is 0"),
    (["FILE", "--forse"], "did you mean --force?"),
    (["FILE", "--env", "Hoper-v4"], "unknown environment 'Hoper-v4'"),
    ([], "or D4RL's name of a dataset"),
]


@pytest.mark.parametrize(("argv", "sentence"), BAD)
def test_a_mistake_ends_in_one_sentence(folder, monkeypatch, capsys, argv, sentence):
    path = str(save(folder / "hopper_expert-v2.hdf5"))
    monkeypatch.setattr(sys, "argv", ["scripts/import_d4rl.py", *(path if word == "FILE" else word for word in argv)])
    with pytest.raises(SystemExit) as caught:
        cli.run(import_d4rl.start)
    said = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2
    assert len(said) == 1, said
    assert sentence in said[0]
    assert not local_ids()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interrupt_leaves_nothing_half_made(folder, minari_root, monkeypatch, capsys, error):
    path = str(save(folder / "hopper_medium-v2.hdf5"))
    original = h5py.Group.create_dataset

    def failing(self, *arguments, **keywords):
        if self.name == "/episode_3":
            raise error
        return original(self, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(h5py.Group, "create_dataset", failing)
        patch.setattr(sys, "argv", ["scripts/import_d4rl.py", path])
        with pytest.raises(SystemExit) as caught:
            cli.run(import_d4rl.start)
    assert caught.value.code == (2 if isinstance(error, OSError) else 130)
    assert not list(minari_root.iterdir())
    main(Args(path))


# resolve


def test_a_d4rl_name_is_imported_once(folder, capsys):
    path = save(folder / "hopper_medium-v2.hdf5")
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
    save(folder / "hopper_medium-v2.hdf5")
    original = import_d4rl.find_file

    def slow(name):  # the other one finishes between the look and the import
        monkeypatch.setattr(import_d4rl, "find_file", original)
        main(Args(name))
        return original(name)

    monkeypatch.setattr(import_d4rl, "find_file", slow)
    assert resolve("hopper-medium-v2") == "d4rl/hopper/medium-v2"


def test_what_is_imported_trains(folder, tmp_path, tiny_argv):
    save(folder / "hopper_medium-v2.hdf5")
    train.start(tiny_argv("flow", tmp_path / "run", "--dataset", resolve("hopper-medium-v2"), "--steps", "3"))
    assert (tmp_path / "run/evaluations.jsonl").exists()
