"""The run folder: written whole, read safely, owned by one process."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flowrl import files
from flowrl.errors import InputError
from flowrl.files import write_atomically
from flowrl.training.run_folder import RunFolder
from flowrl.training.stored_config import identity

CHECKPOINT = {
    "step": 3,
    "learner": {"actor": {"weight": torch.arange(5000.0)}},
    "sampler": {},
    "generators": {},
    "metrics": {},
    "config": None,
    "fingerprint": "x",
}


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def begun(run):
    with run.locked():
        run.begin({"agent": "flow", "training": {"steps": 5, "rate": 0.1}, "device": "cpu", "list": [1, 2]})
        run.save(CHECKPOINT)
    return run


ROW = {
    "kind": "training", "step": 1, "env": "e", "target": 1.0, "seed": 7, "return": 0.5, "length": 3,
    "score_d4rl": None, "score_measured": None, "device": "cpu", "versions": {},
}  # fmt: skip


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_checkpoint_comes_back_as_plain_tensors(begun):
    loaded = begun.load()
    assert loaded["step"] == 3
    assert torch.equal(loaded["learner"]["actor"]["weight"], torch.arange(5000.0))
    raw = torch.load(begun.path / "checkpoint.pt", weights_only=True)
    assert raw.keys() == CHECKPOINT.keys() | {"checksum"}
    assert names_in(begun.path) - {".lock"} == {"config.json", "checkpoint.pt"}


def test_an_empty_folder_holds_nothing(run):
    assert run.config() is None
    assert run.load() is None
    assert run.rows("metrics.jsonl") == []


def test_the_same_configuration_goes_on(begun):
    config = begun.config()
    begun.begin({"agent": "flow", "training": {"steps": 5, "rate": 0.1}, "device": "cuda", "list": (1, 2)})
    assert begun.config() == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"agent": "dt"}, "holds a run of agent flow"),
        ({"training": {"steps": 6, "rate": 0.1}}, "training.steps was 5 and is 6"),
        ({"training": {"steps": 5}}, "training.rate was 0.1 and is None"),
        ({"list": [1, 2, 3]}, "list was [1, 2] and is [1, 2, 3]"),
        ({"new": 1}, "new was None and is 1"),
    ],
)
def test_another_configuration_is_refused_naming_the_field(begun, change, message):
    before = begun.config()
    with pytest.raises(InputError) as caught:
        begun.begin({**before, **change})
    assert message in str(caught.value)
    assert str(begun.path) in str(caught.value)
    assert begun.config() == before


@pytest.mark.parametrize("content", ["", "{", "[1]", '"x"'])
def test_a_damaged_configuration_is_refused(begun, content):
    (begun.path / "config.json").write_text(content)
    with pytest.raises(InputError, match="config.json is damaged"):
        begun.config()


def test_rows_are_appended_and_read(begun):
    begun.append("metrics.jsonl", [{"step": 1}, {"step": 2, "x": None}])
    begun.append("metrics.jsonl", [{"step": 3}])
    assert begun.rows("metrics.jsonl") == [{"step": 1}, {"step": 2, "x": None}, {"step": 3}]


def test_a_last_row_cut_short_by_a_kill_is_left_out(begun):
    begun.append("metrics.jsonl", [{"step": 1}])
    with open(begun.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "los')
    assert begun.rows("metrics.jsonl") == [{"step": 1}]


def test_rows_after_one_that_was_cut_short_are_not_lost(begun):
    begun.append("metrics.jsonl", [{"step": 1}])
    with open(begun.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "ret')
    begun.append("metrics.jsonl", [{"step": 3}])
    begun.append("metrics.jsonl", [{"step": 4}])
    assert begun.rows("metrics.jsonl") == [{"step": 1}, {"step": 3}, {"step": 4}]


def test_damage_in_the_middle_is_reported_with_its_line(begun):
    (begun.path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(InputError, match="metrics.jsonl is damaged at line 2"):
        begun.rows("metrics.jsonl")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"\xff\xfe\x80", "codec can't decode"),
        (b"5", "it is no JSON object"),
        (
            json.dumps({name: value for name, value in ROW.items() if name != "return"}).encode(),
            "its return is missing",
        ),
        (json.dumps(ROW | {"target": "best"}).encode(), 'its target is "best"'),
    ],
)
def test_a_line_that_is_no_row_is_reported(begun, line, why):
    whole = json.dumps(ROW).encode()
    (begun.path / "evaluations.jsonl").write_bytes(b"\n".join([whole, line, whole, b""]))
    with pytest.raises(InputError, match=rf"evaluations.jsonl is damaged at line 2 \(.*{why}.*\): remove that line"):
        begun.rows("evaluations.jsonl")


EVALUATED = {"training": {"steps": 5}, "evaluation": {"targets": [1.0, 2.5], "episodes": 2, "episode_seed": 7}}
FINAL = [ROW | {"kind": "final", "step": 5, "target": target, "seed": seed} for target in (2.5, 1.0) for seed in (7, 8)]


@pytest.mark.parametrize(
    "rows",
    [
        FINAL[1:],
        [*FINAL, FINAL[0]],
        [*FINAL[1:], FINAL[1]],
        [*FINAL[1:], FINAL[0] | {"target": 3.0}],
        [*FINAL[1:], FINAL[0] | {"seed": 9}],
        [row | {"step": 4} for row in FINAL],
        [row | {"kind": "evaluate"} for row in FINAL],
    ],
    ids=["missing", "twice", "one for another", "target", "seed", "step", "kind"],
)
def test_a_final_evaluation_counts_where_it_is_whole(run, rows):
    run.path.mkdir()
    run.append("evaluations.jsonl", [ROW, *rows])
    assert run.final_rows(EVALUATED) == []
    (run.path / "evaluations.jsonl").unlink()
    run.append("evaluations.jsonl", [ROW, *FINAL[::-1], ROW | {"kind": "evaluate"}])
    assert run.final_rows(EVALUATED) == FINAL[::-1]


def test_a_final_evaluation_without_targets_is_whole_with_every_seed_once(run):
    run.path.mkdir()
    final = [ROW | {"kind": "final", "step": 5, "target": None, "seed": seed} for seed in (8, 7)]
    run.append("evaluations.jsonl", final[:1])
    assert run.final_rows(EVALUATED) == []
    run.append("evaluations.jsonl", final[1:])
    assert run.final_rows(EVALUATED) == final


def test_a_final_evaluation_binds_without_its_checkpoint(run):
    run.path.mkdir()
    run.begin(EVALUATED | {"seed": 0})
    run.append("evaluations.jsonl", [ROW])
    assert run.binding_config() is None
    run.begin(EVALUATED | {"seed": 1})
    assert run.rows("evaluations.jsonl") == [], "of another run"
    run.append("evaluations.jsonl", FINAL[:1])
    assert run.binding_config() == EVALUATED | {"seed": 1}
    with pytest.raises(InputError, match="seed was 1 and is 2"):
        run.begin(EVALUATED | {"seed": 2})
    assert run.config() == EVALUATED | {"seed": 1}


def test_a_checkpoint_binds_without_its_configuration(run):
    with run.locked():
        run.begin(EVALUATED)
        run.save(CHECKPOINT | {"config": EVALUATED})
        (run.path / "config.json").unlink()
        with pytest.raises(InputError, match="training.steps was 5 and is 6"):
            run.begin(EVALUATED | {"training": {"steps": 6}})
        run.begin(EVALUATED)
        assert run.config() == EVALUATED


def test_rewinding_drops_later_rows_and_a_final_evaluation(begun):
    begun.append("metrics.jsonl", [{"step": step} for step in (1, 2, 3)])
    begun.append(
        "evaluations.jsonl",
        [ROW, ROW | {"step": 2, "kind": "final"}, ROW | {"step": 3}],
    )
    begun.rewind(2)
    assert begun.rows("metrics.jsonl") == [{"step": 1}, {"step": 2}]
    assert begun.rows("evaluations.jsonl") == [ROW]


def no_space(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(begun, monkeypatch, call):
    before = {path: path.read_bytes() for path in begun.path.iterdir()}
    monkeypatch.setattr(files.os, call, no_space)
    with pytest.raises(OSError, match="No space left"):
        begun.save(CHECKPOINT | {"step": 4})
    assert {path: path.read_bytes() for path in begun.path.iterdir()} == before


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_atomically(tmp_path / "file", b"old")

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names_in(tmp_path) == {"file"}


def test_of_another_environment_the_error_says_what_differs(tmp_path):
    def config(**keywords):
        return {"agent": "flow", "env_spec": json.dumps({"id": "Hopper-v5", "kwargs": keywords})}

    run = RunFolder(tmp_path)
    with run.locked():
        run.begin(config(mass=1))
        run.save(CHECKPOINT)
        run.begin(config(mass=1))
        with pytest.raises(InputError, match=r"another configuration \(env_spec.kwargs.mass was 1 and is 2\):"):
            run.begin(config(mass=2))
        with pytest.raises(InputError, match=r"env_spec was .* and is 'none'"):
            run.begin({"agent": "flow", "env_spec": "none"})
        for alike in (True, 1.0):  # equal in Python, and not what the environment was given
            with pytest.raises(InputError, match=r"env_spec was .*\"mass\": 1}}' and is "):
                run.begin(config(mass=alike))
        with pytest.raises(InputError, match="env_spec was"):
            run.begin(config(mass=1, drag=None))


def test_what_a_killed_process_left_half_written_goes_with_the_next_owner(begun):
    left = [f".{name}.4711.partial" for name in ("checkpoint.pt", "config.json", "metrics.jsonl", "study.json")]
    others = ".report.html.4711.partial"  # may be written by somebody at this very moment
    for name in (*left, others):
        (begun.path / name).write_bytes(b"half a")
    with begun.locked():
        assert not any((begun.path / name).exists() for name in left)
        assert (begun.path / others).exists()
        assert begun.config() is not None


def test_a_run_folder_below_a_file_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), RunFolder(tmp_path / "file/run").locked():
        pass


HOLD = """
import sys
from flowrl.training.run_folder import RunFolder
from flowrl.training.stored_config import identity
with RunFolder(sys.argv[1]).locked():
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_one_process_at_a_time(run, repository):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=repository,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=r"run is in use by another process"), run.locked():
            pass
        holder.kill()  # the lock falls with the process
        holder.wait()
        with run.locked():
            run.begin({"agent": "flow"})
    finally:
        holder.kill()
        holder.communicate()
    with run.locked():
        assert run.config() == {"agent": "flow"}


