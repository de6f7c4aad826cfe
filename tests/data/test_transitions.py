"""Transitions: the true next observation, no next action across episodes, no bootstrap from what is not known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import Part
from flowrl.data.transitions import TransitionSampler, discounted_returns
from flowrl.errors import InputError

# Three episodes of 3, 1 and 2 steps: the task ends the first, a time limit the others. Of the last one the true last
# observation is not stored: the data repeat the one before.
OBSERVATIONS = [[10.0, 11, 12, 13], [20.0, 21], [30.0, 31, 31]]
ACTIONS = [[0.1, 0.2, 0.3], [0.4], [0.5, 0.6]]
REWARDS = [[1.0, 2, 4], [8.0], [16.0, 32]]


@pytest.fixture
def by_hand():
    return of(OBSERVATIONS, ACTIONS, REWARDS, [True, False, False])


def of(observations, actions, rewards, terminations):
    columns = ([np.array(row)[:, None] for row in column] for column in (observations, actions))
    return TrajectoryDataset.from_arrays(*columns, [np.array(row) for row in rewards], terminations)


def rows_of(sampler, draws, seed=0):
    """The rows that a sampler draws; each row's observation becomes its number."""
    numbers = torch.arange(sampler.dataset.steps, dtype=torch.float32)[:, None]
    sampler.dataset = replace(sampler.dataset, observations=numbers)
    assert sampler.batch_size == draws
    return sampler.draw(torch.Generator().manual_seed(seed)).observations[:, 0].long()


def test_every_field_by_hand(by_hand):
    assert by_hand.next_known.tolist() == [True, True, False]
    batch = TransitionSampler(by_hand, 1, gamma=0.5).at(torch.arange(6))
    assert batch.observations[:, 0].tolist() == [10, 11, 12, 20, 30, 31]
    # The last observation of an episode is the true one, and never the next episode's first.
    assert batch.next_observations[:, 0].tolist() == [11, 12, 13, 21, 31, 31]
    torch.testing.assert_close(batch.actions[:, 0], torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    torch.testing.assert_close(batch.next_actions[:, 0], torch.tensor([0.2, 0.3, 0, 0, 0.6, 0]))
    assert batch.has_next_action.tolist() == [True, True, False, False, True, False]
    assert batch.rewards.tolist() == [1, 2, 4, 8, 16, 32]
    assert batch.terminated.tolist() == [False, False, True, False, False, False], "a time limit is no end of the task"
    assert batch.discounted_returns.tolist() == [1 + 1 + 1, 2 + 2, 4, 8, 16 + 16, 32]
    assert {column.dtype for column in batch} == {torch.float32, torch.bool}


def test_a_step_whose_next_observation_is_not_known_is_never_drawn_and_the_others_alike(by_hand):
    counts = torch.bincount(rows_of(TransitionSampler(by_hand, 50_000), 50_000), minlength=6).double()
    assert counts[5] == 0
    chi_square = float(((counts[:5] - 10_000) ** 2 / 10_000).sum())
    assert chi_square < 18.5  # 4 degrees of freedom: passed once in a thousand


def test_weights_decide_how_often_a_known_step_is_drawn(by_hand):
    weighted = replace(by_hand, weights=torch.tensor([1.0, 3.0, 6.0], dtype=torch.float64))
    counts = torch.bincount(rows_of(TransitionSampler(weighted, 60_000), 60_000), minlength=6).double()
    assert counts[5] == 0
    expected = 60_000 * torch.tensor([1.0, 1, 1, 3, 6], dtype=torch.float64) / 12
    assert float(((counts[:5] - expected) ** 2 / expected).sum()) < 18.5


def test_a_terminated_episode_needs_no_last_observation():
    dataset = of([[1.0, 2, 2]], [[0.1, 0.2]], [[1.0, 1]], [True])
    assert set(rows_of(TransitionSampler(dataset, 100), 100).tolist()) == {0, 1}


def test_data_without_any_known_next_observation_are_refused():
    dataset = of([[1.0, 1], [2.0, 2]], [[0.1], [0.2]], [[1.0], [1.0]], [False, False])
    with pytest.raises(InputError, match="no step of arrays has a known next observation"):
        TransitionSampler(dataset, 4)


@pytest.mark.parametrize("weights", [None, [1.0, 3.0, 6.0]])
def test_the_parts_of_the_ranks_are_the_batch_of_one_process(by_hand, weights):
    if weights is not None:
        by_hand = replace(by_hand, weights=torch.tensor(weights, dtype=torch.float64))
    generators = [torch.Generator().manual_seed(5) for _ in range(4)]
    whole, *parts = (
        TransitionSampler(by_hand, 12, part=part).draw(generator)
        for part, generator in zip([Part(), *(Part(rank, 3) for rank in range(3))], generators, strict=True)
    )
    for column, *shares in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat(shares), column)
    assert all(torch.equal(generator.get_state(), generators[0].get_state()) for generator in generators)


def test_the_generator_is_the_only_source_of_randomness(by_hand):
    before = torch.get_rng_state()
    one, two, other = (rows_of(TransitionSampler(by_hand, 20), 20, seed) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_a_discount_outside_is_refused(by_hand, gamma):
    with pytest.raises(ValueError, match=f"gamma is {gamma}"):
        TransitionSampler(by_hand, 4, gamma=gamma)


@settings(max_examples=50)
@given(
    rewards=st.lists(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=9), min_size=1, max_size=6),
    gamma=st.sampled_from([0.0, 0.3, 0.99, 1.0]),
)
def test_discounted_returns_are_those_of_a_plain_loop(rewards, gamma):
    observations = [np.arange(len(row) + 1.0) for row in rewards]
    dataset = of(observations, rewards, rewards, [False] * len(rewards))
    expected = []
    for row in rewards:
        for step in range(len(row)):
            expected.append(sum(gamma**later * reward for later, reward in enumerate(row[step:])))
    np.testing.assert_allclose(discounted_returns(dataset, gamma), expected, rtol=1e-6, atol=1e-5)


@settings(max_examples=50)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    terminated=st.lists(st.booleans(), min_size=6, max_size=6),
    repeated=st.lists(st.booleans(), min_size=6, max_size=6),
    seed=st.integers(0, 99),
)
def test_whatever_is_drawn_is_a_transition_of_one_episode(lengths, terminated, repeated, seed):
    ends = terminated[: len(lengths)]
    observations = [100.0 * episode + np.arange(length + 1) for episode, length in enumerate(lengths)]
    for row, repeat in zip(observations, repeated, strict=False):
        row[-1] = row[-2] if repeat else row[-1]
    dataset = of(observations, [row[:-1] + 0.5 for row in observations], [row[:-1] for row in observations], ends)
    drawable = [length - (not end and repeat) for length, end, repeat in zip(lengths, ends, repeated, strict=False)]
    if not any(drawable):
        with pytest.raises(InputError, match="known next observation"):
            TransitionSampler(dataset, 32)
        return
    for now, action, _, after, following, has, over, _ in zip(
        *TransitionSampler(dataset, 32).draw(torch.Generator().manual_seed(seed)), strict=True
    ):
        episode, step = divmod(int(now), 100)
        last = step == lengths[episode] - 1
        assert action == now + 0.5
        assert over == (last and ends[episode])
        assert has == (not last)
        assert following == (0 if last else now + 1.5)
        assert over or after == now + 1
