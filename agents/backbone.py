"""The backbone of a value-based agent's actor: a perceptron, or a trajectory model with any attention."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import torch

from flowrl.agents.sequence import SequenceConfig
from flowrl.attention import ATTENTION
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import Chunks, Context, Episodes, Part, Windows
from flowrl.nn.acting import RolloutMode
from flowrl.nn.heads import ActionHead
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.perceptron import PerceptronActor
from flowrl.nn.trajectory import TrajectoryModel
from flowrl.nn.trajectory_actor import TrajectoryActor

PERCEPTRON = "mlp"


@dataclass(frozen=True)
class Backbone:
    """What the actor reads an action from. All settings but the first are those of a trajectory model."""

    backbone: str = PERCEPTRON
    """mlp: a perceptron of the present observation; or a trajectory model with that attention: flow, softmax, linear,
    performer, cosformer, reformer or linformer. The critics are perceptrons in any case."""
    conditioned: bool = False
    """The actor takes a target return, as flow and dt do."""
    context: Context = 20
    """Steps in a training window (K), or of a chunk in the mean, if a state is carried; episode: whole episodes. A
    batch has batch_size of them."""
    tokens: Literal["return-observation-action", "observation-action", "return-observation", "observation"] = (
        "observation"
    )
    """Tokens of a step. Without an action token, the model does not see past actions."""
    actor_width: int = 128
    """Features of a token."""
    actor_layers: int = 3
    """Attention blocks."""
    heads: int = 4
    """Attention heads of a block; actor_width must be a multiple of it."""
    attention_options: tuple[str, ...] = ()
    """Options of the attention, as NAME=VALUE, or NAME for one that is true; docs/reference/attentions.md has them."""
    dropout: float = 0.1
    """Dropout probability on embeddings, residuals and softmax weights."""
    carry_state: bool = False
    """Train on chunks that follow each other through whole episodes, each with the state that the one before left."""
    critics_first: int = 0
    """Updates, of all steps, in which the critics are trained with a perceptron's actor, by as many single transitions
    as a batch of windows has (20 for a whole episode); the trajectory model is trained in the steps after them."""
    rollout: RolloutMode | None = None
    """How it acts: window, recurrent or staggered; by default as it was trained."""
    acting_context: int | None = None
    """Steps that a window rollout re-reads, by default context; or between the states of a staggered one."""

    def __post_init__(self) -> None:
        if self.backbone != PERCEPTRON and self.backbone not in ATTENTION:
            known = ", ".join((PERCEPTRON, *sorted(ATTENTION)))
            raise ValueError(f"backbone is {self.backbone!r}: known are {known}")
        if self.looks_back:
            for name in ("actor_width", "actor_layers", "heads"):
                if getattr(self, name) < 1:
                    raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
            if self.actor_width % self.heads:
                raise ValueError(
                    f"actor_width is {self.actor_width} and heads is {self.heads}: actor_width must be a multiple of"
                    " heads"
                )
            if self.critics_first < 0:
                raise ValueError(f"critics_first is {self.critics_first}: it must be at least 0")
            try:
                options = self.sequence.attention_options
            except ValueError as error:
                raise ValueError(str(error).replace("attention is", "backbone is")) from error
            object.__setattr__(self, "attention_options", options)  # in the same words, whatever was typed
            return
        for each in fields(self):
            if getattr(self, each.name) != each.default:
                raise ValueError(
                    f"{each.name} is {getattr(self, each.name)!r} and backbone is {PERCEPTRON}, which does not look"
                    f" back: choose another backbone or leave {each.name} out"
                )

    @property
    def looks_back(self) -> bool:
        """Whether the actor is a trajectory model."""
        return self.backbone != PERCEPTRON

    @property
    def sequence(self) -> SequenceConfig:
        """The trajectory model and the way it acts."""
        shared = ("conditioned", "context", "tokens", "heads", "attention_options", "dropout", "carry_state")
        return SequenceConfig(
            attention=self.backbone,
            width=self.actor_width,
            layers=self.actor_layers,
            rollout=self.rollout,
            acting_context=self.acting_context,
            **{name: getattr(self, name) for name in shared},
        )

    def actor(self, normaliser: Normaliser, head: ActionHead | None, width: int, layers: int) -> Any:
        """A new actor.

        Args:
            head: None for a deterministic one.
            width, layers: of a perceptron.
        """
        if not self.looks_back:
            return PerceptronActor(normaliser, width=width, layers=layers, head=head)
        sequence = self.sequence
        return TrajectoryActor(TrajectoryModel(sequence, normaliser, head), sequence.acts, sequence.reads)

    def windows(self, dataset: TrajectoryDataset, batch_size: int, part: Part) -> Windows | Episodes | Chunks:
        """What draws the windows, episodes or chunks of a batch."""
        if self.context == "episode":
            return Episodes(dataset, batch_size, part=part)
        return (Chunks if self.carry_state else Windows)(dataset, batch_size, self.context, part=part)

    def cautions(self, dataset: TrajectoryDataset, batch_size: int, device: torch.device) -> list[str]:
        """What is allowed and probably not meant, in sentences."""
        if not self.looks_back:
            return []
        return self.sequence.model_cautions(dataset, batch_size, device, smaller="a smaller batch needs less")

    def acting(self, rollout: str | None, acting_context: int | None) -> Self:
        """See `AgentConfig`."""
        acts = self.sequence.acting(rollout, acting_context)
        return replace(self, rollout=acts.rollout, acting_context=acts.acting_context)
