"""Agents: a training step, a step of many episodes, and a whole evaluation."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any
from unittest.mock import patch

import gymnasium as gym
import torch
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray
from torch import Tensor

from flowrl.agents import AGENTS
from flowrl.agents.sequence import SequenceConfig
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import WHOLE, Windows
from flowrl.evaluation.environments import make_vector_env
from flowrl.evaluation.rollout import rollout
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.state import tensors_of
from flowrl.nn.trajectory_actor import TrajectoryActor
from flowrl.scripts.benchmarks.data import ACTION_SIZE, OBSERVATION_SIZE, random_dataset
from flowrl.scripts.benchmarks.textbook import textbook_step
from flowrl.scripts.benchmarks.timing import Row, alternate, compared, precisions
from flowrl.training.config import AgentConfig, TrainingConfig

STEPS = 1_000_000  # of a training that is never finished here
EARLY = 10  # an early step of an episode
CHUNK = 50  # steps of a history that are read at once
TARGETS = (1_000.0, 3_000.0)


def preset(name: str, **changes: Any) -> SequenceConfig:
    """The settings of the agent of that name, some of them changed."""
    config = AGENTS[name].config
    assert isinstance(config, SequenceConfig)
    return replace(config, **changes)


def random_actor(name: str, device: torch.device, **changes: Any) -> TrajectoryActor:
    """An actor of random weights for Hopper."""
    normaliser = Normaliser(OBSERVATION_SIZE, ACTION_SIZE)
    return preset(name, **changes).build(normaliser, TrainingConfig(), device).actor.eval()


def step(device: torch.device, repetitions: int, quick: bool) -> list[Row]:
    """A whole training step, from drawing the batch to the learning rate's schedule."""
    data = random_dataset(20 if quick else 100)
    on_device, rows = data.to(device), []
    # A window of 1,000 steps has nearly as many tokens as 64 of 20.
    for heads, context, batch in [(4, 20, 8)] if quick else [(1, 20, 64), (4, 20, 64), (4, 1_000, 1)]:
        dt, flow = (preset(name, heads=heads, context=context) for name in ("dt", "flow"))
        calls: dict[str, Callable[[], object]] = {}
        for precision in precisions(device):
            training = TrainingConfig(STEPS, batch, precision)
            calls[f"dt {precision}"] = training_step(dt, training, on_device)
            calls[f"flow {precision}"] = training_step(flow, training, on_device)
            calls[f"textbook {precision}"] = textbook_step(data, dt, training, device)
        draw = Windows(on_device, batch, context).draw
        calls["drawing the batch"] = partial(draw, torch.Generator().manual_seed(0))
        what = f"K {context:,}, batch {batch}, width {dt.width}, {dt.layers} layers, H {heads}"
        rows += compared(what, alternate(calls, repetitions))
    return rows


def training_step(config: AgentConfig, training: TrainingConfig, data: TrajectoryDataset) -> Callable[[], object]:
    """One step of the training loop; each call is the next one."""
    learner = config.build(Normaliser.of(data).cpu(), training, data.rewards.device)
    sampler = learner.sampler(data, training.batch_size, WHOLE)
    generator, steps = torch.Generator().manual_seed(0), count(1)
    learner.actor.train(True)
    return lambda: learner.update(sampler.draw(generator), next(steps))


def acting(device: torch.device, repetitions: int, quick: bool) -> list[Row]:
    """A step of many episodes, without a simulator, and the size of what is kept of their past."""
    episodes, late = (8, 100) if quick else (64, 1_000)
    rows = []
    for width in (128,) if quick else (128, 256):
        calls, sizes = {}, {}
        for name, mode, at in (
            *(("flow", "recurrent", late), ("flow", "recurrent", EARLY), ("flow", "window", late)),
            *(("dt", "recurrent", late), ("dt", "recurrent", EARLY), ("dt", "window", late)),
        ):
            actor = random_actor(name, device, width=width, rollout=mode)
            carry = history(actor, episodes, at, device)
            contender = f"{name} {mode}" + (f", step {at:,}" if mode == "recurrent" else "")
            calls[contender] = partial(act, actor, carry, *random_step(episodes, device))
            sizes[contender] = [sum(x.numel() * x.element_size() for x in tensors_of(carry))]
        what = f"{episodes} episodes, width {width}"
        rows += compared(f"time, {what}", alternate(calls, repetitions)) + compared(f"state, {what}", sizes, "B")
    return rows


