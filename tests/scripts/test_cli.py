"""Command lines: help, the nearest name of an option that is not there, one sentence for a mistake."""

import importlib
import io
import re
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import tyro
from torch.utils.tensorboard import SummaryWriter

import flowrl
from flowrl.api.training import default_options
from flowrl.errors import InputError
from flowrl.experiments.options import option_names
from flowrl.scripts import cli, collect, compare, evaluate, train
from flowrl.scripts.console.suggestions import ELSEWHERE
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
        "train": ["--run-dir", "--steps", "--width", "--targets", "--precision", "--top-fraction", "Training steps"],
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


def helped(capsys, start, *words):
    """What --help prints."""
    with pytest.raises(SystemExit) as caught:
        start([*words, "--help"])
    assert caught.value.code in (0, None)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "name", sorted({path.stem for path in Path(cli.__file__).parent.glob("*.py")} - {"__init__", "cli"})
)
@pytest.mark.parametrize("started", ["flowrl", "module"])
def test_help_ends_with_examples_as_it_was_started(name, started, capsys, monkeypatch):
    script, command = importlib.import_module(f"flowrl.scripts.{name}"), name.replace("_", "-")
    monkeypatch.setattr(sys, "argv", [f"flowrl {command}" if started == "flowrl" else f"scripts/{name}.py"])
    helps = [helped(capsys, script.start), *([helped(capsys, script.start, "bc")] if name == "train" else [])]
    program = f"flowrl {command} " if started == "flowrl" else f"python -m scripts.{name} "
    for said in helps:
        ours, examples = said.split("examples:\n")
        lines = examples.rstrip().splitlines()
        assert lines[0].startswith(f"  {program}".rstrip())
        assert all(line.startswith("  ") for line in lines)
        assert ("scripts." in said) == (started == "module")
        assert not re.search(r"\(default: (None)?\)|\{None", ours)


def test_an_options_help_is_one_text_and_a_groups_title_one_word(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["flowrl train"])
    said = helped(capsys, train.start, "flow")
    assert re.findall(r"^\W+((?:\w+ )?options) \W+$", said, re.MULTILINE) == [
        f"{title} options".strip() for title in ("", "agent", "cloning", "training", "evaluation", "selection")
    ]
    words = " ".join(re.sub("[│|]", " ", said).split())
    assert "`best` for their best, and `rNN` for NN % of the way" in words
    assert "it lies beyond the data. (default: p90 best) --episodes INT" in words
    assert "--run-dir PATH The run folder; by default" in words
    monkeypatch.setenv("COLUMNS", "110")
    assert "$D4RL_DATASET_DIR. A+B mixes" in helped(capsys, train.start, "flow")
    assert re.search(r"dataset whose file is in \$D4RL", helped(capsys, train.start, "flow")), "no break of the source"


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        ("--lr 1", "--learning-rate"),
        ("--n-eval-episodes 1", "--episodes"),
        ("--n_eval_episodes=1", "--episodes"),
        ("--batch 1", "--batch-size"),
        ("--num-steps 1", "--steps"),
        ("--max-steps 1", "--steps"),
        ("--dataset-id 1", "--dataset"),
        ("--env-name 1", "--env"),
        ("--ckpt 1", "--run-dir"),
        ("--hidden-size 1", "--width"),
    ],
)
def test_the_names_of_other_libraries_are_understood(argv, meant):
    with pytest.raises(InputError, match=f"did you mean {meant}\\?"):
        train.parse_args(["flow", *argv.split()])


def test_a_suggested_name_is_an_option_of_the_command():
    known = {f"--{name.replace('_', '-')}" for name in option_names(default_options("flow"))}
    ours = known | {"--datasets", "--agents", "--seeds", "--out", "--jobs", "--video"}
    assert {f"--{name}" for name in ELSEWHERE} <= ours
    with pytest.raises(InputError, match="did you mean --seeds\\?"):
        cli.parse(compare.Args, ["--n-seeds", "2"])
    with pytest.raises(InputError, match="did you mean --datasets\\?"):
        cli.parse(compare.Args, ["--dataset-id", "x"])


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


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "utf-8"])
def test_a_console_of_any_encoding_is_printed_to(encoding, monkeypatch):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    monkeypatch.setattr(sys, "argv", ["flowrl", "x"])

    def start(argv):
        print("mean 3 → γ \udcff │")
        raise InputError("α is \udcff")

    with pytest.raises(SystemExit) as caught:
        cli.run(start)
    assert caught.value.code == 2
    said = [stream.buffer.getvalue().decode(encoding) for stream in streams if not stream.flush()]
    assert said[0].startswith("mean 3 → γ ? │" if encoding == "utf-8" else "mean 3 ? ? ? ")
    assert "error: " in said[1]
    assert [stream.errors for stream in streams] == ["strict"] * 2


