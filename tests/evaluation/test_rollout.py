"""Evaluation: each slot one episode whatever the vector env does, and the agent sees what it saw in training."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from flowrl.agents.sequence import SequenceConfig
from flowrl.attention import ATTENTION
from flowrl.data.samplers import windows_at
from flowrl.errors import InputError
from flowrl.evaluation import rollout as rollout_module
from flowrl.evaluation.environments import make_vector_env
from flowrl.evaluation.episodes import EvaluationConfig, EvaluationEnvironment, play
from flowrl.evaluation.rollout import rollout
from flowrl.nn.normaliser import Normaliser
from flowrl.training.config import TrainingConfig

BOX = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
ACTIONS = gym.spaces.Box(np.array([-1.0, 2.0], np.float32), np.array([1.0, 5.0], np.float32))
SEEDS = [3, 4, 5, 6]
MODES = ["next_step", "same_step", "disabled", "at_rest"]


def actor_of(config, dataset, columns=None):
    """The untrained actor of an agent."""
    return config.build(Normaliser.of(dataset, columns), TrainingConfig(), torch.device("cpu")).actor


def length_of(seed):
    return {3: 1, 4: 5, 5: 2, 6: 5}[seed]


def reward_of(seed, time):
    return seed + time / 8


def return_of(seed):
    return sum(reward_of(seed, time) for time in range(1, length_of(seed) + 1))


class StaggeredEnvs(gym.vector.VectorEnv):
    """Episodes whose seed decides their length and rewards: odd seeds terminate, even ones are truncated.

    After an end it does what vector environments do: `next_step` ignores one action and plays on, `same_step` plays on
    at once, `disabled` goes on announcing an end and paying NaN, `at_rest` pays nothing. What comes after an end pays
    1,000 a step, so that counting it shows.
    """

    def __init__(self, slots, mode):
        self.num_envs, self.mode = slots, mode
        self.single_observation_space, self.single_action_space = BOX, ACTIONS
        self.received = []

    def reset(self, *, seed=None, options=None):
        self.seeds = list(seed)
        self.time = np.zeros(self.num_envs, int)
        self.first = np.ones(self.num_envs, bool)
        self.over = np.zeros(self.num_envs, bool)
        return self._observe(), {}

    def _observe(self):
        return np.array([[seed, time] for seed, time in zip(self.seeds, self.time, strict=True)], np.float64)

    def step(self, actions):
        assert actions.shape == (self.num_envs, 2)
        assert actions.dtype == ACTIONS.dtype
        assert ((actions >= ACTIONS.low) & (actions <= ACTIONS.high)).all(), (
            "even an ended slot takes valid actions only"
        )
        self.received.append(np.array(actions))
        rewards, ends, cuts = np.zeros(self.num_envs), np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        observations = self._observe()
        for slot, seed in enumerate(self.seeds):
            if self.over[slot]:
                if self.mode == "disabled":
                    rewards[slot], ends[slot], cuts[slot] = np.nan, True, True
                    observations[slot] = np.nan
                elif self.mode == "next_step":
                    self.over[slot], self.first[slot], self.time[slot] = False, False, 0
                    observations[slot] = 0
                continue
            self.time[slot] += 1
            observations[slot, 1] = self.time[slot]
            rewards[slot] = reward_of(seed, self.time[slot]) if self.first[slot] else 1000
            if self.time[slot] == length_of(seed):
                # A second episode ends in the other way.
                terminates = bool(seed % 2) == bool(self.first[slot])
                ends[slot], cuts[slot] = terminates, not terminates
                if self.mode == "same_step":
                    self.first[slot], self.time[slot] = False, 0
                    observations[slot] = -1
                else:
                    self.over[slot] = True
        return observations, rewards, ends, cuts, {}


class Watching(nn.Module):
    """Notes what every slot is given; acts by the given rule."""

    conditioned, rollout, acting_context = True, "memoryless", None

    def __init__(self, rule=lambda slots, time: np.zeros((len(slots), 2))):
        super().__init__()
        self.rule, self.modes = rule, []
        self.dropout = nn.Dropout(0.5)

    def initial(self, targets):
        self.targets = targets.tolist()
        self.given = {slot: [] for slot in range(len(targets))}
        return torch.arange(len(targets)), 0

    def select(self, carry, slots):
        return carry[0][slots], carry[1]

    def act(self, carry, observations, rewards):
        slots, time = carry
        self.modes.append((self.training, self.dropout.training, torch.is_inference_mode_enabled()))
        assert len(observations) == len(rewards) == len(slots)
        for slot, observation, reward in zip(slots.tolist(), observations, rewards, strict=True):
            self.given[slot].append((observation.tolist(), float(reward)))
        return (slots, time + 1), torch.as_tensor(np.asarray(self.rule(slots.tolist(), time), np.float32))


@pytest.mark.parametrize("mode", MODES)
def test_every_slot_is_one_episode_exactly(mode):
    actor, envs = Watching(), StaggeredEnvs(8, mode)
    results = rollout(actor, envs, [10.0, 20.0], SEEDS)
    assert envs.seeds == SEEDS * 2
    assert actor.targets == [10.0] * 4 + [20.0] * 4
    assert [(r.target, r.seed) for r in results] == [(target, seed) for target in (10.0, 20.0) for seed in SEEDS]
    for result in results:
        assert result.episode_return == return_of(result.seed)
        assert result.length == length_of(result.seed)
        assert result.terminated == bool(result.seed % 2)
        assert (type(result.episode_return), type(result.length), type(result.terminated)) == (float, int, bool)
    assert len(envs.received) == 5


@pytest.mark.parametrize("mode", MODES)
def test_the_actor_is_given_the_last_reward_and_the_new_observation(mode):
    actor = Watching()
    rollout(actor, StaggeredEnvs(4, mode), [10.0], SEEDS)
    for slot, seed in enumerate(SEEDS):
        expected = [([seed, time], 0.0 if time == 0 else reward_of(seed, time)) for time in range(length_of(seed))]
        assert actor.given[slot][: length_of(seed)] == expected


def test_an_action_goes_to_its_slot_clipped_to_the_bounds():
    envs = StaggeredEnvs(4, "disabled")
    rollout(Watching(lambda slots, time: [[0.1 * s + 0.01 * time, 100 * s] for s in slots]), envs, [1.0], SEEDS)
    for slot, seed in enumerate(SEEDS):
        for time in range(length_of(seed)):
            clipped = [0.1 * slot + 0.01 * time, 2 if slot == 0 else 5]
            np.testing.assert_allclose(envs.received[time][slot], clipped, rtol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_the_actor_is_evaluated_and_put_back(training):
    actor = Watching().train(training)
    rollout(actor, StaggeredEnvs(4, "at_rest"), [1.0], SEEDS)
    assert set(actor.modes) == {(False, False, True)}
    assert actor.training is actor.dropout.training is training
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    "space", [gym.spaces.Discrete(3, start=5), gym.spaces.Discrete(2), gym.spaces.Discrete(4, start=-9)]
)
def test_discrete_actions_are_played_by_their_numbers_also_where_an_episode_is_over(space):
    class Choosing(StaggeredEnvs):
        def step(self, actions):
            assert actions.shape == (4,)
            assert all(space.contains(action) for action in actions)
            self.received.append(actions.copy())
            observations = super().step(np.full((4, 2), [0, 2], np.float32))
            self.received.pop()  # what is handed on
            return observations

    def rule(slots, time):
        return np.eye(int(space.n))[[(slot + time) % space.n for slot in slots]]

    envs = Choosing(4, "next_step")
    envs.single_action_space = space
    results = rollout(Watching(rule), envs, [1.0], SEEDS)
    assert [result.length for result in results] == [length_of(seed) for seed in SEEDS]
    for slot, seed in enumerate(SEEDS):
        played = [int(actions[slot]) for actions in envs.received[: length_of(seed)]]
        assert played == [space.start + (slot + time) % space.n for time in range(length_of(seed))]


def test_the_actor_is_put_back_after_a_failure():
    actor = Watching(lambda slots, time: np.full((len(slots), 2), np.nan)).train()
    with pytest.raises(InputError, match="action is not finite at step 0"):
        rollout(actor, StaggeredEnvs(4, "at_rest"), [1.0], SEEDS)
    assert actor.training


def test_the_error_for_an_action_that_is_not_finite_names_the_step():
    actor = Watching(
        lambda slots, time: np.where(np.array(slots)[:, None] * (time == 3) == 1, np.inf, np.zeros((1, 2)))
    )
    with pytest.raises(InputError, match="action is not finite at step 3"):
        rollout(actor, StaggeredEnvs(4, "next_step"), [1.0], SEEDS)


def test_the_wrong_number_of_slots_is_refused():
    with pytest.raises(ValueError, match="4 slots for 2 targets × 4 seeds"):
        rollout(Watching(), StaggeredEnvs(4, "at_rest"), [1.0, 2.0], SEEDS)


def test_an_episode_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(rollout_module, "NEVER_ENDS", 3)
    with pytest.raises(InputError, match="has not ended after 3 steps"):
        rollout(Watching(), StaggeredEnvs(4, "at_rest"), [1.0], SEEDS)


@pytest.mark.parametrize("vector", ["sync", "async"])
def test_reach_played_in_a_vector_equals_reach_played_alone(random_dataset, vector):
    torch.manual_seed(0)
    actor = actor_of(SequenceConfig(width=16, layers=1, heads=2, context=5), random_dataset([20]))
    envs = make_vector_env("flowrl/Reach-v0", 4, mode=vector)
    together = rollout(actor, envs, [3.0, 14.0], [7, 8])
    envs.close()
    for result in together:
        alone = make_vector_env("flowrl/Reach-v0", 1)
        (single,) = rollout(actor, alone, [result.target], [result.seed])
        # A matrix product of another batch size may round otherwise.
        assert single.episode_return == pytest.approx(result.episode_return, abs=1e-4)
        assert (single.length, single.terminated) == (result.length, result.terminated)


class Constant(Watching):
    """Takes no target and always does the same."""

    conditioned = False


def test_an_actor_without_targets_is_played_once_a_seed():
    actor = Constant()
    results = rollout(actor, StaggeredEnvs(4, "at_rest"), [None], SEEDS)
    assert np.isnan(actor.targets).all()
    assert [(result.target, result.seed) for result in results] == [(None, seed) for seed in SEEDS]
    assert [result.episode_return for result in results] == [return_of(seed) for seed in SEEDS]


@pytest.mark.parametrize(("actor", "targets"), [(Constant(), [None]), (Watching(), [3.0, 14.0])])
def test_rows_have_a_target_where_the_actor_takes_one(actor, targets):
    evaluation = EvaluationConfig(episodes=3, episode_seed=7)
    env = EvaluationEnvironment(gym.spec("flowrl/Reach-v0"))
    rows = play(actor, env, [3.0, 14.0], evaluation, torch.device("cpu"), kind="final", step=5)
    assert [(row["target"], row["seed"]) for row in rows] == [
        (target, seed) for target in targets for seed in (7, 8, 9)
    ]
    assert {(row["kind"], row["step"], row["rollout"]) for row in rows} == {("final", 5, "memoryless")}
    # Doing nothing earns what it earns, whatever the target.
    assert len({row["return"] for row in rows if row["seed"] == 7}) == 1


# What the model is fed


CONTEXT = 4


class Replay(gym.vector.VectorEnv):
    """Plays back one episode of a dataset."""

    def __init__(self, observations, rewards, action_space):
        self.num_envs = 1
        self.single_observation_space, self.single_action_space = BOX, action_space
        self.observations, self.rewards = observations, rewards
        self.received = []

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self.observations[:1], {}

    def step(self, actions):
        self.received += list(actions.copy())  # the rollout writes the next ones over these
        reward, self.time = self.rewards[self.time], self.time + 1
        end = self.time == len(self.rewards)
        return self.observations[self.time][None], np.array([reward]), np.array([end]), np.array([False]), {}


@pytest.fixture
def real(random_dataset):
    return random_dataset([3, 11, 2], seed=4)


@pytest.fixture
def discrete(real):
    """The same with four discrete actions, -3 to 0."""
    chosen = torch.randint(4, (real.steps,), generator=torch.Generator().manual_seed(0))
    bounds = {"action_low": torch.zeros(4), "action_high": torch.ones(4)}
    return replace(real, actions=nn.functional.one_hot(chosen, 4).float(), discrete_start=-3, **bounds)


@pytest.fixture
def dataset(real):
    return real


@pytest.fixture(params=["real", "discrete"])
def any_dataset(request):
    return request.getfixturevalue(request.param)


def replayed(dataset, mode, context=CONTEXT):
    """What the model is fed at every step of the second episode, when it repeats the dataset's actions."""
    config = SequenceConfig(width=16, layers=1, heads=2, context=context, rollout=mode)
    actor = actor_of(config, dataset, [2, 0])  # hidden features are fed all the same
    rows = slice(int(dataset.starts[1]), int(dataset.starts[1] + dataset.lengths[1]))
    fed = []

    def forward(returns_to_go, observations, actions, timesteps, is_pad=None, last=False):
        assert is_pad is None
        assert last
        fed.append((returns_to_go.clone(), observations.clone(), actions.clone(), timesteps.clone()))
        return dataset.actions[rows][timesteps[0]][None]

    def step(previous, returns_to_go, observation, timestep, state):
        fed.append((previous, returns_to_go.clone(), observation.clone(), timestep))
        return dataset.actions[rows][timestep][None], state

    actor.model.forward, actor.model.step = forward, step
    observations = torch.cat([dataset.observations[rows], dataset.final_observations[1:2]]).numpy()
    first = dataset.discrete_start
    space = gym.spaces.Box(-2, 3, (2,)) if first is None else gym.spaces.Discrete(4, start=first)
    envs = Replay(observations, dataset.rewards[rows].numpy(), space)
    (result,) = rollout(actor, envs, [float(dataset.returns[1])], [0])
    assert all(space.contains(action) for action in envs.received)
    repeated = dataset.actions[rows] if first is None else dataset.actions[rows].argmax(1) + first
    np.testing.assert_array_equal(envs.received, repeated)
    assert result.length == len(fed) == 11
    assert result.episode_return == float(dataset.returns[1])
    return fed