@torch.inference_mode()
def act(actor: TrajectoryActor, carry: Any, observations: Tensor, rewards: Tensor) -> Any:
    """The carry after one step; the one before stays as it is."""
    return actor.act(carry, observations, rewards)[0]


def random_step(episodes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Observations and rewards."""
    return torch.randn(episodes, OBSERVATION_SIZE, device=device), torch.rand(episodes, device=device)


@torch.inference_mode()
def history(actor: TrajectoryActor, episodes: int, steps: int, device: torch.device) -> Any:
    """The carry after that many steps of random episodes; of a window rollout, after a whole window at most."""
    targets = torch.full((episodes,), TARGETS[-1], device=device)
    carry = actor.initial(targets)
    if actor.acting_context is not None:
        for _ in range(min(steps, actor.acting_context)):
            carry = act(actor, carry, *random_step(episodes, device))
        return carry
    state = carry.state
    for start in range(0, steps - 1, CHUNK):  # whole chunks at once, sooner than step by step
        timesteps = torch.arange(start, min(start + CHUNK, steps - 1), device=device).expand(episodes, -1)
        observations, actions = (
            torch.randn(*timesteps.shape, size, device=device) for size in (OBSERVATION_SIZE, ACTION_SIZE)
        )
        _, state = actor.model.resume(targets[:, None].expand_as(timesteps), observations, actions, timesteps, state)
    carry = carry._replace(state=state, timestep=torch.tensor(steps - 1, device=device))
    return act(actor, carry, *random_step(episodes, device))


def evaluation(device: torch.device, repetitions: int, quick: bool) -> list[Row]:
    """An environment's step in a whole evaluation, agent and simulator."""
    episodes, horizon = (5, 10) if quick else (100, 100)
    spec = gym.make("Hopper-v5", terminate_when_unhealthy=False, max_episode_steps=horizon).spec  # of equal lengths
    assert spec is not None
    together, alone = make_vector_env(spec, len(TARGETS) * episodes), make_vector_env(spec, 1)
    calls, steps = {}, {}
    for name, mode in (("flow", "recurrent"), ("flow", "window"), ("dt", "window")):
        actor = random_actor(name, device, rollout=mode)
        for envs, targets, seeds, how in (
            (together, TARGETS, range(episodes), "together"),
            (alone, TARGETS[:1], range(1), "one at a time"),
        ):
            contender = f"{name} {mode}, {how}"
            calls[contender] = partial(rollout, actor, envs, targets, seeds, device)
            steps[contender] = envs.num_envs * horizon
    seconds = alternate(calls, repetitions)
    for envs in (together, alone):
        envs.close()
    each = {name: [value / steps[name] for value in values] for name, values in seconds.items()}
    rows = compared(f"an environment's step, {episodes} episodes × {len(TARGETS)} targets", each)
    return rows + _simulator_alone(spec, episodes, horizon, device, repetitions)


def _simulator_alone(spec: EnvSpec, episodes: int, horizon: int, device: torch.device, repetitions: int) -> list[Row]:
    """An environment's step in an evaluation by a perceptron, and without it: the same actions, given in advance."""
    actor = AGENTS["bc"].config.build(Normaliser(OBSERVATION_SIZE, ACTION_SIZE), TrainingConfig(), device).actor
    envs = make_vector_env(spec, episodes)
    taken: list[NDArray] = []

    def note(actions: NDArray) -> Any:
        taken.append(actions.copy())
        return step(actions)

    def replay() -> None:
        envs.reset(seed=list(range(episodes)))  # pyright: ignore[reportArgumentType]
        for actions in taken:
            envs.step(actions)

    play, step = partial(rollout, actor, envs, [None], range(episodes), device), envs.step
    with patch.object(envs, "step", note):
        play()
    seconds = alternate({"simulator alone": replay, "perceptron": play}, repetitions)
    envs.close()
    each = {name: [value / (episodes * horizon) for value in values] for name, values in seconds.items()}
    return compared(f"an environment's step, {episodes} episodes", each)
