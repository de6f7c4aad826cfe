"""References never raise, and are None where there is none."""

import json

import numpy as np
import pytest

from flowrl.data.d4rl import Reference, d4rl_environment, d4rl_reference
from flowrl.envs.behavior import UniformPolicy
from flowrl.envs.playing import EpisodePlayer
from flowrl.envs.tiny import ReachPolicy
from flowrl.evaluation.environments import make_env
from flowrl.evaluation.reference_scores import REFERENCES, reference_scores


def test_hopper_has_d4rls_and_flowrls_reference():
    hopper, row = reference_scores("Hopper-v5"), json.loads(REFERENCES.read_text())["Hopper-v5"]
    assert hopper.d4rl == Reference(-20.272305, 3234.3)
    assert hopper.flowrl == Reference(row["random"]["mean"], row["expert"]["mean"])


@pytest.mark.parametrize("name", ["Hopper", "Walker2d", "HalfCheetah"])
def test_flowrl_references_are_of_v5_alone_and_apart_from_d4rls(name):
    scores = reference_scores(f"{name}-v5")
    assert scores.flowrl.random < 50 < 2500 < scores.flowrl.expert
    assert scores.flowrl.random != scores.d4rl.random
    assert reference_scores(f"{name}-v4").flowrl is None
    assert reference_scores(f"{name}-v4").d4rl == scores.d4rl


def test_corridors_reference_is_exact():
    assert reference_scores("flowrl/Corridor-v0").flowrl == Reference(0.5, 1.0)


@pytest.mark.parametrize("name", ["HalfCheetah-v4", "Walker2d-v4", "Ant-v5"])
def test_the_family_shares_d4rls_reference(name):
    assert reference_scores(name).d4rl is not None
    assert reference_scores(name).flowrl is None


@pytest.mark.parametrize("name", ["Nowhere-v0", "", "Hopper", "Hopper-v77", "a/b/c", "hopper-v4", "pen-v5"])
def test_an_unknown_id_has_no_references(name):
    unknown = reference_scores(name)
    assert (unknown.env_id, unknown.d4rl, unknown.flowrl) == (name, None, None)


def test_reachs_reference_is_what_its_policies_return():
    reference, env = reference_scores("flowrl/Reach-v0").flowrl, make_env("flowrl/Reach-v0")
    uniform = UniformPolicy(env.action_space.low, env.action_space.high)
    for policy, mean in [(uniform, reference.random), (ReachPolicy(1.0), reference.expert)]:
        returns = [EpisodePlayer(env).episode(policy, 2, index).rewards.sum() for index in range(500)]
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
        assert reference_scores(environment).d4rl == d4rl_reference(name)


@pytest.mark.parametrize(
    "name",
    ["", "hopper", "hopper-medium", "hopper-v2", "Hopper-v4", "maze2d-umaze-dense-v1", "bullet-hopper-medium-v0"],
)
def test_other_names_have_neither(name):
    assert d4rl_reference(name) is None
    assert d4rl_environment(name) is None
