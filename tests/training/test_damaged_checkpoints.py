"""Whatever happens to a checkpoint's bytes is found, and the one before it goes on to the same weights."""

import os
import shutil
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from same_bits import assert_same_bits

from flowrl.agents.bc import BCConfig
from flowrl.agents.cloning import CloningConfig
from flowrl.agents.sequence import SequenceConfig
from flowrl.errors import InputError
from flowrl.nn.normaliser import Normaliser
from flowrl.training import run_folder
from flowrl.training.checkpoint import from_bytes, restore, to_bytes
from flowrl.training.config import TrainingConfig
from flowrl.training.device import isolated_rng
from flowrl.training.loop import train
from flowrl.training.run_folder import RunFolder

CPU = torch.device("cpu")
CONFIG = TrainingConfig(steps=12, batch_size=4, log_every=3, checkpoint_every=4)
BC = BCConfig(width=8, layers=1, context=3, cloning=CloningConfig(warmup_steps=5))
CARRYING = SequenceConfig(width=8, layers=1, heads=2, context=4, carry_state=True)
FOLDER = {"agent": "bc", "seed": 0, "training": {"steps": 12}, "dataset": "random", "fingerprint": "x"}


@pytest.fixture
def dataset(random_dataset):
    return random_dataset([9, 4, 17])


def trained(dataset, folder, agent=BC, *, evaluate=None):
    """The run after training in `folder`, which may hold a run to go on with."""
    run = RunFolder(folder)
    with run.locked(), isolated_rng(0, CPU):
        if run.config() is None:
            run.begin(FOLDER)
        learner = agent.build(Normaliser.of(dataset), CONFIG, CPU)
        train(learner, dataset, CONFIG, run, seed=0, name="test", evaluate=evaluate, evaluate_every=int(bool(evaluate)))
    return run


@pytest.fixture
def run(dataset, tmp_path):
    """A run of 12 steps with checkpoints of steps 8 and 12."""
    return trained(dataset, tmp_path / "run")


def metrics(run):
    of_the_machine = {"steps_per_second", "cpu_seconds"}
    return [{k: v for k, v in row.items() if k not in of_the_machine} for row in run.rows("metrics.jsonl")]


def assert_same_runs(one, other):
    assert_same_bits(one.load(), other.load())
    assert metrics(one) == metrics(other)


# Damage


def damages(content: bytes, kind: str):
    """200 damaged copies of a file's content, none of them equal to it."""
    random = np.random.default_rng(0)
    for place in random.integers(len(content), size=400):
        damaged = bytearray(content)
        if kind == "flip":
            damaged[place] ^= 1 << int(random.integers(8))
        elif kind == "zero":
            length = int(random.choice([1, 16, 512, 4096]))
            damaged[place : place + length] = bytes(len(damaged[place : place + length]))
        elif kind == "cut":
            del damaged[place:]
        elif kind == "longer":
            damaged += bytes(random.integers(256, size=1 + place % 100, dtype=np.uint8))
        if damaged != content:
            yield bytes(damaged)


@pytest.mark.parametrize("kind", ["flip", "zero", "cut", "longer"])
def test_damage_of_any_byte_is_found(run, kind):
    content = (run.path / "checkpoint.pt").read_bytes()
    tried = list(damages(content, kind))[:200]
    assert len(tried) == 200
    for damaged in tried:
        with pytest.raises(InputError, match=r"^file is damaged") as caught:
            from_bytes(damaged, "file")
        assert "\n" not in str(caught.value)


