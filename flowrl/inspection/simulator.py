"""Stored data against the simulator: steps from stored observations, and whole episodes from their reset seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import minari
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from flowrl.data.spaces import leaves
from flowrl.data.stored_environments import environment_problem
from flowrl.data.stored_episodes import stored_episodes
from flowrl.errors import InputError, cause
from flowrl.evaluation.environments import FlatObservation, make_env
from flowrl.evaluation.guard import RAISED, Guarded
from flowrl.inspection.alignment import ACTION_OFFSETS, REPRODUCED, Alignment, SeededReplay, TransitionErrors
from flowrl.inspection.alignment_verdict import judge_alignment
from flowrl.inspection.replay import Replayed, distance, is_clipped, replay, step_from
from flowrl.inspection.reward_check import Paid, RewardCheck, check_rewards

__all__ = ["check_alignment", "reset_seeds"]

SEEDED_STEPS = 5_000  # about so many are replayed from recorded seeds: one or two seconds of MuJoCo
SEEDS_READ = 200
SHIFTED_EPISODES = 10  # are replayed with other actions as well
TRANSITIONS_AN_EPISODE = 4


def check_alignment(
    dataset: minari.MinariDataset, simulator: str | EnvSpec | None, transitions: int, generator: np.random.Generator
) -> Alignment:
    """Step a simulator from about `transitions` stored observations, and from recorded seeds; never raises.

    Args:
        simulator: the environment to step, or its id; None where there is none.
    """
    if simulator is None and (problem := environment_problem(dataset)) is not None:
        problem = f"the environment that the dataset names cannot be read ({problem}), and none was given"
        return Alignment("unknown", f"Not checked: {problem}.")
    if simulator is None:
        return Alignment("unknown", "Not checked: the dataset names no environment, and none was given.")
    env, env_name = None, simulator if isinstance(simulator, str) else simulator.id
    try:
        try:
            env = make_env(simulator)
        except ValueError as error:
            return Alignment("unknown", f"Not checked: {error}.", env_id=env_name)
        if (mismatch := _space_mismatch(dataset, env)) is not None:
            return Alignment("unknown", f"Not checked: {mismatch}.", env_id=env_name)
        env.reset(seed=0, options=_reset_options(dataset, int(dataset.episode_indices[0])))
        errors = _transition_errors(dataset, env, transitions, generator)
        seeded = _seeded_replay(dataset, env, generator, alone=not errors.observations["stored"])
        return judge_alignment(errors, seeded, env_name)
    except RAISED as error:  # a simulator may raise anything on data that are not its own
        return Alignment("unknown", f"Not checked: {env_name} fails on these data ({cause(error)}).", env_id=env_name)
    finally:
        if env is not None:
            env.close()


def reset_seeds(dataset: minari.MinariDataset, indices: Sequence[int]) -> dict[int, int]:
    """The seed of the reset of each of these episodes by the episode's id, where they were recorded.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        rows = dataset.storage.get_episode_metadata(indices)
        return {
            index: int(row["seed"]) for index, row in zip(indices, rows, strict=True) if row.get("seed") is not None
        }
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"the seeds of {dataset.id} cannot be read: {cause(error)}") from error


def _reset_options(dataset: minari.MinariDataset, index: int) -> dict[str, Any] | None:
    """What an episode's reset was given beside its seed, where that was recorded."""
    (row,) = dataset.storage.get_episode_metadata([index])
    return row.get("options")


@dataclass(frozen=True)
class StoredEpisode:
    """One episode of T steps as it is in the file."""

    id: int
    observations: NDArray[Any]
    """(T+1, d)."""
    actions: NDArray[Any]
    """(T, a), or (T,) numbers where they are discrete."""
    rewards: NDArray[Any]
    """(T,)."""

    @property
    def last(self) -> int:
        """The number of the last step."""
        return len(self.rewards) - 1

    @property
    def finite(self) -> bool:
        """No observation or action is NaN or infinite."""
        return bool(np.isfinite(self.observations).all() and np.isfinite(self.actions).all())

    def replayed(
        self, env: gym.Env, seed: int, options: dict[str, Any] | None = None, *, actions_later: int = 0
    ) -> Replayed:
        """Replay it, with every action taken from so many steps later; the first ones end the row."""
        actions = np.roll(self.actions, -actions_later, 0)
        return replay(env, seed, self.observations, actions, self.rewards, options)


def _space_mismatch(dataset: minari.MinariDataset, env: gym.Env) -> str | None:
    inner = env
    while isinstance(inner, Guarded | FlatObservation):
        inner = inner.env
    observed = inner.observation_space
    for what, stored, simulated in [
        ("observation", dataset.observation_space, observed),
        ("action", dataset.action_space, env.action_space),
    ]:
        if leaves(stored, what) != leaves(simulated, what):
            return f"the {what} space is {_shape(stored)} in the data and {_shape(simulated)} in the environment"
    return None


def _shape(space: gym.Space) -> str:
    return f"of shape {space.shape}" if isinstance(space, gym.spaces.Box) else str(space)


