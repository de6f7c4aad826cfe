"""What every section is told: the device, the sizes of the work, how often to measure."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from flowrl.agents import AGENTS, SequenceAgent, SequenceConfig
from flowrl.nn.normaliser import Normaliser
from flowrl.training.loop import choose_precision, isolated_rng

AgentName = Literal["flow", "dt"]
RolloutName = Literal["window", "recurrent"]

OBSERVATION_SIZE, ACTION_SIZE = 11, 3  # Hopper's


@dataclass(frozen=True)
class Sizes:
    """How large the work of each section is; the defaults are those that the targets are stated for."""

    width: int = 128
    layers: int = 3
    heads: tuple[int, ...] = (1, 4)
    """Numbers of heads that longer contexts and caches are measured with."""
    batch: int = 64
    """Windows in a training step."""
    context: int = 20
    """K, steps in a window."""
    copied: int = 64_000_000
    """float32 numbers in a copy that no cache holds."""
    core_shapes: tuple[tuple[int, int, int, int], ...] = ((64, 1, 60, 128), (64, 4, 60, 64))
    """(B, H, T, D) of the attention core on training windows."""
    long: tuple[int, ...] = (300, 900, 3_000, 8_192)
    """Tokens of longer sequences, at 4 heads of 64 features."""
    tokens: int = 3_840
    """Tokens in a batch of longer sequences, at least one sequence of them."""
    long_context: int = 1_000
    environments: int = 64
    """Slots in a rollout without simulators."""
    widths: tuple[int, ...] = (128, 256)
    """Of the models in a rollout."""
    late: int = 1_000
    """A late step of an episode."""
    episodes: int = 100
    """Episodes per target in a whole evaluation."""
    horizon: int = 1_000
    """Steps of each of them."""
    stored_episodes: int = 1_000
    """Episodes of 1,000 steps in the dataset on disk and in the one that windows are sampled from."""
    peak_memory: bool = True
    """Whether the memory of loading is measured: of a small dataset, fixed costs would be most of it."""
    accurate: tuple[int, ...] = (60, 900, 3_000)
    """Tokens that the error is measured at."""
    longest: int = 30_000
    """Tokens of the longest sequence."""
    carried: int = 10_000
    """Tokens that a state is carried over, one after the other."""


FULL = Sizes()
QUICK = Sizes(
    heads=(4,),
    batch=16,
    core_shapes=((16, 1, 60, 128), (16, 4, 60, 64)),
    long=(300, 900),
    long_context=200,
    environments=16,
    widths=(128,),
    late=100,
    episodes=5,
    horizon=30,
    stored_episodes=100,
    peak_memory=False,
    accurate=(60, 900),
    longest=3_000,
    carried=500,
)


@dataclass(frozen=True)
class Setting:
    """What a section is measured with."""

    device: torch.device
    repetitions: int
    sizes: Sizes

    @property
    def few(self) -> int:
        """Repetitions of what takes seconds a time."""
        return math.ceil(self.repetitions / 4)

    @property
    def precisions(self) -> tuple[Literal["fp32", "bf16"], ...]:
        """Those that the device has units for, the faster one last: emulated, bf16 is many times slower than fp32."""
        return ("fp32", "bf16") if choose_precision("auto", self.device) == "bf16" else ("fp32",)

    def config(
        self,
        name: AgentName,
        *,
        heads: int,
        width: int | None = None,
        context: int | None = None,
        rollout: RolloutName = "window",
    ) -> SequenceConfig:
        """The preset of that name in the sizes of this setting."""
        preset = AGENTS[name].config
        assert isinstance(preset, SequenceConfig)
        sizes = self.sizes
        return SequenceConfig(
            attention=preset.attention,
            width=width or sizes.width,
            layers=sizes.layers,
            heads=heads,
            context=context or sizes.context,
            dropout=preset.dropout,
            rollout=rollout,
        )

    def agent(self, config: SequenceConfig) -> SequenceAgent:
        """An agent of random weights for Hopper's observations and actions, the same ones every time."""
        with isolated_rng(0, self.device):
            return config.build(Normaliser(OBSERVATION_SIZE, ACTION_SIZE)).to(self.device)
