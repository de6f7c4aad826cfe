"""Cloning: its loss over real steps alone, by hand; its optimiser; chunks that carry a state."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from flowrl.agents.bc import BCConfig
from flowrl.agents.cloning import CloningConfig
from flowrl.agents.sequence import SequenceConfig
from flowrl.attention import ATTENTION
from flowrl.data.samplers import WHOLE, Chunk, Chunks, Episodes, Part, Windows, windows_at
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.state import map_state, tensors_of
from flowrl.training.config import TrainingConfig

CPU = torch.device("cpu")
TRAINING = TrainingConfig(steps=12, batch_size=8)
FLOW = SequenceConfig(width=16, layers=1, heads=2, context=5)
DT, BC = replace(FLOW, attention="softmax"), BCConfig(width=16, layers=1, context=5)
EVERY_AGENT = pytest.mark.parametrize("agent", [FLOW, DT, BC], ids=["flow", "dt", "bc"])


@pytest.fixture
def dataset(random_dataset):
    return random_dataset([9, 4, 17, 1, 12])


def learner_of(agent, dataset, training=TRAINING):
    torch.manual_seed(0)
    return agent.build(Normaliser.of(dataset), training, CPU)


def updated(learner, dataset, steps=TRAINING.steps):
    """What each of several updates returned."""
    sampler, order = learner.sampler(dataset, TRAINING.batch_size, WHOLE), torch.Generator().manual_seed(0)
    return [learner.update(sampler.draw(order), step) for step in range(1, steps + 1)]


# The loss


@EVERY_AGENT
@torch.no_grad()
def test_the_loss_is_over_real_steps_alone(agent, dataset):
    """By hand: the mean of squared errors, each action scaled by its bounds; padding neither adds nor divides."""
    learner = learner_of(agent, dataset)
    learner.actor.eval()
    batch = windows_at(dataset, torch.tensor([7, 13, 29, 30]), 5)
    assert 0 < int(batch.is_pad.sum()) < batch.is_pad.numel()
    if isinstance(agent, SequenceConfig):
        predicted = learner.actor.model(batch.returns_to_go, batch.observations, batch.actions, batch.timesteps)
    else:
        predicted = learner.actor.act(None, batch.observations.flatten(0, 1), torch.zeros(20))[1].view(4, 5, 2)
    errors = []
    for window in range(4):
        for step in range(5):
            if not batch.is_pad[window, step]:
                half_range = torch.tensor([2.5, 1.5])
                errors += ((predicted - batch.actions)[window, step] / half_range).square().tolist()
    assert float(learner.loss(batch)) == pytest.approx(np.mean(errors), rel=1e-5)
    garbage = batch._replace(actions=batch.actions.masked_fill(batch.is_pad[..., None], 1e3))
    assert float(learner.loss(garbage)) == pytest.approx(float(learner.loss(batch)), rel=1e-6)


@EVERY_AGENT
def test_every_parameter_gets_a_gradient_from_the_loss(agent, dataset):
    learner = learner_of(agent, dataset)
    learner.loss(windows_at(dataset, torch.tensor([0, 5, 11]), 5)).backward()
    for name, parameter in learner.actor.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


class Fixed(torch.nn.Module):
    """Gives the same outputs whatever comes in."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, *arguments):
        return self.outputs


@EVERY_AGENT
def test_a_loss_of_zero_is_the_right_action(agent, dataset):
    learner = learner_of(agent, dataset)
    batch = windows_at(dataset, torch.tensor([0, 5, 11]), 5)
    if agent is BC:
        learner.actor.network = Fixed(learner.actor.normaliser.actions(batch.actions).atanh())
    else:
        learner.actor.model = Fixed(batch.actions)
        learner.actor.model.head = learner_of(agent, dataset).actor.head
    assert float(learner.loss(batch)) == pytest.approx(0, abs=1e-12)


@EVERY_AGENT
def test_bfloat16_losses_are_summed_in_float32(agent, dataset):
    learner = learner_of(agent, dataset)
    with torch.autocast("cpu", torch.bfloat16):
        loss = learner.loss(windows_at(dataset, torch.tensor([0, 5, 11]), 5))
    assert loss.dtype == torch.float32


