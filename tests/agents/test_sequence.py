"""Sequence agents: what an action is predicted from in every rollout, and which settings fit together."""

import re
from dataclasses import replace

import pytest
import torch

from flowrl.agents import AGENTS
from flowrl.agents.sequence import SequenceConfig
from flowrl.attention import ATTENTION
from flowrl.errors import InputError
from flowrl.nn.normaliser import Normaliser
from flowrl.training.config import TrainingConfig

CPU = torch.device("cpu")
EIGHT = TrainingConfig(batch_size=8)
SMALL = {"width": 16, "layers": 1, "context": 5}


def actor_of(name, dataset, **options):
    torch.manual_seed(0)
    config = replace(AGENTS[name].config, **(SMALL | options))
    return config.build(Normaliser.of(dataset), TrainingConfig(), CPU).actor.eval()


@pytest.fixture
def dataset(random_dataset):
    return random_dataset([9, 4, 17])


def test_flow_and_dt_begin_with_the_same_weights(dataset):
    flow, dt = (actor_of(name, dataset, heads=2).state_dict() for name in ("flow", "dt"))
    assert flow.keys() == dt.keys()
    assert all(torch.equal(flow[name], dt[name]) for name in flow)


@pytest.mark.parametrize("name", ["flow", "dt"])
def test_the_target_return_steers_and_rewards_use_it_up(name, dataset):
    actor = actor_of(name, dataset)
    torch.nn.init.normal_(actor.model.action_head.weight, std=1.0)
    observations, rewards = torch.ones(2, 3), torch.zeros(2)
    carry, actions = actor.act(actor.initial(torch.tensor([1.0, 50.0])), observations, rewards)
    assert (actions[0] - actions[1]).abs().max() > 1e-4
    carry, _ = actor.act(carry, observations, torch.tensor([0.25, -4.0]))
    assert carry.returns_to_go[:, -1].tolist() == [0.75, 54.0]
    assert carry.returns_to_go[:, 0].tolist() == [1.0, 50.0]


WAYS_TO_ACT = [
    (attention, rollout)
    for attention, rule in ATTENTION.items()
    for rollout in (["window"] if rule.why_no_step else ["window", "recurrent", "staggered"])
]


@pytest.mark.parametrize("attention", [name for name, rule in ATTENTION.items() if rule.why_no_step])
def test_an_attention_without_a_step_is_refused_for_recurrent_rollouts(attention):
    for options in ({"rollout": "recurrent"}, {"rollout": "staggered"}, {"context": "episode"}):
        with pytest.raises(ValueError, match=re.escape(ATTENTION[attention].why_no_step)):
            SequenceConfig(attention, **options)
    assert SequenceConfig(attention, context="episode", rollout="window").acts == "window"


@pytest.mark.parametrize(("attention", "rollout"), WAYS_TO_ACT)
def test_a_carry_is_not_changed_by_acting(dataset, attention, rollout):
    actor = actor_of("flow", dataset, attention=attention, rollout=rollout)
    generator = torch.Generator().manual_seed(0)
    carry = actor.initial(torch.tensor([3.0]))
    for _ in range(7):
        carry, _ = actor.act(carry, torch.randn(1, 3, generator=generator), torch.ones(1))
    observation = torch.randn(1, 3, generator=generator)
    one, two = (actor.act(carry, observation, torch.ones(1))[1] for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("options", "reads"),
    [
        ({}, 20),
        ({"acting_context": 5}, 5),
        ({"context": "episode"}, None),
        ({"carry_state": True}, None),
        ({"rollout": "recurrent"}, None),
        ({"carry_state": True, "rollout": "window"}, 20),
        ({"context": "episode", "rollout": "window", "acting_context": 50}, 50),
        ({"rollout": "staggered"}, 10),  # so that the older state is never older than what was trained
        ({"rollout": "staggered", "context": 1}, 1),
        ({"rollout": "staggered", "acting_context": 7}, 7),
    ],
)
def test_what_is_read_when_acting_stays_within_what_was_trained_unless_chosen(options, reads):
    assert SequenceConfig(**options).reads == reads


def test_the_same_options_are_one_configuration_however_they_are_written():
    one = SequenceConfig(attention_options=("clip=5", "decay=true", "output_norm"))
    two = SequenceConfig(attention_options=["output_norm=true", "decay", "clip=5.0", "feature_map=sigmoid"])
    assert one == two
    assert one.record()["attention_options"] == ["clip=5.0", "output_norm", "decay"]
    assert SequenceConfig(attention_options=one.record()["attention_options"]) == one
    assert SequenceConfig(attention_options=("decay=false", "clip=10")) == SequenceConfig()


