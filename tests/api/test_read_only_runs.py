"""A run whose folder can only be read is played all the same: its rows go beside the report."""

import errno
import json
import os
import shutil

import pytest

import flowrl
from flowrl.errors import InputError
from flowrl.training.run_folder import RunFolder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def read_only(monkeypatch):
    """Makes what is written into these folders fail as the system has it fail: as root no permission is missing."""

    def lock(*folders, number=errno.EACCES):
        real = RunFolder.locked

        def locked(self):
            if self.path in folders:
                raise OSError(number, os.strerror(number), str(self.path / ".lock"))
            return real(self)

        monkeypatch.setattr(RunFolder, "locked", locked)

    return lock


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_rows_go_beside_the_report(tiny_run, read_only, tmp_path, capsys, number):
    before = contents(tiny_run)
    read_only(tiny_run, number=number)
    out = tmp_path / "out"
    rows = flowrl.evaluate(tiny_run, episodes=3, device="cpu", out=out)
    assert contents(tiny_run) == before
    file = out / "flow" / "evaluations.jsonl"
    assert [json.loads(line) for line in file.read_text().splitlines()] == rows
    printed = capsys.readouterr()
    assert f"rows appended to {file}" in printed.out
    assert "not studied" in printed.err
    assert (out / "report.html").exists()
    again = flowrl.evaluate(tiny_run, episodes=1, device="cpu", out=out, study=False)
    assert [json.loads(line) for line in file.read_text().splitlines()] == rows + again


def test_without_a_folder_for_the_rows_nothing_is_played(tiny_run, read_only, capsys):
    read_only(tiny_run)
    with pytest.raises(InputError, match=r"cannot be written to.*\(out\)"):
        flowrl.evaluate(tiny_run, episodes=1, device="cpu")
    assert "episodes" not in capsys.readouterr().out


def test_the_rows_of_the_other_runs_go_where_they_belong(tiny_runs, tmp_path, read_only):
    runs = [shutil.copytree(tiny_runs / agent, tmp_path / f"{agent}-seed0") for agent in ("flow", "bc")]
    read_only(runs[0])
    flowrl.evaluate(runs, episodes=1, device="cpu", targets="best", out=tmp_path / "out", study=False)
    counts = [len((run / "evaluations.jsonl").read_text().splitlines()) for run in runs]
    assert counts == [6, 4]
    assert len((tmp_path / "out/flow-seed0/evaluations.jsonl").read_text().splitlines()) == 1


def test_a_file_of_rows_that_cannot_be_written_is_found_before_playing(tiny_run, tmp_path, monkeypatch, capsys):
    real = open

    def refusing(file, mode="r", *args, **keywords):
        if str(file) == str(tiny_run / "evaluations.jsonl") and mode != "r":
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return real(file, mode, *args, **keywords)

    monkeypatch.setattr("flowrl.api.rows_of_evaluation.open", refusing, raising=False)
    with pytest.raises(InputError, match="cannot be written to"):
        flowrl.evaluate(tiny_run, episodes=1, device="cpu")
    assert "episodes" not in capsys.readouterr().out
    with RunFolder(tiny_run).locked():
        pass  # the lock was given back


def test_a_refusal_leaves_nothing_beside_the_report(tiny_runs, tmp_path, read_only):
    runs = [shutil.copytree(tiny_runs / "flow", tmp_path / folder / "flow-seed0") for folder in ("one", "two")]
    read_only(*runs)
    with pytest.raises(InputError, match="both flow"):
        flowrl.evaluate(runs, episodes=1, device="cpu", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_no_permission(tiny_run, read_only, tmp_path):
    read_only(tiny_run, number=errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        flowrl.evaluate(tiny_run, episodes=1, device="cpu", out=tmp_path / "out")