def test_a_first_try_without_a_checkpoint_binds_nobody(tmp_path):
    run = RunFolder(tmp_path)
    run.begin({"training": {"learning_rate": 1e30}})
    run.begin({"training": {"learning_rate": 1e-3}})
    assert run.config() == {"training": {"learning_rate": 1e-3}}
    run.save(CHECKPOINT)
    with pytest.raises(InputError, match="training.learning_rate was 0.001 and is 0.01"):
        run.begin({"training": {"learning_rate": 1e-2}})


def test_a_whole_last_row_without_its_line_end_is_kept(begun):
    file = begun.path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1}\r\n\n{"step": 2}')
    assert begun.rows("metrics.jsonl") == [{"step": 1}, {"step": 2}]
    begun.append("metrics.jsonl", [{"step": 3}])
    assert begun.rows("metrics.jsonl") == [{"step": 1}, {"step": 2}, {"step": 3}]
    file.write_bytes(b'{"step": 1}\n' + bytes(512))  # as a power failure leaves a block that was never written
    assert begun.rows("metrics.jsonl") == [{"step": 1}]


def test_a_damaged_last_row_that_has_its_line_end_is_reported(begun):
    (begun.path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"stop": 2}\n')
    with pytest.raises(InputError, match=r"line 2 \(its step is missing\)"):
        begun.rows("metrics.jsonl")


