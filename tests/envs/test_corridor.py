"""The corridor's rules, optimum and chance level are its docstring's; only the first observation holds the cue."""

import pickle
import warnings
from itertools import product

import gymnasium as gym
import minari
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from flowrl.data.dataset import TrajectoryDataset
from flowrl.envs.behavior import Remembering, UniformPolicy
from flowrl.envs.collecting import collect
from flowrl.envs.corridor import CUE, JUNCTION, NOISE, Corridor, CorridorPolicy, corridor_spec
from flowrl.envs.mixtures import mixture
from flowrl.envs.playing import EpisodePlayer
from flowrl.evaluation.environments import make_env, make_vector_env
from flowrl.evaluation.reference_scores import reference_scores

ZERO = np.zeros(1, np.float32)
RIGHT, LEFT = np.ones(1, np.float32), -np.ones(1, np.float32)


def walk(env, turn, *, act=lambda generator: generator.uniform(-1, 1, 1), seed=0, cue=None):
    """One episode with random actions and `turn` last: observations, rewards, terminations, truncations."""
    generator = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed, options=None if cue is None else {"cue": cue})
    length = env.unwrapped.length
    steps = [env.step(turn if time == length - 1 else act(generator)) for time in range(length)]
    observations, rewards, terminations, truncations, _ = zip(*steps, strict=True)
    return np.stack([observation, *observations]), rewards, terminations, truncations


@pytest.mark.parametrize(
    ("cue", "turn", "pays"),
    [(1, 1.0, 1), (1, 1e-6, 1), (1, 0.0, 0), (1, -1.0, 0), (-1, 1.0, 0), (-1, 0.0, 1), (-1, -1e-6, 1), (-1, -9.0, 1)],
)
def test_the_rules_by_hand(cue, turn, pays):
    observations, rewards, terminations, truncations = walk(
        gym.make("flowrl/Corridor-v0", length=10), np.array([turn], np.float32), cue=cue
    )
    assert observations[:, CUE].tolist() == [cue] + 10 * [0]
    assert observations[:, JUNCTION].tolist() == 9 * [0] + [1, 0]
    assert len(set(observations[:, NOISE].tolist())) == 11
    assert rewards == (0.0,) * 9 + (pays,)
    assert terminations == (False,) * 9 + (True,)
    assert truncations == (False,) * 10


@pytest.mark.parametrize("length", [10, 37, 1_000])
def test_every_episode_has_exactly_its_length_and_is_never_cut_off(length):
    env = gym.make("flowrl/Corridor-v0", length=length)
    for cue, turn in product((1, -1), (RIGHT, LEFT)):
        observations, _, terminations, truncations = walk(env, turn, cue=cue)
        assert observations.shape == (length + 1, 3)
        assert (sum(terminations), terminations[-1], any(truncations)) == (1, True, False)


@pytest.mark.parametrize("length", [9, 1_001, 0, -10, 10.0, "10", None])
def test_a_length_out_of_range_is_one_sentence(length):
    for make in (
        lambda: Corridor(length),
        lambda: corridor_spec(length),
        lambda: gym.make("flowrl/Corridor-v0", length=length),
    ):
        with pytest.raises(ValueError, match=r"^length is .*: it must be a whole number from 10 to 1,000$"):
            make()


def test_other_mistakes_are_refused():
    env = Corridor(10)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(ZERO)
    walk(env, RIGHT)
    with pytest.raises(gym.error.ResetNeeded, match="the episode is over"):
        env.step(ZERO)
    with pytest.raises(ValueError, match="the cue is 0: it must be 1"):
        env.reset(options={"cue": 0})


def test_gymnasiums_checker_passes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("flowrl/Corridor-v0", length=10).unwrapped, skip_render_check=True)


def test_the_same_seed_gives_the_same_episode_and_others_differ():
    env = Corridor(20)
    one, other = walk(env, RIGHT, seed=5), walk(Corridor(20), RIGHT, seed=5)
    np.testing.assert_array_equal(one[0], other[0])
    assert one[1:] == other[1:]
    starts = np.stack([env.reset(seed=seed)[0] for seed in range(400)])
    assert len(set(starts[:, NOISE])) == 400
    assert abs(starts[:, CUE].sum()) < 5 * 20  # 5 standard deviations of 400 fair coins
    assert set(starts[:, CUE]) == {1.0, -1.0}
    assert abs(np.corrcoef(starts[:, CUE], starts[:, NOISE])[0, 1]) < 5 / 20


