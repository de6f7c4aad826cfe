"""Agents: their presets, their losses, and how other programs play them."""

import json
import re
import shutil
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch

from flowrl.agents import AGENTS, BCConfig, Policy, SequenceConfig, load_agent, load_policy
from flowrl.attention import ATTENTION
from flowrl.data.samplers import windows_at
from flowrl.errors import InputError
from flowrl.evaluation.environments import make_env
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.trajectory import map_state, tensors_of
from flowrl.training.run_folder import RunFolder

SMALL = {"width": 16, "layers": 1, "context": 5}


def built(name, dataset, **options):
    torch.manual_seed(0)
    return replace(AGENTS[name].config, **(SMALL | options)).build(Normaliser.of(dataset))


@pytest.fixture
def dataset(random_dataset):
    return random_dataset([9, 4, 17])


@pytest.mark.parametrize(("ours", "theirs"), [("flow", "dt"), ("flow-paper", "dt-paper")])
def test_flow_and_dt_differ_in_their_attention_alone(ours, theirs):
    one, two = AGENTS[ours], AGENTS[theirs]
    assert asdict(one.config) == asdict(two.config) | {"attention": "flow"}
    assert two.config.attention == "softmax"
    assert one.training == two.training


def test_the_presets_are_the_literatures():
    config, training = AGENTS["flow"].config, AGENTS["flow"].training
    assert (config.context, config.width, config.layers, config.dropout) == (20, 128, 3, 0.1)
    assert training.clip_norm == 0.25
    assert training.warmup_steps > 0
    paper = AGENTS["flow-paper"]
    assert (paper.config.width, paper.config.heads, paper.training.learning_rate) == (256, 4, 1e-3)
    assert {"flow", "dt", "bc", "flow-paper", "dt-paper"} <= AGENTS.keys()
    assert all(preset.description for preset in AGENTS.values())


def test_flow_and_dt_begin_with_the_same_weights(dataset):
    flow, dt = (built(name, dataset, heads=2).state_dict() for name in ("flow", "dt"))
    assert flow.keys() == dt.keys()
    assert all(torch.equal(flow[name], dt[name]) for name in flow)


@pytest.mark.parametrize("name", ["flow", "dt", "bc"])
def test_every_parameter_gets_a_gradient_from_the_loss(name, dataset):
    agent = built(name, dataset)
    agent.loss(windows_at(dataset, torch.tensor([0, 5, 11]), 5)).backward()
    for parameter_name, parameter in agent.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", ["flow", "dt", "bc"])
def test_a_loss_of_zero_is_the_right_action(name, dataset, monkeypatch):
    agent = built(name, dataset)
    batch = windows_at(dataset, torch.tensor([0, 5, 11]), 5)
    right = agent.normaliser.actions(batch.actions).atanh()  # what the last layer has to say
    if name == "bc":
        monkeypatch.setattr(agent, "network", Stub(right, agent.normaliser))
    else:
        monkeypatch.setattr(agent, "model", Stub(batch.actions, agent.normaliser))
    assert float(agent.loss(batch)) == pytest.approx(0, abs=1e-12)


class Stub(torch.nn.Module):
    def __init__(self, actions, normaliser):
        super().__init__()
        self.actions, self.normaliser = actions, normaliser

    def forward(self, *arguments):
        return self.actions


@pytest.mark.parametrize("name", ["flow", "dt", "bc"])
def test_bfloat16_losses_are_summed_in_float32(name, dataset):
    agent = built(name, dataset)
    with torch.autocast("cpu", torch.bfloat16):
        loss = agent.loss(windows_at(dataset, torch.tensor([0, 5, 11]), 5))
    assert loss.dtype == torch.float32


def test_bc_asks_for_neither_target_nor_past(dataset):
    agent = built("bc", dataset).eval()
    carry, observations = agent.initial(torch.tensor([1.0, 500.0])), torch.ones(2, 3)
    _, actions = agent.act(carry, observations, torch.tensor([0.0, 9.0]))
    assert torch.equal(actions[0], actions[1])


