"""What a dataset holds and says, against the environment to play in: fresh environments, one disagreement each."""

import json
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from gymnasium.spaces import Box, Discrete

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.declared import Declared
from flowrl.errors import InputError
from flowrl.evaluation.agreement import agree
from flowrl.evaluation.environments import make_env
from flowrl.evaluation.recorded import KEPT, Recorded

WRAPPERS = "gymnasium.wrappers:"


class Aim(gym.Env):
    """Pays minus the distance between the action and the middle of its bounds plus what is seen."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)

    def __init__(self, low=-1.0, high=1.0, length=20, dtype="float32"):
        self.action_space = Box(low, high, (1,), np.dtype(dtype).type)
        self.low, self.high, self.length = low, high, length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.offset = 0, float((options or {}).get("offset", 0))
        return self.see(), {}

    def see(self):
        self.want = float(self.np_random.uniform(-1, 1))
        return np.array([self.want + self.offset], np.float32)

    def step(self, action):
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        paid, self.time = -abs(float(action[0]) - middle - half * self.want), self.time + 1
        return self.see(), paid, self.time >= self.length, False, {}


class Choose(gym.Env):
    observation_space = Box(-np.inf, np.inf, (1,), np.float32)

    def __init__(self, dtype="int64", start=5):
        self.action_space = Discrete(3, start=start, dtype=np.dtype(dtype).type)


class Own(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """A wrapper of a person's own with statistics as Gymnasium's."""

    def __init__(self, env, changes="observation"):
        gym.utils.RecordConstructorArgs.__init__(self, changes=changes)
        gym.Wrapper.__init__(self, env)
        setattr(self, f"{changes}_filter", gym.wrappers.utils.RunningMeanStd(shape=()))


class NormalizedStates(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Of the name alone."""

    def __init__(self, env):
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)


def spec(kind=Aim, wrappers=(), steps=None, **kwargs):
    return EnvSpec(
        f"test/{kind.__name__}-v0", f"{__name__}:{kind.__name__}", max_episode_steps=steps, kwargs=kwargs,
        additional_wrappers=tuple(WrapperSpec(name, place + name, given) for place, name, given in wrappers),
    )  # fmt: skip


RUNNING_REWARD = (WRAPPERS, "NormalizeReward", {"gamma": 0.99, "epsilon": 1e-8})
RUNNING_OBSERVATION = (WRAPPERS, "NormalizeObservation", {"epsilon": 1e-8})


def recorded_in(env, act, *, bounds=(-1.0, 1.0), seed=0, episodes=2, options=None, **declared):
    """A dataset of `act(observation)` in an environment whose own actions `act` need not be."""
    made = make_env(env)
    columns = [[], [], [], []]
    for number in range(episodes):
        observation, _ = made.reset(seed=seed + number, options=options)
        seen, done, paid, over = [observation], [], [], False
        while not over:
            action, played = act(observation)
            observation, reward, terminated, truncated, _ = made.step(np.array([played], np.float32))
            seen.append(observation)
            done.append([action])
            paid.append(reward)
            over = terminated or truncated
        for column, values in zip(columns, (seen, done, paid, [terminated]), strict=True):
            column.append(np.array(values) if len(values) > 1 else values[0])
    low, high = bounds
    dataset = TrajectoryDataset.from_arrays(*columns, action_low=low, action_high=high, env=env)
    declared = replace(dataset.declared, **declared)
    return replace(dataset, declared=declared)


def steady(observation):
    return float(observation[0]), float(observation[0])


@pytest.fixture
def aimed():
    """Data that agree with `spec()` in all."""
    return recorded_in(spec(), steady)


def kinds(agreement):
    return [finding.kind for finding in agreement.findings]


def test_data_that_agree_with_their_environment(aimed):
    agreement = agree(spec(), Recorded.of(aimed), chosen=False, dataset=aimed)
    assert agreement.findings == ()
    assert agreement.env == spec()


# Bounds of actions


