"""The policies that our own datasets are played by, in plain numpy, and the mixtures that make up each dataset."""

import difflib
import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from flowrl.envs.corridor import CorridorPolicy, corridor_spec
from flowrl.envs.tiny import ReachPolicy
from flowrl.evaluation.environments import make_env

__all__ = [
    "BehaviorPolicy",
    "Mixture",
    "Player",
    "Policy",
    "Remembering",
    "Rollout",
    "UniformPolicy",
    "dataset_ids",
    "mixture",
    "policy_records",
    "read_policy",
    "rollout_episodes",
    "shipped_policy",
    "snapshot_path",
]

POLICIES = Path(__file__).parent / "policies"
CORRIDOR_LENGTHS = (10, 20, 50, 100, 200, 300, 500, 1_000)
CORRIDOR_EPISODES = 400


class Policy(Protocol):
    """Anything that acts on one observation."""

    def act(self, observation: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        """Sample an action (a,) with `generator`; without one, the deterministic action."""
        ...


@runtime_checkable
class Remembering(Policy, Protocol):
    """A policy whose action depends on what it saw before in the episode."""

    def begin(self) -> Policy:
        """The policy for one new episode, with nothing remembered: `Player` asks for one before each."""
        ...


@dataclass(frozen=True)
class BehaviorPolicy:
    """A network with Gaussian noise, as Stable-Baselines3 trains it: sampled, then clipped to the bounds.

    observation (d,) → (observation − mean) / std, clipped → hidden layers → mean action, by a tanh onto the range
    between the bounds if `squash` → + exp(log_std) · normal. TRPO and PPO do not squash, TD3 does.
    """

    weights: tuple[np.ndarray, ...]
    """One matrix (out, in) a layer."""
    biases: tuple[np.ndarray, ...]
    """One vector (out,) a layer."""
    log_std: np.ndarray
    """(a,), the same for every observation."""
    observation_mean: np.ndarray
    """(d,), of the observations in training."""
    observation_std: np.ndarray
    """(d,), likewise."""
    observation_clip: float
    """Bound on a normalised observation."""
    low: np.ndarray
    """(a,), least action."""
    high: np.ndarray
    """(a,), greatest action."""
    hidden: str = "tanh"
    """Activation of the hidden layers: tanh or relu."""
    squash: bool = False
    """Whether the last layer's output is squashed by a tanh onto the range between the bounds."""
    std: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", np.exp(self.log_std))

    def mean(self, observations: np.ndarray) -> np.ndarray:
        """The mean actions (..., a) before clipping, for observations (..., d)."""
        hidden = (observations - self.observation_mean) / self.observation_std
        hidden = np.minimum(np.maximum(hidden, -self.observation_clip), self.observation_clip)  # np.clip is slower
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = hidden @ weight.T + bias
            hidden = np.tanh(hidden) if self.hidden == "tanh" else np.maximum(hidden, 0.0)
        action = hidden @ self.weights[-1].T + self.biases[-1]
        if self.squash:
            action = self.low + (np.tanh(action) + 1.0) / 2.0 * (self.high - self.low)
        return action

    def act(self, observation: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        """The action (a,), float32 and within the bounds, for one observation (d,); see `Policy`."""
        action = self.mean(observation)
        if generator is not None:
            action += self.std * generator.standard_normal(action.shape)
        return np.minimum(np.maximum(action, self.low), self.high).astype(np.float32)


@dataclass(frozen=True)
class UniformPolicy:
    """Uniformly random actions within the bounds; the deterministic action is their centre."""

    low: np.ndarray
    """(a,), least action."""
    high: np.ndarray
    """(a,), greatest action."""

    def act(self, observation: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        """An action (a,), float32, whatever the observation; see `Policy`."""
        share = 0.5 if generator is None else generator.random(self.low.shape)
        return (self.low + share * (self.high - self.low)).astype(np.float32)


def read_policy(path: Path) -> Policy:
    """The policy in an `.npz` of plain arrays, as `scripts.train_behavior` writes it; one without layers is uniform."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    hidden = str(arrays.pop("hidden", "tanh"))
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
    layers = range(sum(name.startswith("weight_") for name in arrays))
    if not layers:
        return UniformPolicy(arrays["low"], arrays["high"])
    size = arrays["weight_0"].shape[1]
    return BehaviorPolicy(
        weights=tuple(arrays[f"weight_{layer}"] for layer in layers),
        biases=tuple(arrays[f"bias_{layer}"] for layer in layers),
        log_std=arrays["log_std"],
        observation_mean=arrays.get("observation_mean", np.zeros(size)),
        observation_std=arrays.get("observation_std", np.ones(size)),
        observation_clip=float(arrays.get("observation_clip", np.inf)),
        low=arrays["low"],
        high=arrays["high"],
        hidden=hidden,
        squash=bool(arrays.get("squash", False)),
    )


def shipped_policy(env_name: str, stage: str) -> Policy:
    """The policy in envs/policies of a stage, `("hopper", "medium")`, or of a training step, `("hopper", "40960")`.

    Raises:
        ValueError: no such environment or stage; the message lists those that exist.
    """
    record = _record(env_name)
    stages = {**record["stages"], **{str(row["steps"]): row["steps"] for row in record["snapshots"]}}
    if stage not in stages:
        raise ValueError(f"{env_name} has no stage {stage!r}; known are {', '.join(stages)}")
    return read_policy(snapshot_path(POLICIES / env_name, stages[stage]))


class Rollout(NamedTuple):
    """One whole episode, raw: no normalisation of any kind."""

    observations: np.ndarray
    """(T+1, d), the last one is where the episode ended."""
    actions: np.ndarray
    """(T, a), float32, exactly as the simulator got them."""
    rewards: np.ndarray
    """(T,), float64."""
    terminations: np.ndarray
    """(T,), bool; the task ended (a fall, an arrival)."""
    truncations: np.ndarray
    """(T,), bool; the time was up."""
    seed: int
    """Seed of the environment's reset."""


class Player:
    """Plays whole episodes into buffers of the longest one's size, used again for each: no Python lists.

    Raises:
        ValueError: an environment without a time limit, or whose observations or actions are not arrays.
    """

    def __init__(self, env: gym.Env) -> None:
        if env.spec is None or env.spec.max_episode_steps is None:
            raise ValueError(f"{env} has no time limit, so an episode might never end")
        observation, action, horizon = env.observation_space, env.action_space, env.spec.max_episode_steps
        if not isinstance(observation, gym.spaces.Box) or not isinstance(action, gym.spaces.Box):
            raise ValueError(f"{env} has the spaces {observation} and {action}; Box spaces are supported")
        self._env = env
        self._observations = np.empty((horizon + 1, *observation.shape), observation.dtype)
        self._actions = np.empty((horizon, *action.shape), np.float32)
        self._rewards = np.empty(horizon)

    def episode(self, policy: Policy, seed: int, index: int, *, sample: bool = True) -> Rollout:
        """Episode `index` of the stream `seed`: it depends on (seed, index) and the policy alone.

        One half of that seeds the environment's reset, the other the sampled actions (`sample=False`: none are).
        """
        for_reset, for_actions = np.random.SeedSequence((seed, index)).spawn(2)
        reset_seed = int(for_reset.generate_state(1)[0])
        generator = np.random.default_rng(for_actions) if sample else None
        if isinstance(policy, Remembering):
            policy = policy.begin()
        observation, _ = self._env.reset(seed=reset_seed)
        self._observations[0] = observation
        time, terminated, truncated = 0, False, False
        while not (terminated or truncated):
            action = policy.act(observation, generator)
            observation, reward, terminated, truncated, _ = self._env.step(action)
            self._actions[time], self._rewards[time] = action, reward
            time += 1
            self._observations[time] = observation
        terminations, truncations = np.zeros(time, bool), np.zeros(time, bool)
        terminations[-1], truncations[-1] = terminated, truncated
        return Rollout(
            self._observations[: time + 1].copy(),
            self._actions[:time].copy(),
            self._rewards[:time].copy(),
            terminations,
            truncations,
            reset_seed,
        )


def rollout_episodes(
    env: str | EnvSpec, policies: Sequence[Policy], steps: int, seed: int, jobs: int = 1
) -> Iterator[Rollout]:
    """Play whole episodes with each policy in turn, each until its equal share of `steps` is reached.

    Episodes are counted over all policies, and episode i depends on (seed, i) and its policy alone. The last episode
    of a share is played to its end: rather more than `steps` steps in all, and at least one episode a policy.

    Args:
        jobs: processes that play; the episodes are the same, in the same order, for any number of them.

    Raises:
        ValueError: `steps` or `jobs` below 1, no policy, or an environment that `Player` cannot play.
    """
    if steps < 1 or jobs < 1 or not policies:
        raise ValueError(f"needs at least one step, one policy and one job, not {steps}, {len(policies)} and {jobs}")
    player = Player(make_env(env))
    share = -(-steps // len(policies))
    if jobs == 1:
        return _in_order(
            lambda policy, index: lambda: player.episode(policies[policy], seed, index), policies, share, 1
        )
    return _side_by_side(env, policies, share, seed, jobs)


def _in_order(
    begin: Callable[[int, int], Callable[[], Rollout]], policies: Sequence[Policy], share: int, ahead: int
) -> Iterator[Rollout]:
    """The episodes of each policy until its share is reached.

    Args:
        begin: ``begin(policy, index)`` starts an episode and returns a function that gives it.
        ahead: begun at a time; those that the share turns out not to need are thrown away.
    """
    index = 0
    for policy in range(len(policies)):
        played, begun = 0, deque[Callable[[], Rollout]]()
        while played < share:
            while len(begun) < ahead:
                begun.append(begin(policy, index + len(begun)))
            rollout = begun.popleft()()
            index += 1
            played += len(rollout.rewards)
            yield rollout


def _side_by_side(
    env: str | EnvSpec, policies: Sequence[Policy], share: int, seed: int, jobs: int
) -> Iterator[Rollout]:
    # Spawned, not forked: a policy may have started threads, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start_worker, (env, tuple(policies), seed)) as pool:
        try:
            yield from _in_order(lambda *what: pool.submit(_play, *what).result, policies, share, 2 * jobs)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_worker: dict[str, Any] = {}


def _start_worker(env: str | EnvSpec, policies: tuple[Policy, ...], seed: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits for the episodes ends it all
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker.update(player=Player(make_env(env)), policies=policies, seed=seed)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _play(policy: int, index: int) -> Rollout:
    return _worker["player"].episode(_worker["policies"][policy], _worker["seed"], index)


@dataclass(frozen=True)
class Mixture:
    """What one of our datasets is: an environment and the policies that share its steps equally, in this order."""

    env: EnvSpec
    """With everything that the environment is made from, such as a length."""
    policies: tuple[Policy, ...]
    algorithm: str
    """How the policies were made, for the dataset's metadata."""
    description: str
    """What the dataset is, likewise."""
    steps: int
    """How many steps it has unless said otherwise."""


def dataset_ids() -> list[str]:
    """The ids of the datasets that `mixture` knows."""
    return [f"flowrl/{name}/{level}-v0" for name, levels in _levels().items() for level in levels]


def mixture(dataset_id: str) -> Mixture:
    """The mixture that a dataset id stands for.

    Raises:
        ValueError: unknown id; the message lists the known ones.
    """
    if dataset_id not in dataset_ids():
        near = difflib.get_close_matches(dataset_id, dataset_ids(), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        known = ", ".join(f"flowrl/{name}/{{{','.join(levels)}}}-v0" for name, levels in _levels().items())
        raise ValueError(f"unknown dataset {dataset_id!r}{hint}; known are {known}")
    _, name, level = dataset_id.removesuffix("-v0").split("/")
    about, members = _levels()[name][level]
    if name == "reach":
        policies = tuple(ReachPolicy(speed, noise=0.5) for speed in members)
        how = f"scripted, at {', '.join(map(str, members))} times the optimal speed, noise 0.5"
        return Mixture(gym.spec("flowrl/Reach-v0"), policies, how, f"Reach: {about}.", 2_000)
    if name == "corridor":
        length = int(level.removeprefix("length-"))
        policies = tuple(CorridorPolicy(right=turn > 0) for turn in members)
        how = "scripted: the cue is remembered; actions before the turn are uniformly random"
        about = f"Corridor of {length:,} steps: {about}."
        return Mixture(corridor_spec(length), policies, how, about, CORRIDOR_EPISODES * length)
    record = _record(name)
    policies = tuple(read_policy(snapshot_path(POLICIES / name, int(steps))) for steps in members)
    how = f"{record['algorithm']}, sampled; snapshots after {', '.join(f'{steps:,}' for steps in members)} steps"
    return Mixture(gym.spec(record["env_id"]), policies, how, f"{record['env_id']}: {about}.", 200_000)


def _levels() -> dict[str, dict[str, tuple[str, Sequence[float]]]]:
    """Environment → level → what it is, and its members: training steps of snapshots, or what a script is given."""
    levels: dict[str, dict[str, tuple[str, Sequence[float]]]] = {}
    for record in policy_records():
        stage, steps = record["stages"], [row["steps"] for row in record["snapshots"]]
        calm = f"with {record['recipe']['expert_noise']:g} times the standard deviation it explored with"
        levels[record["name"]] = {
            "random": ("the untrained policy", [stage["random"]]),
            "medium": ("a policy stopped at about half of the best return", [stage["medium"]]),
            "medium-replay": (
                "every kept snapshot from the untrained to the medium policy, played again in equal shares of steps"
                " (not a replay buffer)",
                [step for step in steps if step <= stage["medium"]],
            ),
            "medium-expert": (
                f"the medium and the expert policy, half of the steps each; the expert {calm}",
                [stage["medium"], stage["expert"]],
            ),
            "expert": (f"the best policy, {calm}", [stage["expert"]]),
        }
    levels["reach"] = {
        "poor": ("policies that leave or dawdle, in equal shares of steps", (-1.0, -0.5, 0.0)),
        "mixed": ("policies from leaving to the best, in equal shares of steps", (-0.5, 0.0, 0.25, 0.5, 0.75, 1.0)),
        "good": ("policies that arrive, half of the steps each", (0.75, 1.0)),
    }
    levels["corridor"] = {
        f"length-{length}": (
            "a policy that turns where the cue pointed, and one that turns the other way, half each",
            (1, -1),
        )
        for length in CORRIDOR_LENGTHS
    }
    return levels


def snapshot_path(folder: Path, steps: int) -> Path:
    """Where the snapshot after `steps` training steps lies in an environment's folder of policies."""
    return folder / f"{steps:07d}.npz"


@cache
def policy_records() -> list[dict[str, Any]]:
    """What `scripts.train_behavior` recorded of each environment: recipe, versions, stages, measured returns."""
    paths = sorted(POLICIES.glob("*/snapshots.json"))
    return [{"name": path.parent.name, **json.loads(path.read_text(encoding="utf-8"))} for path in paths]


def _record(env_name: str) -> dict[str, Any]:
    records = {record["name"]: record for record in policy_records()}
    if env_name not in records:
        raise ValueError(f"no behaviour policies for {env_name!r}; known are {', '.join(records)}")
    return records[env_name]
