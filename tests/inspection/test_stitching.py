"""The best of joined episodes on graphs whose answer is known by hand, and the verdict on our own toys."""

import numpy as np
import pytest

from flowrl.data.dataset import TrajectoryDataset
from flowrl.envs.collecting import collect
from flowrl.evaluation.reference_scores import reference_scores
from flowrl.inspection import stitching_graph
from flowrl.inspection.stitching import evaluation_starts, judge_stitching
from flowrl.inspection.stitching_graph import Graph, best_returns

NONE = {"flowrl": None, "dataset": None, "D4RL": None}


def line(*ways, rewards, terminations):
    """Episodes on a line: each way is its T+1 positions."""
    return TrajectoryDataset.from_arrays(
        observations=[np.array(way, float)[:, None] for way in ways],
        actions=[np.zeros((len(way) - 1, 1)) for way in ways],
        rewards=[np.array(each, float) for each in rewards],
        terminations=terminations,
        action_low=-1.0,
        action_high=1.0,
    )


def graph(dataset, radius=0.01):
    return Graph.of(dataset, radius, np.random.default_rng(0))


def test_two_halves_of_a_way_are_joined_by_hand():
    # 0 → 1 → 2 (cut), and 2 → 3 → 4 (the task ends it and pays 5).
    dataset = line([0, 1, 2], [2, 3, 4], rewards=[[1, 1], [1, 5]], terminations=[False, True])
    assert best_returns(graph(dataset), 4, lowest=0.0).tolist() == [8, 7, 6, 5]
    assert best_returns(graph(dataset), 2, lowest=0.0).tolist() == [2, 2, 6, 5]
    judged = judge_stitching(dataset, np.zeros((3, 1)), 4, NONE | {"flowrl": (0.0, 8.0)}, np.random.default_rng(0))
    # The observation 1, a step away, counts as near the start 0 too; the episode's mean is that of its best step there.
    assert (judged.mean, judged.alone, judged.joined) == (2, 2, 8)
    assert judged.verdict == "yes"
    without = judge_stitching(dataset, np.zeros((3, 1)), 4, NONE, np.random.default_rng(0))
    assert (without.alone, without.joined, without.verdict) == (2, 8, "unknown")


@pytest.mark.parametrize(("offset", "unit"), [(0.0, 1e-9), (1.7e9, 1.0)])
def test_ways_are_joined_alike_in_all_units(offset, unit):
    ways = [[offset + unit * place for place in way] for way in ([0, 1, 2], [2, 3, 4])]
    dataset = line(*ways, rewards=[[1, 1], [1, 5]], terminations=[False, True])
    start = np.full((3, 1), offset)
    judged = judge_stitching(dataset, start, 4, NONE | {"flowrl": (0.0, 8.0)}, np.random.default_rng(0))
    assert (judged.mean, judged.alone, judged.joined, judged.verdict) == (2, 2, 8, "yes")


def test_halves_that_do_not_touch_and_what_follows_an_end_are_not_joined():
    apart = line([0, 1, 2], [2.5, 3, 4], rewards=[[1, 1], [1, 5]], terminations=[False, True])
    assert best_returns(graph(apart), 4, lowest=0.0).tolist() == [2, 1, 6, 5]
    ended = line([0, 1, 2], [2, 3, 4], rewards=[[1, 1], [1, 5]], terminations=[True, True])
    assert best_returns(graph(ended), 4, lowest=0.0).tolist() == [2, 1, 6, 5]


def test_a_way_changes_episode_no_more_often_than_it_may():
    # 0 → 1, 1 → 2 and 2 → 3; only the last step pays, and each episode is cut.
    dataset = line([0, 1], [1, 2], [2, 3], rewards=[[0], [0], [7]], terminations=[False] * 3)
    for changes, returned in [(0, [0, 0, 7]), (1, [0, 7, 7]), (2, [7, 7, 7])]:
        assert best_returns(graph(dataset), 3, lowest=0.0, changes=changes).tolist() == returned
    assert best_returns(graph(dataset), 3, lowest=0.0).tolist() == [7, 7, 7]


