"""Statistics against figures made by hand."""

import numpy as np
import pytest

from flowrl.scores import bootstrap_interval, interquartile_mean, mean, normalised, paired_difference


def generator(seed=0):
    return np.random.default_rng(seed)


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
    assert interquartile_mean(np.array(values, dtype=float)) == pytest.approx(expected, rel=1e-12)
    assert interquartile_mean(np.array(values[::-1], dtype=float)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [4, 8, 40])
def test_where_a_quarter_is_whole_it_is_the_trimmed_mean(count):
    values = generator(count).normal(size=count)
    trimmed = np.sort(values)[count // 4 : -count // 4]
    assert interquartile_mean(values) == pytest.approx(trimmed.mean(), rel=1e-12)
    assert interquartile_mean(values.reshape(2, -1)) == pytest.approx(trimmed.mean(), rel=1e-12)


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation():
    returns = generator().normal(50, 10, size=(1, 400))
    low, high = bootstrap_interval(returns, mean, generator())
    half = 1.96 * returns.std() / 20
    # 2,000 resamples find an end to about 5 % of the half width.
    assert low == pytest.approx(returns.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(returns.mean() + half, abs=0.15 * half)
    narrow = bootstrap_interval(returns, mean, generator(), confidence=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_training_seeds_are_drawn_too():
    """Every episode of a seed alike: all the spread is between seeds."""
    returns = np.repeat([[0.0], [10.0]], 50, axis=1)
    low, high = bootstrap_interval(returns, mean, generator())
    assert (low, high) == (0.0, 10.0)


def test_all_seeds_keep_the_same_drawn_episodes():
    """Seeds that differ by a constant, episode by episode: drawn apart, the spread of a difference would not vanish."""
    episodes = generator().normal(0, 100, size=30)
    returns = np.stack([episodes, -episodes])

    def spread_of_the_sum(drawn):
        return float(abs(drawn.sum(0)).max()) if len({row[0] > 0 for row in drawn}) == 2 else 0.0

    assert bootstrap_interval(returns, spread_of_the_sum, generator()) == (0.0, 0.0)


def test_an_interval_is_the_same_for_the_same_generator():
    returns = generator().normal(size=(3, 7))
    assert bootstrap_interval(returns, interquartile_mean, generator(1)) == bootstrap_interval(
        returns, interquartile_mean, generator(1)
    )
    assert bootstrap_interval(returns, mean, generator(1)) != bootstrap_interval(returns, mean, generator(2))


def test_one_seed_and_one_episode_give_a_point():
    assert bootstrap_interval(np.array([[3.5]]), mean, generator()) == (3.5, 3.5)


def test_a_paired_difference_by_hand():
    ours, theirs = np.array([[3.0, 104.0], [5.0, 206.0]]), np.array([[1.0, 102.0], [3.0, 204.0]])
    difference, interval = paired_difference(ours, theirs, generator())
    assert difference == 2.0
    # Unpaired, the interval would be some hundreds wide.
    assert interval == (2.0, 2.0)
    difference, (low, high) = paired_difference(ours, theirs[::-1], generator())
    assert difference == 2.0
    assert low < 2.0 < high
    assert paired_difference(theirs, ours, generator())[0] == -2.0


def test_unequal_shapes_cannot_be_paired():
    with pytest.raises(ValueError, match=r"shapes \(1, 2\) and \(2, 1\) cannot be paired"):
        paired_difference(np.zeros((1, 2)), np.zeros((2, 1)), generator())
