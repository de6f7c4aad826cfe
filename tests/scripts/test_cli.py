"""Command lines: help, the nearest name of an option that is not there, one sentence for a mistake."""

import io
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from flowrl.errors import InputError
from flowrl.scripts import cli, collect, compare, evaluate, train
from flowrl.training.loop import Stopped

SCRIPTS = {"train": train, "evaluate": evaluate, "compare": compare, "collect": collect}


@dataclass(frozen=True)
class Inner:
    """Nested."""

    batch_size: int = 4
    """Of a batch."""

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}: it must be at least 1")


@dataclass(frozen=True)
class Args:
    """For the tests."""

    place: Annotated[Path, tyro.conf.Positional]
    """Where."""
    inner: Inner = Inner()
    targets: tuple[str, ...] = ("best",)
    """Which."""
    run_dir: str | None = None
    """Named."""


def test_options_are_flat_and_take_both_spellings():
    args = cli.parse(Args, ["here", "--batch-size", "7", "--targets", "-3", "p50", "--run_dir", "x"])
    assert args == Args(Path("here"), Inner(7), ("-3", "p50"), "x")
    assert cli.parse(Args, ["here", "--batch_size=8"]) == Args(Path("here"), Inner(8))


def test_a_default_is_kept():
    default = Args(Path("there"), Inner(9))
    assert cli.parse(Args, ["--run-dir", "y"], default) == Args(Path("there"), Inner(9), run_dir="y")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["here", "--batchsize", "3"], "unknown option --batchsize; did you mean --batch-size?"),
        (["here", "--bath-size=3"], "unknown option --bath-size=3; did you mean --batch-size?"),
        (["here", "--zzz"], "unknown option --zzz (--help lists all)"),
        (["here", "there"], "unexpected argument 'there'"),
        (["here", "--batch-size", "many"], "--batch-size"),
        (["here", "--batch-size"], "--batch-size"),
        (["here", "--batch-size", "0"], "batch_size is 0: it must be at least 1"),
        ([], "PATH"),
    ],
)
def test_a_mistake_is_one_sentence(argv, message):
    with pytest.raises(InputError) as caught:
        cli.parse(Args, argv)
    said = str(caught.value)
    assert message in said
    assert "\n" not in said
    assert not set("│╭╰─") & set(said)
    assert len(said) < 250


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "ascii", "cp1252"])
def test_the_sentence_does_not_depend_on_the_terminals_encoding(encoding, monkeypatch):
    """tyro frames its messages in other characters where stdout is not `utf-8`."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with pytest.raises(InputError, match="--batch-size.*'many'") as caught:
        cli.parse(Args, ["here", "--batch-size", "many"])
    assert "---" not in str(caught.value)
    assert "Of a batch" not in str(caught.value)


@pytest.mark.parametrize("word", ["--iner", "--plase", "--inner", "--place"])
def test_only_options_that_exist_are_suggested(word):
    with pytest.raises(InputError, match=f"unknown option {word}") as caught:
        cli.parse(Args, ["here", word, "3"])
    assert "did you mean --inner" not in str(caught.value)
    assert "did you mean --place" not in str(caught.value)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_is_given_with_every_option_and_exit_code_0(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [f"scripts/{name}.py"])
    argv = ["flow", "--help"] if name == "train" else ["--help"]
    with pytest.raises(SystemExit) as caught:
        SCRIPTS[name].start(argv)
    assert caught.value.code in (0, None)
    said = capsys.readouterr().out
    assert f"python -m scripts.{name}" in said
    options = {
        "train": ["--run-dir", "--steps", "--width", "--targets", "--precision", "--top-fraction", "Gradient steps"],
        "evaluate": ["PATH", "--episodes", "--targets", "--rollout", "--video"],
        "compare": ["--datasets", "--agents", "--seeds", "--out", "--jobs"],
        "collect": ["--steps", "--seed"],
    }
    for option in options[name]:
        assert option in said


def test_the_help_of_train_lists_the_agents(capsys):
    with pytest.raises(SystemExit) as caught:
        train.start(["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    for agent in ("flow", "dt", "bc", "flow-paper", "dt-paper"):
        assert re.search(rf"^  {agent} ", said, re.MULTILINE)
    with pytest.raises(SystemExit) as caught:
        train.start([])
    assert caught.value.code == 2


@pytest.mark.parametrize("name", ["flow", "bc", "dt-paper"])
def test_the_help_of_an_agent_shows_its_preset(name, capsys):
    with pytest.raises(SystemExit):
        train.start([name, "--help"])
    said = capsys.readouterr().out
    assert {"flow": "default: flow", "bc": "Hidden layers", "dt-paper": "default: softmax"}[name] in said
    assert "--agent" not in said


def test_presets_give_the_defaults_and_options_change_them(tmp_path):
    args = train.parse_args(["dt-paper", "--layers", "5", "--steps", "7", "--targets", "-1.5", "p5"])
    assert (args.agent, args.config.attention, args.config.width, args.config.layers) == ("dt-paper", "softmax", 256, 5)
    assert (args.training.steps, args.evaluation.targets) == (7, ("-1.5", "p5"))
    assert train.parse_args(["bc", "--top-fraction", "0.1", "--width", "32"]).config.width == 32


@pytest.mark.parametrize("option", ["--agent", "--config", "--training"])
def test_the_agent_is_named_once(option):
    with pytest.raises(InputError, match=f"unknown option {option}") as caught:
        train.parse_args(["flow", option, "dt"])
    assert f"did you mean {option}?" not in str(caught.value)


def ending(monkeypatch, capsys, error):
    """(exit code, stderr) of a script that ends in `error`."""

    def start(argv):
        raise error

    monkeypatch.setattr(sys, "argv", ["scripts/x.py"])
    with pytest.raises(SystemExit) as caught:
        cli.run(start)
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("steps is 0"), 2, "error: steps is 0\n"),
        (OSError(28, "No space left on device"), 2, "error: No space left on device\n"),
        (OSError(30, "Read-only file system", "/x/y"), 2, "error: /x/y: Read-only file system\n"),
        (
            Stopped(signal.SIGTERM, 7),
            143,
            "error: stopped by SIGTERM after step 7; the same command goes on from there\n",
        ),
        (
            Stopped(signal.SIGINT, 7),
            130,
            "error: stopped by SIGINT after step 7; the same command goes on from there\n",
        ),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_how_a_script_ends(monkeypatch, capsys, error, code, said):
    assert ending(monkeypatch, capsys, error) == (code, said)


def test_a_bug_of_ours_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda argv: 1 / 0)


@pytest.mark.parametrize(
    ("rank", "error", "said"),
    [
        ("0", InputError("steps is 0"), ("error: steps is 0\n", [])),
        # torchrun ends it while it waits, unless the mistake was its own alone.
        ("1", InputError("steps is 0"), ("error: steps is 0\n", [10])),
        ("0", KeyboardInterrupt(), ("error: interrupted\n", [])),
        ("1", KeyboardInterrupt(), ("", [])),
        ("1", Stopped(signal.SIGTERM, 7), ("", [])),
    ],
)
def test_of_several_processes_rank_0_speaks(monkeypatch, capsys, rank, error, said):
    waited = []
    monkeypatch.setattr(cli.time, "sleep", waited.append)
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "2"), ("RANK", rank)):
        monkeypatch.setenv(name, value)

    def start(argv):
        raise error

    with pytest.raises(SystemExit):
        cli.run(start, parallel=True)
    assert (capsys.readouterr().err, waited) == said


def test_torchrun_starts_the_training_alone(monkeypatch, capsys):
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        cli.run(evaluate.start)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: torchrun can start scripts.train alone")
