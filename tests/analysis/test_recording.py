"""A recording is the episode that was played, step by step, whichever other slots had ended."""

import numpy as np
import pytest
import torch
from torch import nn

from flowrl.analysis.recording import Recorder
from flowrl.evaluation.environments import make_env, make_vector_env
from flowrl.evaluation.rollout import rollout

ENV, SEEDS, TARGETS = "flowrl/Reach-v0", [11, 12, 13], [4.0, 14.0]


class Heading(nn.Module):
    """Goes to the origin as fast as the slot's target is high: episodes end at different steps."""

    conditioned, rollout, acting_context = True, "memoryless", None

    def initial(self, targets):
        return targets

    def select(self, carry, slots):
        return carry[slots]

    def act(self, carry, observations, rewards):
        return carry, (-4 * observations[:, :2] * carry[:, None] / 14).clamp(
            torch.tensor([-2.0, -1.0]), torch.tensor([3.0, 2.0])
        )


@pytest.fixture
def played():
    recorder, envs = Recorder(Heading()), make_vector_env(ENV, len(TARGETS) * len(SEEDS))
    results = rollout(recorder, envs, TARGETS, SEEDS)
    envs.close()
    return results, recorder.recordings()


def test_played_again_its_actions_meet_its_observations_and_rewards(played):
    results, recordings = played
    assert len({result.length for result in results}) > 2, "slots should end at different steps"
    for result, recording in zip(results, recordings, strict=True):
        assert {len(column) for column in recording} == {result.length}
        env = make_env(ENV)
        observation, _ = env.reset(seed=result.seed)
        left = np.float32(result.target)
        for returns_to_go, seen, action in zip(*recording, strict=True):
            np.testing.assert_array_equal(seen.numpy(), observation.astype(np.float32))
            assert float(returns_to_go) == left
            observation, reward, *_ = env.step(action.numpy())
            left -= np.float32(reward)
        assert result.episode_return == pytest.approx(result.target - left, abs=1e-5)


def test_a_recorded_rollout_is_the_one_without(played):
    envs = make_vector_env(ENV, len(TARGETS) * len(SEEDS))
    assert rollout(Heading(), envs, TARGETS, SEEDS) == played[0]
    envs.close()


def test_a_new_rollout_replaces_the_recording():
    recorder = Recorder(Heading())
    for seed in (1, 2):
        envs = make_vector_env(ENV, 1)
        (result,) = rollout(recorder, envs, [14.0], [seed])
        envs.close()
    (recording,) = recorder.recordings()
    assert len(recording.actions) == result.length
    assert recording.observations[0, :2].tolist() == pytest.approx(make_env(ENV).reset(seed=2)[0][:2])


@pytest.mark.parametrize("training", [True, False])
def test_the_actor_stays_in_its_mode(training):
    actor = Heading().train(training)
    envs = make_vector_env(ENV, 1)
    rollout(Recorder(actor), envs, [14.0], [1])
    envs.close()
    assert actor.training is training
