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
    free: int = 0
    """How many numbers, the same for every observation, are learned beside the outputs and stand after them."""

    def __init__(self, normaliser: Normaliser) -> None:
        self.normaliser = normaliser
        self.size = normaliser.action_size

    @abstractmethod
    def prediction(self, outputs: Tensor) -> Tensor:
        """Outputs (..., size + free) as the other methods take them, in at least float32."""

    @abstractmethod
    def error(self, prediction: Tensor, actions: Tensor) -> Tensor:
        """What cloning makes small: (..., n) for raw actions (..., action size) of the data."""

    @abstractmethod
    def action(self, prediction: Tensor) -> Tensor:
        """The raw action (..., action size) to play; NaN where what it is taken from is NaN."""

    @abstractmethod
    def sample(self, prediction: Tensor, noise: Tensor) -> Tensor:
        """An action (..., action size) for a critic to judge, drawn by `noise`, with gradients to the prediction.

        It is raw and within its bounds; of discrete actions it is their probabilities.

        Args:
            noise: (..., action size) in units of scaled actions; of a Gaussian, in its standard deviations.
        """


class TanhHead(ActionHead):
    """Deterministic actions within their bounds, by a tanh; a prediction is the raw action."""

    def prediction(self, outputs: Tensor) -> Tensor:
        return self.normaliser.raw_actions(torch.tanh(outputs.float()))

    def error(self, prediction: Tensor, actions: Tensor) -> Tensor:
        """(..., action size) squared errors of the actions scaled to [-1, 1]."""
        return (self.normaliser.actions(prediction) - self.normaliser.actions(actions)).square()

    def action(self, prediction: Tensor) -> Tensor:
        return prediction

    def sample(self, prediction: Tensor, noise: Tensor) -> Tensor:
        """The action with the noise added, clipped to the bounds."""
        return self.normaliser.raw_actions((self.normaliser.actions(prediction) + noise).clamp(-1.0, 1.0))


class GaussianHead(ActionHead):
    """A Gaussian around a mean that a tanh keeps within the bounds; a prediction is (mean, log std), both scaled.

    Args:
        shared_std: the standard deviation is the same for every observation, as in IQL's and AWAC's releases.
    """

    def __init__(self, normaliser: Normaliser, *, shared_std: bool = False) -> None:
        super().__init__(normaliser)
        self.free = normaliser.action_size if shared_std else 0
        self.size = 2 * normaliser.action_size - self.free

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

    def action(self, prediction: Tensor) -> Tensor:
        """The mean."""
        return self.normaliser.raw_actions(prediction.chunk(2, dim=-1)[0])

    def sample(self, prediction: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = prediction.chunk(2, dim=-1)
        return self.normaliser.raw_actions((mean + log_std.exp() * noise).clamp(-1.0, 1.0))


class TanhGaussianHead(ActionHead):
    """A Gaussian squashed into the bounds by a tanh, as in SAC; a prediction is its (mean, log std) before the tanh."""

    def __init__(self, normaliser: Normaliser) -> None:
        super().__init__(normaliser)
        self.size = 2 * normaliser.action_size

    def prediction(self, outputs: Tensor) -> Tensor:
        mean, log_std = outputs.float().chunk(2, dim=-1)
        return torch.cat([mean, log_std.clamp(LOG_STD_LOW, LOG_STD_HIGH)], dim=-1)

    def error(self, prediction: Tensor, actions: Tensor) -> Tensor:
        """(..., 1) negative log density of the scaled actions, in nats; actions at the bounds count as just inside."""
        inside = self.normaliser.actions(actions).clamp(-0.999, 0.999)
        return -_squashed_log_density(prediction, torch.atanh(inside))[..., None]

    def action(self, prediction: Tensor) -> Tensor:
        """The squashed mean."""
        return self.normaliser.raw_actions(torch.tanh(prediction.chunk(2, dim=-1)[0]))

    def sample(self, prediction: Tensor, noise: Tensor) -> Tensor:
        return self.sample_with_log_density(prediction, noise)[0]

    def sample_with_log_density(self, prediction: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The raw action (..., action size) of `sample`, and its log density (...) as an action scaled to [-1, 1]."""
        mean, log_std = prediction.chunk(2, dim=-1)
        unsquashed = mean + log_std.exp() * noise
        action = self.normaliser.raw_actions(torch.tanh(unsquashed))
        return action, _squashed_log_density(prediction, unsquashed)


def _squashed_log_density(prediction: Tensor, unsquashed: Tensor) -> Tensor:
    """(...) log density of tanh(unsquashed), where unsquashed is Gaussian."""
    mean, log_std = prediction.chunk(2, dim=-1)
    z = (unsquashed - mean) * torch.exp(-log_std)
    gaussian = -0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)
    # log(1 - tanh(x)^2), without its cancellation
    slope = 2 * (math.log(2) - unsquashed - F.softplus(-2 * unsquashed))
    return (gaussian - slope).sum(-1)


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

    def sample(self, prediction: Tensor, noise: Tensor) -> Tensor:
        """The probabilities (..., action size) in place of a draw, whatever the noise: a critic's value of them is the
        exact expectation over the policy."""
        return F.softmax(prediction, dim=-1)


def deterministic_head(normaliser: Normaliser) -> ActionHead:
    """The head for the action space of `normaliser`: bounded real actions, or discrete ones."""
    return CategoricalHead(normaliser) if normaliser.discrete else TanhHead(normaliser)