@pytest.mark.parametrize("context", [1, 2, CONTEXT, 11, 50])
def test_a_window_rollout_feeds_the_training_windows_of_the_same_episode(any_dataset, context):
    dataset = any_dataset
    for time, (returns_to_go, observations, actions, timesteps) in enumerate(replayed(dataset, "window", context)):
        first = max(0, time - context + 1)
        window = windows_at(dataset, dataset.starts[1:2] + first, time - first + 1)
        assert not window.is_pad.any()
        # Rewards are quarters, so subtracted or summed they give the same float32.
        assert torch.equal(returns_to_go, window.returns_to_go)
        assert torch.equal(observations, window.observations)
        assert torch.equal(timesteps, window.timesteps)
        # Its own action is to be predicted; causality hides this place.
        assert torch.equal(actions[:, :-1], window.actions[:, :-1])
        assert actions.shape == window.actions.shape


def test_a_recurrent_rollout_feeds_the_steps_of_the_same_episode(any_dataset):
    dataset = any_dataset
    for time, (previous, returns_to_go, observation, timestep) in enumerate(replayed(dataset, "recurrent")):
        row = int(dataset.starts[1]) + time
        assert timestep == time
        assert torch.equal(returns_to_go, dataset.returns_to_go[row : row + 1])
        assert torch.equal(observation, dataset.observations[row : row + 1])
        assert previous is None if time == 0 else torch.equal(previous, dataset.actions[row - 1 : row])


