"""The command line collects, says what it collected, and keeps what exists."""

import gc
import re
import sys
import threading
from pathlib import Path

import minari
import numpy as np
import pytest

from flowrl.envs import collecting
from flowrl.errors import InputError
from flowrl.scripts import cli, collect

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


@pytest.mark.parametrize("options", [[], ["--if-missing"]])
def test_a_second_collection_waits_for_the_first(options, monkeypatch, capsys):
    playing, goes_on, ends = threading.Event(), threading.Event(), {}
    original = collecting.play_episodes

    def play(*arguments, **keywords):
        playing.set()
        assert goes_on.wait(30)
        return original(*arguments, **keywords)

    def begin(number):
        try:
            ends[number] = collect.start([REACH, "--steps", "50", *options])
        except InputError as error:
            ends[number] = str(error)

    monkeypatch.setattr(collecting, "play_episodes", play)
    monkeypatch.setattr(collect, "_say_waiting", lambda dataset_id: goes_on.set())
    first, second = (threading.Thread(target=begin, args=(number,)) for number in range(2))
    first.start()
    assert playing.wait(30)
    second.start()
    for thread in (first, second):
        thread.join(60)
    assert ends[0] is None
    if options:
        assert ends[1] is None
        assert "exists already" in capsys.readouterr().out
    else:
        assert "exists already" in ends[1]
    assert minari.load_dataset(REACH).total_steps >= 50


def test_if_missing_needs_no_place_to_write(minari_root, monkeypatch, capsys):
    collect.start([REACH, "--steps", "50"])
    monkeypatch.setattr(Path, "mkdir", lambda self, *words, **more: pytest.fail("writes"))
    collect.start([REACH, "--if-missing"])
    assert "exists already" in capsys.readouterr().out


def test_a_root_that_is_a_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("a file", encoding="utf-8")
    for root in ("file", "file/below"):
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / root))
        with pytest.raises(InputError, match="datasets cannot be written to .*file"):
            collect.start([REACH, "--steps", "50"])


def ending(argv, monkeypatch, capsys):
    """(exit code, stderr) of the command."""
    monkeypatch.setattr(sys, "argv", ["flowrl", "collect", *argv])
    code = 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code
    gc.collect()
    return code, capsys.readouterr().err


@pytest.mark.slow
def test_a_full_disk_ends_in_a_sentence_whatever_its_size(minari_root, monkeypatch, capsys):
    resource = pytest.importorskip("resource")
    assert ending([REACH, "--steps", "100"], monkeypatch, capsys)[0] == 0
    before = {path: path.read_bytes() for path in minari_root.rglob("*") if path.is_file()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in np.linspace(0, 300_000, 15).astype(int).tolist():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        try:
            code, said = ending([REACH, "--steps", "500", "--force"], monkeypatch, capsys)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert code == 2, said
        assert re.search(r"error: .*reach/mixed-v0: File too large$", said.rstrip())
        assert "Traceback" not in said
        assert {path: path.read_bytes() for path in minari_root.rglob("*") if path.is_file()} == before


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
