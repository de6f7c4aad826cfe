"""Transitions: the true next observation, no next action across episodes, no bootstrap from what is not known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import Part
from flowrl.data.transitions import Transitions, TransitionSampler, discounted_returns
from flowrl.errors import InputError

# Three episodes of 3, 1 and 2 steps: the task ends the first, a time limit the others. Of the last one the true last
# observation is not stored: the data repeat the one before.
OBSERVATIONS = [[10.0, 11, 12, 13], [20.0, 21], [30.0, 31, 31]]
ACTIONS = [[0.1, 0.2, 0.3], [0.4], [0.5, 0.6]]
REWARDS = [[1.0, 2, 4], [8.0], [16.0, 32]]


@pytest.fixture
def by_hand():
    return of(OBSERVATIONS, ACTIONS, REWARDS, [True, False, False])


COLUMNS = Transitions._fields[:-1]


def of(observations, actions, rewards, terminations):
    columns = ([np.array(row)[:, None] for row in column] for column in (observations, actions))
    return TrajectoryDataset.from_arrays(*columns, [np.array(row) for row in rewards], terminations)


def drawn_rows(dataset, draws, seed=0, **options):
    """The rows that a sampler draws: every observation is made its row's number."""
    numbers = torch.arange(dataset.steps, dtype=torch.float32)[:, None]
    sampler = TransitionSampler(replace(dataset, observations=numbers), draws, **options)
    return sampler.draw(torch.Generator().manual_seed(seed)).observations[:, 0].long()


def test_every_field_by_hand(by_hand):
    assert by_hand.next_known.tolist() == [True, True, False]
    batch = TransitionSampler(by_hand, 1, gamma=0.5).at(torch.arange(5))
    assert batch.observations[:, 0].tolist() == [10, 11, 12, 20, 30]
    # The last observation of an episode is the true one, and never the next episode's first.
    assert batch.next_observations[:, 0].tolist() == [11, 12, 13, 21, 31]
    torch.testing.assert_close(batch.actions[:, 0], torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]))
    torch.testing.assert_close(batch.next_actions[:, 0], torch.tensor([0.2, 0.3, 0, 0, 0.6]))
    assert batch.has_next_action.tolist() == [True, True, False, False, True]
    assert batch.rewards.tolist() == [1, 2, 4, 8, 16]
    assert batch.terminated.tolist() == [False, False, True, False, False], "a time limit is no end of the task"
    assert batch.discounts.tolist() == [0.5, 0.5, 0, 0.5, 0.5]
    assert batch.discounted_returns.tolist() == [1 + 1 + 1, 2 + 2, 4, 8, 16 + 16]


@pytest.mark.parametrize("n_step", [2, 3, 1_000])
def test_several_steps_by_hand(by_hand, n_step):
    batch = TransitionSampler(by_hand, 1, gamma=0.5, n_step=n_step).at(torch.arange(5))
    long = n_step > 2
    assert batch.rewards.tolist() == [3 if long else 2, 4, 4, 8, 16]
    assert batch.next_observations[:, 0].tolist() == [13 if long else 12, 13, 13, 21, 31]
    assert batch.terminated.tolist() == [long, True, True, False, False]
    # The last known observation of the third episode is that of its last step, one step after its first.
    assert batch.discounts.tolist() == [0 if long else 0.25, 0, 0, 0.5, 0.5]
    torch.testing.assert_close(batch.next_actions[:, 0], torch.tensor([0 if long else 0.3, 0, 0, 0, 0.6]))
    assert batch.has_next_action.tolist() == [not long, False, False, False, True]
    assert batch.discounted_returns.tolist() == [3, 4, 4, 8, 32]
    assert set(drawn_rows(by_hand, 200, n_step=n_step).tolist()) == {0, 1, 2, 3, 4}


def test_rewards_and_returns_are_scaled_and_nothing_else(by_hand):
    plain, scaled = (
        TransitionSampler(by_hand, 1, gamma=0.5, n_step=2, reward_scale=scale).at(torch.arange(5)) for scale in (1, -3)
    )
    for name, column in zip(COLUMNS, plain, strict=False):
        factor = -3 if name in ("rewards", "discounted_returns") else 1
        assert torch.equal(scaled._asdict()[name], factor * column), name


def test_one_step_is_all_that_there_is():
    for terminated, discount in [(True, 0), (False, 0.5)]:
        batch = TransitionSampler(of([[1.0, 2]], [[0.1]], [[3.0]], [terminated]), 4, gamma=0.5, n_step=5).draw(
            torch.Generator().manual_seed(0)
        )
        assert [column.flatten().tolist() for column in (batch.observations, batch.next_observations)] == [
            [1] * 4,
            [2] * 4,
        ]
        assert batch.rewards.tolist() == batch.discounted_returns.tolist() == [3] * 4
        assert batch.discounts.tolist() == [discount] * 4
        assert batch.terminated.tolist() == [terminated] * 4
        assert not batch.has_next_action.any()
        assert batch.next_actions.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_columns_are_float32_whatever_the_data(by_hand, dtype):
    names = ("observations", "actions", "rewards", "final_observations")
    other = replace(by_hand, **{name: getattr(by_hand, name).to(dtype) for name in names})
    batches = [TransitionSampler(data, 1, gamma=0.5, n_step=2).at(torch.arange(5)) for data in (by_hand, other)]
    for name, mine, its in zip(COLUMNS, *batches, strict=False):
        assert its.dtype == (torch.bool if name in ("has_next_action", "terminated") else torch.float32), name
        torch.testing.assert_close(its, mine, rtol=2e-3, atol=0)


