"""Bounds of actions that differ between the data and the environment: scaled where the data show it, else said."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from flowrl.data.dataset import TrajectoryDataset
from flowrl.evaluation.as_recorded import as_arrays, with_action_bounds
from flowrl.evaluation.environments import make_env
from flowrl.evaluation.finding import Finding
from flowrl.evaluation.recorded import Bounds, Recorded

__all__ = ["settle_bounds"]

ROUNDING = 1e-5  # relative to the width of the bounds
REPLAYED = 50  # steps of the first episode
REPRODUCED = 1e-3  # relative or absolute error of observations and rewards


def settle_bounds(
    env: EnvSpec, space: gym.Space, recorded: Recorded, dataset: TrajectoryDataset | None
) -> tuple[EnvSpec, list[Finding]]:
    """The environment with the data's bounds of actions where these were evidently scaled, and what is to be said.

    They were scaled where the first episode, replayed from its seed, shows it. Where that shows nothing, they were if
    the declared bounds are finite, hold all actions, and the environment's do not. Else actions are played as they are.

    Args:
        space: the environment's actions.
        dataset: to replay; None leaves that out.
    """
    if not isinstance(space, gym.spaces.Box) or recorded.actions is None:
        return env, []
    low, high = (np.asarray(bound, np.float64) for bound in (space.low, space.high))
    takes = Bounds(tuple(low.tolist()), tuple(high.tolist()))
    least, greatest = map(np.asarray, recorded.actions)
    width = np.where(np.isfinite(high - low), high - low, 1.0)
    leave = bool((least < low - ROUNDING * width).any() or (greatest > high + ROUNDING * width).any())
    declared = recorded.action_bounds
    finite = declared is not None and np.isfinite(declared).all() and np.isfinite(takes).all()
    if declared is None or not finite:
        # Numbers outside of the data's own bounds are said already.
        reach = f"the actions of {recorded.dataset} reach from {recorded.actions}, and {env.id} takes {takes}"
        said = [Finding("doubtful", f"{reach}: what agents do beyond its bounds is clipped")] if leave else []
        return env, said
    near = {"rtol": ROUNDING, "atol": ROUNDING * width.min()}
    if np.allclose(declared.low, low, **near) and np.allclose(declared.high, high, **near):
        return env, []
    differ = f"the actions of {recorded.dataset} have the bounds {declared}, and {env.id} takes {takes}"
    scaled = with_action_bounds(env, *declared) if (np.subtract(*declared) < 0).all() else env
    float_actions = np.issubdtype(space.dtype, np.floating) and scaled is not env
    shown = _shown_by_replay(env, scaled, dataset) if dataset is not None and float_actions else None
    if shown or (shown is None and leave and not recorded.outside and float_actions):
        why = "as a replay of the data shows" if shown else "since the data hold actions that it does not take"
        return scaled, [Finding("doubtful", f"{differ}: actions are scaled from one to the other, {why}")]
    why = ", as a replay of the data shows" if shown is False else "; where the data were scaled, wrap the environment"
    return env, [Finding("doubtful", f"{differ}: actions are played as they are{why}")]


def _shown_by_replay(plain: EnvSpec, scaled: EnvSpec, dataset: TrajectoryDataset) -> bool | None:
    """Whether the first episode is reproduced with scaled actions alone (True), plain ones alone (False), or neither.

    None also where its seed is not known, or the environment fails on these data.
    """
    if dataset.declared.first_seed is None or 0 in dataset.left_out:  # the seed of an episode that is not there
        return None
    try:
        reproduced = [_reproduces(env, dataset, dataset.declared.first_seed) for env in (plain, scaled)]
    except Exception:  # an environment may raise anything on data that are not its own
        return None
    return None if reproduced[0] == reproduced[1] else reproduced[1]


def _reproduces(env: EnvSpec, dataset: TrajectoryDataset, seed: int) -> bool:
    """Whether an environment gives the observations and rewards of the first episode, up to `REPLAYED` steps of it."""
    steps = min(int(dataset.lengths[0]), REPLAYED)
    first = int(dataset.starts[0])
    rows = slice(first, first + steps)
    actions, observations, rewards = (
        tensor[rows].cpu().numpy() for tensor in (dataset.actions, dataset.observations, dataset.rewards)
    )
    if dataset.offset is not None:
        observations = observations + dataset.offset
    options = as_arrays(dataset.declared.reset_options[0]) if dataset.declared.reset_options else {}
    playing = make_env(env)
    try:
        space = playing.action_space
        assert isinstance(space, gym.spaces.Box)
        observed, _ = playing.reset(seed=seed, options=options)
        for action, observation, reward in zip(actions, observations, rewards, strict=True):
            if not _near(observed, observation):
                return False
            observed, paid, *_ = playing.step(np.clip(action, space.low, space.high).astype(space.dtype))
            if not _near(paid, reward):
                return False
        return True
    finally:
        playing.close()


def _near(one: Any, other: NDArray[np.floating]) -> bool:
    return bool(np.allclose(np.asarray(one, np.float64), other, rtol=REPRODUCED, atol=REPRODUCED))
