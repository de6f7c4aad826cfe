"""Facts never raise, and say None where nothing is known."""

import numpy as np
import pytest

from envs import Player, facts, make_env
from envs.tiny import ReachPolicy


def test_hopper_has_d4rls_and_our_own_reference():
    hopper = facts("Hopper-v5")
    assert hopper.horizon == 1000
    assert (hopper.d4rl.random, hopper.d4rl.expert) == (-20.272305, 3234.3)
    low, high = hopper.measured.expert_interval
    assert low < hopper.measured.expert < high
    assert hopper.measured.random < 100 < 2500 < hopper.measured.expert
    assert min(hopper.measured.random_episodes, hopper.measured.expert_episodes) >= 100
    assert hopper.measured.expert_policy == "envs/policies/hopper/0573440.npz, sampled"


def test_a_reference_of_our_own_is_of_one_version_alone():
    assert facts("Hopper-v4").measured is None
    assert facts("Hopper-v4").d4rl == facts("Hopper-v5").d4rl


def test_corridors_reference_is_exact():
    measured = facts("flowrl/Corridor-v0").measured
    assert (measured.random, measured.expert) == (0.5, 1.0)
    assert (measured.random_interval, measured.expert_interval) == ((0.5, 0.5), (1.0, 1.0))
    assert (measured.random_episodes, measured.expert_episodes) == (0, 0)


@pytest.mark.parametrize("name", ["HalfCheetah-v4", "Walker2d-v5", "Ant-v5"])
def test_the_family_shares_d4rls_reference(name):
    assert facts(name).d4rl is not None
    assert facts(name).measured is None
    assert facts(name).horizon == 1000


@pytest.mark.parametrize("name", ["Nowhere-v0", "", "Hopper", "Hopper-v77", "a/b/c"])
def test_an_unknown_id_has_no_references(name):
    unknown = facts(name)
    assert (unknown.env_id, unknown.d4rl, unknown.measured) == (name, None, None)


class Uniform:
    def act(self, observation, generator):
        return generator.uniform([-2, -1], [3, 2]).astype(np.float32)


def test_reachs_reference_is_what_its_policies_get():
    reach = facts("flowrl/Reach-v0")
    assert reach.horizon == 16
    player = Player(make_env("flowrl/Reach-v0"))
    for policy, mean in [(Uniform(), reach.measured.random), (ReachPolicy(1.0), reach.measured.expert)]:
        returns = [player.episode(policy, 2, index).rewards.sum() for index in range(500)]
        assert np.mean(returns) == pytest.approx(mean, abs=4 * np.std(returns) / 500**0.5)