def test_a_batch_may_be_changed(by_hand):
    sampler = TransitionSampler(by_hand, 1)
    changed, before = (sampler.at(torch.arange(5)) for _ in range(2))
    for column in changed[:-1]:
        column.zero_()
    assert all(torch.equal(*columns) for columns in zip(sampler.at(torch.arange(5))[:-1], before[:-1], strict=True))


def test_a_step_whose_next_observation_is_not_known_is_never_drawn_and_the_others_alike(by_hand):
    counts = torch.bincount(drawn_rows(by_hand, 50_000), minlength=6).double()
    assert counts[5] == 0
    chi_square = float(((counts[:5] - 10_000) ** 2 / 10_000).sum())
    assert chi_square < 18.5  # 4 degrees of freedom: passed once in a thousand


def test_weights_decide_how_often_a_known_step_is_drawn(by_hand):
    weighted = replace(by_hand, weights=torch.tensor([1.0, 3.0, 6.0], dtype=torch.float64))
    counts = torch.bincount(drawn_rows(weighted, 60_000), minlength=6).double()
    assert counts[5] == 0
    expected = 60_000 * torch.tensor([1.0, 1, 1, 3, 6], dtype=torch.float64) / 12
    assert float(((counts[:5] - expected) ** 2 / expected).sum()) < 18.5


def test_a_terminated_episode_needs_no_last_observation():
    dataset = of([[1.0, 2, 2]], [[0.1, 0.2]], [[1.0, 1]], [True])
    assert set(drawn_rows(dataset, 100).tolist()) == {0, 1}


@pytest.mark.parametrize("n_step", [0, -1])
def test_no_step_is_refused(by_hand, n_step):
    with pytest.raises(ValueError, match=f"n_step is {n_step}"):
        TransitionSampler(by_hand, 4, n_step=n_step)


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
    for column, *shares in zip(whole[:-1], *(part[:-1] for part in parts), strict=True):
        assert torch.equal(torch.cat(shares), column)
    assert all(torch.equal(generator.get_state(), generators[0].get_state()) for generator in generators)


def test_the_generator_is_the_only_source_of_randomness(by_hand):
    before = torch.get_rng_state()
    one, two, other = (drawn_rows(by_hand, 20, seed) for seed in (1, 1, 2))
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


@st.composite
def episodes(draw):
    """(lengths, terminated, whether the last observation is repeated, rewards) of some episodes."""
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=6))
    flags = [[draw(st.booleans()) for _ in lengths] for _ in range(2)]
    amounts = st.floats(-100, 100, width=32)
    return lengths, *flags, [draw(st.lists(amounts, min_size=length, max_size=length)) for length in lengths]


@settings(max_examples=150, deadline=None)
@given(
    data=episodes(),
    n_step=st.integers(1, 9),
    gamma=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    scale=st.sampled_from([1.0, 0.01]),
)
def test_transitions_are_those_of_a_plain_loop(data, n_step, gamma, scale):
    lengths, terminated, repeated, rewards = data
    # The numbers name episode and step.
    seen = [1000.0 * episode + 10 * np.arange(length + 1) for episode, length in enumerate(lengths)]
    for row, repeat in zip(seen, repeated, strict=True):
        row[-1] = row[-2] if repeat else row[-1]
    acted = [row[:-1] + 5 for row in seen]
    dataset = of(seen, acted, rewards, terminated)
    known, expected = [], []
    for episode, length in enumerate(lengths):
        last_known = length if terminated[episode] or not repeated[episode] else length - 1
        for step in range(length):
            row = len(known)
            known.append(step < last_known)
            if not known[row]:
                continue
            total, now = 0.0, step
            while now < last_known and now - step < n_step:
                total += gamma ** (now - step) * rewards[episode][now]
                now += 1
            over = terminated[episode] and now == length
            expected.append(
                (
                    [seen[episode][step]],
                    [acted[episode][step]],
                    total * scale,
                    [seen[episode][now]],
                    [acted[episode][now] if now < length else 0],
                    now < length,
                    over,
                    0.0 if over else gamma ** (now - step),
                    sum(gamma**later * reward for later, reward in enumerate(rewards[episode][step:])) * scale,
                )
            )
    if not expected:
        with pytest.raises(InputError, match="known next observation"):
            TransitionSampler(dataset, 32, n_step=n_step)
        return
    sampler = TransitionSampler(dataset, 32, gamma=gamma, n_step=n_step, reward_scale=scale)
    drawable = torch.nonzero(torch.tensor(known))[:, 0]
    for name, column, plain in zip(COLUMNS, sampler.at(drawable), zip(*expected, strict=True), strict=False):
        torch.testing.assert_close(column, torch.tensor(plain, dtype=column.dtype), rtol=1e-6, atol=1e-5, msg=name)
    assert set(drawn_rows(dataset, 32, n_step=n_step).tolist()) <= set(drawable.tolist())