@pytest.mark.parametrize("name", ["\udcff", "runs/a b\udc80c"])
def test_a_name_in_no_encoding_is_a_sentence(name, monkeypatch, capsys):
    def start(argv):
        pytest.fail("started")

    monkeypatch.setattr(sys, "argv", ["flowrl", "--out", name])
    with pytest.raises(SystemExit) as caught:
        cli.run(start)
    assert caught.value.code == 2
    assert re.fullmatch(r"error: .*\\udc.* no UTF-8.*\n", capsys.readouterr().err)
    monkeypatch.setattr(sys, "argv", ["flowrl"])
    code, said = ending(monkeypatch, capsys, UnicodeEncodeError("utf-8", f"<p>{name} and more", 0, 1, "no"))
    assert code == 2
    assert re.fullmatch(r"error: .*\\udc.* no UTF-8.*\n", said)


def test_a_full_disk_behind_stdout_is_a_sentence(monkeypatch, capsys, tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open(tmp_path / "out", "w", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdout", file)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            with pytest.raises(SystemExit) as caught:
                cli.run(lambda argv: print("a line"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: File too large\n"


def test_a_full_disk_behind_tensorboard_is_a_sentence(monkeypatch, capsys, tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)

    def start(argv):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            SummaryWriter(tmp_path).add_scalar("x", 1.0, 1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(sys, "argv", ["flowrl"])
    with pytest.raises(SystemExit) as caught:
        cli.run(start)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: File too large\n"


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
    assert capsys.readouterr().err.startswith("error: torchrun can only start a training")


# flowrl COMMAND


def console(monkeypatch, *words):
    """The exit code of `flowrl WORDS`."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/flowrl", *words])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code


def test_the_console_lists_every_script(monkeypatch, capsys, repository):
    assert console(monkeypatch, "--help") == 0
    printed = capsys.readouterr().out
    assert console(monkeypatch) == 2
    assert capsys.readouterr().out == printed
    scripts = {path.stem.replace("_", "-") for path in (repository / "scripts").glob("*.py")} - {"--init--", "cli"}
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in printed.splitlines() if line.startswith("  ")}
    assert listed.keys() == scripts
    assert all(len(sentence) > 20 for sentence in listed.values()), "each says what it does"


def test_the_console_names_its_version(monkeypatch, capsys):
    assert console(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"flowrl {flowrl.__version__}\n"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trian", "unknown command 'trian': did you mean train? known are bench, collect, compare"),
        ("import_d4lr", "unknown command 'import_d4lr': did you mean import-d4rl? known are bench"),
        ("x", "unknown command 'x': known are bench, collect, compare"),
        ("cli", "unknown command 'cli': "),
        ("--step", "unknown command '--step': "),
    ],
)
def test_an_unknown_command_is_refused_with_the_nearest(monkeypatch, capsys, word, message):
    assert console(monkeypatch, word) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}")
    assert said.count("\n") == 1


@pytest.mark.parametrize("word", ["import-d4rl", "import_d4rl", "train"])
def test_a_command_is_called_as_it_was_started(monkeypatch, capsys, word):
    assert console(monkeypatch, word, *(["flow"] if word == "train" else []), "--help") in (0, None)
    assert f"usage: flowrl {word}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("started", "words"),
    [("flowrl collect", "flowrl import-d4rl"), ("/a/scripts/collect.py", "python -m scripts.import_d4rl")],
)
def test_another_command_is_named_in_the_same_way(monkeypatch, started, words):
    monkeypatch.setattr(sys, "argv", [started])
    assert cli.typed("import-d4rl") == words
    assert cli.examples("One line.\n\n    flowrl import-d4rl x\n\nMore.") == f"examples:\n  {words} x"
    assert cli.examples("One line.") == cli.examples(None) == ""


def test_a_commands_mistake_is_one_sentence(monkeypatch, capsys):
    assert console(monkeypatch, "train", "flow", "--step", "5") == 2
    assert capsys.readouterr().err == "error: unknown option --step; did you mean --steps? (--help lists all)\n"


def test_a_command_finds_modules_in_the_working_directory(monkeypatch, capsys, tmp_path):
    (tmp_path / "of_the_user.py").write_text("from flowrl.agents.bc import BCConfig as Mine\n")
    monkeypatch.chdir(tmp_path)
    assert console(monkeypatch, "train", "of_the_user:Mine", "--help") in (0, None)
    assert "usage: flowrl train of_the_user:Mine" in capsys.readouterr().out
