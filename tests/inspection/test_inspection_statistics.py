"""Every number of an inspection by hand on tiny arrays."""

import statistics
from dataclasses import replace

import numpy as np
import pytest

from flowrl.inspection.distributions import Histogram
from flowrl.inspection.statistics import episode_returns, summarise
from flowrl.inspection.tables import score_table


@pytest.mark.parametrize("unit", [2.0**-40, 1.0, 2.0**30])
def test_histograms_and_columns_are_alike_in_all_units(unit, tiny, tiny_statistics):
    values = np.array([-1.0, 0.0, 0.5, 1.0])
    assert Histogram.of(unit * values).counts == Histogram.of(values).counts
    scaled = replace(tiny, observations=np.float32(unit) * tiny.observations, actions=np.float32(unit) * tiny.actions)
    bounds = {"action_low": np.array([-unit]), "action_high": np.array([unit])}
    summary, plain = tiny_statistics(scaled, **bounds), tiny_statistics(tiny)
    for one, other in zip(summary.observations + summary.actions, plain.observations + plain.actions, strict=True):
        assert (one.constant, one.at_low, one.at_high, one.outside) == (
            other.constant, other.at_low, other.at_high, other.outside,
        )  # fmt: skip


def test_counts_lengths_and_returns(tiny, tiny_statistics):
    summary = tiny_statistics()
    assert (summary.episodes, summary.steps) == (3, 6)
    assert episode_returns(tiny).tolist() == [3, -1, 6]
    assert summary.lengths.percentiles[50] == 2
    assert summary.lengths.mean == 2
    assert summary.returns.mean == pytest.approx(8 / 3)
    assert (summary.returns.percentiles[0], summary.returns.percentiles[50], summary.returns.percentiles[100]) == (
        -1,
        3,
        6,
    )
    # Steps: 3 3 −1 6 6 6.
    assert summary.returns_by_step.mean == pytest.approx(23 / 6)
    assert summary.returns_by_step.percentiles[50] == 4.5
    assert summary.returns_by_step.count == 6
    # To go: 3 2 | −1 | 6 3 1.
    assert summary.returns_to_go.percentiles[0] == -1
    assert summary.returns_to_go.percentiles[100] == 6
    assert summary.returns_to_go.mean == pytest.approx(14 / 6)
    assert summary.rewards.mean == pytest.approx(8 / 6)
    assert summary.rewards.std == pytest.approx(np.std([1, 2, -1, 3, 2, 1]))
    assert sum(summary.returns_histogram.counts) == 3
    assert sum(summary.returns_by_step_histogram.counts) == 6
    assert summary.returns_histogram.edges == summary.returns_by_step_histogram.edges
    assert (summary.returns_histogram.edges[0], summary.returns_histogram.edges[-1]) == (-1, 6)


def test_flags(tiny, tiny_statistics):
    summary = tiny_statistics()
    assert (summary.terminated, summary.truncated, summary.both_flags, summary.neither_flag) == (1, 1, 0, 1)
    both = tiny_statistics(replace(tiny, truncations=np.array([False, True, True, False, False, True])))
    assert (both.truncated, both.both_flags, both.neither_flag) == (3, 1, 0)


def test_features(tiny_statistics):
    summary = tiny_statistics()
    first, second = summary.observations
    assert (first.minimum, first.mean, first.maximum) == (0, 4, 8)
    assert first.std == pytest.approx(np.arange(9).std())
    assert not first.constant
    assert second.constant
    assert second.std == 0
    assert second.at_low is None
    (action,) = summary.actions
    assert action.at_low == pytest.approx(1 / 6)
    assert action.at_high == pytest.approx(3 / 6)
    assert action.saturated == pytest.approx(4 / 6)
    unbounded = tiny_statistics(action_low=np.array([-np.inf]), action_high=None)
    assert unbounded.actions[0].saturated is None


def test_what_is_not_finite_is_named_and_left_out(tiny, tiny_statistics):
    arrays = tiny
    arrays.observations[4, 0] = np.nan  # the second observation of the second episode
    arrays.actions[5, 0] = -np.inf
    arrays.rewards[2] = np.inf
    summary = tiny_statistics(arrays)
    assert summary.non_finite == 3
    assert [(p.array, p.episode, p.step, p.column, p.value) for p in summary.non_finite_places] == [
        ("observations", 5, 1, "observation[0]", "nan"),
        ("actions", 9, 2, "action[0]", "-inf"),
        ("rewards", 5, 0, None, "inf"),
    ]
    assert summary.observations[0].non_finite == 1
    assert summary.observations[0].mean == 4  # 36 − 4 over 8
    assert summary.returns.count == 2
    assert summary.returns.percentiles[0] == 3
    assert summary.returns_to_go.count == 5
    assert summary.returns_to_go.percentiles[100] == 6, "an episode's infinity does not reach the next"
    assert summary.rewards.count == 5


