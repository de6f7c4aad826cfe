"""Statistics against figures made by hand, and against rliable's."""

import numpy as np
import pytest

from flowrl.evaluation.statistics import (
    aggregate,
    aggregate_difference,
    interquartile_mean,
    interval,
    mean_return,
    normalised,
    paired_difference,
    performance_profile,
    probability_of_improvement,
    resample,
)


def generator(seed=0):
    return np.random.default_rng(seed)


def by_run(*scores):
    """A task's (seeds, 1) returns: one episode a seed."""
    return np.array(scores, float)[:, None]


@pytest.mark.parametrize(
    ("achieved", "reference", "score"),
    [
        (3234.3, (-20.272305, 3234.3), 100.0),
        (-20.272305, (-20.272305, 3234.3), 0.0),
        (1.0, (2.0, 4.0), -50.0),
        (5.0, (2.0, 4.0), 150.0),
        (5.0, None, None),
    ],
)
def test_a_normalised_score_is_0_at_random_and_100_at_expert(achieved, reference, score):
    assert normalised(achieved, reference) == score


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 2, 3], 1.5),
        ([100, 3, -100, 5], 4.0),
        ([7], 7.0),
        ([1, 5], 3.0),
        # Three values: three quarters of the weight of a value is cut from each end, so 1/4, 1, 1/4 are left.
        ([0, 6, 30], (0 / 4 + 6 + 30 / 4) / 1.5),
        # Five: a quarter of the five is 1.25, so 3/4, 1, 3/4 of the middle three are left.
        ([1000, 1, 2, 4, -1000], (0.75 * 1 + 2 + 0.75 * 4) / 2.5),
        # Six: 1.5 from each end.
        ([0, 10, 20, 40, 80, 160], (0.5 * 10 + 20 + 40 + 0.5 * 80) / 3),
    ],
)
def test_the_interquartile_mean_by_hand(values, expected):
    assert interquartile_mean(values) == pytest.approx(expected, rel=1e-12)
    assert interquartile_mean(values[::-1]) == pytest.approx(expected, rel=1e-12)
    rows = interquartile_mean([values, [2 * value for value in values]])
    np.testing.assert_allclose(rows, [expected, 2 * expected], rtol=1e-12)


