"""The live view: what it reads from run folders that a test writes, and what it makes of it."""

import io
import json
import re

import pytest
from rich.console import Console

from flowrl.experiments.cells import make_cells
from flowrl.experiments.live import View, last_progress
from flowrl.scripts.compare import parse_agent


class Clock:
    """Says the time that a test sets."""

    now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def cells(tmp_path):
    """flow and bc with two seeds and 200 steps each."""
    agents = [parse_agent(text, ["--steps", "200"]) for text in ("flow", "bc-10=bc --top-fraction 0.1")]
    return make_cells(["a/b-v0"], agents, 2, tmp_path)


def log(cell, text="a line\n"):
    cell.run_dir.mkdir(parents=True, exist_ok=True)
    with open(cell.log, "a") as file:
        file.write(text)


def reach(cell, step, speed=2.0):
    """The run writes its row of training metrics."""
    cell.run_dir.mkdir(parents=True, exist_ok=True)
    with open(cell.run_dir / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": step, "train/loss": 1.0, "steps_per_second": speed}) + "\n")


def view_of(cells, reused=(), width=120, height=30, terminal=False):
    file, clock = io.StringIO(), Clock()
    console = Console(file=file, force_terminal=terminal, width=width, height=height, no_color=True)
    return View(cells, set(reused), console, clock), file, clock


def test_last_progress(cells):
    cell = cells[0]
    assert last_progress(cell.run_dir) == (0, None)
    reach(cell, 100, 3.5)
    with open(cell.run_dir / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 150, "eval/seconds": 1.0}) + "\n")
        file.write('{"step": 200, "steps_per_second": 9')  # cut short
    assert last_progress(cell.run_dir) == (100, 3.5)


def test_only_the_tail_is_read(cells):
    for step in range(1, 2001):
        reach(cells[0], step)
    assert last_progress(cells[0].run_dir) == (2000, 2.0)


def test_a_cell_from_waiting_to_finished(cells):
    view, file, clock = view_of(cells, reused=cells[1:2])
    with view:
        assert view.summary() == "4 runs: 1 reused, 3 waiting"
        view.submitted(cells[0])
        view.refresh()
        assert view.summary() == "4 runs: 1 reused, 3 waiting"  # queued; nothing runs before it says so
        log(cells[0])
        view.refresh()
        assert view.summary() == "4 runs: 1 reused, 2 waiting, 1 running"
        clock.now += 50
        reach(cells[0], 100)
        view.refresh()
        # 0.5 s a step: 50 s here, 100 s for each of the two that wait, one after the other.
        assert view.seconds_left() == 250
        assert view.summary() == "4 runs: 1 reused, 2 waiting, 1 running; 4m10s left"
        clock.now += 10
        assert view.seconds_left() == 240
        reach(cells[0], 200)
        view.refresh()
        assert view.summary().startswith("4 runs: 1 reused, 2 waiting, 1 evaluating; ")
        clock.now += 40
        view.ended(cells[0], None)
        assert view.seconds_left() == 200  # 100 s for 200 steps, the evaluation included
        view.submitted(cells[2])
        log(cells[2])
        view.ended(cells[2], "it broke (train.log)")
        assert view.summary() == "4 runs: 1 reused, 1 finished, 1 waiting, 1 failed; 1m40s left"
    said = file.getvalue().splitlines()
    assert said == [
        f"flow seed 0 on a/b-v0: started ({cells[0].log})",
        "4 runs: 1 reused, 2 waiting, 1 evaluating; 2m00s left",  # a minute has gone
        "flow seed 0 on a/b-v0: finished in 1m40s",
        f"flow seed 1 on a/b-v0: started ({cells[2].log})",
        "flow seed 1 on a/b-v0: failed in 0s: it broke (train.log)",
    ]