def test_a_byte_order_mark_is_no_damage(begun):
    config = begun.config()
    for name in ("config.json", "metrics.jsonl"):
        begun.append("metrics.jsonl", [{"step": 1}])
        (begun.path / name).write_bytes(b"\xef\xbb\xbf" + (begun.path / name).read_bytes())
    assert begun.config() == config
    assert begun.rows("metrics.jsonl") == [{"step": 1}, {"step": 1}]


def test_a_runs_name_stays_what_it_is():
    """Rows that are stored bear it: another form of an old configuration must not change it."""
    config = {"agent": "flow", "agent_config": {"width": 16}, "training": {"steps": 5}, "seed": 0, "dataset": "d"}
    name = identity(config | {"fingerprint": "f", "selection": {}})
    assert name == "c0b2323201cf4b8f"
    assert identity(config | {"fingerprint": "f", "selection": {}, "device": "cuda", "evaluation": 1}) == name
    assert identity(config | {"fingerprint": "f", "selection": {}, "seed": 1}) != name


def test_a_run_that_is_rewound_to_its_end_drops_the_metrics_of_its_final_evaluation(begun):
    begun.append("metrics.jsonl", [{"step": 2, "eval/return": 1.0}, {"step": 5, "train/loss": 1.0}])
    begun.append("metrics.jsonl", [{"step": 5, "eval/return": 2.0}])
    begun.rewind(5)
    assert len(begun.rows("metrics.jsonl")) == 3
    begun.rewind(5, ended=True)
    assert begun.rows("metrics.jsonl") == [{"step": 2, "eval/return": 1.0}, {"step": 5, "train/loss": 1.0}]
