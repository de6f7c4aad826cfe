"""Return-conditioned cloning with a trajectory model: the Decision Transformer (Chen et al. 2021), any attention."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import torch

from flowrl.agents.cloning import CloningConfig, CloningLearner
from flowrl.attention import ATTENTION
from flowrl.attention.options import read_options
from flowrl.data.dataset import TrajectoryDataset
from flowrl.errors import InputError
from flowrl.nn.acting import ACTING, RolloutMode
from flowrl.nn.model_config import TOKENS, ModelConfig
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.trajectory import TrajectoryModel
from flowrl.nn.trajectory_actor import TrajectoryActor
from flowrl.training.config import AgentConfig, TrainingConfig
from flowrl.training.device import device_memory

BYTES_OF_PAIR = 16  # of each head and layer, about: 15 (softmax) and 19 (reformer) at 1,800 tokens, float32


@dataclass(frozen=True)
class SequenceConfig(ModelConfig, AgentConfig):
    """A trajectory model, the way it acts, and its training."""

    carry_state: bool = False
    """Train on chunks of about `context` steps that follow each other through whole episodes, each with the state that
    the one before left; no gradient passes between them."""
    rollout: RolloutMode | None = None
    """How it acts: `window` re-reads the last steps; `recurrent` keeps a state of the whole past; `staggered` keeps two
    states that begin anew in turn, so it remembers acting_context to twice as many steps. By default as it was trained:
    recurrent with whole episodes or a carried state, else window."""
    acting_context: int | None = None
    """Steps that a window rollout re-reads, by default `context`; or between the states of a staggered one, by default
    half of it. Training on windows predicts from every beginning of them, so that acting on fewer steps stays within
    what was learned."""
    cloning: CloningConfig = CloningConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = ATTENTION[self.attention]
        if self.rollout not in (None, *ACTING):
            raise ValueError(f"rollout is {self.rollout!r}: known are {', '.join(ACTING)}")
        if self.carry_state and self.context == "episode":
            raise ValueError("carry_state is True and context is 'episode': a whole episode needs no state before it")
        if self.carry_state and not rule.constant_state:
            raise ValueError(
                f"carry_state is True and attention is {self.attention!r}: it must be one whose state is of constant"
                f" size, {', '.join(name for name, known in ATTENTION.items() if known.constant_state)}"
            )
        if self.acts != "window" and (reason := rule.why_no_step):
            raise ValueError(reason)
        most = math.inf if self.context == "episode" or self.carry_state else self.context
        if self.acting_context is not None and not 1 <= self.acting_context <= most:
            bound = f" and at most context, {most}" if most < math.inf else ""
            raise ValueError(f"acting_context is {self.acting_context}: it must be at least 1{bound}")
        if self.acts == "recurrent" and self.acting_context is not None:
            raise ValueError(
                f"acting_context is {self.acting_context} and rollout is 'recurrent', which keeps a state of the whole"
                " past: choose window or staggered"
            )
        if self.carry_state and read_options(rule, self.attention_options).get("redraw_every"):
            raise ValueError("carry_state is True and redraw_every is set: a state does not outlive its features")
        if self.acts == "staggered" and self.context == "episode" and self.acting_context is None:
            raise ValueError("rollout is 'staggered' and context is 'episode': acting_context must be given")
        self.cloning.check(self.context, carries=self.carry_state)

    @property
    def acts(self) -> RolloutMode:
        """The rollout mode, after the defaults."""
        return self.rollout or ("recurrent" if self.remembers else "window")

    @property
    def remembers(self) -> bool:
        """Whether it is trained to act on the whole past of an episode."""
        return self.context == "episode" or self.carry_state

    @property
    def reads(self) -> int | None:
        """`acting_context`, after the defaults; None for the whole past."""
        if self.acts == "recurrent":
            return None
        if self.acting_context is not None or self.context == "episode":
            return self.acting_context
        return max(1, self.context // 2) if self.acts == "staggered" else self.context

    def cautions(self, dataset: TrajectoryDataset, training: TrainingConfig, device: torch.device) -> list[str]:
        """See `AgentConfig`."""
        return self.model_cautions(dataset, training.batch_size, device) + self.cloning.cautions(training.steps)

    def model_cautions(
        self,
        dataset: TrajectoryDataset,
        batch_size: int,
        device: torch.device,
        smaller: str = "a smaller batch or recompute needs less",
    ) -> list[str]:
        """As `cautions`, of the model and the way it acts alone; `smaller` is the advice where memory is short."""
        return [
            *self.acting_cautions(),
            *self._padding_cautions(dataset),
            *self._memory_cautions(dataset, batch_size, device, smaller),
        ]

    def acting_cautions(self) -> list[str]:
        """Where it acts on another past than it is trained on."""
        steps, most = self.context, ACTING[self.acts].most_of(self.reads)
        cautions = []
        if self.remembers and most is not None:
            cautions.append(
                f"the agent is trained on the whole past of an episode and acts on at most its last {most} steps: that"
                " is another function than it is trained for"
            )
        elif not self.remembers and steps != "episode" and (most is None or most > steps):
            past = "a state carried over the whole episode" if most is None else f"up to {most} steps"
            cautions.append(
                f"the agent is trained on windows of {steps} steps and acts on {past}: that is another function than it"
                " is trained for"
            )
        whole = self.remembers or steps == "episode"
        tokens = None if whole else int(steps) * len(TOKENS[self.tokens])
        rule = ATTENTION[self.attention]
        return cautions + rule.cautions(tokens, **read_options(rule, self.attention_options))

    def _padding_cautions(self, dataset: TrajectoryDataset) -> list[str]:
        longest = int(dataset.lengths.max())
        if self.context == "episode" or self.context <= longest:
            return []
        return [f"context is {self.context:,} and the longest episode has {longest:,} steps: the rest is padding"]

    def _memory_cautions(
        self, dataset: TrajectoryDataset, batch_size: int, device: torch.device, smaller: str
    ) -> list[str]:
        """Where pairs of tokens may need more memory than there is."""
        if not ATTENTION[self.attention].keeps_pairs(device.type, self.dropout):
            return []
        what = "episodes of up to" if self.context == "episode" else "windows of"
        steps = int(dataset.lengths.max()) if self.context == "episode" else self.context
        tokens, layers = steps * len(TOKENS[self.tokens]), 1 if self.recompute else self.layers
        needed = BYTES_OF_PAIR * batch_size * layers * self.heads * tokens**2
        if needed <= (memory := device_memory(device)) / 2:
            return []
        return [
            f"attention {self.attention} keeps a number for every pair of tokens: {batch_size} {what} {steps:,} steps"
            f" may take {needed / 1e9:,.0f} GB, and the {device.type} has {memory / 1e9:,.0f} GB; {smaller}"
        ]

    def build(self, normaliser: Normaliser, training: TrainingConfig, device: torch.device) -> CloningLearner:
        """See `AgentConfig`."""
        actor = TrajectoryActor(TrajectoryModel(self, normaliser), self.acts, self.reads)
        return CloningLearner(actor, self.cloning, training, device, context=self.context, carries=self.carry_state)

    def record(self) -> dict[str, Any]:
        """See `AgentConfig`; `recompute` changes no number, and runs from before `conditioned` are as those with it."""
        record = asdict(self) | {"rollout": self.acts, "attention_options": list(self.attention_options)}
        del record["recompute"]
        if self.conditioned:
            del record["conditioned"]
        return record

    def acting(self, rollout: str | None, acting_context: int | None) -> Self:
        """See `AgentConfig`."""
        choices = {"rollout": rollout, "acting_context": acting_context}
        changes = {name: value for name, value in choices.items() if value is not None}
        if rollout not in (None, self.acts):  # the run's acting context belongs to another rollout
            changes = {"acting_context": None} | changes
        try:
            return replace(self, **changes)
        except ValueError as error:
            raise InputError(str(error)) from error