@EVERY_AGENT
def test_actions_fill_off_centre_bounds_and_stay_inside(agent, dataset):
    actor = learner_of(agent, dataset).actor.eval()
    last = actor.network[-1] if agent is BC else actor.model.action_head
    torch.nn.init.normal_(last.weight, std=100.0)
    observations = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, actions = actor.act(actor.initial(torch.zeros(500)), observations, torch.zeros(500))
    low, high = torch.tensor([-2.0, -1.0]), torch.tensor([3.0, 2.0])
    assert ((actions >= low) & (actions <= high)).all()
    torch.testing.assert_close(actions.amin(0), low, rtol=0, atol=1e-3)
    torch.testing.assert_close(actions.amax(0), high, rtol=0, atol=1e-3)


# The optimiser


@pytest.mark.parametrize(
    ("schedule", "after"), [("constant", [1.0] * 7), ("linear", [1.0, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7])]
)
def test_the_learning_rate_rises_and_then_stays_or_falls(dataset, schedule, after):
    cloning = CloningConfig(learning_rate=1.0, clip_norm=1e-9, schedule=schedule, warmup_steps=5)
    rates = [
        row["learning_rate"].item() for row in updated(learner_of(replace(FLOW, cloning=cloning), dataset), dataset)
    ]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, *after])


def test_the_gradient_is_clipped(dataset):
    """What an update returns is the norm before clipping."""

    def norms(clip_norm):
        cloning = CloningConfig(clip_norm=clip_norm, warmup_steps=0, weight_decay=0.0)
        learner = learner_of(replace(FLOW, cloning=cloning), dataset)
        torch.manual_seed(0)
        (row,) = updated(learner, dataset, steps=1)
        left = sum(float(parameter.grad.square().sum()) for parameter in learner.actor.parameters()) ** 0.5
        return left, float(row["gradient_norm"])

    (clipped, before), (whole, same) = norms(1e-3), norms(1e9)
    assert clipped == pytest.approx(1e-3, rel=1e-3)
    assert before == same == pytest.approx(whole, rel=1e-5)
    assert before > 0.01


@EVERY_AGENT
def test_an_update_is_that_of_torchs_adamw(agent, dataset):
    """The whole step against a plain one: loss, clipping, warm-up, weight decay."""
    agent = replace(agent, dropout=0.0, cloning=CloningConfig(weight_decay=0.1, clip_norm=0.05, warmup_steps=4))
    mine, plain = learner_of(agent, dataset), learner_of(agent, dataset)
    parameters = list(plain.actor.parameters())
    optimiser = torch.optim.AdamW(parameters, agent.cloning.learning_rate, weight_decay=0.1)
    sampler, order = plain.sampler(dataset, 8, WHOLE), torch.Generator().manual_seed(0)
    for step in range(1, 7):
        optimiser.param_groups[0]["lr"] = 1e-3 * min(step / 4, (13 - step) / 8)
        optimiser.zero_grad()
        plain.loss(sampler.draw(order)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.05)
        optimiser.step()
    updated(mine, dataset, steps=6)
    for one, two in zip(mine.actor.parameters(), parameters, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    ("agent", "kind"),
    [
        (FLOW, Windows),
        (BC, Windows),
        (replace(FLOW, carry_state=True), Chunks),
        (replace(FLOW, context="episode"), Episodes),
    ],
    ids=["flow", "bc", "carrying", "episodes"],
)
def test_the_sampler_is_that_of_the_configuration(agent, kind, dataset):
    sampler = learner_of(agent, dataset).sampler(dataset, 6, Part(1, 3))
    assert type(sampler) is kind
    batch = sampler.draw(torch.Generator().manual_seed(0))
    assert batch.is_pad.shape[0] == 2
    full = replace(agent, cloning=CloningConfig(windows="full")) if kind is Windows else None
    if full is not None:
        assert learner_of(full, dataset).sampler(dataset, 6, WHOLE).full