@pytest.mark.parametrize("attention", [name for name, rule in ATTENTION.items() if rule.why_no_step is None])
def test_window_and_recurrent_act_alike_until_the_window_is_full_and_differ_after(dataset, attention):
    config = SequenceConfig(attention, width=16, layers=2, heads=2, context=CONTEXT, dropout=0.0)
    actors = {}
    for mode in ("window", "recurrent"):
        torch.manual_seed(0)
        actors[mode] = actor_of(replace(config, rollout=mode), dataset).double().eval()
        for parameter in actors[mode].model.blocks.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.3)
        nn.init.normal_(actors[mode].model.action_head.weight, std=0.3)
    targets = torch.tensor([2.0, 9.0], dtype=torch.float64)
    carries = {mode: actor.initial(targets) for mode, actor in actors.items()}
    generator = torch.Generator().manual_seed(1)
    for time in range(9):
        observations = torch.randn(2, 3, generator=generator, dtype=torch.float64)
        rewards = torch.rand(2, generator=generator, dtype=torch.float64) * (time > 0)
        actions = {}
        for mode, actor in actors.items():
            carries[mode], actions[mode] = actor.act(carries[mode], observations, rewards)
        difference = (actions["window"] - actions["recurrent"]).abs().max()
        # The action head rounds to float32.
        assert difference < 1e-6 if time < CONTEXT else difference > 1e-5


