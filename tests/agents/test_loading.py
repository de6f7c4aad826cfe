"""Trained agents as other programs use them: loaded from their run folder alone, played step by step."""

import json
import shutil

import numpy as np
import pytest
import torch

from flowrl.agents import Policy, load_agent, load_policy
from flowrl.errors import InputError
from flowrl.evaluation.environments import make_env
from flowrl.training.run_folder import RunFolder

CPU = torch.device("cpu")


def played(policy, steps=8, seed=0):
    env = make_env("flowrl/Reach-v0")
    observation, _ = env.reset(seed=seed)
    policy.reset(14.0)
    reward, actions = 123.0, []  # before the first step there is no reward: the given one is ignored
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
    assert load_agent(RunFolder(tiny_run), CPU).actor.rollout == "window"
    loaded = load_agent(RunFolder(tiny_run), CPU, rollout="recurrent")
    assert (loaded.actor.rollout, loaded.config.acts, loaded.step) == ("recurrent", "recurrent", 20)
    assert not loaded.actor.training
    window, recurrent = played(load_policy(tiny_run)), played(load_policy(tiny_run, rollout="recurrent"))
    np.testing.assert_allclose(window[:5], recurrent[:5], atol=1e-5)


def test_bc_has_no_rollout_to_choose(tiny_runs):
    with pytest.raises(InputError, match="rollout recurrent cannot be chosen: this agent does not look back"):
        load_policy(tiny_runs / "bc", rollout="recurrent")


def configured_as(run, folder, **changes):
    """A copy of a run, with its weights, as if its agent had been configured otherwise."""
    shutil.copytree(run, folder)
    config = json.loads((folder / "config.json").read_text())
    config["agent_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = RunFolder(folder).load()
    checkpoint["config"]["agent_config"] |= changes
    RunFolder(folder).save(checkpoint)
    return folder


def test_it_can_act_on_fewer_steps_than_it_learnt_from(tiny_run, tmp_path):
    """As an agent with these weights would whose windows were never longer."""
    shorter = configured_as(tiny_run, tmp_path / "shorter", context=2)
    actions = played(load_policy(tiny_run, acting_context=2))
    np.testing.assert_array_equal(actions, played(load_policy(shorter)))
    assert not np.allclose(actions[4:], played(load_policy(tiny_run))[4:])


def test_the_acting_context_of_another_rollout_is_left_behind(tiny_run, tmp_path):
    staggered = configured_as(tiny_run, tmp_path / "staggered", rollout="staggered", acting_context=1)
    for chosen, reads in [
        ({}, 1),
        ({"rollout": "staggered"}, 1),
        ({"rollout": "window"}, 5),
        ({"rollout": "recurrent"}, None),
    ]:
        loaded = load_agent(RunFolder(staggered), CPU, **chosen)
        assert loaded.actor.acting_context == loaded.config.reads == reads
    loaded = load_agent(RunFolder(staggered), CPU, rollout="window", acting_context=3)
    assert loaded.actor.acting_context == loaded.config.reads == 3


@pytest.mark.parametrize("steps", [0, -1, 6])
def test_no_more_steps_than_it_learnt_from(tiny_run, steps):
    with pytest.raises(InputError, match=f"acting_context is {steps}: it must be at least 1 and at most context, 5"):
        load_policy(tiny_run, acting_context=steps)


def test_misuse_of_a_policy_is_an_error(any_tiny_run):
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


def test_a_checkpoint_of_another_agent_is_refused(tiny_run):
    config = json.loads((tiny_run / "config.json").read_text())
    edit_config(tiny_run, agent_config=config["agent_config"] | {"width": 32})
    with pytest.raises(InputError, match="of another agent: its agent_config is .*16.*32"):
        load_policy(tiny_run)


def test_a_checkpoint_of_another_agent_with_the_same_shapes_is_refused(tiny_runs, tiny_run):
    """flow and dt have the same tensors: only the configuration inside the checkpoint differs."""
    (tiny_run / "checkpoint.pt").write_bytes((tiny_runs / "dt/checkpoint.pt").read_bytes())
    with pytest.raises(InputError, match="another"):
        load_policy(tiny_run)