# A carried state


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attention_options": ("output_norm", "decay"), "convolution": 3},
        {"tokens": "observation-action", "recompute": True},
        {"tokens": "observation"},
        *({"attention": name} for name, rule in ATTENTION.items() if rule.constant_state and name != "flow"),
    ],
    ids=str,
)
def test_the_loss_of_chunks_is_that_of_their_steps_in_the_whole_episode(dataset, options):
    learner = learner_of(replace(FLOW, carry_state=True, dropout=0.0, **options), dataset)
    actor = learner.actor
    for parameter in actor.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    starts = dataset.starts[[0, 2]]
    whole = windows_at(dataset, starts, 9)  # episodes of 9 and 17 steps
    errors = actor.head.error(actor.predict(whole), whole.actions)
    # Whatever a state holds of rows that begin, it means nothing.
    learner.state = map_state(lambda x: x + 7, actor.initial_state(2))
    for begin, end in ((0, 4), (4, 6), (6, 9)):
        chunk = windows_at(dataset, starts + begin, end - begin)
        loss = learner.carried_loss(Chunk(chunk, torch.full((2,), begin == 0)))
        torch.testing.assert_close(loss, errors[:, begin:end].mean(), rtol=1e-5, atol=1e-7)
        assert loss.requires_grad
        assert not any(tensor.requires_grad for tensor in tensors_of(learner.state))


def test_a_carried_state_goes_on_where_it_was_saved(dataset):
    agent = replace(FLOW, carry_state=True, dropout=0.0)
    one = learner_of(agent, dataset)
    sampler, order = one.sampler(dataset, 4, WHOLE), torch.Generator().manual_seed(0)
    for step in range(1, 6):
        one.update(sampler.draw(order), step)
    other = learner_of(agent, dataset)
    again = other.sampler(dataset, 4, WHOLE)
    other.load_state_dict(deepcopy(one.state_dict()))  # an optimiser goes on with the tensors themselves
    again.load_state_dict(sampler.state_dict())
    orders = [torch.Generator(), torch.Generator()]
    for generator in orders:
        generator.set_state(order.get_state())
    for step in range(6, 9):
        mine = one.update(sampler.draw(orders[0]), step)
        its = other.update(again.draw(orders[1]), step)
        assert mine["loss"] == its["loss"]


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"weight_decay": float("nan")}, "weight_decay is nan"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"schedule": "cosine"}, "schedule is 'cosine': known are constant, linear"),
        ({"windows": "half"}, "windows is 'half': known are uniform, full"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CloningConfig(**options)


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"carry_state": True}, "a carried state"), ({"context": "episode"}, "whole episodes")],
)
@pytest.mark.parametrize("setting", [{"compile": True}, {"windows": "full"}])
def test_settings_of_windows_are_refused_without_windows(changes, what, setting):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"{name} is {value!r} with {what}"):
        replace(FLOW, **changes, cloning=CloningConfig(**setting))


def test_a_missing_compiler_is_reported_in_one_sentence(dataset, monkeypatch):
    def compiled(function):
        def fail(batch):
            raise RuntimeError("no working C++ compiler\nin many words")

        return fail

    monkeypatch.setattr(torch, "compile", compiled)
    learner = learner_of(replace(FLOW, cloning=CloningConfig(compile=True)), dataset)
    with pytest.raises(
        ValueError, match="compile is True and torch.compile does not work here: no working C"
    ) as caught:
        updated(learner, dataset, steps=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("warmup_steps", "steps", "share"), [(500, 600, "83"), (500, 400, "100"), (51, 500, "10")])
def test_a_long_warm_up_is_cautioned(warmup_steps, steps, share):
    (sentence,) = CloningConfig(warmup_steps=warmup_steps).cautions(steps)
    assert sentence == (
        f"warmup_steps is {warmup_steps} and steps is {steps}: the learning rate rises for {share} % of the training"
    )


def test_a_tenth_of_the_steps_is_no_long_warm_up():
    assert CloningConfig(warmup_steps=500).cautions(5_000) == []