def test_where_steps_cost_a_cut_way_is_not_a_short_one():
    dataset = line([0, 1, 2], [2, 3, 4], rewards=[[-1, -1], [-1, -1]], terminations=[False, True])
    known = NONE | {"flowrl": (-10.0, 0.0)}
    judged = judge_stitching(dataset, np.zeros((3, 1)), 10, known, np.random.default_rng(0))
    # From 1, which counts as near the start: to 2, which counts as near 3, and on to the end.
    assert (judged.alone, judged.joined) == (-10, -2)
    assert judged.verdict == "yes"


def test_the_mean_of_a_gait_is_that_of_its_episodes():
    """Steps near the start come back to the end of every episode, where little of it is left."""
    generator = np.random.default_rng(0)
    phases = [0.1 * np.arange(201) + generator.normal(0, 0.01) for _ in range(10)]
    dataset = TrajectoryDataset.from_arrays(
        observations=[np.stack([np.cos(phase), np.sin(phase)], 1) for phase in phases],
        actions=[np.zeros((200, 1))] * 10,
        rewards=[generator.uniform(-1, 3, 200) for _ in range(10)],
        terminations=[False] * 10,
        action_low=-1.0,
        action_high=1.0,
    )
    judged = judge_stitching(dataset, None, 200, NONE | {"flowrl": (0.0, 250.0)}, generator)
    assert abs(judged.mean - float(dataset.returns.mean())) < 20


def test_a_whole_way_needs_no_stitching_and_the_expert_is_the_most():
    dataset = line([0, 1, 2, 3], [2, 3, 4], rewards=[[1, 1, 6], [1, 9]], terminations=[True, True])
    start = np.zeros((1, 1))
    assert judge_stitching(dataset, start, 9, NONE, np.random.default_rng(0)).joined == 12
    capped = judge_stitching(dataset, start, 9, NONE | {"flowrl": (0.0, 8.0)}, np.random.default_rng(0))
    assert (capped.joined, capped.verdict) == (8, "no")


def test_observations_of_another_size_are_not_judged():
    dataset = line([0, 1, 2], rewards=[[1, 1]], terminations=[True])
    assert judge_stitching(dataset, np.zeros((1, 2)), 9, NONE, np.random.default_rng(0)).verdict == "unknown"


@pytest.mark.parametrize(
    ("dataset_id", "verdict"),
    [
        ("flowrl/detour/stretches-v0", "yes"),
        ("flowrl/detour/whole-v0", "no"),
        ("flowrl/reach/mixed-v0", "no"),
        ("flowrl/reach/good-v0", "no"),
        ("flowrl/corridor/length-10-v0", "no"),
    ],
)
def test_the_verdict_on_our_own_toys(dataset_id, verdict):
    collect(dataset_id, steps=2_000)
    dataset = TrajectoryDataset.from_minari(dataset_id)
    starts, horizon = evaluation_starts(dataset.env_spec, 0), dataset.env_spec.max_episode_steps
    reference = reference_scores(dataset.env_spec.id).flowrl
    known = NONE | {"flowrl": (reference.random, reference.expert)}
    judged = judge_stitching(dataset, starts, horizon, known, np.random.default_rng(0))
    assert judged.verdict == verdict, judged
    assert judged == judge_stitching(dataset, starts, horizon, known, np.random.default_rng(0)), "the same seed"


def test_a_large_dataset_is_judged_from_some_of_its_episodes(monkeypatch):
    monkeypatch.setattr(stitching_graph, "GRAPH_STEPS", 1_000)
    collect("flowrl/detour/stretches-v0", steps=3_000)
    dataset = TrajectoryDataset.from_minari("flowrl/detour/stretches-v0")
    some = graph(dataset, 0.1)
    assert 700 < len(some.rows) <= 1_000
    assert len(some.rows.unique()) == len(some.rows)
    # Whole episodes: every last step is one of the dataset.
    lasts = some.rows[some.following[:, 0] == len(some.rows)]
    assert (dataset.ends[lasts] - 1 == lasts).all()