@pytest.mark.parametrize("count", [4, 8, 40])
def test_where_a_quarter_is_whole_it_is_the_trimmed_mean(count):
    values = generator(count).normal(size=count)
    trimmed = np.sort(values)[count // 4 : -count // 4]
    assert interquartile_mean(values) == pytest.approx(trimmed.mean(), rel=1e-12)


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation():
    returns = generator().normal(50, 10, size=(1, 400))
    value, low, high = mean_return(returns, generator())
    half = 1.96 * returns.std() / 20
    assert value == pytest.approx(returns.mean(), rel=1e-12)
    # 2,000 resamples find an end to about 5 % of the half width.
    assert low == pytest.approx(returns.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(returns.mean() + half, abs=0.15 * half)


def test_an_interval_holds_95_of_100():
    samples = np.arange(1001.0)
    assert interval(samples) == pytest.approx((25, 975))


def test_training_seeds_are_drawn_too():
    """Every episode of a seed alike: all the spread is between seeds."""
    assert mean_return(np.repeat([[0.0], [10.0]], 50, axis=1), generator()) == (5.0, 0.0, 10.0)


def test_all_seeds_keep_the_same_drawn_episodes():
    """Two seeds that are each other's negative in every episode: drawn apart, their sum would not vanish."""
    episodes = generator().normal(0, 100, size=30)
    drawn = resample(np.stack([episodes, -episodes]), generator(), 500)
    assert drawn.shape == (500, 2, 30)
    first, second = drawn[:, 0], drawn[:, 1]
    same, opposite = (first == second).all(1), (first == -second).all(1)
    assert (same | opposite).all()
    assert 200 < opposite.sum() < 300
    assert len({tuple(row) for row in np.abs(first)}) == 500, "other episodes every time"


def test_an_interval_is_the_same_for_the_same_generator():
    returns = generator().normal(size=(3, 7))
    assert mean_return(returns, generator(1)) == mean_return(returns, generator(1))
    assert mean_return(returns, generator(1)) != mean_return(returns, generator(2))
    assert aggregate([returns], generator(1)) == aggregate([returns], generator(1))


def test_nothing_draws_from_the_global_generator():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    aggregate([generator().normal(size=(3, 5))], generator())
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_one_seed_and_one_episode_give_a_point():
    assert mean_return(np.array([[3.5]]), generator()) == (3.5, 3.5, 3.5)


def test_a_paired_difference_by_hand():
    ours, theirs = np.array([[3.0, 104.0], [5.0, 206.0]]), np.array([[1.0, 102.0], [3.0, 204.0]])
    # Unpaired, the interval would be some hundreds wide.
    assert paired_difference(ours, theirs, generator()) == (2.0, 2.0, 2.0)
    value, low, high = paired_difference(ours, theirs[::-1], generator())
    assert value == 2.0
    assert low < 2.0 < high
    assert paired_difference(theirs, ours, generator()).value == -2.0


def test_unequal_shapes_cannot_be_paired():
    with pytest.raises(ValueError, match=r"shapes \(1, 2\) and \(2, 1\) cannot be paired"):
        paired_difference(np.zeros((1, 2)), np.zeros((2, 1)), generator())
    with pytest.raises(ValueError, match=r"shapes \(2, 1\) and \(3, 1\) cannot be paired"):
        aggregate_difference([np.zeros((2, 1))], [np.zeros((3, 1))], generator())


# Over tasks


def test_an_aggregate_by_hand():
    found = aggregate([by_run(0, 20), by_run(100, 100), by_run(40, 60)], generator())
    # The six run scores 0 20 40 60 100 100: half of 20, 40, 60 and half of 100 are left, over three.
    assert found.iqm.value == pytest.approx((10 + 40 + 60 + 50) / 3)
    assert found.mean.value == pytest.approx((10 + 100 + 50) / 3)
    assert found.median.value == pytest.approx(50)
    # Drawn within its task, a task's mean is one of its values or between them: 0, 10 or 20; 100; 40, 50 or 60.
    assert found.mean.low == pytest.approx((0 + 100 + 40) / 3)
    assert found.mean.high == pytest.approx((20 + 100 + 60) / 3)
    assert (found.median.low, found.median.high) == (40, 60)


def test_the_bootstrap_is_stratified():
    """Tasks that do not vary within: drawn across tasks the mean would vary, drawn within each it does not."""
    found = aggregate([by_run(0, 0, 0), by_run(90, 90, 90)], generator())
    assert found.mean == pytest.approx((45, 45, 45))


def test_tasks_may_have_seeds_of_their_own():
    found = aggregate([by_run(0, 10, 20), by_run(30)], generator())
    assert found.mean.value == pytest.approx(20)
    assert found.iqm.value == pytest.approx(interquartile_mean([0, 10, 20, 30]))


def test_an_aggregated_difference_by_hand():
    ours, theirs = [by_run(3, 5), by_run(110, 90)], [by_run(1, 3), by_run(100, 80)]
    assert aggregate_difference(ours, theirs, generator()) == pytest.approx((6, 6, 6))


def test_the_probability_of_improvement_by_hand():
    # Task 1: of the pairs (1, 0) (1, 2) (3, 0) (3, 2) three are won. Task 2: one won, one even.
    ours, theirs = [by_run(1, 3), by_run(5)], [by_run(0, 2), by_run(4, 5)]
    assert probability_of_improvement(ours, theirs, generator()).value == pytest.approx((0.75 + 0.75) / 2)
    assert probability_of_improvement(theirs, ours, generator()).value == pytest.approx(0.25)
    assert probability_of_improvement([by_run(1, 2)], [by_run(-1, 0)], generator()) == (1, 1, 1)
    value, low, high = probability_of_improvement(ours, theirs, generator())
    assert 0 <= low < value < high <= 1


def test_a_performance_profile_by_hand():
    found = performance_profile([by_run(0, 10), by_run(20, 30)], [-1, 0, 9, 10, 25, 30], generator())
    np.testing.assert_array_equal(found.share, [1, 0.75, 0.75, 0.5, 0.25, 0])
    assert (found.low <= found.share).all()
    assert (found.high >= found.share).all()
    assert (found.low[0], found.high[0], found.high[-1]) == (1, 1, 0)


# What rliable 1.2.0 says of these run scores, five a task (LOG.md has the command; it cannot be imported beside
# pandas 3, and draws from numpy's global generator whatever random state it is given).
OURS = [
    by_run(-6.0, -16.5, 5.0, 18.4, 32.7),
    by_run(62.2, 48.9, 44.3, 75.0, 92.7),
    by_run(80.5, 50.3, 55.8, 107.0, 79.1),
]
THEIRS = [
    by_run(-24.6, 8.3, -13.3, -2.6, 0.2),
    by_run(45.7, 71.1, 58.7, 48.2, 68.2),
    by_run(91.6, 42.1, 69.9, 55.4, 71.5),
]


def test_point_estimates_are_those_of_rliable():
    found = aggregate(OURS, generator())
    assert found.mean.value == pytest.approx(48.626666666666665)
    assert found.median.value == pytest.approx(64.62)
    # rliable cuts whole values: with a fourth task a quarter of all is whole.
    assert aggregate([*OURS, OURS[0] + 5], generator()).iqm.value == pytest.approx(38.37)
    assert probability_of_improvement(OURS, THEIRS, generator()).value == pytest.approx(0.64)
    profile = performance_profile(OURS, [0, 20, 50, 75, 100], generator())
    np.testing.assert_allclose(profile.share, [13 / 15, 11 / 15, 8 / 15, 4 / 15, 1 / 15])


def test_intervals_are_those_of_rliable():
    found = aggregate(OURS, generator())
    better = probability_of_improvement(OURS, THEIRS, generator())
    # rliable's from 50,000 and 20,000 resamples; ours from 2,000 find an end to a few hundredths of the width.
    for estimate, low, high in (
        (found.mean, 39.52, 58.17), (found.median, 49.72, 76.92), (better, 0.42, 0.84),
    ):  # fmt: skip
        assert estimate.low == pytest.approx(low, abs=0.06 * (high - low))
        assert estimate.high == pytest.approx(high, abs=0.06 * (high - low))
