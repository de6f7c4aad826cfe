"""The window that an actor read at a step can be rebuilt from a recording, and gives the same action again."""

from dataclasses import replace

import pytest
import torch

from flowrl.agents import AGENTS
from flowrl.analysis.recording import Recorder
from flowrl.evaluation.environments import make_vector_env
from flowrl.evaluation.rollout import rollout
from flowrl.nn.acting import ACTING
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.trajectory_actor import TrajectoryActor
from flowrl.training.config import TrainingConfig

CONTEXT = 5


@pytest.fixture(params=[(name, how) for name in ("flow", "dt") for how in ACTING], ids="-".join)
def actor(request, reach):
    name, how = request.param
    torch.manual_seed(0)
    config = replace(AGENTS[name].config, width=16, layers=2, heads=2, context=CONTEXT, rollout=how)
    if how == "staggered":
        config = replace(config, acting_context=CONTEXT)
    actor = config.build(Normaliser.of(reach), TrainingConfig(), torch.device("cpu")).actor.eval()
    for parameter in actor.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.normal_(actor.model.action_head.weight, std=0.05)  # so that it does not walk out of the arena
    return actor


@pytest.fixture
def recording(actor):
    recorder, envs = Recorder(actor), make_vector_env("flowrl/Reach-v0", 1)
    rollout(recorder, envs, [9.0], [2])
    envs.close()
    (recording,) = recorder.recordings()
    assert len(recording.actions) > CONTEXT + 1
    return recording


def test_it_acts_again_as_it_did_at_any_steps(actor, recording):
    length = len(recording.actions)
    for steps in ([0], [CONTEXT - 1], [length - 1], [CONTEXT, 2, 0, length - 1, 2], list(range(length)), []):
        again = actor.act_again(actor.seen(recording, torch.tensor(steps, dtype=torch.int64)))
        torch.testing.assert_close(again, recording.actions[steps], rtol=1e-4, atol=1e-5)


def test_another_target_return_gives_another_action(actor, recording):
    steps = torch.arange(len(recording.actions))
    other = recording._replace(returns_to_go=recording.returns_to_go + 5)
    again = actor.act_again(actor.seen(other, steps))
    assert ((again - recording.actions).abs().amax(-1) > 1e-4).all()


def test_a_window_holds_the_last_steps_and_a_recurrent_past_all(actor, recording):
    length = len(recording.actions)
    seen = actor.seen(recording, torch.tensor([1, CONTEXT + 1, length - 1]))
    if actor.rollout == "recurrent":
        assert seen.timesteps.tolist() == [list(range(length))]
        assert (seen.window.tolist(), seen.position.tolist()) == ([0, 0, 0], [1, CONTEXT + 1, length - 1])
        return
    first, steps = [0, 2, length - CONTEXT], CONTEXT
    if actor.rollout == "staggered":  # two states, begun CONTEXT steps apart: the older acts
        first, steps = [0, CONTEXT * ((length - 1) // CONTEXT - 1)], 2 * CONTEXT
        assert seen.timesteps.tolist() == [list(range(t, t + steps)) for t in first]
        assert (seen.window.tolist(), seen.position.tolist()) == ([0, 0, 1], [1, CONTEXT + 1, length - 1 - first[1]])
        return
    assert seen.timesteps.tolist() == [list(range(t, t + CONTEXT)) for t in first]
    assert (seen.window.tolist(), seen.position.tolist()) == ([0, 1, 2], [1, CONTEXT - 1, CONTEXT - 1])
    for window, t in enumerate(first):
        for column, whole in zip(seen, recording, strict=False):
            assert torch.equal(column[window], whole[t : t + CONTEXT])


def test_an_episode_shorter_than_the_context_is_its_own_window(actor, recording):
    short = type(recording)(*(column[:3] for column in recording))
    seen = actor.seen(short, torch.arange(3))
    assert seen.timesteps.tolist() == [[0, 1, 2]]
    torch.testing.assert_close(actor.act_again(seen), recording.actions[:3], rtol=1e-4, atol=1e-5)


def test_an_actor_of_fewer_steps_has_read_no_more(actor):
    actor = TrajectoryActor(actor.model, "window", 2).eval()
    recorder, envs = Recorder(actor), make_vector_env("flowrl/Reach-v0", 1)
    rollout(recorder, envs, [9.0], [2])
    envs.close()
    (recording,) = recorder.recordings()
    steps = torch.arange(len(recording.actions))
    seen = actor.seen(recording, steps)
    assert seen.timesteps.shape[1] == 2
    torch.testing.assert_close(actor.act_again(seen), recording.actions, rtol=1e-4, atol=1e-5)
