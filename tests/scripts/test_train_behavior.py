"""The command line passes its options on and says where the policies are."""

import json
from pathlib import Path

import pytest

from flowrl.errors import InputError
from flowrl.scripts import train_behavior


def test_the_options_are_passed_on(tmp_path, monkeypatch, capsys):
    calls = []

    def trained(name, **keywords):
        calls.append((name, keywords))
        (tmp_path / "snapshots.json").write_text(json.dumps({"snapshots": [{}, {}], "stages": {"random": 0}}))
        return tmp_path

    monkeypatch.setattr(train_behavior, "train_behavior", trained)
    train_behavior.start(["hopper", "--steps", "5", "--seed", "1", "--episodes", "3", "--out", "x", "--run-dir", "y"])
    ((name, keywords),) = calls
    report = keywords.pop("report")
    report("a line")
    expected = {"steps": 5, "seed": 1, "episodes": 3, "out": Path("x"), "run_dir": Path("y")}
    assert (name, keywords) == ("hopper", expected)
    printed = capsys.readouterr().out
    assert "a line" in printed
    assert str(tmp_path) in printed


def test_an_unknown_recipe_is_refused():
    with pytest.raises(InputError, match="no recipe for 'hoper'; known are hopper"):
        train_behavior.start(["hoper"])