def of_valve(**changes):
    """Actions in [-1, 1] that a wrapper had scaled to an environment of 0 to 4."""
    return recorded_in(spec(low=0.0, high=4.0), lambda seen: (float(seen[0]), 2 + 2 * float(seen[0])), **changes)


def test_scaled_actions_are_found_by_a_replay_and_played_scaled():
    env, data = spec(low=0.0, high=4.0), of_valve(first_seed=0)
    agreement = agree(env, Recorded.of(data), chosen=True, dataset=data)
    (warning,) = agreement.warnings
    assert "-1 to 1" in warning
    assert "0 to 4" in warning
    made = make_env(EnvSpec.from_json(agreement.env.to_json()))
    observation, _ = made.reset(seed=3)
    assert made.step(np.array([observation[0]], np.float32))[1] == pytest.approx(0, abs=1e-5)
    # The environment as a run keeps it is not scaled again.
    again = agree(agreement.env, Recorded.of(data), chosen=False)
    assert again.env == agreement.env
    assert not again.warnings


def test_scaled_actions_are_found_within_the_environments_bounds_too():
    """[-1, 1] lies within [-3, 3]: only the replay tells."""
    env = spec(low=-3.0, high=3.0)
    data = recorded_in(env, lambda seen: (float(seen[0]), 3 * float(seen[0])), first_seed=0)
    assert agree(env, Recorded.of(data), chosen=True, dataset=data).env != env
    narrow = recorded_in(env, lambda seen: (float(seen[0]) / 2, float(seen[0]) / 2), first_seed=0)
    agreement = agree(env, Recorded.of(narrow), chosen=True, dataset=narrow)
    assert agreement.env == env
    assert len(agreement.warnings) == 1
    unknown = recorded_in(env, lambda seen: (float(seen[0]), 3 * float(seen[0])))
    agreement = agree(env, Recorded.of(unknown), chosen=True, dataset=unknown)
    assert agreement.env == env
    assert "-3 to 3" in agreement.warnings[0]


def test_without_a_seed_actions_that_the_environment_does_not_take_were_scaled():
    env, data = spec(low=0.0, high=4.0), of_valve()
    agreement = agree(env, Recorded.of(data), chosen=True, dataset=data)
    assert len(agreement.env.additional_wrappers) == 1
    assert len(agreement.warnings) == 1


def test_a_replay_is_reset_with_the_options_of_its_episode():
    env = spec(low=0.0, high=4.0)
    data = recorded_in(
        env, lambda seen: (float(seen[0]) - 5, 2 + 2 * (float(seen[0]) - 5)), options={"offset": 5.0},
        first_seed=0, reset_options=({"offset": 5.0},),
    )  # fmt: skip
    agreement = agree(env, Recorded.of(data), chosen=True, dataset=data)
    assert any("replay" in sentence for sentence in agreement.warnings)


@pytest.mark.parametrize(
    ("bounds", "env", "warned"),
    [
        ((-1.0, 1.0), {"low": -1.0, "high": 1.0}, False),
        ((np.float32(-0.4), np.float32(0.4)), {"low": -0.4, "high": 0.4, "dtype": "float64"}, False),
        ((None, None), {"low": -1.0, "high": 1.0}, False),
        ((None, None), {"low": -0.5, "high": 0.5}, True),
        ((-1.0, 1.0), {"low": -np.inf, "high": np.inf}, False),
    ],
)
def test_bounds_that_agree_or_cannot_be_scaled(bounds, env, warned):
    size = 0.4 if bounds[1] is not None and bounds[1] < 1 else 0.99
    data = recorded_in(spec(), lambda seen: (size * float(seen[0]), float(seen[0])), bounds=bounds, first_seed=0)
    agreement = agree(spec(**env), Recorded.of(data), chosen=True, dataset=data)
    assert bool(agreement.warnings) is warned
    assert agreement.env == spec(**env)


def test_actions_outside_their_declared_bounds_are_said():
    data = recorded_in(spec(), lambda seen: (3 * float(seen[0]), float(seen[0])))
    number = int((data.actions.abs() > 1).sum())
    agreement = agree(spec(), Recorded.of(data), chosen=False, dataset=data)
    assert number
    assert any(f"{number} " in sentence and "-1 to 1" in sentence for sentence in agreement.warnings)
    assert agreement.env == spec()


