"""What values cannot be learned from, or with, is refused in a sentence; what is probably not meant is a caution."""

import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from small_problems import AGENTS, CPU, DISCRETE, batches, built, line, small, walk

import flowrl
from flowrl.agents import actor_critic_config
from flowrl.agents.actor_critic_config import CriticConfig, NetworkConfig
from flowrl.agents.awac import AWACConfig
from flowrl.agents.rebrac import ReBRACConfig
from flowrl.agents.td3_bc import TD3BCConfig
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import WHOLE
from flowrl.errors import InputError
from flowrl.nn.normaliser import Normaliser
from flowrl.scripts import cli, train
from flowrl.training.config import TrainingConfig
from flowrl.training.device import isolated_rng
from flowrl.training.loop import train as train_loop
from flowrl.training.run_folder import RunFolder

REACH = "flowrl/reach/mixed-v0"


def of(rewards, terminations):
    """Episodes of these rewards on random observations and actions."""
    generator = np.random.default_rng(0)
    return TrajectoryDataset.from_arrays(
        [generator.normal(size=(len(row) + 1, 2)) for row in rewards],
        [generator.uniform(-1, 1, (len(row), 1)) for row in rewards],
        [np.array(row) for row in rewards],
        terminations,
    )


@pytest.mark.parametrize("agent", AGENTS)
def test_discrete_actions_are_for_the_agents_that_take_them(agent):
    if agent in DISCRETE:
        assert small(agent).for_dataset(walk(5)).takes_discrete
        return
    with pytest.raises(InputError, match=r"actions of arrays are discrete, .*: awac, cql and iql take both$"):
        small(agent).for_dataset(walk(5))


@pytest.mark.parametrize("agent", AGENTS)
def test_rewards_that_are_all_equal_say_nothing_unless_an_ending_does(agent):
    alike = of([[2.0] * 5, [2.0] * 3], [False, False])
    for look in (small(agent).for_dataset, partial(built(small(agent), alike).sampler, batch_size=4, part=WHOLE)):
        with pytest.raises(InputError, match="every reward of arrays is 2 and no episode terminates"):
            look(alike)
    for rewards, ends in ([[2.0] * 5, [2.0] * 3], [True, False]), ([[2.0] * 5, [2.0, 2.0, 1.0]], [False, False]):
        dataset = of(rewards, ends)
        small(agent).for_dataset(dataset)
        built(small(agent), dataset).sampler(dataset, 4, WHOLE)


def test_equal_returns_cannot_scale_rewards():
    dataset = of([[1.0, 2.0], [2.0, 1.0]], [False, False])
    small("iql").for_dataset(dataset)
    with pytest.raises(InputError, match="scale_rewards is returns and every episode of arrays has the return 3"):
        small("iql", scale_rewards="returns").for_dataset(dataset)


def test_returns_that_differ_by_rounding_cannot_scale_rewards_and_tiny_ones_can():
    rounded = of([[100.0, 200.0], [100.0, 200.0 + 6e-5]], [False, False])
    assert len(set(rounded.returns.tolist())) == 2
    with pytest.raises(InputError, match="scale_rewards is returns"):
        small("iql", scale_rewards="returns").for_dataset(rounded)
    small("iql", scale_rewards="returns").for_dataset(of([[1e-9, 2e-9], [2e-9, 2e-9]], [False, False]))


def test_what_cannot_be_learned_from_leaves_no_run_folder(tmp_path):
    steps = np.zeros((3, 4))
    discrete = TrajectoryDataset.from_arrays(
        [steps], [np.array([0, 1])], [np.array([1.0, 2.0])], [True], discrete_actions=2, env="CartPole-v1"
    )
    alike = TrajectoryDataset.from_arrays(
        [steps], [np.array([0, 1])], [np.ones(2)], [False], discrete_actions=2, env="CartPole-v1"
    )
    for agent, dataset, message in (("fql", discrete, "are discrete"), ("iql", alike, "every reward")):
        with pytest.raises(InputError, match=message):
            flowrl.train(agent, dataset=dataset, run_dir=tmp_path / "run", device="cpu", steps=1)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("agent", AGENTS)
