"""Every figure of an inspection by hand on tiny arrays."""

import statistics
from dataclasses import replace

import numpy as np
import pytest

from flowrl.inspection import count_figures
from flowrl.inspection.figures import Histogram, episode_returns
from flowrl.inspection.tables import score_table


def test_counts_lengths_and_returns(tiny, tiny_figures):
    found = tiny_figures()
    assert (found.episodes, found.steps) == (3, 6)
    assert episode_returns(tiny).tolist() == [3, -1, 6]
    assert found.lengths.percentiles[50] == 2
    assert found.lengths.mean == 2
    assert found.returns.mean == pytest.approx(8 / 3)
    assert (found.returns.percentiles[0], found.returns.percentiles[50], found.returns.percentiles[100]) == (-1, 3, 6)
    # Steps: 3 3 −1 6 6 6.
    assert found.returns_by_step.mean == pytest.approx(23 / 6)
    assert found.returns_by_step.percentiles[50] == 4.5
    assert found.returns_by_step.count == 6
    # To go: 3 2 | −1 | 6 3 1.
    assert found.returns_to_go.percentiles[0] == -1
    assert found.returns_to_go.percentiles[100] == 6
    assert found.returns_to_go.mean == pytest.approx(14 / 6)
    assert found.rewards.mean == pytest.approx(8 / 6)
    assert found.rewards.std == pytest.approx(np.std([1, 2, -1, 3, 2, 1]))
    assert sum(found.returns_histogram.counts) == 3
    assert sum(found.returns_by_step_histogram.counts) == 6
    assert found.returns_histogram.edges == found.returns_by_step_histogram.edges
    assert (found.returns_histogram.edges[0], found.returns_histogram.edges[-1]) == (-1, 6)


def test_flags(tiny, tiny_figures):
    found = tiny_figures()
    assert (found.terminated, found.truncated, found.both_flags, found.neither_flag) == (1, 1, 0, 1)
    both = tiny_figures(replace(tiny, truncations=np.array([False, True, True, False, False, True])))
    assert (both.truncated, both.both_flags, both.neither_flag) == (3, 1, 0)


def test_features(tiny_figures):
    found = tiny_figures()
    first, second = found.observations
    assert (first.minimum, first.mean, first.maximum) == (0, 4, 8)
    assert first.std == pytest.approx(np.arange(9).std())
    assert not first.constant
    assert second.constant
    assert second.std == 0
    assert second.at_low is None
    (action,) = found.actions
    assert action.at_low == pytest.approx(1 / 6)
    assert action.at_high == pytest.approx(3 / 6)
    assert action.saturated == pytest.approx(4 / 6)
    unbounded = tiny_figures(action_low=np.array([-np.inf]), action_high=None)
    assert unbounded.actions[0].saturated is None


def test_what_is_not_finite_is_named_and_left_out(tiny, tiny_figures):
    arrays = tiny
    arrays.observations[4, 0] = np.nan  # the second observation of the second episode
    arrays.actions[5, 0] = -np.inf
    arrays.rewards[2] = np.inf
    found = tiny_figures(arrays)
    assert found.non_finite == 3
    assert [(p.array, p.episode, p.step, p.column, p.value) for p in found.non_finite_places] == [
        ("observations", 5, 1, "observation[0]", "nan"),
        ("actions", 9, 2, "action[0]", "-inf"),
        ("rewards", 5, 0, None, "inf"),
    ]
    assert found.observations[0].non_finite == 1
    assert found.observations[0].mean == 4  # 36 − 4 over 8
    assert found.returns.count == 2
    assert found.returns.percentiles[0] == 3
    assert found.returns_to_go.count == 5
    assert found.returns_to_go.percentiles[100] == 6, "an episode's infinity does not reach the next"
    assert found.rewards.count == 5


def test_duplicates_are_equal_to_the_bit(random_arrays):
    arrays = random_arrays([3, 2, 3, 3])
    starts = {0: 0, 2: 5, 3: 8}
    for copy in (2, 3):
        arrays.actions[starts[copy] : starts[copy] + 3] = arrays.actions[:3]
        arrays.rewards[starts[copy] : starts[copy] + 3] = arrays.rewards[:3]
        arrays.observations[starts[copy] + copy : starts[copy] + copy + 4] = arrays.observations[:4]
    found = count_figures(arrays, (10, 11, 12, 13))
    assert found.duplicates == ((10, 12, 13),)
    assert found.repeated == 2
    arrays.observations[-1, 0] += 1e-3  # the last observation, to which no action answers, counts as well
    assert count_figures(arrays, (10, 11, 12, 13)).duplicates == ((10, 12),)


def test_every_reference_has_a_scale_of_its_own(tiny_figures):
    references = {"dataset": (-1.0, 6.0), "D4RL": (0.0, 3.0), "own": None}
    found = tiny_figures(references=references)
    assert found.scores["dataset"][100] == 100
    assert found.scores["dataset"][0] == 0
    assert found.scores["D4RL"][100] == 200
    assert set(found.scores) == {"dataset", "D4RL"}
    table = score_table(found, references)
    assert table[0] == ["return over episodes", "raw", "dataset's own", "D4RL"]
    assert table[1] == ["min", "-1.000", "0.0", "-33.3"]
    assert table[-1] == ["reference: expert = 100", "", "6.000", "3.000"]
    assert tiny_figures(references={"own": (2.0, 2.0)}).scores == {}, "an empty range normalises nothing"


