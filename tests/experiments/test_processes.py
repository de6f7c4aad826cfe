"""A process that dies, however early, is one failed cell, and the others go on."""

from types import SimpleNamespace

import pytest

from flowrl.experiments.processes import Processes


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), EOFError("unexpected EOF")])
def test_a_process_that_is_killed_as_it_starts_is_a_failed_cell(monkeypatch, error):
    def start(self):
        raise error

    processes = Processes()
    monkeypatch.setattr(processes._context.Process, "start", start)
    cell = SimpleNamespace(label="bc")
    processes.start(cell)
    with processes:
        assert processes.ended(30.0) == [(cell, "its process was killed as it started")]
        assert processes.ended(0.0) == []
