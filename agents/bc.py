"""Behaviour cloning: a perceptron from the observation to the action; with `--top-fraction 0.1`, 10 % BC."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from flowrl.data.samplers import Batch, Context
from flowrl.nn.normaliser import Normaliser


@dataclass(frozen=True)
class BCConfig:
    """The size of a behaviour-cloning network."""

    width: int = 256
    """Features of a hidden layer."""
    layers: int = 2
    """Hidden layers."""
    dropout: float = 0.1
    """Dropout probability after each hidden layer."""
    context: int = 20
    """Steps in a training window; every step in it is an example, so a batch holds as many as the sequence agents'."""

    def __post_init__(self) -> None:
        for name in ("width", "layers", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout}: it must be at least 0 and below 1")

    def build(self, normaliser: Normaliser) -> "BCAgent":
        """A new agent; its initial weights come from torch's generator."""
        return BCAgent(self, normaliser)

    def record(self) -> dict[str, Any]:
        """All that decides numbers, as JSON has it."""
        return asdict(self)


class BCAgent(nn.Module):
    """Repeats the action the data show for an observation, whatever return is asked for."""

    def __init__(self, config: BCConfig, normaliser: Normaliser) -> None:
        super().__init__()
        self.config = config
        self.context: Context = config.context
        self.normaliser = normaliser
        layers: list[nn.Module] = []
        size = normaliser.input_size
        for _ in range(config.layers):
            layers += [nn.Linear(size, config.width), nn.ReLU(), nn.Dropout(config.dropout)]
            size = config.width
        self.network = nn.Sequential(*layers, nn.Linear(size, normaliser.action_size))

    def loss(self, batch: Batch) -> Tensor:
        """The mean over real steps of `Normaliser.error`: squared error, or cross-entropy of discrete actions."""
        return batch.mean(self.normaliser.error(self._predict(batch.observations), batch.actions))

    def initial(self, targets: Tensor) -> None:
        """It carries nothing: neither the past nor the target enters."""

    def select(self, carry: None, slots: Tensor) -> None:
        """See `flowrl.protocols.Agent`."""

    def act(self, carry: None, observations: Tensor, rewards: Tensor) -> tuple[None, Tensor]:
        """See `flowrl.protocols.Agent`."""
        return None, self.normaliser.chosen(self._predict(observations))

    def _predict(self, observations: Tensor) -> Tensor:
        return self.normaliser.prediction(self.network(self.normaliser.observations(observations)))