# Time limits


@pytest.mark.parametrize(
    ("env", "warned"),
    [
        (spec(steps=19), True),
        (spec(steps=20), False),
        (spec(steps=1000), False),
        (spec(wrappers=[(WRAPPERS, "TimeLimit", {"max_episode_steps": 10})]), True),
        (spec(steps=1000, wrappers=[(WRAPPERS, "TimeLimit", {"max_episode_steps": 10})]), True),
    ],
)
def test_a_time_limit_below_the_longest_episode_is_said(aimed, env, warned):
    agreement = agree(env, Recorded.of(aimed), chosen=False)
    assert bool(agreement.warnings) is warned
    if warned:
        assert "20" in agreement.warnings[0]
        assert "limit" in agreement.warnings[0]


def test_episodes_that_were_cut_short_are_no_contradiction(aimed):
    cut = replace(aimed, terminated=~aimed.terminated)
    assert agree(spec(steps=20), Recorded.of(cut), chosen=False).findings == ()


# Running statistics


def test_rewards_with_running_statistics_are_played_without(aimed):
    env = spec(wrappers=[RUNNING_REWARD, (WRAPPERS, "ClipReward", {"min_reward": -5.0})])
    data = replace(aimed, env_spec=env)
    agreement = agree(env, Recorded.of(data), chosen=False)
    assert [wrapper.name for wrapper in agreement.env.additional_wrappers] == ["ClipReward"]
    assert "NormalizeReward" in agreement.warnings[0]
    # As the run keeps it: the word again, and the same environment.
    again = agree(agreement.env, Recorded.of(data), chosen=False)
    assert again.env == agreement.env
    assert "NormalizeReward" in again.warnings[0]


def test_observations_with_running_statistics_are_refused_unless_the_environment_is_chosen(aimed):
    env = spec(wrappers=[RUNNING_OBSERVATION])
    data = replace(aimed, env_spec=env)
    with pytest.raises(InputError, match=r"NormalizeObservation.*\(env\)"):
        agree(env, Recorded.of(data), chosen=False).check()
    agreement = agree(spec(), Recorded.of(data), chosen=True)
    agreement.check()
    assert "NormalizeObservation" in agreement.warnings[0]
    agree(env, Recorded.of(data), chosen=True).check()


@pytest.mark.parametrize(("changes", "kind"), [("observation", "wrong"), ("reward", "doubtful")])
def test_a_persons_own_wrapper_with_such_statistics(aimed, changes, kind):
    env = spec(wrappers=[(f"{__name__}:", "Own", {"changes": changes})])
    agreement = agree(env, Recorded.of(aimed), chosen=False)
    assert kinds(agreement) == [kind]
    assert "Own" in agreement.findings[0].sentence
    assert bool(agreement.env.additional_wrappers) is (changes == "observation")


def test_a_wrapper_of_the_name_alone_is_said_and_played(aimed):
    env = spec(wrappers=[(f"{__name__}:", "NormalizedStates", {})])
    agreement = agree(env, Recorded.of(aimed), chosen=False)
    assert kinds(agreement) == ["doubtful"]
    assert agreement.env == env


@pytest.mark.parametrize(
    "wrapper",
    [("ClipReward", {"min_reward": -1.0}), ("RecordEpisodeStatistics", {}), ("ClipAction", {}), ("Autoreset", {})],
)
def test_other_wrappers_need_no_word(aimed, wrapper):
    env = spec(wrappers=[(WRAPPERS, *wrapper)])
    assert agree(env, Recorded.of(aimed), chosen=False).findings == ()


# Reset options and the environment for evaluation


def with_options(data, *options):
    return replace(data, declared=replace(data.declared, reset_options=options))


def offsets(env, count=4):
    made = make_env(EnvSpec.from_json(env.to_json()))
    plain = make_env(spec())
    return [round(float((made.reset(seed=seed)[0] - plain.reset(seed=seed)[0])[0]), 4) for seed in range(count)]


