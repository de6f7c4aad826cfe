"""The command line collects, says what it collected, and keeps what exists."""

import minari
import numpy as np
import pytest

from flowrl.errors import InputError
from flowrl.scripts import collect

REACH = "flowrl/reach/mixed-v0"
OWN = "me/reach/mine-v0"


def test_collecting_prints_progress_a_summary_and_the_next_command(capsys):
    collect.start([REACH, "--steps", "300", "--seed", "2"])
    printed = capsys.readouterr()
    dataset = minari.load_dataset(REACH)
    assert f"{dataset.total_episodes} episodes, {dataset.total_steps} steps" in printed.out
    assert f"mean {np.mean([episode.rewards.sum() for episode in dataset]):,.1f}" in printed.out
    assert f"python -m scripts.train flow --dataset {REACH}" in printed.out
    assert "100%" in printed.err
    assert f"`python -m scripts.collect {REACH} --steps 300 --seed 2`" in dataset.storage.metadata["description"]


def test_a_users_policies(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def still(observation, generator):\n    return [0.0, 0.0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--env", "flowrl/Reach-v0", "--policy", "mine:still", "random", "--steps", "100"]
    collect.start([OWN, *options])
    metadata = minari.load_dataset(OWN).storage.metadata
    assert metadata["algorithm_name"] == "mine:still, random"
    assert f"`python -m scripts.collect {OWN} {' '.join(options)} --seed 0`" in metadata["description"]


def test_an_existing_dataset_is_kept_unless_forced(capsys):
    collect.start([REACH, "--steps", "50"])
    with pytest.raises(InputError, match=r"exists already.*--force"):
        collect.start([REACH, "--steps", "100"])
    collect.start([REACH, "--steps", "100", "--if-missing"])
    assert "exists already" in capsys.readouterr().out
    assert minari.load_dataset(REACH).total_steps < 100
    collect.start([REACH, "--steps", "100", "--force"])
    assert minari.load_dataset(REACH).total_steps >= 100


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["hopper"], "unknown dataset 'hopper'; known are"),
        ([REACH, "--step=3"], "unknown option --step.*did you mean --steps"),
        ([REACH, "--steps", "0"], "steps is 0"),
    ],
)
def test_a_mistake_is_refused(argv, message):
    with pytest.raises(InputError, match=message):
        collect.start(argv)
