"""Acting: the model alone in many episodes, its state after a long history, and a whole evaluation with MuJoCo."""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import gymnasium as gym
import torch
from gymnasium.envs.registration import EnvSpec
from torch import Tensor
from torch.utils._pytree import tree_leaves

from flowrl.agents import SequenceAgent
from flowrl.evaluation.environments import make_env
from flowrl.evaluation.episodes import EvaluationConfig, play
from flowrl.scripts.benchmarks.baselines import play_one_at_a_time
from flowrl.scripts.benchmarks.measure import Contender, Row, Sample, alternate, faster, storage_bytes
from flowrl.scripts.benchmarks.setting import OBSERVATION_SIZE, AgentName, RolloutName, Setting

HEADS = 4  # as the presets have
EARLY = 10
ACTS = 10  # steps in one timing
CHUNK = 300  # tokens of a history that are taken in at once
TARGETS = (1_000.0, 3_000.0)


class Player:
    """An agent in the middle of episodes whose observations and rewards are random.

    Args:
        slots: episodes at once.
    """

    def __init__(self, agent: SequenceAgent, slots: int) -> None:
        self.agent, self.slots = agent.eval(), slots
        self.carry: Any = None
        self._generator = torch.Generator().manual_seed(0)
        self._device = agent.normaliser.return_scale.device
        self._seen = [(self._random(slots, OBSERVATION_SIZE), self._random(slots)) for _ in range(ACTS)]

    @torch.inference_mode()
    def begin(self, steps: int) -> None:
        """Start anew and act `steps` times."""
        self.carry = self.agent.initial(self._random(self.slots))
        self.act(steps)

    @torch.inference_mode()
    def remember(self, steps: int) -> None:
        """Start anew with a history of `steps` steps, all but one of them random tokens: as long, and sooner had."""
        self.begin(1)
        states, tokens = [], len(self.agent.model.kinds) * (steps - 1)
        for block, state in zip(self.agent.model.blocks, self.carry.state, strict=True):
            for start in range(0, tokens, CHUNK):
                x = self._random(self.slots, min(CHUNK, tokens - start), self.agent.config.width)
                _, state = block.step(x, state, slice(-1, None))  # pyright: ignore[reportCallIssue]
            states.append(state)
        self.carry = self.carry._replace(state=states, timestep=torch.full_like(self.carry.timestep, steps))

    @torch.inference_mode()
    def act(self, steps: int = 1) -> None:
        """The next steps."""
        for step in range(steps):
            self.carry, _ = self.agent.act(self.carry, *self._seen[step % ACTS])

    def bytes(self) -> int:
        """What is kept of the episodes' past."""
        return storage_bytes([leaf for leaf in tree_leaves(self.carry) if isinstance(leaf, Tensor)])

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator).to(self._device)


def rollout(setting: Setting) -> Iterator[Row]:
    """A step of all episodes, the model alone: by the state, and by re-encoding the last K steps."""
    sizes = setting.sizes
    for width in sizes.widths:

        def player(name: AgentName, mode: RolloutName, width: int = width) -> Player:
            config = setting.config(name, heads=HEADS, width=width, rollout=mode)
            return Player(setting.agent(config), sizes.environments)

        early, late = player("flow", "recurrent"), player("flow", "recurrent")
        flow_window, dt_window = player("flow", "window"), player("dt", "window")
        late.begin(sizes.late)
        flow_window.begin(sizes.context)
        dt_window.begin(sizes.context)
        contenders = [
            Contender(f"flow, step {sizes.late:,}", partial(late.act, ACTS), ACTS),
            Contender(f"flow, step {EARLY}", partial(early.act, ACTS), ACTS, prepare=partial(early.begin, EARLY)),
            Contender(f"flow, window {sizes.context}", flow_window.act),
            Contender(f"dt, window {sizes.context}", dt_window.act),
        ]
        at_late, at_early, by_flow, by_dt = alternate(contenders, setting.repetitions, setting.device)
        what = f"{sizes.environments} episodes, width {width}, {sizes.layers} layers, H {HEADS}"
        yield faster(what, at_late, by_flow, 10)
        yield faster(what, at_late, by_dt)
        yield Row(what, at_late, at_early, bound=1.1)


