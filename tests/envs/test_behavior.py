"""The numpy policy equals the network that it came from."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from flowrl.envs.behavior import POLICIES, GaussianPolicy, read_policy, shipped_policy
from flowrl.errors import InputError


def random_policy(rng, observation_size=5, width=7, action_size=3):
    sizes = [observation_size, width, width, action_size]
    return GaussianPolicy(
        weights=tuple(rng.normal(size=(out, into)) for into, out in pairwise(sizes)),
        biases=tuple(rng.normal(size=out) for out in sizes[1:]),
        log_std=rng.normal(size=action_size),
        observation_mean=rng.normal(size=observation_size),
        observation_std=rng.uniform(0.5, 2, observation_size),
        observation_clip=1.5,
        low=np.array([-0.4, -2.0, 0.1]),
        high=np.array([0.3, 1.0, 1.5]),
    )


def by_hand(policy, observation, noise):
    """The same action with loops over plain floats."""
    hidden = []
    for value, mean, std in zip(observation, policy.observation_mean, policy.observation_std, strict=True):
        hidden.append(min(max((value - mean) / std, -policy.observation_clip), policy.observation_clip))
    for layer, (weight, bias) in enumerate(zip(policy.weights, policy.biases, strict=True)):
        hidden = [sum(w * h for w, h in zip(row, hidden, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
        if layer < len(policy.weights) - 1:
            hidden = [math.tanh(h) for h in hidden]
    sampled = [h + math.exp(s) * n for h, s, n in zip(hidden, policy.log_std, noise, strict=True)]
    return [min(max(a, low), high) for a, low, high in zip(sampled, policy.low, policy.high, strict=True)]


def test_the_action_equals_an_oracle_of_loops():
    rng = np.random.default_rng(0)
    for seed in range(20):
        policy = random_policy(rng)
        observation = rng.normal(size=5) * 3
        noise = np.random.default_rng(seed).standard_normal(3)
        action = policy.act(observation, np.random.default_rng(seed))
        assert action.dtype == np.float32
        np.testing.assert_allclose(action, by_hand(policy, observation, noise), rtol=1e-6)
        np.testing.assert_allclose(policy.act(observation), by_hand(policy, observation, np.zeros(3)), rtol=1e-6)


@pytest.mark.parametrize(
    ("observation", "action"),
    [
        ([1.1, 0.1, -0.4, 0.0, 0.8, 1.2, -1.3, -0.3, -1.8, 0.0, 0.0], [0.012347, 0.077214, 0.526977]),
        ([1.5, 0.0, -0.2, -0.5, -0.8, 3.3, 1.4, 1.9, 0.2, 4.2, 0.5], [0.437868, -0.664878, -0.843686]),
        ([1.4, 0.0, -0.3, -0.4, -0.8, 3.0, 1.1, 1.4, 0.9, 2.2, 0.6], [0.064437, 0.382197, -0.732965]),
        ([30.0] * 11, [-1.0, -1.0, -1.0]),
    ],
)
def test_the_shipped_expert_acts_as_stable_baselines_did(observation, action):
    # From model.predict(normalizer.normalize_obs(observation), deterministic=True) where it was trained.
    np.testing.assert_allclose(shipped_policy("hopper", "573440").act(np.array(observation)), action, atol=5e-6)


def test_a_batch_equals_its_rows():
    policy = random_policy(np.random.default_rng(1))
    observations = np.random.default_rng(2).normal(size=(11, 5))
    np.testing.assert_allclose(policy.mean(observations), [policy.mean(row) for row in observations], rtol=1e-12)


def test_the_weights_survive_the_file(tmp_path: Path):
    policy = random_policy(np.random.default_rng(3))
    arrays = {f"weight_{i}": weight for i, weight in enumerate(policy.weights)}
    arrays |= {f"bias_{i}": bias for i, bias in enumerate(policy.biases)}
    for name in ("log_std", "observation_mean", "observation_std", "observation_clip", "low", "high"):
        arrays[name] = getattr(policy, name)
    np.savez(tmp_path / "policy.npz", **arrays)
    read = read_policy(tmp_path / "policy.npz")
    observation = np.random.default_rng(4).normal(size=5)
    np.testing.assert_array_equal(read.act(observation), policy.act(observation))


def test_every_shipped_policy_loads_without_pickle_and_is_small():
    stages = ["random", "early", "medium", "expert"]
    assert all(shipped_policy("hopper", stage).low.tolist() == [-1, -1, -1] for stage in stages)
    files = sorted((POLICIES / "hopper").glob("*.npz"))
    assert 10 <= len(files) <= 16
    for file in files:
        assert file.stat().st_size < 64_000
        assert np.isfinite(shipped_policy("hopper", str(int(file.stem))).mean(np.zeros(11))).all()


def test_unknown_names_list_the_known_ones():
    with pytest.raises(InputError, match=r"'hooper'; known are .*hopper"):
        shipped_policy("hooper", "medium")
    with pytest.raises(InputError, match=r"no stage 'best'; known are random, early, medium, expert, 0"):
        shipped_policy("hopper", "best")