def test_the_last_bytes_are_found_one_by_one(run):
    """They are the archive's end and the checksum itself."""
    content = (run.path / "checkpoint.pt").read_bytes()
    for place in range(len(content) - 120, len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            with pytest.raises(InputError):
                from_bytes(bytes(damaged), "file")
        with pytest.raises(InputError):
            from_bytes(content[:place], "file")


def test_a_checkpoint_without_a_seal_is_of_an_earlier_flowrl(run):
    checkpoint = run.load()
    raw = torch.load(run.path / "checkpoint.pt", weights_only=True)
    torch.save(raw, run.path / "checkpoint.pt")
    assert_same_bits(run.load(), checkpoint)


# The last two


def spoil(file: Path):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_the_one_before_is_taken_with_a_warning_and_goes_on_to_the_same_bits(run, dataset, tmp_path, capsys):
    whole = RunFolder(shutil.copytree(run.path, tmp_path / "whole"))
    spoil(run.path / "checkpoint.pt")
    assert run.load()["step"] == 8
    warning = capsys.readouterr().err
    assert "checkpoint.pt is damaged" in warning
    assert "checkpoint.previous.pt is taken instead, which is of step 8" in warning
    assert_same_runs(trained(dataset, run.path), whole)
    # The damaged one was not kept in place of the whole one.
    spoil(run.path / "checkpoint.pt")
    assert run.load()["step"] == 8


def test_two_damaged_ones_are_refused_naming_both(run, dataset):
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        spoil(run.path / name)
    with pytest.raises(InputError, match=r"checkpoint.pt is damaged.*and so is checkpoint.previous.pt"):
        trained(dataset, run.path)


def test_a_run_that_lost_its_last_checkpoint_does_not_begin_anew_in_silence(run):
    (run.path / "checkpoint.pt").unlink()
    with pytest.raises(InputError, match=r"has lost its checkpoint.pt: rename checkpoint.previous.pt"):
        run.begin(FOLDER)
    (run.path / "checkpoint.previous.pt").rename(run.path / "checkpoint.pt")
    run.begin(FOLDER)
    assert run.load()["step"] == 8


class Killed(BaseException):
    """Ends the process at a system call: nothing of it comes after, not even tidying."""


def die_at(patch, number, calls):
    """From the `number`-th of these calls on, each raises; `calls` counts them."""

    def guarded(original):
        def call(*arguments, **keywords):
            calls.append(original.__name__)
            if len(calls) >= number:
                raise Killed
            return original(*arguments, **keywords)

        return call

    for name in ("open", "fsync", "link", "replace", "unlink"):
        patch.setattr(os, name, guarded(getattr(os, name)))


@pytest.mark.parametrize("links", [True, False], ids=["links", "copies"])
def test_a_kill_at_any_system_call_of_saving_leaves_a_whole_checkpoint(run, dataset, tmp_path, monkeypatch, links):
    def no_link(*arguments, **keywords):
        raise PermissionError(1, "Operation not permitted")

    whole = run
    original, seen = RunFolder.save, set()
    for number in range(1, 100):
        folder, calls = tmp_path / str(number), []
        with monkeypatch.context() as patch:
            if not links:
                patch.setattr(os, "link", no_link)

            def save(self, checkpoint, number=number, calls=calls, patch=patch):
                if checkpoint["step"] == 12:
                    die_at(patch, number, calls)
                original(self, checkpoint)
                if checkpoint["step"] == 12:
                    patch.undo()

            patch.setattr(run_folder.RunFolder, "save", save)
            try:
                trained(dataset, folder)
                break
            except Killed:
                seen.add(calls[number - 1])
        for name, steps in (("checkpoint.pt", {8, 12}), ("checkpoint.previous.pt", {4, 8})):
            content = (folder / name).read_bytes()
            assert from_bytes(content, name)["step"] in steps
        assert_same_runs(trained(dataset, folder), whole)
        assert not list(folder.glob(".*.partial"))
    assert {"open", "fsync", "replace"} <= seen


def test_a_finished_run_with_a_damaged_checkpoint_goes_on_and_is_whole_again(
    tiny_run, tiny_train, reach_dataset, tmp_path, assert_same_run, capsys
):
    whole = shutil.copytree(tiny_run, tmp_path / "whole")
    spoil(tiny_run / "checkpoint.pt")
    tiny_train("flow", tiny_run)
    assert "checkpoint.previous.pt is taken instead, which is of step 10" in capsys.readouterr().err
    assert_same_run(tiny_run, whole)


# Of another run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 3}, "seed is 3, not 0"),
        ({"dataset": "other", "fingerprint": "y"}, "dataset is other, not random, and its fingerprint is y, not x"),
        ({"fingerprint": "y"}, "fingerprint is y, not x"),
        ({"training": {"steps": 24}}, "training.steps is 24, not 12"),
        ({"agent": "flow"}, "agent is flow, not bc"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_naming_both(run, dataset, change, message):
    checkpoint = run.load()
    run.save(checkpoint | {"config": checkpoint["config"] | change})
    with pytest.raises(InputError, match=message):
        trained(dataset, run.path)


def test_a_step_beyond_the_runs_is_refused(run, dataset):
    run.save(run.load() | {"step": 13})
    with pytest.raises(InputError, match=r"is of step 13, and the run has 12 steps"):
        trained(dataset, run.path)


# Wrong types


@pytest.mark.parametrize("step", ["7", -1, 0, True, 7.0, None])
def test_a_step_that_is_none_is_refused(run, step):
    with pytest.raises(InputError, match=r"damaged: its step is"):
        from_bytes(bytes(to_bytes(run.load() | {"step": step})), "file")


def put(tree, path, value):
    *parents, last = path
    for name in parents:
        tree = tree[name]
    tree[last] = value(tree[last]) if callable(value) else value


BIAS = ("learner", "actor", "network.0.bias")
ADAM = ("learner", "optimiser", "state", 0)
GROUP = ("learner", "optimiser", "param_groups", 0)
WRONG = [
    (("learner",), [1]),
    (("sampler",), "nothing"),
    (("generators",), None),
    (("metrics",), 3),
    (("config",), "config"),
    (("fingerprint",), 5),
    (("learner", "actor"), "weights"),
    (BIAS, "bias"),
    (BIAS, lambda bias: bias.double()),
    (BIAS, lambda bias: bias.long()),
    (BIAS, lambda bias: bias[:-1].clone()),
    (BIAS, lambda bias: bias.tolist()),
    (("learner", "optimiser"), {}),
    (("learner", "optimiser"), [1]),
    (("learner", "optimiser", "state"), []),
    (("learner", "optimiser", "state"), {0: {}}),
    (("learner", "optimiser", "param_groups"), []),
    (ADAM, {}),
    (ADAM, "state"),
    ((*ADAM, "exp_avg"), "moment"),
    ((*ADAM, "exp_avg"), lambda moment: moment[:-1].clone()),
    ((*ADAM, "exp_avg_sq"), lambda moment: moment.long()),
    ((*GROUP, "lr"), "0.1"),
    ((*GROUP, "betas"), 0.9),
    ((*GROUP, "params"), [0]),
    (("learner", "schedule"), 5),
    (("learner", "schedule", "last_epoch"), "8"),
    (("generators", "order"), torch.zeros(3, dtype=torch.uint8)),
    (("generators", "order"), torch.zeros(5056)),
    (("generators", "order"), "state"),
    (("generators", "ranks"), "state"),
    (("generators", "ranks", 0), {}),
    (("generators", "ranks", 0, "torch"), torch.zeros(7, dtype=torch.uint8)),
    (("metrics", "sums"), [1]),
    (("metrics", "counts"), {"loss": "2"}),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=[".".join(map(str, path)) for path, _ in WRONG])
def test_a_part_of_a_wrong_type_ends_in_a_sentence(run, dataset, path, value):
    checkpoint = run.load()
    checkpoint["step"] = 8  # so that there is a step to fail
    put(checkpoint, path, value)
    (run.path / "checkpoint.previous.pt").unlink()
    (run.path / "checkpoint.pt").write_bytes(to_bytes(checkpoint))
    with pytest.raises(InputError, match="checkpoint") as caught:
        trained(dataset, run.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rows", ["rows", torch.zeros(4), torch.zeros(3, dtype=torch.int64), torch.full((4,), 99)])
def test_rows_that_no_chunk_can_go_on_from_end_in_a_sentence(dataset, tmp_path, rows):
    run = trained(dataset, tmp_path / "carrying", CARRYING)
    run.save(run.load() | {"sampler": {"rows": rows}})
    with pytest.raises(InputError, match="does not say how to go on: the rows of the next batch must"):
        trained(dataset, run.path, CARRYING)


def test_a_deep_or_huge_tree_ends_in_a_sentence(run):
    deep = []
    for _ in range(3000):
        deep = [deep]
    checkpoint = run.load()
    with pytest.raises(InputError, match="^file is damaged"):
        from_bytes(archive(checkpoint | {"metrics": {"deep": deep}}), "file")
    huge = torch.zeros(1).expand(10**14)
    with pytest.raises(InputError, match="^file is damaged"):
        from_bytes(archive(checkpoint | {"metrics": {"huge": huge}}), "file")


def archive(checkpoint):
    """As `to_bytes` without the checksums, which such a tree has none of."""
    buffer, limit = BytesIO(), sys.getrecursionlimit()
    sys.setrecursionlimit(50_000)
    try:
        torch.save(checkpoint | {"checksum": "?"}, buffer)
    finally:
        sys.setrecursionlimit(limit)
    return buffer.getvalue()


def test_restoring_takes_what_was_saved(run, dataset):
    learner = BC.build(Normaliser.of(dataset), CONFIG, CPU)
    restore(learner, run.load(), run.config(), run.path, dataset.fingerprint)
    assert_same_bits(learner.state_dict(), run.load()["learner"])
