"""The command line measures, writes the table, and refuses a mistake in one sentence."""

import json
import sys

import pytest

from flowrl.scripts import cli, measure_references


def test_measuring_one_environment(tmp_path, capsys):
    out = tmp_path / "table.json"
    numbers = ["--episodes-random", "2", "--episodes-expert", "2", "--seed", "3"]
    measure_references.start(["--envs", "hopper", *numbers, "--out", str(out)])
    (row,) = json.loads(out.read_text()).values()
    assert (row["random"]["episodes"], row["expert"]["episodes"], row["seed"]) == (2, 2, 3)
    assert str(out) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--envs", "hoper"], "'hoper'; known are "),
        (["--episodes-random", "1"], "must be at least 2"),
        (["--seed", "-1"], "must be at least 0"),
        (["--env", "hopper"], "did you mean --envs"),
    ],
)
def test_a_mistake_is_one_sentence(argv, sentence, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scripts/x.py", *argv])
    with pytest.raises(SystemExit) as ended:
        cli.run(measure_references.start)
    complaint = capsys.readouterr().err
    assert ended.value.code == 2
    assert sentence in complaint
    assert complaint.count("\n") == 1