def _transition_errors(
    dataset: minari.MinariDataset, env: gym.Env, transitions: int, generator: np.random.Generator
) -> TransitionErrors:
    """Errors of a few transitions of each episode drawn: its first, its last, and others."""
    errors = TransitionErrors()
    episodes = max(1, -(-transitions // TRANSITIONS_AN_EPISODE))
    chosen = _drawn([int(i) for i in dataset.episode_indices], episodes, generator)
    each = -(-transitions // len(chosen))
    for stored in stored_episodes(dataset, chosen):
        episode = StoredEpisode(*stored)
        if not len(episode.rewards):  # it was left out
            continue
        last, finite = episode.last, episode.finite
        inner = generator.choice(last - 1, min(last - 1, max(each - 2, 0)), replace=False) + 1 if last > 1 else []
        for step in sorted({0, last, *(int(i) for i in inner)}):
            if finite:
                _add_transition(errors, env, episode, step)
            else:
                errors.skipped_not_set += 1
    return errors


def _add_transition(errors: TransitionErrors, env: gym.Env, episode: StoredEpisode, step: int) -> None:
    """Step from the observation of `step` with its action and its neighbours', and add all errors."""
    observations, last = episode.observations, episode.last
    if is_clipped(env, observations[step]):
        errors.skipped_clipped += 1
        return
    for shift, offset in ACTION_OFFSETS.items():
        if not 0 <= step + offset <= last:
            continue
        stepped = step_from(env, observations[step], episode.actions[step + offset])
        if stepped is None:
            errors.skipped_not_set += 1
            return
        following, reward = stepped
        error = distance(following, observations[step + 1])
        errors.observations[shift].append(error)
        for of_reward in (-1, 0, 1):
            if 0 <= step + of_reward <= last:
                errors.rewards[shift, of_reward].append(abs(reward - float(episode.rewards[step + of_reward])))
        if shift == "stored":
            errors.paid.append((Paid(episode.id, step, float(episode.rewards[step]), reward), error))
            if step == 0:
                errors.first.append(error)
            if step == last:
                errors.last.append(error)
            errors.observations["next observation one earlier"].append(distance(following, observations[step]))
            if step < last:
                errors.observations["next observation one later"].append(distance(following, observations[step + 2]))


def _seeded_replay(
    dataset: minari.MinariDataset, env: gym.Env, generator: np.random.Generator, *, alone: bool
) -> SeededReplay | None:
    """Replay episodes from their recorded seeds; with other actions as well where that `alone` decides the verdict."""
    # Reading the seed of every one of many episodes would take longer than all else here.
    candidates = _drawn([int(i) for i in dataset.episode_indices], SEEDS_READ, generator)
    seeds = reset_seeds(dataset, candidates)
    if not seeds:
        return None
    replays: list[Replayed] = []
    shifted: list[Replayed] = []
    repeats, steps, rewards = True, 0, RewardCheck()
    for stored in stored_episodes(dataset, tuple(seeds)):
        episode = StoredEpisode(*stored)
        if (replays and steps + len(episode.rewards) > SEEDED_STEPS) or not episode.finite or not len(episode.rewards):
            continue
        reset = seeds[episode.id], _reset_options(dataset, episode.id)
        replayed = episode.replayed(env, *reset)
        if alone and len(shifted) < SHIFTED_EPISODES:
            shifted.append(episode.replayed(env, *reset, actions_later=1))
            if not replays:
                repeats = np.array_equal(replayed.observations, episode.replayed(env, *reset).observations)
        replays.append(replayed)
        errors = np.append(replayed.first_observation, replayed.observations)
        rewards += check_rewards(episode.id, episode.rewards, replayed.paid, errors)
        steps += len(episode.rewards)
    return replace(_summarised(replays, shifted, repeats=repeats), reward_check=rewards) if replays else None


def _summarised(replays: Sequence[Replayed], shifted: Sequence[Replayed], *, repeats: bool) -> SeededReplay:
    """The errors of several replays.

    Args:
        shifted: the same episodes with their actions one later; empty where that was not tried.
        repeats: replaying an episode twice gave the same.
    """
    by_step = np.zeros(max(len(one.observations) for one in replays))
    for one in replays:
        by_step[: len(one.observations)] = np.maximum(by_step[: len(one.observations)], one.observations)
    every = np.concatenate([one.observations for one in replays])
    diverged = np.flatnonzero(by_step > REPRODUCED)
    shifted_errors = [np.maximum(one.observations, one.rewards) for one in shifted]
    return SeededReplay(
        episodes=len(replays),
        steps=len(every),
        first_observation=max(one.first_observation for one in replays),
        median=float(np.median(every)),
        maximum=float(every.max()),
        reward=float(max(one.rewards.max() for one in replays)),
        diverged=int(diverged[0]) if len(diverged) else None,
        by_step=tuple(by_step.tolist()),
        repeats=repeats,
        # A rolled row of actions ends with the first one, which is not its last step's.
        later=max(float(errors[:-1].max(initial=0.0)) for errors in shifted_errors) if shifted else None,
        action_matters=bool(max(errors.max() for errors in shifted_errors) > REPRODUCED) if shifted else None,
    )


def _drawn(indices: Sequence[int], count: int, generator: np.random.Generator) -> list[int]:
    """Up to `count` of the episodes, the last one always among them."""
    if len(indices) <= count:
        return list(indices)
    others = generator.choice(len(indices) - 1, count - 1, replace=False)
    return sorted({indices[i] for i in others} | {indices[-1]})