def test_duplicates_are_equal_to_the_bit(random_arrays, numbered_layout):
    arrays = random_arrays([3, 2, 3, 3])
    starts = {0: 0, 2: 5, 3: 8}
    for copy in (2, 3):
        arrays.actions[starts[copy] : starts[copy] + 3] = arrays.actions[:3]
        arrays.rewards[starts[copy] : starts[copy] + 3] = arrays.rewards[:3]
        arrays.observations[starts[copy] + copy : starts[copy] + copy + 4] = arrays.observations[:4]
    layout = numbered_layout(arrays)
    summary = summarise(arrays, (10, 11, 12, 13), layout, {})
    assert summary.duplicates == ((10, 12, 13),)
    assert summary.repeated == 2
    arrays.observations[-1, 0] += 1e-3  # the last observation, to which no action answers, counts as well
    assert summarise(arrays, (10, 11, 12, 13), layout, {}).duplicates == ((10, 12),)


def test_every_reference_gives_its_own_scores(tiny_statistics):
    references = {"dataset": (-1.0, 6.0), "D4RL": (0.0, 3.0), "flowrl": None}
    summary = tiny_statistics(references=references)
    assert summary.scores["dataset"][100] == 100
    assert summary.scores["dataset"][0] == 0
    assert summary.scores["D4RL"][100] == 200
    assert set(summary.scores) == {"dataset", "D4RL"}
    header, *rows = score_table(summary, references)
    assert len(header) == 4
    assert rows[0][1:] == ["-1.0", "0.0", "-33.3"]
    assert rows[-1][1:] == ["", "6.0", "3.0"]
    assert tiny_statistics(references={"flowrl": (2.0, 2.0)}).scores == {}, "an empty range normalises nothing"


def test_episodes_that_go_on_after_a_flag_are_counted(tiny, tiny_statistics):
    early = replace(tiny, truncations=np.array([True, False, False, True, True, False]))
    assert tiny_statistics(early).early_flags == 2


def test_entries_beyond_a_bound_count_as_at_it_and_as_outside(tiny, tiny_statistics):
    tiny.actions[:, 0] = [-1.5, -1, 0, 1, 1.0000001, 2]
    (action,) = tiny_statistics(tiny).actions
    assert action.at_low == pytest.approx(2 / 6)
    assert action.at_high == pytest.approx(3 / 6)
    assert action.outside == 2


@pytest.mark.parametrize("returns", [(1.0, 1.0 + 2e-16), (1e16, 1e16 + 2.0), (5.0, 5.0), (-1e-300, 1e-300)])
def test_returns_that_differ_by_rounding_have_a_histogram(returns):
    histogram = Histogram.of(np.array(returns))
    assert sum(histogram.counts) == 2
    assert len(histogram.edges) == len(histogram.counts) + 1
    assert sum(Histogram.of(np.array(returns), np.array(histogram.edges)).counts) == 2


@pytest.mark.parametrize("seed", range(5))
def test_every_number_equals_a_slow_literal_recount(seed, random_arrays, numbered_layout):
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
    references = {"a": (-2.0, 6.0), "b": (1.0, 2.0)}
    summary = summarise(arrays, list(range(100, 130)), numbered_layout(arrays, **bounds), references)

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
    same(summary.returns, returns)
    same(summary.returns_by_step, by_step)
    same(summary.lengths, lengths)
    same(summary.rewards, [reward for episode in rewards for reward in episode])
    same(summary.returns_to_go, [sum(episode[t:]) for episode in rewards for t in range(len(episode))])
    edges = summary.returns_histogram.edges
    assert (edges[0], edges[-1], len(edges)) == (min(returns), max(returns), 41)
    assert summary.returns_histogram.counts == counted(returns, edges)
    assert summary.returns_by_step_histogram.counts == counted(by_step, edges)
    ends = [starts[e] + lengths[e] - 1 for e in range(30)]
    terminated = [bool(arrays.terminations[end]) for end in ends]
    truncated = [bool(arrays.truncations[end]) for end in ends]
    assert summary.terminated == sum(terminated)
    assert summary.truncated == sum(truncated)
    assert summary.both_flags == sum(a and b for a, b in zip(terminated, truncated, strict=True))
    assert summary.neither_flag == sum(not a and not b for a, b in zip(terminated, truncated, strict=True))
    early = [any(arrays.terminations[starts[e] + t] for t in range(lengths[e] - 1)) for e in range(30)]
    assert summary.early_flags == sum(early)
    for features, array in ((summary.observations, arrays.observations), (summary.actions, arrays.actions)):
        for column, feature in enumerate(features):
            values = [float(row[column]) for row in array]
            assert (feature.minimum, feature.maximum) == (min(values), max(values))
            assert feature.mean == pytest.approx(statistics.fmean(values))
            assert feature.std == pytest.approx(statistics.pstdev(values))
    assert summary.actions[0].at_low == statistics.fmean(float(row[0]) == -1.0 for row in arrays.actions)
    assert summary.actions[1].at_low is None
    assert summary.actions[1].at_high == statistics.fmean(float(row[1]) == 1.0 for row in arrays.actions)
    assert (103, 107) in summary.duplicates
    for name, (low, high) in {"a": (-2.0, 6.0), "b": (1.0, 2.0)}.items():
        scores = [100 * (value - low) / (high - low) for value in returns]
        for percent, score in summary.scores[name].items():
            assert score == pytest.approx(percentile(scores, percent))
