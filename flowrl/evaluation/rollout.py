"""Playing episodes: every target and every seed in one vector environment, each slot one episode or all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv

from flowrl.data.spaces import within
from flowrl.errors import InputError
from flowrl.protocols import Actor

NEVER_ENDS = 100_000  # steps after which an episode is taken to have no end


@dataclass(frozen=True)
class EpisodeResult:
    """The outcome of one episode."""

    target: float | None  # target return; None where the actor takes none
    seed: int  # of the environment
    episode_return: float
    length: int  # steps
    terminated: bool  # ended by the task, not by a time limit


@torch.inference_mode()
def rollout(
    actor: Actor,
    envs: VectorEnv,
    targets: Sequence[float | None],
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
) -> list[EpisodeResult]:
    """Play one episode per target and seed; a slot that ended is ignored, whatever the vector env does.

    The actor is put in evaluation mode and afterwards back in the mode it was in.

    Args:
        envs: ``len(targets) * len(seeds)`` slots, for all at once, or one slot, for one episode after another; in
            autoreset mode NEXT_STEP or SAME_STEP.
        targets: target returns in raw units; None for an actor that takes none.
        seeds: environment seeds; every target meets the same ones.

    Returns:
        One result per episode, targets outermost, in the order given.

    Raises:
        ValueError: the number of slots is wrong.
        InputError: the actor's action is not finite, an episode does not end, or the environment fails.
    """
    slots = [(target, seed) for target in targets for seed in seeds]
    if envs.num_envs not in (1, len(slots)):
        raise ValueError(f"{envs.num_envs} slots for {len(targets)} targets × {len(seeds)} seeds")
    at_once = [slots[first : first + envs.num_envs] for first in range(0, len(slots), envs.num_envs)]
    was_training = actor.training
    actor.train(False)
    try:
        return [result for some in at_once for result in _play(actor, envs, some, torch.device(device))]
    finally:
        actor.train(was_training)


def _play(
    actor: Actor, envs: VectorEnv, slots: Sequence[tuple[float | None, int]], device: torch.device
) -> list[EpisodeResult]:
    space = envs.single_action_space
    returns = np.zeros(len(slots))
    lengths = np.zeros(len(slots), np.int64)
    terminated = np.zeros(len(slots), bool)
    playing = np.arange(len(slots))  # the slots whose episode goes on: the actor acts in these alone
    targets = [np.nan if target is None else target for target, _ in slots]
    carry = actor.initial(torch.tensor(targets, dtype=torch.float32, device=device))
    observations, _ = envs.reset(seed=[seed for _, seed in slots])  # pyright: ignore[reportArgumentType]
    rewards = np.zeros(len(slots))
    # An ended slot is stepped on too: its action has no effect, but must be valid.
    actions = np.stack([any_action(space)] * len(slots))
    while playing.size:
        carry, acted = actor.act(carry, _tensor(observations[playing], device), _tensor(rewards[playing], device))
        acted = acted.cpu().numpy()
        if not np.isfinite(acted).all():
            raise InputError(f"the agent's action is not finite at step {lengths.max():,} of an episode")
        actions[playing] = playable(acted, space)
        observations, rewards, ends, cuts, _ = envs.step(actions)
        returns[playing] += rewards[playing]
        lengths[playing] += 1
        terminated[playing] = ends[playing]
        if lengths.max() >= NEVER_ENDS:
            raise InputError(f"an episode has not ended after {NEVER_ENDS:,} steps: give the environment a time limit")
        going_on = np.flatnonzero(~(ends | cuts)[playing])
        if going_on.size < playing.size:
            playing = playing[going_on]
            carry = actor.select(carry, torch.as_tensor(going_on, device=device))
    return [
        EpisodeResult(target, seed, float(returns[i]), int(lengths[i]), bool(terminated[i]))
        for i, (target, seed) in enumerate(slots)
    ]


def any_action(space: gym.Space) -> np.ndarray:
    """An action that an environment of that action space takes."""
    if isinstance(space, gym.spaces.Discrete):
        return np.asarray(space.start)
    assert isinstance(space, gym.spaces.Box)
    return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)


def playable(acted: np.ndarray, space: gym.Space) -> np.ndarray:
    """What an environment is given: of one-hot rows (slots, n), numbers; other actions (slots, action size) clipped.

    Where the space is of whole numbers, to the nearest of them.
    """
    if isinstance(space, gym.spaces.Discrete):
        return acted.argmax(-1) + space.start
    assert isinstance(space, gym.spaces.Box)
    return within(acted, space.low, space.high, space.dtype)


def _tensor(array: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(np.asarray(array, np.float32), device=device)
