"""What a network's last outputs mean as actions, and how far a prediction is from the data's action.

A head has no weights. It takes and gives raw actions; inside, real actions are scaled to [-1, 1].
"""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from flowrl.nn.normaliser import Normaliser

LOG_STD_LOW, LOG_STD_HIGH = -5.0, 2.0  # of a Gaussian policy, as in IQL's and AWAC's releases


class ActionHead(ABC):
    """Turns outputs (..., `size`) of a network into actions.

    Args:
        normaliser: of the agent's data.
    """

    size: int
    """How many outputs the network needs."""

    def __init__(self, normaliser: Normaliser) -> None:
        self.normaliser = normaliser
        self.size = normaliser.action_size

    @abstractmethod
    def prediction(self, outputs: Tensor) -> Tensor:
        """Outputs (..., size) as `error` and `action` take them, in at least float32."""

    @abstractmethod
    def error(self, prediction: Tensor, actions: Tensor) -> Tensor:
        """What cloning makes small: (..., n) for raw actions (..., action size) of the data."""

    @abstractmethod
    def action(self, prediction: Tensor) -> Tensor:
        """The raw action (..., action size) to play; not finite where its prediction is not finite."""


class TanhHead(ActionHead):
    """Deterministic actions within their bounds, by a tanh; a prediction is the raw action."""

    def prediction(self, outputs: Tensor) -> Tensor:
        return self.normaliser.raw_actions(torch.tanh(outputs.float()))

    def error(self, prediction: Tensor, actions: Tensor) -> Tensor:
        """(..., action size) squared errors of the actions scaled to [-1, 1]."""
        return (self.normaliser.actions(prediction) - self.normaliser.actions(actions)).square()

    def action(self, prediction: Tensor) -> Tensor:
        return prediction


class GaussianHead(ActionHead):
    """A Gaussian around a mean that a tanh keeps within the bounds; a prediction is (mean, log std), both scaled."""

    def __init__(self, normaliser: Normaliser) -> None:
        super().__init__(normaliser)
        self.size = 2 * normaliser.action_size

    def prediction(self, outputs: Tensor) -> Tensor:
        mean, log_std = outputs.float().chunk(2, dim=-1)
        return torch.cat([torch.tanh(mean), log_std.clamp(LOG_STD_LOW, LOG_STD_HIGH)], dim=-1)

    def error(self, prediction: Tensor, actions: Tensor) -> Tensor:
        """(..., 1) negative log-likelihood of the scaled actions, in nats."""
        return -self.log_likelihood(prediction, actions)[..., None]

    def log_likelihood(self, prediction: Tensor, actions: Tensor) -> Tensor:
        """(...) log density of raw actions (..., action size), scaled to [-1, 1]."""
        mean, log_std = prediction.chunk(2, dim=-1)
        z = (self.normaliser.actions(actions) - mean) * torch.exp(-log_std)
        return (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def sample(self, prediction: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A raw action (..., action size), clipped to the bounds, with gradients to mean and std."""
        mean, log_std = prediction.chunk(2, dim=-1)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return self.normaliser.raw_actions((mean + log_std.exp() * noise).clamp(-1.0, 1.0))

    def action(self, prediction: Tensor) -> Tensor:
        """The mean."""
        return self.normaliser.raw_actions(prediction.chunk(2, dim=-1)[0])


class CategoricalHead(ActionHead):
    """One of several discrete actions; a prediction is their logits."""

    def prediction(self, outputs: Tensor) -> Tensor:
        return outputs.float()

    def error(self, prediction: Tensor, actions: Tensor) -> Tensor:
        """(..., 1) cross-entropy in nats."""
        return -self.log_likelihood(prediction, actions)[..., None]

    def log_likelihood(self, prediction: Tensor, actions: Tensor) -> Tensor:
        """(...) log probability of one-hot actions (..., action size)."""
        return (actions * F.log_softmax(prediction, dim=-1)).sum(-1)

    def action(self, prediction: Tensor) -> Tensor:
        """The one-hot row of the likeliest action."""
        likeliest = F.one_hot(prediction.argmax(-1), self.size).to(prediction.dtype)
        return likeliest.masked_fill(~prediction.isfinite().all(-1, keepdim=True), torch.nan)


def deterministic_head(normaliser: Normaliser) -> ActionHead:
    """The head for the action space of `normaliser`: bounded real actions, or discrete ones."""
    return CategoricalHead(normaliser) if normaliser.discrete else TanhHead(normaliser)