@pytest.mark.parametrize(
    ("options", "acts"),
    [
        ({}, "window"),
        ({"context": "episode"}, "recurrent"),
        ({"carry_state": True}, "recurrent"),
        ({"context": "episode", "rollout": "window"}, "window"),
        ({"carry_state": True, "rollout": "window", "acting_context": 5}, "window"),
        ({"rollout": "staggered"}, "staggered"),
    ],
)
def test_an_agent_acts_as_it_was_trained_unless_chosen(options, acts):
    config = SequenceConfig(**options)
    assert config.acts == config.record()["rollout"] == acts


def play_two(actor, steps):
    """(returns-to-go, observations, actions) of two episodes at once, each (2, steps, ...)."""
    generator = torch.Generator().manual_seed(0)
    targets = left = torch.tensor([3.0, 9.0])
    carry, columns = actor.initial(targets), ([], [], [])
    for t in range(steps):
        observations = torch.randn(2, 3, generator=generator)
        rewards = torch.rand(2, generator=generator) * (t > 0)
        left = left - rewards
        carry, actions = actor.act(carry, observations, rewards)
        for column, value in zip(columns, (left, observations, actions), strict=True):
            column.append(value)
    return [torch.stack(column, 1) for column in columns]


@torch.inference_mode()
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tokens": "observation-action", "convolution": 3},
        {"tokens": "return-observation"},
        {"tokens": "observation"},
    ],
)
@pytest.mark.parametrize(
    ("rollout", "first"),
    [
        ("window", lambda t: max(0, t - 3)),
        ("recurrent", lambda t: 0),
        # States begun every 4 steps; the older of the two acts, so after the 8th step it is the one of the 4th.
        ("staggered", lambda t: max(0, 4 * (t // 4 - 1))),
    ],
)
def test_an_action_is_predicted_from_the_steps_that_its_rollout_keeps(dataset, rollout, first, options):
    steps = None if rollout == "recurrent" else 4
    actor = actor_of("flow", dataset, heads=2, rollout=rollout, acting_context=steps, **options)
    for parameter in actor.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    columns = play_two(actor, 21)
    for t in range(21):
        read = slice(first(t), t + 1)
        expected = actor.model(*(column[:, read] for column in columns), torch.arange(21)[None, read])[:, -1]
        torch.testing.assert_close(columns[2][:, t], expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("attention", ["flow", "softmax", "reformer"])
def test_a_window_of_a_whole_episode_is_the_whole_past(dataset, attention):
    actor = actor_of("flow", dataset, attention=attention, context="episode", rollout="window")
    columns = play_two(actor, 9)
    expected = actor.model(*columns, torch.arange(9)[None])
    torch.testing.assert_close(columns[2], expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_episodes_that_end_leave_the_others_staggered_states_alone(dataset):
    actor = actor_of("flow", dataset, rollout="staggered", acting_context=2, convolution=3)
    carry = actor.initial(torch.tensor([3.0, 9.0]))
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(9, 2, 3, generator=generator)
    for t in range(5):
        carry, _ = actor.act(carry, seen[t], torch.ones(2))
    alone = actor.select(carry, torch.tensor([1]))
    for t in range(5, 9):
        carry, both = actor.act(carry, seen[t], torch.ones(2))
        alone, one = actor.act(alone, seen[t, 1:], torch.ones(1))
        torch.testing.assert_close(one, both[1:])


@pytest.mark.slow
@torch.inference_mode()
def test_a_compiled_recurrent_step_of_flow_serves_a_whole_episode(dataset):
    """After the first steps nothing is compiled again: no shape and no branch depends on the data or on the time."""
    actor = actor_of("flow", dataset, heads=2, rollout="recurrent")
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(actor.act, fullgraph=True, dynamic=False, backend=backend)
    targets, generator = torch.tensor([1.0, 50.0, 7.0]), torch.Generator().manual_seed(0)
    carry, carry_of_compiled = actor.initial(targets), actor.initial(targets)
    compiled_by = []
    for _ in range(12):
        observations, rewards = torch.randn(3, 3, generator=generator), torch.rand(3, generator=generator)
        carry, expected = actor.act(carry, observations, rewards)
        carry_of_compiled, actions = compiled(carry_of_compiled, observations, rewards)
        assert torch.equal(actions, expected)
        compiled_by.append(len(graphs))
    # The first step has no action before it; the state it leaves has strides of two tokens, later ones of three.
    assert compiled_by == [1, 2, *[3] * 10]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rollout": "tree"}, "rollout is 'tree': known are window, recurrent, staggered"),
        ({"heads": 5}, "width must be a multiple of heads"),
        ({"acting_context": 0}, "acting_context is 0: it must be at least 1 and at most context, 20"),
        ({"context": "episode", "acting_context": 0}, "acting_context is 0: it must be at least 1"),
        ({"context": "episode", "carry_state": True}, "a whole episode needs no state before it"),
        (
            {"attention": "softmax", "carry_state": True},
            "carry_state is True and attention is 'softmax': it must be one whose state is of constant size, flow,"
            " linear, performer, cosformer",
        ),
        ({"context": "episode", "rollout": "staggered"}, "acting_context must be given"),
        ({"context": "episode", "acting_context": 5}, "acting_context is 5 and .*recurrent"),
        (
            {"rollout": "recurrent", "acting_context": 5},
            "acting_context is 5 and .*recurrent",
        ),
        (
            {"attention": "performer", "attention_options": ["redraw_every=9"], "carry_state": True},
            "carry_state is True and redraw_every is set",
        ),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SequenceConfig(**options)


def test_acting_otherwise_than_the_agent_can_is_refused():
    config = SequenceConfig("reformer")
    with pytest.raises(InputError, match=re.escape(ATTENTION["reformer"].why_no_step)):
        config.acting("recurrent", None)
    with pytest.raises(InputError, match="acting_context is 21: it must be at least 1 and at most context, 20"):
        config.acting(None, 21)


@pytest.mark.parametrize(
    ("changes", "cautions"),
    [
        ({}, []),
        ({"acting_context": 5}, []),
        ({"rollout": "staggered"}, []),
        ({"context": "episode"}, []),
        ({"carry_state": True}, []),
        ({"rollout": "recurrent"}, ["windows of 20 steps and acts on a state carried over the whole episode"]),
        (
            {"rollout": "staggered", "acting_context": 11},
            ["windows of 20 steps and acts on up to 22 steps"],
        ),
        ({"rollout": "staggered", "context": 1}, ["windows of 1 steps and acts on up to 2 steps"]),
        (
            {"carry_state": True, "rollout": "window"},
            ["trained on the whole past of an episode and acts on at most its last 20 steps"],
        ),
        (
            {"context": "episode", "rollout": "staggered", "acting_context": 8},
            ["acts on at most its last 16 steps"],
        ),
        ({"context": "episode", "rollout": "window"}, []),
    ],
)
def test_acting_otherwise_than_trained_is_cautioned(changes, cautions):
    sentences = SequenceConfig(**changes).acting_cautions()
    assert len(sentences) == len(cautions)
    assert all(expected in sentence for expected, sentence in zip(cautions, sentences, strict=True))


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({}, 60),
        ({"context": 30, "tokens": "observation-action"}, 60),
        ({"context": 21, "tokens": "observation"}, 21),
        ({"context": "episode"}, None),
        ({"carry_state": True}, None),
    ],
)
def test_the_attention_cautions_about_the_tokens_that_it_is_given(changes, tokens, monkeypatch):
    given = []

    def cautions(tokens, **options):
        given.append((tokens, options))
        return ["too many"]

    monkeypatch.setattr(ATTENTION["cosformer"], "cautions", cautions)
    config = SequenceConfig("cosformer", attention_options=("length=63",), **changes)
    assert config.acting_cautions() == ["too many"]
    assert given == [(tokens, {"length": 63})]


def test_windows_beyond_the_longest_episode_are_cautioned(dataset):
    (sentence,) = SequenceConfig(**SMALL | {"context": 18}).cautions(dataset, EIGHT, CPU)
    assert sentence == "context is 18 and the longest episode has 17 steps: the rest is padding"
    assert SequenceConfig(**SMALL | {"context": 17}).cautions(dataset, EIGHT, CPU) == []


def test_pairs_of_tokens_that_need_more_memory_than_there_is_are_cautioned(random_dataset, monkeypatch):
    monkeypatch.setattr("flowrl.agents.sequence.device_memory", lambda device: 1e9)
    dataset = random_dataset([2000])
    reformer = SequenceConfig("reformer", width=16, heads=4, layers=2, context="episode", rollout="window")
    sentences = reformer.cautions(dataset, EIGHT, CPU)
    assert any("attention reformer keeps a number for every pair of tokens" in sentence for sentence in sentences)
    assert not any("pair of tokens" in sentence for sentence in replace(reformer, attention="flow").cautions(
        dataset, EIGHT, CPU
    ))  # fmt: skip