def test_an_observation_given_out_stays_as_it_is():
    env = Corridor(10)
    first, _ = env.reset(seed=1)
    second, *_ = env.step(ZERO)
    kept = first.copy(), second.copy()
    walk(env, LEFT, seed=2)
    np.testing.assert_array_equal(first, kept[0])
    np.testing.assert_array_equal(second, kept[1])


@pytest.mark.parametrize("length", [10, 100, 1_000])
@pytest.mark.parametrize("seed", range(5))
def test_only_the_first_observation_depends_on_the_cue(length, seed):
    env = make_env(corridor_spec(length))
    (right, *right_rest), (left, *left_rest) = (walk(env, RIGHT, seed=seed, cue=cue) for cue in (1, -1))
    np.testing.assert_array_equal(right[1:], left[1:])
    np.testing.assert_array_equal(right[0, [JUNCTION, NOISE]], left[0, [JUNCTION, NOISE]])
    assert (right[0, CUE], left[0, CUE]) == (1, -1)
    assert right_rest[0][:-1] == left_rest[0][:-1] == (0.0,) * (length - 1)
    assert right_rest[1:] == left_rest[1:]


class OtherCue(gym.Wrapper):
    """The same episode but for its cue."""

    def reset(self, *, seed=None, options=None):
        observation, _ = self.env.reset(seed=seed)
        return self.env.reset(seed=seed, options={"cue": -observation[CUE]})


@pytest.mark.parametrize("sample", [True, False])
@pytest.mark.parametrize("right", [True, False])
def test_a_scripted_policy_acts_alike_for_both_cues_until_the_turn(right, sample):
    spec = corridor_spec(100)
    policy = CorridorPolicy(right)
    player, other_player = EpisodePlayer(make_env(spec)), EpisodePlayer(OtherCue(make_env(spec)))
    for index in range(20):
        one = player.episode(policy, 3, index, sample=sample)
        other = other_player.episode(policy, 3, index, sample=sample)
        assert one.observations[0, CUE] == -other.observations[0, CUE]
        np.testing.assert_array_equal(one.observations[1:], other.observations[1:])
        np.testing.assert_array_equal(one.actions[:-1], other.actions[:-1])
        assert one.actions[-1] == -other.actions[-1] == one.observations[0, CUE] * (1 if right else -1)
        # So the return-to-go is the same for both cues at every step.
        np.testing.assert_array_equal(one.rewards, other.rewards)
        assert one.rewards.sum() == right
        assert len(set(one.actions[:-1].flat)) == (99 if sample else 1)


