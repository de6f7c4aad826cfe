"""The sequence agent: a trajectory model trained to repeat actions, steered by the return asked for."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from flowrl.analysis.recording import Recording
from flowrl.attention import ATTENTION
from flowrl.attention.cosformer import LENGTH, CosformerAttention
from flowrl.attention.options import read_options
from flowrl.data.samplers import Batch, Context
from flowrl.nn.acting import ACTING
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.trajectory import TOKENS, BlockState, ModelConfig, TrajectoryModel, map_state

Rollout = Literal["window", "recurrent", "staggered"]
_ANOTHER = "another function, which it is not trained for"


@dataclass(frozen=True)
class SequenceConfig(ModelConfig):
    """A trajectory model and the way it acts."""

    carry_state: bool = False
    """Train on chunks of `context` steps that follow each other through whole episodes, each begun with the state that
    the one before left; no gradient passes between them."""
    rollout: Rollout | None = None
    """How it acts: `window` re-reads the last steps; `recurrent` keeps a state of the whole past; `staggered` two
    states that are begun anew in turn, and so remember acting_context to twice as many steps. By default as it was
    trained: recurrent with whole episodes or a carried state, else window."""
    acting_context: int | None = None
    """Steps that a window rollout re-reads, by default `context`; or between the states of a staggered one, by default
    half of it. Training on windows predicts from every beginning of them, so that acting on fewer steps stays within
    what was learnt."""

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
                f"acting_context is {self.acting_context} and the rollout recurrent: that keeps a state of all the past"
                " (rollouts window and staggered do not)"
            )
        if self.carry_state and read_options(rule, self.attention_options).get("redraw_every"):
            raise ValueError("carry_state is True and redraw_every is set: a state is of the features that made it")
        if self.acts == "staggered" and self.context == "episode" and self.acting_context is None:
            raise ValueError("rollout is 'staggered' and context is 'episode': acting_context must be given")

    @property
    def acts(self) -> Rollout:
        """How it acts, with no choice left open."""
        return self.rollout or ("recurrent" if self.remembers else "window")

    @property
    def remembers(self) -> bool:
        """Whether it is trained to act on the whole past of an episode."""
        return self.context == "episode" or self.carry_state

    @property
    def reads(self) -> int | None:
        """`acting_context`, with no choice left open; None for the whole past."""
        if self.acts == "recurrent":
            return None
        if self.acting_context is not None or self.context == "episode":
            return self.acting_context
        return max(1, self.context // 2) if self.acts == "staggered" else self.context

    def cautions(self) -> list[str]:
        """What is allowed and probably not meant, in sentences."""
        told, steps, most = [], self.context, ACTING[self.acts].most_of(self.reads)
        if self.remembers and most is not None:
            past = f"a past that begins anew within the last {most} steps"
            told.append(f"the agent learns from the whole past of its episodes: {past} is {_ANOTHER}")
        elif not self.remembers and steps != "episode" and (most is None or most > steps):
            past = "a state that is carried over a whole episode" if most is None else f"a past of up to {most} steps"
            told.append(f"the agent learns from windows of {steps} steps: {past} is {_ANOTHER}")
        if ATTENTION[self.attention] is CosformerAttention:
            length = read_options(CosformerAttention, self.attention_options).get("length", LENGTH)
            if self.remembers or steps == "episode" or steps * len(TOKENS[self.tokens]) > length:
                told.append(
                    f"cosformer tells distances within its first {length} tokens alone, and is given more:"
                    " --attention-options length=N"
                )
        return told

    def build(self, normaliser: Normaliser) -> "SequenceAgent":
        """A new agent; its initial weights come from torch's generator."""
        return SequenceAgent(self, normaliser)

    def record(self) -> dict[str, Any]:
        """All that decides numbers, as JSON has it: `recompute` changes none."""
        recorded = asdict(self) | {"rollout": self.acts, "attention_options": list(self.attention_options)}
        del recorded["recompute"]
        return recorded


class Seen(NamedTuple):
    """What the model read when the agent acted at some steps of an episode: windows, and where these steps stand.

    A window may go on after its step: causality hides the rest.
    """

    returns_to_go: Tensor  # (windows, T)
    observations: Tensor  # (windows, T, observation size)
    actions: Tensor  # (windows, T, action size)
    timesteps: Tensor  # (windows, T)
    window: Tensor  # (steps,) the window of each step
    position: Tensor  # (steps,) its place in there


class SequenceAgent(nn.Module):
    """Loss and acting of a trajectory model; `config.attention` alone tells a Flowformer from a Transformer."""

    def __init__(self, config: SequenceConfig, normaliser: Normaliser) -> None:
        super().__init__()
        self.config = config
        self.context: Context = config.context
        self.carries = config.carry_state
        self.model = TrajectoryModel(config, normaliser)
        self.acting = ACTING[config.acts](self.model, config.reads)

    @property
    def normaliser(self) -> Normaliser:
        """The statistics that scale what enters and leaves."""
        return self.model.normaliser

    def loss(self, batch: Batch) -> Tensor:
        """The mean over real steps of `Normaliser.error`: squared error, or cross-entropy of discrete actions."""
        predicted = self.model(batch.returns_to_go, batch.observations, batch.actions, batch.timesteps)
        return batch.mean(self.normaliser.error(predicted, batch.actions))

    def initial_state(self, batch: int) -> list[BlockState]:
        """See `flowrl.protocols.CarryingAgent`."""
        return self.model.initial_state(batch)

    def carried_loss(self, batch: Batch, begins: Tensor, state: list[BlockState]) -> tuple[Tensor, list[BlockState]]:
        """See `flowrl.protocols.CarryingAgent`."""
        state = map_state(lambda x: x.masked_fill(begins.view(-1, *(1,) * (x.ndim - 1)), 0), state)
        columns = batch.returns_to_go, batch.observations, batch.actions, batch.timesteps
        predicted, state = self.model.resume(*columns, state)
        return batch.mean(self.normaliser.error(predicted, batch.actions)), map_state(Tensor.detach, state)

    def initial(self, targets: Tensor) -> Any:
        """See `flowrl.protocols.Agent`."""
        return self.acting.initial(targets)

    def act(self, carry: Any, observations: Tensor, rewards: Tensor) -> tuple[Any, Tensor]:
        """See `flowrl.protocols.Agent`."""
        return self.acting.act(carry, observations, rewards)

    def select(self, carry: Any, slots: Tensor) -> Any:
        """See `flowrl.protocols.Agent`."""
        return self.acting.select(carry, slots)

    def seen(self, recording: Recording, steps: Tensor) -> Seen:
        """What was read at `steps` (n,) int64 of a recorded episode: as many of the last as acting goes back.

        Steps whose past begins at the same step share a window.
        """
        length = len(recording.returns_to_go)
        context = min(self.acting.most or length, length)
        first, window = self.acting.first(steps).unique(return_inverse=True)
        timesteps = first[:, None] + torch.arange(context, device=steps.device)
        # What is read is the episode's, even where a window that began late reaches beyond its end.
        returns_to_go, observations, actions = (column[timesteps.clamp(max=length - 1)] for column in recording)
        return Seen(returns_to_go, observations, actions, timesteps, window, steps - first[window])

    def act_again(self, seen: Seen) -> Tensor:
        """(n, action size): the actions at the n steps of `seen`."""
        predicted = self.model(seen.returns_to_go, seen.observations, seen.actions, seen.timesteps)
        return self.normaliser.chosen(predicted[seen.window, seen.position])