@pytest.mark.parametrize("name", ["flow", "dt"])
def test_the_return_asked_for_steers_and_rewards_use_it_up(name, dataset):
    agent = built(name, dataset).eval()
    torch.nn.init.normal_(agent.model.action_head.weight, std=1.0)
    observations, rewards = torch.ones(2, 3), torch.zeros(2)
    carry, actions = agent.act(agent.initial(torch.tensor([1.0, 50.0])), observations, rewards)
    assert (actions[0] - actions[1]).abs().max() > 1e-4
    carry, _ = agent.act(carry, observations, torch.tensor([0.25, -4.0]))
    assert carry.returns_to_go[:, -1].tolist() == [0.75, 54.0]
    assert carry.returns_to_go[:, 0].tolist() == [1.0, 50.0]


@pytest.mark.parametrize("name", ["flow", "dt", "bc"])
def test_actions_fill_reachs_off_centre_bounds_and_stay_inside(name, dataset):
    agent = built(name, dataset).eval()
    head = agent.network[-1] if name == "bc" else agent.model.action_head
    torch.nn.init.normal_(head.weight, std=100.0)
    observations = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, actions = agent.act(agent.initial(torch.zeros(500)), observations, torch.zeros(500))
    low, high = torch.tensor([-2.0, -1.0]), torch.tensor([3.0, 2.0])
    assert ((actions >= low) & (actions <= high)).all()
    torch.testing.assert_close(actions.amin(0), low, rtol=0, atol=1e-3)
    torch.testing.assert_close(actions.amax(0), high, rtol=0, atol=1e-3)


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
    agent = built("flow", dataset, attention=attention, rollout=rollout).eval()
    generator = torch.Generator().manual_seed(0)
    carry = agent.initial(torch.tensor([3.0]))
    for _ in range(7):
        carry, _ = agent.act(carry, torch.randn(1, 3, generator=generator), torch.ones(1))
    observation = torch.randn(1, 3, generator=generator)
    one, two = (agent.act(carry, observation, torch.ones(1))[1] for _ in range(2))
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
def test_what_is_read_when_acting_stays_within_what_was_trained_unless_told(options, reads):
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
def test_an_agent_acts_as_it_was_trained_unless_told(options, acts):
    config = SequenceConfig(**options)
    assert config.acts == config.record()["rollout"] == acts


