"""Statistics of a dataset that scale what enters and leaves a network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.scales import action_scale, spread


class Normaliser(nn.Module):
    """Scales raw observations, actions and returns for a model, and actions back; a part of the model's weights.

    Observations: minus their mean, over their standard deviation (a feature that never varies is only centred).
    Actions: their bounds to [-1, 1], or the data's range where the bounds are far wider, see `flowrl.data.scales`.
    Returns-to-go: over `return_scale`, their standard deviation over steps.

    Args:
        observation_size: features of a raw observation.
        action_size: of a raw action; the number of choices where they are discrete.
        columns: which features the model is shown; None for all.
        discrete: actions are one-hot rows.
    """

    observation_mean: Tensor
    observation_std: Tensor
    action_centre: Tensor
    action_half_range: Tensor
    return_scale: Tensor
    columns: Tensor | None

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        columns: Sequence[int] | None = None,
        discrete: bool = False,
    ) -> None:
        super().__init__()
        self.observation_size, self.action_size, self.discrete = observation_size, action_size, discrete
        self.input_size = observation_size if columns is None else len(columns)
        # Not saved: it is a part of the configuration, which is needed to build this.
        self.register_buffer("columns", None if columns is None else torch.tensor(columns), persistent=False)
        self.register_buffer("observation_mean", torch.zeros(self.input_size))
        self.register_buffer("observation_std", torch.ones(self.input_size))
        self.register_buffer("action_centre", torch.zeros(action_size))
        self.register_buffer("action_half_range", torch.ones(action_size))
        self.register_buffer("return_scale", torch.ones(()))

    @classmethod
    def of(cls, dataset: TrajectoryDataset, columns: Sequence[int] | None = None) -> "Normaliser":
        """Statistics over every step of `dataset`, each once, whatever the weights it is drawn with."""
        discrete = dataset.discrete_start is not None
        self = cls(dataset.observations.shape[1], dataset.actions.shape[1], columns=columns, discrete=discrete)
        observations = dataset.observations if columns is None else dataset.observations[:, list(columns)]
        self.observation_mean.copy_(observations.double().mean(0))
        self.observation_std.copy_(spread(observations, otherwise=1.0))
        centre, half_range = action_scale(dataset)
        self.action_centre.copy_(centre)
        self.action_half_range.copy_(half_range)
        largest = float(dataset.returns_to_go.abs().max())
        self.return_scale.copy_(spread(dataset.returns_to_go, otherwise=largest or 1.0))
        return self

    def observations(self, raw: Tensor) -> Tensor:
        """(..., observation size) raw to (..., input size) in model units."""
        seen = raw if self.columns is None else raw[..., self.columns]
        return (seen - self.observation_mean) / self.observation_std

    def returns(self, raw: Tensor) -> Tensor:
        """(...) raw to model units."""
        return raw / self.return_scale

    def actions(self, raw: Tensor) -> Tensor:
        """(..., action size) raw to [-1, 1]."""
        return (raw - self.action_centre) / self.action_half_range

    def raw_actions(self, scaled: Tensor) -> Tensor:
        """(..., action size) in [-1, 1] to raw actions."""
        return self.action_centre + self.action_half_range * scaled