def cache(setting: Setting) -> Iterator[Row]:
    """A late step with the whole history: Flow-Attention's sums against softmax attention's keys and values."""
    sizes = setting.sizes
    for heads in sizes.heads:
        flow, dt = (
            Player(setting.agent(setting.config(name, heads=heads, rollout="recurrent")), sizes.environments)
            for name in ("flow", "dt")
        )
        for player in (flow, dt):
            player.remember(sizes.late)
        what = f"{sizes.environments} episodes, step {sizes.late:,}, width {sizes.width}, H {heads}"
        contenders = [Contender("flow", partial(flow.act, ACTS), ACTS), Contender("dt", dt.act)]
        by_flow, by_dt = alternate(contenders, setting.few, setting.device)
        yield faster(f"{what}: time", by_flow, by_dt)
        sums, keys_and_values = (Sample(name, "B", (player.bytes(),)) for name, player in (("flow", flow), ("dt", dt)))
        yield Row(f"{what}: state", sums, keys_and_values, "at least", 40, "× smaller")


def evaluation(setting: Setting) -> Iterator[Row]:
    """Time of an environment's step in a whole evaluation, model and simulator, against one environment at a time."""
    horizon = setting.sizes.horizon
    yield from _evaluations(setting, {("flow", "recurrent"): 10}, setting.few, horizon)
    # These take several times as long: fewer and shorter episodes.
    windows: dict[tuple[AgentName, RolloutName], float | None] = {("flow", "window"): None, ("dt", "window"): None}
    yield from _evaluations(setting, windows, math.ceil(setting.few / 3), math.ceil(horizon / 5))


def _evaluations(
    setting: Setting, ways: Mapping[tuple[AgentName, RolloutName], float | None], repetitions: int, horizon: int
) -> Iterator[Row]:
    """Agents, by name and rollout, against one environment at a time; the values are the targets."""
    episodes = setting.sizes.episodes
    spec, short = hopper(horizon), hopper(2)
    contenders = []
    for name, mode in ways:
        evaluate = partial(whole_evaluation, setting.agent(setting.config(name, heads=HEADS, rollout=mode)))
        contenders.append(
            Contender(
                f"{name} {mode}",
                partial(evaluate, spec, episodes, setting.device),
                len(TARGETS) * episodes * horizon,
                warm_up=partial(evaluate, short, 2, setting.device),
            )
        )
    env, agent = make_env(spec), setting.agent(setting.config("dt", heads=HEADS)).eval()
    alone = partial(play_one_at_a_time, agent, env, TARGETS, [EvaluationConfig().episode_seed], setting.device)
    contenders.append(Contender("dt window, one by one", alone, len(TARGETS) * horizon))
    *ours, other = alternate(contenders, repetitions, setting.device)
    env.close()
    what = f"{episodes} episodes × {len(TARGETS)} targets, {horizon} steps, H {HEADS}"
    for sample, bound in zip(ours, ways.values(), strict=True):
        yield faster(what, sample, other, bound)


def whole_evaluation(agent: SequenceAgent, spec: EnvSpec, episodes: int, device: torch.device) -> list[dict[str, Any]]:
    """What `scripts.evaluate` does: make the environments, play, score."""
    return play(agent, spec, TARGETS, EvaluationConfig(episodes=episodes), device, kind="evaluate", step=0)


def hopper(horizon: int) -> EnvSpec:
    """Hopper-v5 that goes on after a fall: episodes of `horizon` steps, as long for untrained agents as for others."""
    made = gym.make("Hopper-v5", terminate_when_unhealthy=False, max_episode_steps=horizon)
    made.close()
    assert made.spec is not None
    return made.spec