def shown_and_done(agent, steps):
    """What an agent is shown in two episodes at once, and its actions."""
    generator = torch.Generator().manual_seed(0)
    targets = left = torch.tensor([3.0, 9.0])
    carry, columns = agent.initial(targets), ([], [], [])
    for t in range(steps):
        observations = torch.randn(2, 3, generator=generator)
        rewards = torch.rand(2, generator=generator) * (t > 0)
        left = left - rewards
        carry, actions = agent.act(carry, observations, rewards)
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
    agent = built("flow", dataset, heads=2, rollout=rollout, acting_context=steps, **options).eval()
    for parameter in agent.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    columns = shown_and_done(agent, 21)
    for t in range(21):
        read = slice(first(t), t + 1)
        due = agent.model(*(column[:, read] for column in columns), torch.arange(21)[None, read])[:, -1]
        torch.testing.assert_close(columns[2][:, t], due, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("attention", ["flow", "softmax", "reformer"])
def test_a_window_of_a_whole_episode_is_the_whole_past(dataset, attention):
    agent = built("flow", dataset, attention=attention, context="episode", rollout="window").eval()
    columns = shown_and_done(agent, 9)
    due = agent.model(*columns, torch.arange(9)[None])
    torch.testing.assert_close(columns[2], due, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_episodes_that_end_leave_the_others_staggered_states_alone(dataset):
    agent = built("flow", dataset, rollout="staggered", acting_context=2, convolution=3).eval()
    carry = agent.initial(torch.tensor([3.0, 9.0]))
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(9, 2, 3, generator=generator)
    for t in range(5):
        carry, _ = agent.act(carry, seen[t], torch.ones(2))
    alone = agent.select(carry, torch.tensor([1]))
    for t in range(5, 9):
        carry, both = agent.act(carry, seen[t], torch.ones(2))
        alone, one = agent.act(alone, seen[t, 1:], torch.ones(1))
        torch.testing.assert_close(one, both[1:])


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
    agent = built("flow", dataset, heads=2, carry_state=True, dropout=0.0, **options)
    for parameter in agent.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    starts = dataset.starts[[0, 2]]
    whole = windows_at(dataset, starts, 9)  # episodes of 9 and 17 steps
    columns = whole.returns_to_go, whole.observations, whole.actions, whole.timesteps
    errors = agent.normaliser.error(agent.model(*columns), whole.actions)
    # Whatever a state holds of rows that begin, it means nothing.
    state = map_state(lambda x: x + 7, agent.initial_state(2))
    for begin, end in ((0, 4), (4, 6), (6, 9)):
        chunk = windows_at(dataset, starts + begin, end - begin)
        loss, state = agent.carried_loss(chunk, torch.full((2,), begin == 0), state)
        torch.testing.assert_close(loss, errors[:, begin:end].mean(), rtol=1e-5, atol=1e-7)
        assert loss.requires_grad
        assert not any(tensor.requires_grad for tensor in tensors_of(state))


@pytest.mark.slow
@torch.inference_mode()
def test_a_compiled_recurrent_step_of_flow_serves_a_whole_episode(dataset):
    """After the first steps nothing is compiled again: no shape and no branch depends on the data or on the time."""
    agent = built("flow", dataset, heads=2, rollout="recurrent").eval()
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(agent.act, fullgraph=True, dynamic=False, backend=backend)
    targets, generator = torch.tensor([1.0, 50.0, 7.0]), torch.Generator().manual_seed(0)
    carry, carry_of_compiled = agent.initial(targets), agent.initial(targets)
    compiled_by = []
    for _ in range(12):
        observations, rewards = torch.randn(3, 3, generator=generator), torch.rand(3, generator=generator)
        carry, expected = agent.act(carry, observations, rewards)
        carry_of_compiled, found = compiled(carry_of_compiled, observations, rewards)
        assert torch.equal(found, expected)
        compiled_by.append(len(graphs))
    # The first step has no action before it; the state it leaves has strides of two tokens, later ones of three.
    assert compiled_by == [1, 2, *[3] * 10]


# Policies


def played(policy, steps=8, seed=0):
    env = make_env("flowrl/Reach-v0")
    observation, _ = env.reset(seed=seed)
    policy.reset(14.0)
    reward, actions = 123.0, []  # before the first step there is no reward: what is given is ignored
    for _ in range(steps):
        actions.append(policy.act(observation, reward))
        observation, reward, over, cut, _ = env.step(actions[-1])
        if over or cut:
            break
    return np.array(actions)


def test_a_policy_is_loaded_without_a_dataset(any_tiny_run, minari_root):
    assert not list(minari_root.iterdir())
    policy = load_policy(any_tiny_run)
    assert isinstance(policy, Policy)
    actions = played(policy)
    assert actions.shape[1:] == (2,)
    assert actions.dtype == np.float32
    assert ((actions >= [-2, -1]) & (actions <= [3, 2])).all()
    # A second episode begins anew, and a path may be a string.
    np.testing.assert_array_equal(played(policy), actions)
    np.testing.assert_array_equal(played(load_policy(str(any_tiny_run))), actions)
    assert len(played(policy, seed=1)) > 0


def test_several_episodes_at_once_are_those_one_by_one(any_tiny_run):
    policy, single = load_policy(any_tiny_run), load_policy(any_tiny_run)
    observations = np.random.default_rng(0).normal(size=(7, 3, 3))
    policy.reset([1.0, 5.0, 14.0])
    together = np.array([policy.act(observations[t], [0.5, 0.25, 0.0]) for t in range(7)])
    assert together.shape == (7, 3, 2)
    for slot, (target, reward) in enumerate([(1.0, 0.5), (5.0, 0.25), (14.0, 0.0)]):
        single.reset(target)
        alone = np.array([single.act(observations[t, slot], reward) for t in range(7)])
        np.testing.assert_allclose(together[:, slot], alone, atol=1e-5)


def test_dropout_is_off_and_no_generator_is_drawn_from(any_tiny_run):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = played(load_policy(any_tiny_run))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(one, played(load_policy(any_tiny_run)))


def test_the_rollout_can_be_chosen(tiny_run):
    assert load_agent(RunFolder(tiny_run), torch.device("cpu"))[0].config.rollout == "window"
    agent, step = load_agent(RunFolder(tiny_run), torch.device("cpu"), rollout="recurrent")
    assert (agent.config.rollout, step) == ("recurrent", 20)
    window, recurrent = played(load_policy(tiny_run)), played(load_policy(tiny_run, rollout="recurrent"))
    np.testing.assert_allclose(window[:5], recurrent[:5], atol=1e-5)


def test_bc_has_no_rollout_to_choose(tiny_runs):
    with pytest.raises(InputError, match="agent bc has no rollout to choose"):
        load_policy(tiny_runs / "bc", rollout="recurrent")
    with pytest.raises(InputError, match="agent bc has no acting_context to choose"):
        load_policy(tiny_runs / "bc", acting_context=2)


def configured_as(run, folder, **changes):
    """A copy of a run, with its weights, as if its agent had been configured otherwise."""
    shutil.copytree(run, folder)
    config = json.loads((folder / "config.json").read_text())
    config["agent_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    checkpoint["config"]["agent_config"] |= changes
    torch.save(checkpoint, folder / "checkpoint.pt")
    return folder


def test_it_can_act_on_fewer_steps_than_it_learnt_from(tiny_run, tmp_path):
    """As an agent with these weights would whose windows were never longer."""
    shorter = configured_as(tiny_run, tmp_path / "shorter", context=2)
    found = played(load_policy(tiny_run, acting_context=2))
    np.testing.assert_array_equal(found, played(load_policy(shorter)))
    assert not np.allclose(found[4:], played(load_policy(tiny_run))[4:])


def test_the_acting_context_of_another_rollout_is_left_behind(tiny_run, tmp_path):
    staggered = configured_as(tiny_run, tmp_path / "staggered", rollout="staggered", acting_context=1)
    for asked, reads in [
        ({}, 1),
        ({"rollout": "staggered"}, 1),
        ({"rollout": "window"}, 5),
        ({"rollout": "recurrent"}, None),
    ]:
        agent, _ = load_agent(RunFolder(staggered), torch.device("cpu"), **asked)
        assert agent.config.reads == reads
    agent, _ = load_agent(RunFolder(staggered), torch.device("cpu"), rollout="window", acting_context=3)
    assert agent.config.reads == 3


@pytest.mark.parametrize("steps", [0, -1, 6])
def test_no_more_steps_than_it_learnt_from(tiny_run, steps):
    with pytest.raises(InputError, match=f"acting_context is {steps}: it must be at least 1 and at most context, 5"):
        load_policy(tiny_run, acting_context=steps)


def test_misuse_of_a_policy_is_told(any_tiny_run):
    policy = load_policy(any_tiny_run)
    with pytest.raises(RuntimeError, match="call reset"):
        policy.act(np.zeros(3))
    policy.reset([1.0, 2.0])
    with pytest.raises(ValueError, match=r"observation has shape \(3,\)"):
        policy.act(np.zeros(3))
    with pytest.raises(ValueError, match="targets must be"):
        policy.reset([])
    with pytest.raises(ValueError, match="targets must be"):
        policy.reset([[1.0]])


def edit_config(run, **changes):
    file = run / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_what_is_no_run_is_refused(tmp_path, tiny_run):
    with pytest.raises(InputError, match="is no run folder"):
        load_policy(tmp_path / "nowhere")
    (tiny_run / "checkpoint.pt").unlink()
    with pytest.raises(InputError, match="holds no checkpoint yet"):
        load_policy(tiny_run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent": "decision-mamba"}, "unknown agent 'decision-mamba': known are .*flow"),
        ({"agent_config": None}, "config.json"),
        ({"agent_config": {"width": 16, "color": "red"}}, "config.json"),
        ({"agent_config": {"attention": "hyena"}}, "hyena"),
        ({"observation_size": "three"}, "config.json"),
    ],
)
def test_a_configuration_of_another_version_is_refused(tiny_run, changes, message):
    edit_config(tiny_run, **changes)
    with pytest.raises(InputError, match=message):
        load_policy(tiny_run)


def test_a_checkpoint_of_another_architecture_is_refused(tiny_runs, tiny_run):
    config = json.loads((tiny_run / "config.json").read_text())
    edit_config(tiny_run, agent_config=config["agent_config"] | {"width": 32})
    with pytest.raises(InputError, match="of another architecture: .* is .*16.*32"):
        load_policy(tiny_run)


def test_a_checkpoint_of_another_agent_with_the_same_shapes_is_refused(tiny_runs, tiny_run):
    """flow and dt have the same tensors: only a configuration inside the checkpoint tells them apart."""
    (tiny_run / "checkpoint.pt").write_bytes((tiny_runs / "dt/checkpoint.pt").read_bytes())
    with pytest.raises(InputError, match="another"):
        load_policy(tiny_run)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (BCConfig, {"width": 0}, "width is 0"),
        (BCConfig, {"layers": 0}, "layers is 0"),
        (BCConfig, {"context": 0}, "context is 0"),
        (BCConfig, {"dropout": 1.0}, "dropout is 1.0"),
        (SequenceConfig, {"rollout": "tree"}, "rollout is 'tree': known are window, recurrent, staggered"),
        (SequenceConfig, {"heads": 5}, "width must be a multiple of heads"),
        (SequenceConfig, {"acting_context": 0}, "acting_context is 0: it must be at least 1 and at most context, 20"),
        (SequenceConfig, {"context": "episode", "acting_context": 0}, "acting_context is 0: it must be at least 1"),
        (SequenceConfig, {"context": "episode", "carry_state": True}, "a whole episode needs no state before it"),
        (
            SequenceConfig,
            {"attention": "softmax", "carry_state": True},
            "carry_state is True and attention is 'softmax': it must be one whose state is of constant size, flow,"
            " linear, performer, cosformer",
        ),
        (SequenceConfig, {"context": "episode", "rollout": "staggered"}, "acting_context must be given"),
        (SequenceConfig, {"context": "episode", "acting_context": 5}, "acting_context is 5 and the rollout recurrent"),
        (
            SequenceConfig,
            {"rollout": "recurrent", "acting_context": 5},
            "acting_context is 5 and the rollout recurrent",
        ),
        (
            SequenceConfig,
            {"attention": "performer", "attention_options": ["redraw_every=9"], "carry_state": True},
            "carry_state is True and redraw_every is set",
        ),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(config, options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)


def test_every_field_explains_itself():
    """`--help` shows the sentence under each field."""
    import inspect

    for config in (SequenceConfig, BCConfig):
        source = "".join(inspect.getsource(c) for c in config.__mro__ if c is not object)
        for field in fields(config):
            assert f"    {field.name}: " in source


@pytest.mark.parametrize(
    ("changes", "cautions"),
    [
        ({}, []),
        ({"acting_context": 5}, []),
        ({"rollout": "staggered"}, []),
        ({"context": "episode"}, []),
        ({"carry_state": True}, []),
        ({"rollout": "recurrent"}, ["learns from windows of 20 steps: a state that is carried over a whole episode"]),
        (
            {"rollout": "staggered", "acting_context": 11},
            ["learns from windows of 20 steps: a past of up to 22 steps is another function"],
        ),
        ({"rollout": "staggered", "context": 1}, ["windows of 1 steps: a past of up to 2 steps"]),
        ({"carry_state": True, "rollout": "window"}, ["begins anew within the last 20 steps"]),
        (
            {"context": "episode", "rollout": "staggered", "acting_context": 8},
            ["learns from the whole past of its episodes: a past that begins anew within the last 16 steps"],
        ),
        ({"context": "episode", "rollout": "window"}, []),
        ({"attention": "cosformer"}, []),
        ({"attention": "cosformer", "context": 21}, ["within its first 60 tokens alone"]),
        ({"attention": "cosformer", "context": 30, "tokens": "observation-action"}, []),
        ({"attention": "cosformer", "context": 21, "attention_options": ["length=63"]}, []),
        ({"attention": "cosformer", "context": "episode", "attention_options": ["length=90"]}, ["first 90 tokens"]),
        ({"attention": "cosformer", "carry_state": True}, ["cosformer tells distances"]),
    ],
)
def test_what_is_probably_not_meant_is_told(changes, cautions):
    told = SequenceConfig(**changes).cautions()
    assert len(told) == len(cautions)
    assert all(expected in sentence for expected, sentence in zip(cautions, told, strict=True))
