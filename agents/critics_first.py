"""Values before the trajectory model: critics trained with a perceptron's actor, on which the model then goes on."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import Part
from flowrl.data.transitions import Transitions
from flowrl.protocols import Sampler

if TYPE_CHECKING:  # the settings import this file
    from flowrl.agents.actor_critic import ActorCritic

# What the second learner takes over from the first.
SHARED = "critics", "target_critics", "state_value", "critic_optimiser"


class CriticsFirst:
    """Two learners of one objective, one after the other: the second begins with the first one's critics.

    A critic needs many updates that cost little, a trajectory model few that cost much. The second learner's actor is
    untrained at first, also where the critics ask it for next actions.

    Args:
        first: with a perceptron; its `training` has the steps and the batch size of its part.
        then: with a trajectory model, which plays.
    """

    def __init__(self, first: "ActorCritic", then: "ActorCritic") -> None:
        self.first, self.then = first, then
        self.steps = then.before = first.training.steps
        self.actor = then.actor

    def sampler(self, dataset: TrajectoryDataset, batch_size: int, part: Part) -> Sampler:
        """See `flowrl.protocols.Learner`."""
        first = self.first.sampler(dataset, self.first.training.batch_size, part)
        return OneAfterTheOther(first, self.then.sampler(dataset, batch_size, part), self.steps)

    def update(self, batch: Transitions, step: int) -> dict[str, Tensor]:
        """One update of the learner whose turn it is; see `flowrl.protocols.Learner`."""
        if step > self.steps:
            return self.then.update(batch, step - self.steps)
        metrics = self.first.update(batch, step)
        if step == self.steps:
            for name in SHARED:
                if (part := getattr(self.first, name)) is not None:
                    getattr(self.then, name).load_state_dict(part.state_dict())
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """See `flowrl.protocols.Learner`."""
        return self.then.state_dict() | {"first": self.first.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `flowrl.protocols.Learner`."""
        self.first.load_state_dict(state["first"])
        self.then.load_state_dict(state)


class OneAfterTheOther:
    """Draws `steps` batches from one sampler, then from another."""

    def __init__(self, first: Sampler, then: Sampler, steps: int) -> None:
        self.first, self.then, self.steps = first, then, steps
        self.drawn = 0

    def draw(self, generator: torch.Generator) -> Any:
        """The next batch of the sampler whose turn it is."""
        self.drawn += 1
        return (self.first if self.drawn <= self.steps else self.then).draw(generator)

    def state_dict(self) -> dict[str, Any]:
        """See `flowrl.protocols.Sampler`."""
        return {"drawn": self.drawn, "first": self.first.state_dict(), "then": self.then.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `flowrl.protocols.Sampler`."""
        self.drawn = int(state["drawn"])
        self.first.load_state_dict(state["first"])
        self.then.load_state_dict(state["then"])
