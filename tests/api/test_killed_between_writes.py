"""A kill between any two writes of a run loses no row: the resumed run ends as one that nobody killed."""

import pytest

from flowrl.training import run_folder
from flowrl.training.run_folder import RunFolder


class Killed(BaseException):
    pass


def die_after(patch, number, writes):
    """Kill the process after its `number`-th write into the run folder; `writes` names them."""

    def guarded(name, original):
        def write(*arguments, **keywords):
            result = original(*arguments, **keywords)
            writes.append(name)
            if len(writes) >= number:
                raise Killed
            return result

        return write

    for name in ("write_atomically", "append_rows"):
        patch.setattr(run_folder, name, guarded(name, getattr(run_folder, name)))


def assert_no_write_matters(numbers, tiny_train, folder, monkeypatch, assert_same_run):
    options = {"evaluate_every": 10, "evaluate_episodes": 1, "episodes": 1, "log_every": 10}
    whole = tiny_train("bc", folder / "whole", **options)
    for number in numbers:
        run, writes = folder / str(number), []
        with monkeypatch.context() as patch:
            die_after(patch, number, writes)
            try:
                tiny_train("bc", run, **options)
            except Killed:
                pass
            else:
                return writes
        tiny_train("bc", run, **options)
        assert_same_run(run, whole)
    return []


# config; rows and metrics of the evaluation, metrics and checkpoint of step 10; metrics and checkpoint of step 20;
# metrics and rows of the final evaluation
WRITES = 9


def test_between_the_last_checkpoint_and_the_end(reach_dataset, tiny_train, tmp_path, monkeypatch, assert_same_run):
    assert_no_write_matters([WRITES - 1], tiny_train, tmp_path, monkeypatch, assert_same_run)


@pytest.mark.slow
def test_between_any_two(reach_dataset, tiny_train, tmp_path, monkeypatch, assert_same_run):
    writes = assert_no_write_matters(range(1, 50), tiny_train, tmp_path, monkeypatch, assert_same_run)
    assert len(writes) == WRITES


def test_the_final_evaluation_of_another_run_does_not_end_this_one(reach_dataset, tiny_train, tmp_path, capsys):
    one, other = (tiny_train("bc", tmp_path / str(seed), seed=seed, evaluate_every=10) for seed in (0, 1))
    before, config = RunFolder(one).rows("evaluations.jsonl"), RunFolder(one).config()
    (one / "evaluations.jsonl").write_bytes((other / "evaluations.jsonl").read_bytes())
    assert RunFolder(one).rows("evaluations.jsonl") != before
    assert RunFolder(one).final_rows(config) == []
    tiny_train("bc", one, evaluate_every=10)
    assert "holds rows of another run" in capsys.readouterr().err
    after = [row for row in RunFolder(one).rows("evaluations.jsonl") if row["kind"] == "final"]
    assert after == [row for row in before if row["kind"] == "final"]