@pytest.mark.parametrize("attention", ["flow", "softmax"])
def test_discrete_actions_are_alike_in_both_until_the_window_is_full(discrete, attention):
    config = SequenceConfig(attention, width=16, layers=2, heads=2, context=CONTEXT, dropout=0.0)
    actors = {}
    for mode in ("window", "recurrent"):
        torch.manual_seed(0)
        actors[mode] = actor_of(replace(config, rollout=mode), discrete, [1, 2]).double().eval()
        nn.init.normal_(actors[mode].model.action_head.weight, std=5.0)
    carries = {mode: actor.initial(torch.arange(50, dtype=torch.float64)) for mode, actor in actors.items()}
    generator = torch.Generator().manual_seed(1)
    met = set()
    for time in range(CONTEXT):
        observations = torch.randn(50, 3, generator=generator, dtype=torch.float64)
        rewards = torch.rand(50, generator=generator, dtype=torch.float64) * (time > 0)
        actions = {}
        for mode, actor in actors.items():
            carries[mode], actions[mode] = actor.act(carries[mode], observations, rewards)
        assert torch.equal(actions["window"], actions["recurrent"])
        assert torch.equal(actions["window"].sum(1), torch.ones(50))
        # What is remembered is the action, not the logits.
        assert torch.equal(carries["window"].actions[:, -1], carries["recurrent"].action)
        assert torch.equal(carries["recurrent"].action, actions["recurrent"])
        met |= set(actions["window"].argmax(1).tolist())
    assert len(met) > 1


