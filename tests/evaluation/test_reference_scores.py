"""Facts never raise, and say None where nothing is known."""

import numpy as np
import pytest

from flowrl.data.d4rl import Reference, d4rl_environment, d4rl_reference
from flowrl.envs.behavior import Player
from flowrl.envs.tiny import ReachPolicy
from flowrl.evaluation.environments import make_env
from flowrl.evaluation.reference_scores import facts


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


@pytest.mark.parametrize("name", ["Hopper", "Walker2d", "HalfCheetah"])
def test_our_own_references_are_of_v5_alone_and_apart_from_d4rls(name):
    known = facts(f"{name}-v5")
    assert known.measured.random < 50 < 3000 < known.measured.expert
    assert known.measured.random != known.d4rl.random
    low, high = known.measured.expert_interval
    assert low < known.measured.expert < high


def test_corridors_reference_is_exact():
    measured = facts("flowrl/Corridor-v0").measured
    assert (measured.random, measured.expert) == (0.5, 1.0)
    assert (measured.random_interval, measured.expert_interval) == ((0.5, 0.5), (1.0, 1.0))
    assert (measured.random_episodes, measured.expert_episodes) == (0, 0)


@pytest.mark.parametrize("name", ["HalfCheetah-v4", "Walker2d-v4", "Ant-v5"])
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


D4RL = {
    "hopper-medium-replay-v2": (-20.272305, 3234.3, "Hopper-v4"),
    "halfcheetah-random-v0": (-280.178953, 12135.0, "HalfCheetah-v4"),
    "walker2d-medium-expert-v2": (1.629008, 4592.3, "Walker2d-v4"),
    "ant-expert-v2": (-325.6, 3879.7, "Ant-v4"),
    "antmaze-umaze-diverse-v0": (0.0, 1.0, None),
    "kitchen-complete-v0": (0.0, 4.0, None),
    "pen-human-v1": (96.262799, 3076.8331017826877, None),
    "door-cloned-v1": (-56.512833, 2880.5693087298737, None),
    "hammer-expert-v0": (-274.856578, 12794.134825156867, None),
    "relocate-human-v1": (-6.425911, 4233.877797728884, None),
    "maze2d-umaze-v1": (23.85, 161.86, None),
    "maze2d-medium-v1": (13.13, 277.39, None),
    "maze2d-large-v1": (6.7, 273.99, None),
}


@pytest.mark.parametrize("name", D4RL)
def test_a_d4rl_dataset_has_its_reference_and_environment(name):
    random, expert, environment = D4RL[name]
    assert d4rl_reference(name) == Reference(random, expert)
    assert d4rl_environment(name) == environment
    if environment is not None:
        assert facts(environment).d4rl == d4rl_reference(name)


@pytest.mark.parametrize(
    "name",
    ["", "hopper", "hopper-medium", "hopper-v2", "Hopper-v4", "maze2d-umaze-dense-v1", "bullet-hopper-medium-v0"],
)
def test_other_names_have_neither(name):
    assert d4rl_reference(name) is None
    assert d4rl_environment(name) is None


def test_a_task_is_no_environment_id():
    assert facts("hopper-v4").d4rl is None
    assert facts("pen-v5").d4rl is None
