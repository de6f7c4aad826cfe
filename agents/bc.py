"""Behaviour cloning: a perceptron from the observation to the action (on the best tenth of the episodes: 10 % BC)."""

from dataclasses import dataclass

import torch

from flowrl.agents.cloning import CloningConfig, CloningLearner
from flowrl.data.dataset import TrajectoryDataset
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.perceptron import PerceptronActor
from flowrl.training.config import AgentConfig, TrainingConfig


@dataclass(frozen=True)
class BCConfig(AgentConfig):
    """A behaviour-cloning network and its training."""

    width: int = 256
    """Features of a hidden layer."""
    layers: int = 2
    """Hidden layers."""
    dropout: float = 0.1
    """Dropout probability after each hidden layer."""
    context: int = 20
    """Steps in a training window. Every step in it is an example, so a batch holds as many as the sequence agents'."""
    cloning: CloningConfig = CloningConfig()

    def __post_init__(self) -> None:
        for name in ("width", "layers", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout}: it must be at least 0 and below 1")

    def cautions(self, dataset: TrajectoryDataset, training: TrainingConfig, device: torch.device) -> list[str]:
        """See `AgentConfig`."""
        return [*self.acting_cautions(), *self.cloning.cautions(training.steps)]

    def build(self, normaliser: Normaliser, training: TrainingConfig, device: torch.device) -> CloningLearner:
        """See `AgentConfig`."""
        actor = PerceptronActor(normaliser, width=self.width, layers=self.layers, dropout=self.dropout)
        return CloningLearner(actor, self.cloning, training, device, context=self.context)
