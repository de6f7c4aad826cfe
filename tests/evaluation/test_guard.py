"""What an environment does amiss in the middle of an evaluation is blamed on it, and leaves no result behind."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from misbehaving import (
    LENGTH,
    BlindLate,
    ChangesActions,
    CloseRaises,
    DiesLate,
    ExitsLate,
    FailsLate,
    Lists,
    NaNLate,
    OneBuffer,
    OneInstance,
    Sound,
    Structured,
    ThreeInstances,
    WholeNumbersDeclared,
    spec_of,
)

from flowrl.envs.playing import EpisodePlayer
from flowrl.errors import InputError
from flowrl.evaluation.environments import make_env, make_vector_env
from flowrl.evaluation.episodes import EvaluationConfig, EvaluationEnvironment, play
from flowrl.evaluation.rollout import rollout

SEEDS = [1, 2, 3, 4]


class Remembering:
    """Does nothing, and remembers what it was shown."""

    conditioned, rollout, acting_context, training = False, "memoryless", None, False

    def __init__(self):
        self.shown = []

    def train(self, mode=True):
        """See `Actor`."""

    def initial(self, targets):
        return torch.arange(len(targets))

    def select(self, carry, slots):
        return carry[slots]

    def act(self, carry, observations, rewards):
        self.shown.append(observations.clone())
        return carry, torch.zeros(len(observations), 2)


def played(kind, *, slots=4, mode="sync", actor=None):
    envs = make_vector_env(spec_of(kind), slots, mode=mode)
    try:
        return rollout(actor or Remembering(), envs, [None], SEEDS)
    finally:
        envs.close()


LATE = [
    (FailsLate, "OSError: the simulator's disk is full"),
    (NaNLate, "returned reward nan"),
    (BlindLate, "feature 1 is inf"),
    (ExitsLate, "SystemExit: out of tokens"),
]


@pytest.mark.parametrize("slots", [len(SEEDS), 1])
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(("kind", "words"), LATE)
def test_a_failure_in_the_middle_names_environment_words_step_and_seed(kind, words, mode, slots, capfd):
    with pytest.raises(InputError) as failure:
        played(kind, slots=slots, mode=mode)
    for part in (spec_of(kind).id, words, "step 4 of the episode with seed 3"):
        assert part in str(failure.value)
    assert "Traceback" not in capfd.readouterr().err


def test_a_worker_process_that_dies_is_no_traceback(capfd):
    with pytest.raises(InputError, match="DiesLate-v0: a process that played it ended with exit code 7"):
        played(DiesLate, mode="async")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", [Sound, Structured, CloseRaises, Lists])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_one_after_another_gives_the_results_of_all_at_once(kind, mode):
    expected = [(seed, LENGTH, sum(range(1, LENGTH + 1))) for seed in SEEDS]
    for slots in (len(SEEDS), 1):
        results = played(kind, slots=slots, mode=mode)
        assert [(result.seed, result.length, result.episode_return) for result in results] == expected


@pytest.mark.parametrize("slots", [len(SEEDS), 1])
def test_an_array_that_all_environments_share_and_change_is_seen_as_it_was(slots):
    shared, sound = Remembering(), Remembering()
    assert played(OneBuffer, slots=slots, actor=shared) == played(Sound, slots=slots, actor=sound)
    assert all(torch.equal(one, two) for one, two in zip(shared.shown, sound.shown, strict=True))


def test_a_first_observation_outlives_the_next_step():
    env = make_env(spec_of(OneBuffer))
    first, _ = env.reset(seed=7)
    env.step(np.zeros(2, np.float32))
    assert first[:2].tolist() == [7, 0]


def test_an_environment_may_change_the_action_it_is_given():
    assert played(ChangesActions) == played(Sound)
    kept = np.ones(2, np.float32)
    policy = SimpleNamespace(act=lambda observation, generator: kept)
    episode = EpisodePlayer(make_env(spec_of(ChangesActions))).episode(policy, 0, 0)  # pyright: ignore[reportArgumentType]
    assert kept.tolist() == [1, 1]
    assert episode.actions.tolist() == [[1, 1]] * LENGTH


def test_numbers_are_seen_as_they_are_returned_whatever_is_declared():
    actor, sound = Remembering(), Remembering()
    assert played(WholeNumbersDeclared, actor=actor) == played(Sound, actor=sound)
    assert torch.equal(actor.shown[0], sound.shown[0]), "noise between -1 and 1 would be cut to 0"


def rows(kind, **how):
    evaluation = EvaluationConfig(episodes=5, episode_seed=1)
    env = EvaluationEnvironment(spec_of(kind), **how)
    return play(Remembering(), env, [], evaluation, torch.device("cpu"), kind="final", step=1)


def test_as_many_as_can_be_made_need_not_be_all(capsys):
    limited = rows(ThreeInstances)
    assert "all licenses are taken" in capsys.readouterr().out
    assert not ThreeInstances.held
    names = ("seed", "return", "length", "terminated")
    assert [[row[name] for name in names] for row in limited] == [[row[name] for name in names] for row in rows(Sound)]


def test_that_fewer_can_be_made_is_said_once(capsys):
    evaluation, env = EvaluationConfig(episodes=5, episode_seed=1), EvaluationEnvironment(spec_of(ThreeInstances))
    one, other = (
        play(Remembering(), env, [], evaluation, torch.device("cpu"), kind="training", step=step) for step in (1, 2)
    )
    assert capsys.readouterr().out.count("all licenses are taken") == 1
    assert [row["return"] for row in one] == [row["return"] for row in other]


def test_one_instance_is_played_where_the_trial_said_so(capsys):
    assert [row["seed"] for row in rows(OneInstance, one_at_a_time=True)] == [1, 2, 3, 4, 5]
    assert not capsys.readouterr().out


def test_ctrl_c_is_the_users():
    class Interrupted(Sound):
        def step(self, action):
            raise KeyboardInterrupt

    env = make_env(spec_of(Interrupted))
    env.reset(seed=0)
    with pytest.raises(KeyboardInterrupt):
        env.step(np.zeros(2, np.float32))


def test_the_specification_is_that_of_the_environment_alone():
    env = make_env("flowrl/Reach-v0")
    assert env.spec == gym.make("flowrl/Reach-v0", disable_env_checker=True).spec
