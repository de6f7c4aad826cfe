"""Behaviour cloning: it acts on the present observation alone."""

from dataclasses import replace

import pytest
import torch

from flowrl.agents.bc import BCConfig
from flowrl.errors import InputError
from flowrl.nn.normaliser import Normaliser
from flowrl.training.config import TrainingConfig

SMALL = BCConfig(width=16, layers=1, context=5)


@pytest.fixture
def actor(random_dataset):
    torch.manual_seed(0)
    return SMALL.build(Normaliser.of(random_dataset([9, 4, 17])), TrainingConfig(), torch.device("cpu")).actor.eval()


def test_it_acts_on_neither_target_nor_past(actor):
    assert (actor.conditioned, actor.rollout, actor.acting_context) == (False, "memoryless", None)
    carry, observations = actor.initial(torch.tensor([1.0, 500.0])), torch.ones(2, 3)
    carry, first = actor.act(carry, observations, torch.tensor([0.0, 9.0]))
    assert torch.equal(first[0], first[1])
    carry, _ = actor.act(carry, torch.randn(2, 3), torch.ones(2))
    _, again = actor.act(actor.select(carry, torch.tensor([1])), observations[1:], torch.ones(1))
    torch.testing.assert_close(again[0], first[1])


def test_it_has_no_way_of_acting_to_choose():
    assert SMALL.acting(None, None) == SMALL
    with pytest.raises(InputError, match="rollout recurrent cannot be chosen"):
        SMALL.acting("recurrent", None)
    with pytest.raises(InputError, match="acting_context 2 cannot be chosen"):
        SMALL.acting(None, 2)
    with pytest.raises(InputError, match="rollout window and acting_context 2 cannot be chosen"):
        SMALL.acting("window", 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"layers": 0}, "layers is 0"),
        ({"context": 0}, "context is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": float("nan")}, "dropout is nan"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **options)