def test_diverging_critics_end_the_run_and_the_last_good_checkpoint_is_kept(agent, tmp_path, monkeypatch):
    """The rate becomes huge after step 15, between two checkpoints: no checkpoint holds what it made."""
    dataset = line(10, 10)
    config = TrainingConfig(steps=300, batch_size=16, checkpoint_every=10, log_every=300)
    with isolated_rng(0, CPU):
        learner = small(agent).build(Normaliser.of(dataset), config, CPU)
        learn = learner.learn

        def broken(batch, step):
            learner.critic_optimiser.param_groups[0]["lr"] = 1e4 if step > 15 else 3e-3
            return learn(batch, step)

        monkeypatch.setattr(learner, "learn", broken)
        with pytest.raises(InputError, match=r"diverged by step (20|30)") as caught:
            train_loop(learner, dataset, config, RunFolder(tmp_path), seed=0, name="test")
    assert "critics diverged" in str(caught.value) or "training diverged" in str(caught.value)
    kept = RunFolder(tmp_path).load()
    assert kept["step"] == 10
    good = small(agent).build(Normaliser.of(dataset), config, CPU)
    good.load_state_dict(kept["learner"])
    with torch.no_grad():
        assert float(good.critics(dataset.observations, dataset.actions).abs().max()) < 10


def test_values_and_errors_near_what_the_rewards_allow_have_not_diverged():
    """The largest value that rewards of at most 5 allow with a discount of 0.9 is 50; 100 times that is beyond."""
    dataset = of([[-5.0, 1.0] * 5], [False])
    learner = built(small("iql", gamma=0.9), dataset)
    learner.sampler(dataset, 4, WHOLE)
    batch = learner.sampler(dataset, 4, WHOLE).at(torch.arange(4))
    infinite = float("inf")
    for value, error, diverged in [
        (49.0, 0.0, False),
        (-4_900.0, 4_900.0, False),
        (5_100.0, 0.0, True),
        (-5_100.0, 0.0, True),
        (infinite, 0.0, True),
        (0.0, 5_100.0, True),  # values of both signs may have a small mean
        (0.0, infinite, True),
    ]:
        metrics = {"value": torch.tensor(value), "critic_loss": torch.tensor(2 * error**2)}  # of two critics
        learner.learn = lambda batch, step, metrics=metrics: metrics
        if not diverged:
            learner.update(batch, 100)
            continue
        with pytest.raises(InputError, match=r"critics diverged by step 100: .* allow 50 at most"):
            learner.update(batch, 100)


def test_a_batch_larger_than_the_data_is_a_caution():
    dataset = of([[1.0, 2.0, 3.0]], [False])
    for agent, config in AGENTS.items():
        few, many = (
            config.cautions(dataset, TrainingConfig(batch_size=size), CPU)
            for size in (dataset.steps, dataset.steps + 1)
        )
        assert not few, agent
        (caution,) = many
        assert "batch_size is 4" in caution
        assert "3 steps" in caution


@pytest.mark.parametrize(
    ("rewards", "ends", "expected"),
    [([[1.0, -1.0]], [False], 1), ([[1.0, -1.0]], [True], 0), ([[1.0, 0.0]], [False], 0)],
)
def test_a_lower_bound_that_may_be_wrong_is_a_caution(rewards, ends, expected):
    config = small("rebrac", lower_bound=True)
    cautions = config.cautions(of(rewards, ends), TrainingConfig(batch_size=1), CPU)
    assert len(cautions) == expected
    assert not small("rebrac").cautions(of(rewards, ends), TrainingConfig(batch_size=1), CPU)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("shape", [{"critics": 50_000_000, "width": 256}, {"width": 100_000_000}, {"layers": 10**12}])
