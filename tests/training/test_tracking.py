"""A run's metrics go to console, metrics.jsonl and TensorBoard, and its speed is that of training alone."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flowrl.text import duration
from flowrl.training import tracking
from flowrl.training.run_folder import RunFolder
from flowrl.training.tracking import Tracker


@pytest.fixture
def clock(monkeypatch):
    """Time that passes by hand."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(tracking.time, "perf_counter", lambda: Clock.now)
    monkeypatch.setattr(tracking.time, "process_time", lambda: 2 * Clock.now)
    # Event files of the same second are read in the order of a counter as text, the 10th before the 9th.
    monkeypatch.setattr(tracking.time, "time", lambda: 1e9 + Clock.now)
    return Clock


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


def points(run, tag):
    accumulator = EventAccumulator(str(run.path))
    accumulator.Reload()
    return [(point.step, point.value) for point in accumulator.Scalars(tag)]


def test_metrics_go_to_all_three(run, clock, capsys):
    with Tracker(run, "flow seed 0", 0, 40) as tracker:
        clock.now += 5
        tracker.progress(10, {"train/loss": 0.5})
        clock.now += 2
        tracker.progress(20, {"train/loss": 0.25})
        tracker.record(20, {"eval/return@best": 7.0}, "evaluation: well")
    assert run.rows("metrics.jsonl") == [
        {"step": 10, "train/loss": 0.5, "steps_per_second": 2.0, "cpu_seconds": 10.0},
        {"step": 20, "train/loss": 0.25, "steps_per_second": 5.0, "cpu_seconds": 4.0},
        {"step": 20, "eval/return@best": 7.0},
    ]
    assert points(run, "train/loss") == [(10, 0.5), (20, 0.25)]
    assert points(run, "eval/return@best") == [(20, 7.0)]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[flow seed 0] step 10/40  loss 0.5")
    assert "2.0 steps/s  15s left" in lines[0]
    assert lines[2] == "[flow seed 0] evaluation: well"


def test_a_resumed_run_counts_from_its_step_and_draws_no_point_twice(run, clock):
    with Tracker(run, "x", 0, 40) as tracker:
        for step in (10, 20, 30):
            clock.now += 1
            tracker.progress(step, {"train/loss": float(step)})
    with Tracker(run, "x", 10, 40) as tracker:
        for step in (20, 30, 40):
            clock.now += 1
            tracker.progress(step, {"train/loss": step + 0.5})
    assert run.rows("metrics.jsonl")[3]["steps_per_second"] == 10.0
    assert points(run, "train/loss") == [(10, 10.0), (20, 20.5), (30, 30.5), (40, 40.5)]


def test_the_time_of_an_evaluation_is_not_counted_as_training(run, clock):
    with Tracker(run, "x", 0, 400) as tracker:
        clock.now += 5
        tracker.progress(100, {})
        clock.now += 2.5
        with tracker.paused():
            clock.now += 1000  # an evaluation at step 150
            tracker.record(150, {}, "evaluation")
        clock.now += 2.5
        tracker.progress(200, {})
    speeds = [row["steps_per_second"] for row in run.rows("metrics.jsonl") if "steps_per_second" in row]
    assert speeds == [20.0, 20.0]
    assert [row["cpu_seconds"] for row in run.rows("metrics.jsonl") if "cpu_seconds" in row] == [10.0, 10.0]


def test_the_writer_is_closed_when_training_fails(run):
    def failing_run():
        with Tracker(run, "x", 0, 40) as tracker:
            tracker.progress(10, {"train/loss": 1.0})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        failing_run()
    assert points(run, "train/loss") == [(10, 1.0)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (370, "6m10s"),
        (3599.6, "1h00m"),
        (7500, "2h05m"),
        (90_000, "25h00m"),
    ],
)
def test_durations_as_a_person_says_them(seconds, text):
    assert duration(seconds) == text


def test_what_is_flushed_survives_a_kill(run):
    tracker = Tracker(run, "x", 0, 40)
    tracker.progress(10, {"train/loss": 1.0})
    tracker.flush()  # and no closing
    assert points(run, "train/loss") == [(10, 1.0)]
    tracker.__exit__(None, None, None)


def test_a_run_that_begins_again_draws_no_point_of_its_first_try(run, clock):
    for value in (1.0, 2.0):
        with Tracker(run, "x", 0, 40) as tracker:
            clock.now += 10
            tracker.progress(10, {"train/loss": value})
    assert points(run, "train/loss") == [(10, 2.0)]
