"""The command imports a D4RL file, says what is in it, and ends a mistake in one sentence; what it imports trains."""

import sys

import h5py
import numpy as np
import pytest

from flowrl.data.minari_store import local_ids
from flowrl.errors import InputError
from flowrl.scripts import cli, import_d4rl, train
from flowrl.scripts.import_d4rl import Args, main


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """`$D4RL_DATASET_DIR`."""
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    (tmp_path / "d4rl").mkdir()
    return tmp_path / "d4rl"


def save(path, without=()):
    """Episodes of Hopper's sizes and 8 steps, each reward 1, and a last one that no flag ends."""
    generator, steps = np.random.default_rng(0), 50
    observations = generator.normal(size=(steps, 11)).astype(np.float32)
    timeouts = np.arange(steps) % 8 == 7
    following = np.roll(observations, -1, axis=0)
    following[timeouts] += 1
    content = {
        "observations": observations,
        "actions": generator.uniform(-1, 1, (steps, 3)).astype(np.float32),
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


def test_a_file_is_imported_under_the_id_of_its_name(folder, capsys):
    main(Args(str(save(folder / "hopper_medium_replay-v2.hdf5"))))
    output = capsys.readouterr().out
    for part in (
        "d4rl/hopper/medium-replay-v2: 6 episodes, 48 steps, environment Hopper-v4",
        "returns: mean 8.0  quantiles 0% 8.0",
        "The last 2 steps, of an episode that no flag ends, were dropped.",
        "The last observation of every episode is real.",
        "D4RL reference scores: random -20.3, expert 3,234.3",
        "next: python -m scripts.train flow --dataset d4rl/hopper/medium-replay-v2",
    ):
        assert part in output


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
    with pytest.raises(InputError, match="the flags are not where the episodes end"):
        main(Args(str(path)))
    main(Args(str(path), allow_misaligned=True))
    assert "warning: " in capsys.readouterr().err


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


def test_what_is_imported_trains(folder, tmp_path, tiny_argv):
    save(folder / "hopper_medium-v2.hdf5")
    train.start(tiny_argv("flow", tmp_path / "run", "--dataset", "hopper-medium-v2", "--steps", "3"))
    assert (tmp_path / "run/evaluations.jsonl").exists()
