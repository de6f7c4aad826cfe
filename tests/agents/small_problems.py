"""Problems whose values are known exactly, and agents small enough to solve them in seconds."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowrl.agents.actor_critic_config import ActorCriticConfig, CriticConfig, NetworkConfig
from flowrl.agents.awac import AWACConfig
from flowrl.agents.cql import CQLConfig
from flowrl.agents.fql import FQLConfig
from flowrl.agents.iql import IQLConfig
from flowrl.agents.rebrac import ReBRACConfig
from flowrl.agents.td3_bc import TD3BCConfig
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import WHOLE
from flowrl.nn.normaliser import Normaliser
from flowrl.training.config import TrainingConfig

CPU = torch.device("cpu")
FROZEN = 1e-12  # a learning rate that changes nothing

CRITIC = CriticConfig(gamma=0.6, tau=0.05)
NETWORK = NetworkConfig(width=32, layers=2, learning_rate=3e-3)
AGENTS: dict[str, ActorCriticConfig] = {
    "awac": AWACConfig(critic=CRITIC, network=NETWORK),
    "iql": IQLConfig(expectile=0.7, beta=3.0, critic=CRITIC, network=NETWORK),
    "td3-bc": TD3BCConfig(critic=CRITIC, network=NETWORK),
    "rebrac": ReBRACConfig(actor_cloning=0.1, critic_cloning=0.05, critic=CRITIC, network=NETWORK),
    "cql": CQLConfig(critic=CRITIC, network=NETWORK, sampled_actions=3),
    "fql": FQLConfig(critic=CRITIC, network=NETWORK, flow_steps=4),
}
DISCRETE = ("awac", "iql", "cql")

# Actors that look back; a learner's batch is of windows, whole episodes or chunks then.
TRAJECTORY = {"actor_width": 16, "actor_layers": 1, "heads": 2, "dropout": 0.0}
BACKBONES: dict[str, dict[str, Any]] = {
    "windows": TRAJECTORY | {"backbone": "flow", "context": 4},
    "conditioned": TRAJECTORY
    | {"backbone": "softmax", "context": 4, "conditioned": True, "tokens": "return-observation-action"},
    "episodes": TRAJECTORY | {"backbone": "softmax", "context": "episode", "tokens": "observation-action"},
    "chunks": TRAJECTORY | {"backbone": "flow", "context": 4, "carry_state": True},
}
LOOKING_BACK = ("awac", "iql", "td3-bc", "rebrac", "cql")


def small(agent: str, **changes: Any) -> Any:
    """The small agent of that name; `changes` go to whichever of its parts has such a field."""
    config: Any = AGENTS[agent]
    own = {}
    for part in ("critic", "network", "backbone"):
        known = {field.name for field in fields(getattr(config, part))}
        own[part] = replace(getattr(config, part), **{name: changes[name] for name in changes if name in known})
        changes = {name: value for name, value in changes.items() if name not in known}
    return replace(config, **own, **changes)


def built(config: ActorCriticConfig, dataset: TrajectoryDataset, *, batch_size: int = 128, steps: int = 1, **more: Any):
    """A new learner."""
    torch.manual_seed(0)
    return config.build(Normaliser.of(dataset), TrainingConfig(steps=steps, batch_size=batch_size, **more), CPU)


def batches(learner: Any, dataset: TrajectoryDataset, steps: int):
    """The batches that the learner is trained on, and their steps."""
    sampler, order = learner.sampler(dataset, learner.training.batch_size, WHOLE), torch.Generator().manual_seed(0)
    for step in range(1, steps + 1):
        yield sampler.draw(order), step


def learned(config: ActorCriticConfig, dataset: TrajectoryDataset, steps: int, *, batch_size: int = 128) -> Any:
    """A learner after so many updates."""
    learner = built(config, dataset, batch_size=batch_size, steps=steps)
    for batch, step in batches(learner, dataset, steps):
        learner.update(batch, step)
    return learner


# Line: a point in [-1, 1] that an action in [-2, 3], off centre on purpose, moves

LINE_LOW, LINE_HIGH = -2.0, 3.0


def line_step(state: Any, action: Any) -> tuple[Any, Any]:
    """The next state and the reward."""
    scaled = (action - 0.5) / 2.5
    following = 0.7 * state + 0.3 * scaled
    return following, 1 - following**2 - 0.3 * scaled


def line(episodes: int = 100, length: int = 20, low: float = LINE_LOW, high: float = LINE_HIGH) -> TrajectoryDataset:
    """Episodes of uniformly random actions from `low` to `high`, cut by a time limit; observation (1,), action (1,)."""
    generator = np.random.default_rng(0)
    observations, actions, rewards = [], [], []
    for _ in range(episodes):
        states, taken, paid = [generator.uniform(-1, 1)], generator.uniform(low, high, length), []
        for action in taken:
            following, reward = line_step(states[-1], action)
            states.append(following)
            paid.append(reward)
        observations.append(np.array(states)[:, None])
        actions.append(taken[:, None])
        rewards.append(np.array(paid))
    return TrajectoryDataset.from_arrays(
        observations, actions, rewards, [False] * episodes, action_low=LINE_LOW, action_high=LINE_HIGH
    )


def line_values(
    policy: Callable[[Tensor], tuple[Tensor, Tensor]], gamma: float, bonus: Callable[[Tensor], Tensor] | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """Q(states, actions) of a policy on the line, by dynamic programming on a fine grid.

    Args:
        policy: (S, 1) states to actions (S, K) and their probabilities (K,).
        bonus: (S, K) what is paid besides for taking these actions, in states that are not the first.
    """
    grid = torch.linspace(-1, 1, 401)
    actions, probabilities = (x.double() for x in policy(grid[:, None]))
    following, rewards = line_step(grid.double()[:, None], actions)
    if bonus is not None:
        rewards = rewards + bonus(actions)
    values = torch.zeros(len(grid), dtype=torch.float64)

    def at(states: Tensor) -> Tensor:
        place = (states.double().clamp(-1, 1) + 1) / 2 * (len(grid) - 1)
        left = place.floor().long().clamp(max=len(grid) - 2)
        return values[left] + (place - left) * (values[left + 1] - values[left])

    for _ in range(60):
        values = ((rewards + gamma * at(following)) * probabilities).sum(-1)

    def action_values(states: Tensor, actions: Tensor) -> Tensor:
        following, rewards = line_step(states, actions)
        return rewards + gamma * at(following)

    return action_values


# Walk: six places in a row, each with three actions: left, stay, right; the last place pays and ends

PLACES = 6


def walk_step(place: int, action: int) -> tuple[int, float, bool]:
    """The next place, the reward and whether the walk is over."""
    following = max(place + action - 1, 0)
    over = following == PLACES - 1
    return following, 1.0 if over else (0.1 if place == action == 0 else 0.0), over


def walk(episodes: int = 150, most: int = 12) -> TrajectoryDataset:
    """Random walks from random places as one-hot observations; a time limit cuts those of `most` steps."""
    generator = np.random.default_rng(0)
    observations, actions, rewards, ends = [], [], [], []
    for _ in range(episodes):
        places, taken, paid, over = [int(generator.integers(PLACES - 1))], [], [], False
        while len(taken) < most and not over:
            taken.append(int(generator.integers(3)))
            following, reward, over = walk_step(places[-1], taken[-1])
            places.append(following)
            paid.append(reward)
        observations.append(np.eye(PLACES)[places])
        actions.append(np.array(taken))
        rewards.append(np.array(paid))
        ends.append(over)
    return TrajectoryDataset.from_arrays(observations, actions, rewards, ends, discrete_actions=3)


def walk_values(state_values: Callable[[Tensor], Tensor], gamma: float) -> Tensor:
    """(places but the last, 3) values of every action, by dynamic programming.

    Args:
        state_values: (places but the last, 3) action values to (places but the last,) values of the states.
    """
    values = torch.zeros(PLACES - 1, 3, dtype=torch.float64)
    for _ in range(200):
        states = state_values(values)
        for place in range(PLACES - 1):
            for action in range(3):
                following, reward, over = walk_step(place, action)
                values[place, action] = reward if over else reward + gamma * states[following]
    return values