def test_episodes_that_go_on_after_a_flag_are_counted(tiny, tiny_figures):
    early = replace(tiny, truncations=np.array([True, False, False, True, True, False]))
    assert tiny_figures(early).early_flags == 2


def test_entries_beyond_a_bound_count_as_at_it_and_are_told(tiny, tiny_figures):
    tiny.actions[:, 0] = [-1.5, -1, 0, 1, 1.0000001, 2]
    (action,) = tiny_figures(tiny).actions
    assert action.at_low == pytest.approx(2 / 6)
    assert action.at_high == pytest.approx(3 / 6)
    assert action.outside == 2


@pytest.mark.parametrize("returns", [(1.0, 1.0 + 2e-16), (1e16, 1e16 + 2.0), (5.0, 5.0), (-1e-300, 1e-300)])
def test_returns_that_rounding_sets_apart_have_a_histogram(returns):
    found = Histogram.of(np.array(returns))
    assert sum(found.counts) == 2
    assert len(found.edges) == len(found.counts) + 1
    assert sum(Histogram.of(np.array(returns), np.array(found.edges)).counts) == 2


@pytest.mark.parametrize("seed", range(5))
def test_every_figure_equals_a_slow_literal_recount(seed, random_arrays):
    """Lists, loops and `statistics` alone, on episodes of random lengths with flags anywhere and some repeated."""
    generator = np.random.default_rng(seed)
    lengths = [int(n) for n in generator.integers(1, 9, 30)]
    lengths[7] = lengths[3]
    arrays = random_arrays(lengths, 3, 2, seed)
    arrays.actions[:] = np.clip(arrays.actions * 1.5, -1, 1)
    starts = [sum(lengths[:e]) for e in range(30)]
    here, there = starts[3], starts[7]
    arrays.actions[there : there + lengths[3]] = arrays.actions[here : here + lengths[3]]
    arrays.rewards[there : there + lengths[3]] = arrays.rewards[here : here + lengths[3]]
    arrays.observations[there + 7 : there + 8 + lengths[3]] = arrays.observations[here + 3 : here + 4 + lengths[3]]
    bounds = {"action_low": np.array([-1.0, -np.inf]), "action_high": np.array([1.0, 1.0])}
    found = count_figures(arrays, list(range(100, 130)), **bounds, references={"a": (-2.0, 6.0), "b": (1.0, 2.0)})

    def percentile(values, percent):
        values = sorted(values)
        at = percent / 100 * (len(values) - 1)
        low = int(at)
        high = min(low + 1, len(values) - 1)
        return values[low] + (at - low) * (values[high] - values[low])

    def same(distribution, values):
        assert distribution.count == len(values)
        assert distribution.mean == pytest.approx(statistics.fmean(values))
        assert distribution.std == pytest.approx(statistics.pstdev(values))
        for percent, value in distribution.percentiles.items():
            assert value == pytest.approx(percentile(values, percent))

    def counted(values, edges):
        counts = [0] * (len(edges) - 1)
        for value in values:
            counts[next(i for i in range(len(counts)) if value < edges[i + 1] or i == len(counts) - 1)] += 1
        return tuple(counts)

    rewards = [[float(arrays.rewards[starts[e] + t]) for t in range(lengths[e])] for e in range(30)]
    returns = [sum(episode) for episode in rewards]
    by_step = [returns[e] for e in range(30) for _ in range(lengths[e])]
    same(found.returns, returns)
    same(found.returns_by_step, by_step)
    same(found.lengths, lengths)
    same(found.rewards, [reward for episode in rewards for reward in episode])
    same(found.returns_to_go, [sum(episode[t:]) for episode in rewards for t in range(len(episode))])
    edges = found.returns_histogram.edges
    assert (edges[0], edges[-1], len(edges)) == (min(returns), max(returns), 41)
    assert found.returns_histogram.counts == counted(returns, edges)
    assert found.returns_by_step_histogram.counts == counted(by_step, edges)
    ends = [starts[e] + lengths[e] - 1 for e in range(30)]
    terminated = [bool(arrays.terminations[end]) for end in ends]
    truncated = [bool(arrays.truncations[end]) for end in ends]
    assert found.terminated == sum(terminated)
    assert found.truncated == sum(truncated)
    assert found.both_flags == sum(a and b for a, b in zip(terminated, truncated, strict=True))
    assert found.neither_flag == sum(not a and not b for a, b in zip(terminated, truncated, strict=True))
    early = [any(arrays.terminations[starts[e] + t] for t in range(lengths[e] - 1)) for e in range(30)]
    assert found.early_flags == sum(early)
    for features, array in ((found.observations, arrays.observations), (found.actions, arrays.actions)):
        for column, feature in enumerate(features):
            values = [float(row[column]) for row in array]
            assert (feature.minimum, feature.maximum) == (min(values), max(values))
            assert feature.mean == pytest.approx(statistics.fmean(values))
            assert feature.std == pytest.approx(statistics.pstdev(values))
    assert found.actions[0].at_low == statistics.fmean(float(row[0]) == -1.0 for row in arrays.actions)
    assert found.actions[1].at_low is None
    assert found.actions[1].at_high == statistics.fmean(float(row[1]) == 1.0 for row in arrays.actions)
    assert (103, 107) in found.duplicates
    for name, (low, high) in {"a": (-2.0, 6.0), "b": (1.0, 2.0)}.items():
        scores = [100 * (value - low) / (high - low) for value in returns]
        for percent, score in found.scores[name].items():
            assert score == pytest.approx(percentile(scores, percent))