def test_a_policy_that_remembers_is_begun_anew_for_every_episode():
    policy = CorridorPolicy(right=True)
    assert isinstance(policy, Remembering)
    assert not isinstance(UniformPolicy(LEFT, RIGHT), Remembering)
    player = EpisodePlayer(make_env(corridor_spec(10)))
    forwards = [player.episode(policy, 5, index) for index in range(6)]
    backwards = [player.episode(pickle.loads(pickle.dumps(policy)), 5, index) for index in reversed(range(6))][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        for name, array in vars(one).items():
            np.testing.assert_array_equal(array, getattr(other, name))
    assert policy.cue == 0.0, "the one that was given remembers nothing"
    mid = policy.begin()
    mid.act(np.array([1, 0, 0], np.float32))
    assert mid.act(np.array([0, 1, 0], np.float32)) == 1.0
    assert mid.begin().act(np.array([0, 1, 0], np.float32)) == 0.0


def arbitrary_turn(observations, rewards, generator):
    """A policy of the last K observations and rewards, as wild as they come: a random function of all that it sees."""
    weights = generator.normal(size=observations.size + rewards.size)
    seen = np.concatenate([observations.ravel(), rewards])
    return np.array([np.sin(7 * weights @ seen) + generator.normal() * 0.1])


@pytest.mark.parametrize("context", [1, 5, 9])
def test_no_policy_of_the_last_observations_beats_chance(context):
    env, episodes = make_env(corridor_spec(10)), 300
    right = 0
    for seed in range(episodes):
        observations, rewards, *_ = walk(env, RIGHT, seed=seed)
        cue = observations[0, CUE]
        seen = observations[10 - context : 10], np.array(rewards[10 - context : 9])
        # For every policy of these alone the turns are the same when the cue is the other one: on the pair it gets 1.
        other, other_rewards, *_ = walk(env, RIGHT, seed=seed, cue=-cue)
        np.testing.assert_array_equal(other[10 - context : 10], seen[0])
        np.testing.assert_array_equal(other_rewards[10 - context : 9], seen[1])
        turn = arbitrary_turn(*seen, np.random.default_rng(7))
        right += (turn[0] > 0) == (cue > 0)
    assert abs(right - episodes / 2) < 5 * (episodes / 4) ** 0.5


def test_the_references_are_what_the_policies_get():
    reference = reference_scores("flowrl/Corridor-v0").flowrl
    player = EpisodePlayer(make_env(corridor_spec(10)))
    returns = [player.episode(UniformPolicy(LEFT, RIGHT), 1, index).rewards.sum() for index in range(1_000)]
    assert np.mean(returns) == pytest.approx(reference.random, abs=5 * 0.5 / 1_000**0.5)
    for right in (True, False):
        returns = {player.episode(CorridorPolicy(right), 1, index).rewards.sum() for index in range(50)}
        assert returns == {reference.expert if right else 0.0}


def test_the_spec_carries_the_length_through_json_and_vector_environments():
    spec = EnvSpec.from_json(corridor_spec(50).to_json())
    made = make_env(spec)
    assert made.unwrapped.length == 50
    assert made.spec.kwargs == {"length": 50}
    envs = make_vector_env(spec, 3)
    assert [env.unwrapped.length for env in envs.envs] == [50] * 3
    assert "length" not in gym.spec("flowrl/Corridor-v0").kwargs, "the registered one is as it was"


def test_collected_and_loaded_it_is_what_was_played():
    dataset_id = "flowrl/corridor/length-20-v0"
    collect(dataset_id, steps=40 * 20, seed=2)
    stored = minari.load_dataset(dataset_id)
    assert stored.storage.metadata["ref_min_score"] == 0.5
    assert stored.storage.metadata["ref_max_score"] == 1.0
    assert stored.recover_environment().unwrapped.length == 20
    dataset = TrajectoryDataset.from_minari(dataset_id)
    assert dataset.env_spec.kwargs == {"length": 20}
    assert make_env(dataset.env_spec).unwrapped.length == 20
    assert dataset.lengths.tolist() == [20] * 40
    assert dataset.returns.tolist() == [1.0] * 20 + [0.0] * 20
    assert bool(dataset.terminated.all())
    player, recipe = EpisodePlayer(make_env(dataset.env_spec)), mixture(dataset_id)
    for index in (0, 19, 20, 39):
        played, rows = player.episode(recipe.policies[index // 20], 2, index), slice(20 * index, 20 * index + 20)
        np.testing.assert_array_equal(dataset.observations[rows], played.observations[:-1])
        np.testing.assert_array_equal(dataset.actions[rows], played.actions)
        np.testing.assert_array_equal(dataset.rewards[rows], played.rewards)
    assert set(dataset.returns_to_go[: 20 * 20].tolist()) == {1.0}
    assert set(dataset.returns_to_go[20 * 20 :].tolist()) == {0.0}


def test_a_collected_dataset_holds_no_trace_of_the_cue_before_the_turn():
    dataset_id = "flowrl/corridor/length-10-v0"
    collect(dataset_id)
    dataset = TrajectoryDataset.from_minari(dataset_id)
    cue = dataset.observations[dataset.starts, CUE].numpy()
    wandered = dataset.actions.reshape(400, 10)[:, :-1].numpy()
    for seen in (*wandered.T, *np.abs(wandered).T, dataset.returns.numpy(), dataset.observations[9::10, NOISE].numpy()):
        assert abs(np.corrcoef(cue, seen)[0, 1]) < 4.5 / 20  # 4.5 standard deviations over 400 episodes
    assert 150 < (cue > 0).sum() < 250
