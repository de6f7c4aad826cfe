"""Every dataset id has its environment and policies."""

import numpy as np
import pytest

from flowrl.envs.behavior import shipped_policy
from flowrl.envs.mixtures import CORRIDOR_LENGTHS, dataset_ids, mixture
from flowrl.errors import InputError


@pytest.mark.parametrize("dataset_id", dataset_ids())
def test_every_dataset_has_its_policies(dataset_id):
    recipe = mixture(dataset_id)
    assert recipe.policies
    assert recipe.env.max_episode_steps


def test_the_nine_of_d4rls_protocol_are_there_with_random_and_expert():
    for robot in ("hopper", "halfcheetah", "walker2d"):
        for level in ("random", "medium", "medium-replay", "medium-expert", "expert"):
            assert f"flowrl/{robot}/{level}-v0" in dataset_ids()


def test_medium_replay_goes_from_the_random_policy_to_the_medium_one():
    members = mixture("flowrl/hopper/medium-replay-v0").policies
    assert len(members) >= 5
    for member, stage in [(members[0], "random"), (members[-1], "medium")]:
        np.testing.assert_array_equal(member.weights[0], shipped_policy("hopper", stage).weights[0])


@pytest.mark.parametrize("length", CORRIDOR_LENGTHS)
def test_each_dataset_is_of_its_length(length):
    recipe = mixture(f"flowrl/corridor/length-{length}-v0")
    assert recipe.env.kwargs == {"length": length}
    assert recipe.steps == 400 * length
    assert [policy.right for policy in recipe.policies] == [True, False]


def test_an_unknown_id_lists_the_known_ones():
    known = r"did you mean flowrl/hopper/medium-replay-v0\?.*known are .*flowrl/hopper/\{random,medium,medium-replay,"
    with pytest.raises(InputError, match=known):
        mixture("flowrl/hopper/replay-v0")
