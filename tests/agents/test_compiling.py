"""Compiled losses of agents with critics: the same training as without, in one graph."""

from functools import partial

import pytest
import torch
from small_problems import AGENTS, DISCRETE, batches, built, line, small, walk

from flowrl.agents.actor_critic_config import NetworkConfig
from flowrl.agents.compiling import compilable

SETTINGS = {"average_actor": True, "lower_bound": True, "layer_norm": True, "width": 16}


def trained(agent, discrete, *, compile, precision="fp32"):
    """The learner's weights after four updates."""
    data = walk(20) if discrete else line(10, 7)
    learner = built(small(agent, **SETTINGS, compile=compile), data, batch_size=16, steps=4, precision=precision)
    for batch, step in batches(learner, data, 4):
        learner.update(batch, step)
    return {
        f"{name}.{key}": value
        for name, part in learner.parts()
        for key, value in part.state_dict().items()
        if isinstance(value, torch.Tensor)
    }


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "discrete"), [*((x, False) for x in AGENTS), *((x, True) for x in DISCRETE)])
def test_every_loss_is_one_graph_with_the_same_gradients(agent, discrete, monkeypatch):
    # Without the code generator, which takes half a minute a loss.
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    ours, plain = (trained(agent, discrete, compile=compile) for compile in (True, False))
    assert ours.keys() == plain.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, plain[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # of torch, in its own code
def test_the_compiler_gives_the_same_training():
    ours, plain = (trained("iql", False, compile=compile) for compile in (True, False))
    for name, value in ours.items():
        torch.testing.assert_close(value, plain[name], rtol=1e-3, atol=1e-5, msg=name)


class Learner:
    """Its loss says whether it was compiled; each learner has a setting of its own, so that each needs a version."""

    network = NetworkConfig(compile=True)

    def __init__(self, name):
        self.name, self.compiled = name, {}

    @compilable
    def loss(self, x, times=1, *, more=0):
        return x * len(self.name) * times + more, torch.compiler.is_compiling()


def test_every_learner_of_a_process_is_compiled(monkeypatch):
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    for number in range(20):  # torch.compile gives up after 8 versions of a function
        value, is_compiled = Learner("x" * number).loss(torch.ones(1))
        assert value == number
        assert is_compiled


def test_a_missing_compiler_is_one_sentence(monkeypatch):
    def without_compiler(function):
        def fail(*arguments):
            raise RuntimeError("no working C++ compiler\nin many words")

        return fail

    monkeypatch.setattr(torch, "compile", without_compiler)
    with pytest.raises(ValueError, match="compile is True and torch.compile does not work here: no working C\\+\\+"):
        trained("iql", False, compile=True)