def test_what_waits_is_timed_by_cells_of_its_own_label(cells):
    view, _, clock = view_of(cells)
    for cell in cells[:2]:
        view.submitted(cell)
        log(cell)
    view.refresh()
    clock.now += 100
    reach(cells[0], 100)  # flow: 1 s a step
    reach(cells[1], 200)  # bc: 0.5
    view.refresh()
    view.ended(cells[1], None)
    # 100 s of flow here, 200 s of another flow and 100 s of another bc, one at a time
    assert view.seconds_left() == 400
    view.submitted(cells[3])
    log(cells[3])
    view.refresh()
    assert view.seconds_left() == 200  # two at a time


def test_a_cell_that_goes_on_is_timed_from_its_checkpoint(cells):
    log(cells[0])
    reach(cells[0], 150)
    view, file, clock = view_of(cells[:1])
    view.submitted(cells[0])
    view.refresh()
    assert file.getvalue() == ""  # the log of the first try proves nothing
    log(cells[0])
    view.refresh()
    (cells[0].run_dir / "metrics.jsonl").unlink()
    reach(cells[0], 100)  # its checkpoint was older than its last row
    view.refresh()
    clock.now += 50
    reach(cells[0], 150)
    view.refresh()
    assert view.seconds_left() == 50
    assert file.getvalue().startswith("flow seed 0 on a/b-v0: goes on from about step 150")


def test_a_cell_that_was_quicker_than_the_first_look_has_started_all_the_same(cells):
    view, file, clock = view_of(cells[:1])
    view.submitted(cells[0])
    clock.now += 2
    log(cells[0])
    reach(cells[0], 100)
    view.refresh()
    assert file.getvalue().startswith("flow seed 0 on a/b-v0: started")
    assert view.seconds_left() == 2


def test_a_cell_that_is_not_its_turn_yet_waits_whatever_an_earlier_try_left(cells):
    for cell in cells[:2]:
        log(cell)
        reach(cell, 50)
    view, file, clock = view_of(cells[:2])
    clock.now += 1000
    view.submitted(cells[0])
    view.refresh()
    assert view.summary() == "2 runs: 2 waiting"
    log(cells[0])
    view.refresh()
    clock.now += 30
    reach(cells[0], 110)
    view.refresh()
    assert view.summary() == "2 runs: 1 waiting, 1 running; 2m00s left"  # 0.5 s a step: 45 s and 75 s
    view.ended(cells[0], None)
    view.submitted(cells[1])
    log(cells[1])
    clock.now += 1
    view.ended(cells[1], None)
    assert file.getvalue().splitlines()[-2:] == [
        f"{cells[1]}: goes on from about step 50 ({cells[1].log})",
        f"{cells[1]}: finished in 1s",
    ]


def test_a_summary_every_minute(cells):
    view, file, clock = view_of(cells)
    for _ in range(125):
        clock.now += 1
        view.refresh()
    assert file.getvalue() == "4 runs: 4 waiting\n" * 2


def test_the_table_of_a_terminal(cells):
    view, file, _ = view_of(cells, reused=cells[1:2], terminal=True)
    with view:
        view.submitted(cells[2])
        log(cells[2])
        reach(cells[2], 100, speed=12.34)
        view.refresh()
        first = file.getvalue()
        view.ended(cells[2], "it broke")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", first)
    table = [line.split() for line in plain.splitlines() if "a/b-v0" in line][-4:]
    shown = [[word for word in line if word != "│"] for line in table]
    assert shown[0] == ["a/b-v0", "flow", "1", "running", "100/200", "12.3"]
    assert shown[1:] == [
        ["a/b-v0", "flow", "0", "waiting", "0/200"],
        ["a/b-v0", "bc-10", "1", "waiting", "0/200"],
        ["a/b-v0", "bc-10", "0", "reused", "200/200"],
    ]
    assert "failed" in file.getvalue()[len(first) :]


def test_a_small_terminal_shows_what_runs(cells):
    view, file, _ = view_of(cells, terminal=True, height=8)
    with view:
        view.submitted(cells[3])
        log(cells[3])
        view.refresh()
    last = file.getvalue().rpartition("dataset")[2]
    assert "running" in last
    assert "and 2 more" in last
    assert "4 runs: 3 waiting, 1 running" in last