@pytest.mark.parametrize("chosen", [False, True])
def test_options_are_played_in_the_environment_that_they_were_recorded_in(aimed, chosen):
    data = with_options(aimed, {"offset": 2.0})
    agreement = agree(spec(), Recorded.of(data), chosen=chosen)
    assert kinds(agreement) == ["settled"]
    assert "offset=2.0" in agreement.notes[0]
    assert offsets(agreement.env) == [2, 2, 2, 2]
    assert agree(agreement.env, Recorded.of(data), chosen=False).env == agreement.env


def test_options_that_differ_are_played_in_turn(aimed):
    agreement = agree(spec(), Recorded.of(with_options(aimed, {"offset": 2.0}, {}, {"offset": 3.0})), chosen=False)
    assert offsets(agreement.env) == [3, 2, 0, 3]  # their order is drawn


def test_options_are_for_no_other_environment(aimed):
    data = with_options(replace(aimed, env_spec=replace(spec(), id="test/Other-v0")), {"offset": 2.0})
    agreement = agree(spec(), Recorded.of(data), chosen=True)
    assert agreement.env == spec()
    assert "offset" in agreement.warnings[0]
    nowhere = with_options(replace(aimed, env_spec=None), {"offset": 2.0})
    assert offsets(agree(spec(), Recorded.of(nowhere), chosen=True).env) == [2, 2, 2, 2]


def judged_in(data, env):
    return replace(data, declared=replace(data.declared, evaluation_env=env))


@pytest.mark.parametrize(
    ("env", "differs"),
    [
        (spec(), False),
        (spec(render_mode="human"), False),
        (spec(length=7), True),
        (spec(steps=7), True),
        (replace(spec(), id="test/Other-v0"), True),
        (spec(wrappers=[(WRAPPERS, "ClipReward", {"min_reward": -1.0})]), True),
    ],
)
def test_another_environment_for_evaluation_is_named(aimed, env, differs):
    data = judged_in(aimed, env)
    assert data.evaluation_env == env
    assert (Recorded.of(data).evaluation_differs is not None) is differs


def test_options_of_the_recording_are_not_for_another_environment_of_evaluation(aimed):
    data = with_options(judged_in(aimed, spec(length=7)), {"offset": 2.0})
    agreement = agree(spec(length=7), Recorded.of(data), chosen=False)
    assert kinds(agreement) == ["settled", "doubtful"]
    assert agreement.env == spec(length=7)


# Spaces


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_discrete_actions_of_another_dtype_are_the_same(aimed, dtype):
    recorded = replace(Recorded.of(aimed), action_size=3, discrete_start=5, actions=None, action_bounds=None)
    agree(spec(Choose, dtype=dtype), recorded, chosen=False).check()
    with pytest.raises(InputError, match="Discrete"):
        agree(spec(Choose, dtype=dtype, start=4), recorded, chosen=False).check()


# What a run folder keeps


def test_a_run_folder_keeps_all_that_is_compared(aimed):
    data = with_options(judged_in(aimed, spec(length=7)), {"offset": 2.0}, {"offset": 3.0})
    data = replace(data, env_spec=spec(wrappers=[RUNNING_REWARD]))
    recorded = Recorded.of(data)
    config = {"dataset": data.id, "observation_size": 1, "action_size": 1, "discrete_start": None}
    kept = json.loads(json.dumps(config | {KEPT: recorded.record()}))
    assert Recorded.from_config(kept) == recorded
    older = Recorded.from_config(config)
    assert agree(spec(), older, chosen=False).findings == ()


def test_totals_below_what_the_arrays_hold_are_said(aimed):
    data = replace(aimed, declared=Declared(total_steps=30, total_episodes=2))
    assert "total_steps" in agree(spec(), Recorded.of(data), chosen=False).warnings[0]
    data = replace(aimed, declared=Declared(total_steps=40, total_episodes=2, more_episodes=True))
    assert "total_episodes" in agree(spec(), Recorded.of(data), chosen=False).warnings[0]
