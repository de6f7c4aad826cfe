"""A run folder with a file that a disk, an editor or another program changed: one sentence, whoever reads it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import flowrl
from flowrl.agents import load_policy
from flowrl.errors import InputError
from flowrl.report import Report, Run, write_report
from flowrl.training.run_folder import RunFolder

DEEP = b"[" * 10_000 + b"]" * 10_000


def in_object(value: bytes) -> bytes:
    return b'{"step": 5, "agent": "flow", "inner": ' + value + b"}\n"


FAULTS: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "deep": lambda file: file.write_bytes(in_object(DEEP)),
    "deepest that Python reads": lambda file: file.write_bytes(in_object(b"[" * 900 + b"]" * 900)),
    "huge number": lambda file: file.write_bytes(in_object(b"1" + b"0" * 5000)),
    "large number": lambda file: file.write_bytes(in_object(b"1" + b"0" * 400)),
    "no UTF-8": lambda file: file.write_bytes(in_object(b'"\xff\xfe"')),
    "half a character": lambda file: file.write_bytes(in_object(b'"\\ud800"')),
    "a list": lambda file: file.write_bytes(b"[1, 2]\n"),
    "a text": lambda file: file.write_bytes(b'"text"\n'),
    "zeros": lambda file: file.write_bytes(b"\0" * 4096 + b"\n"),
    "folder": lambda file: file.mkdir(),
    "pipe": lambda file: os.mkfifo(file),
    "loop": lambda file: file.symlink_to(file.name),
}
FILES = ["config.json", "evaluations.jsonl", "metrics.jsonl", "checkpoint.pt"]


def report(run: Path, out: Path) -> None:
    write_report(Report.of([Run.load(RunFolder(run), "flow")]), out)


def said(call: Callable[[], object]) -> str | None:
    """The sentence in which a call ends; None if it does not."""
    try:
        call()
    except InputError as error:
        sentence = str(error)
    except OSError as error:  # as scripts write it
        sentence = f"{error.filename}: {error.strerror}"
    else:
        return None
    assert "\n" not in sentence
    return sentence


def readers(run: Path, out: Path, tiny_train) -> dict[str, Callable[[], object]]:
    return {
        "load_policy": lambda: load_policy(run),
        "report": lambda: report(run, out),
        "evaluate": lambda: flowrl.evaluate(run, episodes=1, device="cpu"),
        "train": lambda: tiny_train("flow", run),
    }


NEEDED = {
    "config.json": {"load_policy", "report", "evaluate", "train"},
    "evaluations.jsonl": {"report", "evaluate", "train"},
    "metrics.jsonl": {"report", "evaluate"},
    "checkpoint.pt": {"load_policy", "evaluate", "train"},
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_by_whoever_needs_it(tiny_run, tiny_train, reach_dataset, tmp_path, name, fault):
    (tiny_run / "checkpoint.previous.pt").unlink()
    (tiny_run / name).unlink()
    FAULTS[fault](tiny_run / name)
    for reader, call in readers(tiny_run, tmp_path / "out", tiny_train).items():
        sentence = said(call)
        missing = fault == "empty" and name.endswith("jsonl")  # no rows are no damage: a final evaluation is played
        if reader in NEEDED[name] and not missing:
            assert sentence is not None, reader
            assert str(tiny_run / name) in sentence


def edit(file: Path, path: tuple[str, ...], value: object) -> None:
    """Change an entry of a JSON file, or of the last row of a file of rows."""
    *before, text = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
    inner = tree = json.loads(text)
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    file.write_text("\n".join([*before, json.dumps(tree)]) + "\n")


ENTRIES = [
    ("config.json", path)
    for path in [
        *(("agent",), ("agent_config",), ("agent_config", "width"), ("agent_config", "cloning"), ("training",)),
        *(("training", "steps"), ("training", "precision"), ("evaluation",), ("evaluation", "targets")),
        *(("evaluation", "episodes"), ("seed",), ("dataset",), ("fingerprint",), ("dataset_returns",)),
        *(("dataset_returns", "percentiles"), ("dataset_returns", "steering"), ("observation_size",)),
        *(("observation_columns",), ("action_size",), ("discrete_start",), ("versions",)),
    ]
] + [
    ("evaluations.jsonl", (name,))
    for name in ["kind", "step", "target", "seed", "return", "length", "env_kwargs", "score_d4rl", "versions", "run"]
] + [("metrics.jsonl", (name,)) for name in ["step", "eval/score", "eval/seconds", "memory/peak_bytes"]]  # fmt: skip
VALUES = ["text", -1, 10**9, 10**18, 1.5, True, None, [], {"a": [1]}, float("nan")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "path"), ENTRIES, ids=[".".join([name, *path]) for name, path in ENTRIES])
def test_an_entry_of_any_kind_ends_in_a_sentence_or_in_a_result(tiny_run, tmp_path, name, path):
    content = (tiny_run / name).read_bytes()
    for value in VALUES:
        (tiny_run / name).write_bytes(content)
        edit(tiny_run / name, path, value)
        for reader, call in readers(tiny_run, tmp_path / "out", None).items():
            if reader != "train":
                said(call)  # nothing else is raised