def test_networks_that_do_not_fit_the_memory_are_refused(agent, shape):
    ((name, value), *_) = shape.items()
    with pytest.raises(InputError, match=rf"{name} (is )?{value:,}.* need about [\d,.]+ GiB, and the device has"):
        check_memory(small(agent, **shape), line(2, 3))


@pytest.mark.parametrize("agent", AGENTS)
def test_the_memory_is_judged_near_what_the_networks_take(agent, monkeypatch):
    """Weights, targets and moments must fit, and thrice as much suffices for gradients and a small batch."""
    dataset, config = line(2, 3), small(agent, width=128)
    learner = built(config, dataset, batch_size=4, steps=2)
    for batch, step in batches(learner, dataset, 2):
        learner.update(batch, step)
    takes = sum(x.nbytes for x in tensors(learner.state_dict()))
    monkeypatch.setattr(actor_critic_config, "device_memory", lambda device: takes)
    with pytest.raises(InputError, match="the device has"):
        check_memory(config, dataset, batch_size=4)
    monkeypatch.setattr(actor_critic_config, "device_memory", lambda device: 3 * takes)
    check_memory(config, dataset, batch_size=4)


def check_memory(config, dataset, **training):
    config.check_memory(Normaliser.of(dataset), TrainingConfig(**training), torch.device("cpu"))


def tensors(state):
    """Every tensor in a tree of dicts and lists."""
    if isinstance(state, torch.Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def test_many_sampled_actions_need_memory():
    few, many = (small("cql", sampled_actions=count) for count in (10, 10**9))
    check_memory(few, line(2, 3))
    with pytest.raises(InputError, match="need about"):
        check_memory(many, line(2, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CriticConfig(gamma=1.5), "gamma is 1.5"),
        (lambda: CriticConfig(gamma=float("nan")), "gamma is nan"),
        (lambda: CriticConfig(tau=0.0), "tau is 0.0"),
        (lambda: CriticConfig(critics=0), "critics is 0"),
        (lambda: CriticConfig(n_step=0), "n_step is 0"),
        (lambda: NetworkConfig(width=0), "width is 0"),
        (lambda: NetworkConfig(layers=0), "layers is 0"),
        (lambda: NetworkConfig(learning_rate=float("nan")), "learning_rate is nan"),
        (lambda: NetworkConfig(actor_learning_rate=0.0), "actor_learning_rate is 0.0"),
        (lambda: NetworkConfig(actor_schedule="linear"), "actor_schedule is 'linear'"),  # pyright: ignore
        (lambda: AWACConfig(temperature=0.0), "temperature is 0.0"),
        (lambda: AWACConfig(max_weight=-1.0), "max_weight is -1.0"),
        (lambda: TD3BCConfig(alpha=-1.0), "alpha is -1.0"),
        (lambda: TD3BCConfig(actor_every=0), "actor_every is 0"),
        (lambda: ReBRACConfig(critic_cloning=-0.1), "critic_cloning is -0.1"),
        (lambda: ReBRACConfig(target_noise=float("nan")), "target_noise is nan"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("agent", AGENTS)
def test_settings_come_back_from_their_record(agent):
    config = replace(AGENTS[agent], critic=CriticConfig(n_step=3), network=NetworkConfig(actor_learning_rate=1e-5))
    assert type(config).from_record(config.record()) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["td3-bc", "--critics", "50000000"], "critics is 50,000,000"),
        (["iql", "--expectile", "1"], "expectile is 1.0"),
        (["rebrac", "--gamma", "2"], "gamma is 2.0"),
    ],
)
def test_on_the_command_line_it_is_one_sentence_and_exit_code_2(
    options, message, reach_dataset, monkeypatch, capsys, tmp_path
):
    words = [*options, "--dataset", REACH, "--steps", "5", "--device", "cpu", "--run-dir", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["scripts/train.py", *words])
    with pytest.raises(SystemExit) as caught:
        cli.run(train.start)
    assert caught.value.code == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert said.startswith("error: ")
    assert message in said
    assert not (tmp_path / "run").exists()