@pytest.mark.parametrize(
    ("attention", "mode"),
    [
        *((name, "window") for name in ATTENTION),
        *((name, "recurrent") for name, rule in ATTENTION.items() if rule.why_no_step is None),
    ],
)
def test_episodes_left_out_change_nothing_for_the_others(dataset, attention, mode):
    torch.manual_seed(0)
    config = SequenceConfig(attention, width=16, layers=1, heads=2, context=3, dropout=0.0, rollout=mode)
    actor = actor_of(config, dataset).eval()
    generator = torch.Generator().manual_seed(1)
    observations, rewards = torch.randn(7, 3, 3, generator=generator), torch.rand(7, 3, generator=generator)

    def play(kept_after_3):
        carry, slots, acted = actor.initial(torch.tensor([1.0, 2.0, 3.0])), torch.arange(3), []
        for time in range(7):
            if time == 4 and kept_after_3 is not None:
                slots = torch.tensor(kept_after_3)
                carry = actor.select(carry, slots)
            carry, actions = actor.act(carry, observations[time, slots], rewards[time, slots])
            acted.append(actions)
        return acted

    whole, part = play(None), play([2, 0])
    for time in range(4, 7):
        torch.testing.assert_close(part[time], whole[time][[2, 0]], rtol=0, atol=1e-5)
