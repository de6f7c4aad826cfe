"""The section gpu: a captured step does what the plain one does, and a contender that fails has a row that says so."""

import signal
import time
from functools import partial

import pytest
import torch

from flowrl.agents.cloning import CloningConfig
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.state import map_state, tensors_of
from flowrl.scripts.benchmarks import gpu
from flowrl.scripts.benchmarks.agents import act, history, preset, random_actor, random_step
from flowrl.training.config import TrainingConfig

CPU = torch.device("cpu")
TRAINING = TrainingConfig(50, 4)


@pytest.fixture
def uncaptured(monkeypatch):
    """What would be captured is called instead."""
    monkeypatch.setattr(gpu, "captured", lambda work, device: work)


@pytest.mark.parametrize("name", ["dt", "flow"])
def test_a_captured_step_trains_as_the_plain_one(name, random_dataset, uncaptured):
    dataset = random_dataset([9, 4, 7])
    config = preset(name, width=8, heads=2, layers=1, context=4, cloning=CloningConfig(warmup_steps=3))
    learners = []
    for _ in range(2):
        torch.manual_seed(0)
        learners.append(config.build(Normaliser.of(dataset), TRAINING, CPU))
    plain, captured = learners
    torch.manual_seed(1)
    sampler, generator = plain.sampler(dataset, 4, gpu.WHOLE), torch.Generator().manual_seed(0)
    for step in range(1, 9):
        plain.update(sampler.draw(generator), step)
    torch.manual_seed(1)
    step = gpu.captured_step(captured, dataset, 4)
    for _ in range(8):
        step()
    for mine, other in zip(captured.actor.parameters(), plain.actor.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-6)
    assert float(captured.schedule.get_last_lr()[0]) == pytest.approx(plain.schedule.get_last_lr()[0])


def test_a_captured_actor_goes_on_from_step_to_step(uncaptured):
    actor = random_actor("flow", CPU, width=8, heads=2, layers=1, rollout="recurrent")
    begun, given = history(actor, 3, 5, CPU), random_step(3, CPU)
    carry = map_state(torch.clone, begun)._replace(timestep=begun.timestep.clone())
    call = gpu.captured_act(actor, carry, *given)
    for _ in range(3):
        call()
        begun = act(actor, begun, *given)
    assert carry.timestep == begun.timestep == 8
    for mine, other in zip(tensors_of(carry), tensors_of(begun), strict=True):
        assert torch.equal(mine, other)


def test_a_contender_that_fails_leaves_the_others(monkeypatch):
    monkeypatch.setattr(gpu, "EACH", 0.2)
    calls = []

    def breaks():
        raise torch.OutOfMemoryError("out of memory\nin many words")

    def breaks_later():
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("an illegal access")

    handler = signal.getsignal(signal.SIGALRM)
    makers = {"broken": lambda: breaks(), "slow": lambda: time.sleep(60), "fine": lambda: lambda: time.sleep(0.001)}
    broken, slow, fine = gpu.timed("x", makers, gpu._Clock(), 2)
    assert [broken["note"], slow["note"]] == ["out of memory", "not done after 0 s"]
    assert (fine["name"], fine["ratio"]) == ("fine", 1.0)
    later, fine = gpu.timed("x", {"later": lambda: breaks_later, "fine": makers["fine"]}, gpu._Clock(), 2)
    assert later["note"] == "an illegal access"
    assert signal.getsignal(signal.SIGALRM) == handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_when_time_is_up_nothing_is_begun(monkeypatch):
    monkeypatch.setattr(gpu, "PREPARED", 0.0)
    rows = gpu.timed("x", {"a": lambda: pytest.fail("it begins")}, gpu._Clock(), 2)
    assert rows == [{"what": "x", "name": "a", "note": "not begun: time was up"}]


def test_without_a_compiler_the_compiled_steps_say_so(random_dataset, monkeypatch):
    def compiled(function):
        raise RuntimeError("no working C++ compiler")

    monkeypatch.setattr(torch, "compile", compiled)
    rows = gpu._training(random_dataset([9, 4, 7]), 4, 2, 8, gpu._Clock(), 1)
    notes = {row["name"]: row.get("note") for row in rows}
    for name in ("dt", "flow"):
        assert notes[f"{name} eager"] is None
        assert "no working C++ compiler" in str(notes[f"{name} compiled"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, while it traces
def test_compiled_steps_are_timed(random_dataset, monkeypatch):
    """Traced and not generated: that takes a minute a step."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    rows = gpu._training(random_dataset([9, 4, 7]), 4, 2, 8, gpu._Clock(), 1)
    compiled = {row["name"]: row.get("note") for row in rows if "compiled" in row["name"]}
    assert compiled == {"dt compiled": None, "flow compiled": None}
