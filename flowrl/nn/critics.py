"""Critics: perceptrons that value observations, or observations with actions, several computed at once."""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowrl.nn.normaliser import Normaliser


class Ensemble(nn.Module):
    """Several perceptrons of one shape, each with weights of its own, as one batched product a layer.

    Args:
        members: M, how many perceptrons.
        layer_norm: normalise the features after each activation, without learned scale and shift.
        activation: after each hidden layer; it may work in place.
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        outputs: int,
        *,
        width: int,
        layers: int,
        layer_norm: bool = False,
        activation: Callable[[Tensor], Tensor] = F.relu_,
    ) -> None:
        super().__init__()
        self.layer_norm, self.activation = layer_norm, activation
        sizes = [inputs, *[width] * layers, outputs]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            bound = fan_in**-0.5  # as of nn.Linear
            self.weights.append(torch.empty(members, fan_in, fan_out).uniform_(-bound, bound))
            self.biases.append(torch.empty(members, 1, fan_out).uniform_(-bound, bound))

    def forward(self, x: Tensor, members: int | None = None) -> Tensor:
        """(B, inputs) to (M, B, outputs), of the first M = `members`; None for all."""
        last = len(self.weights) - 1
        x = x.expand(members or len(self.weights[0]), *x.shape)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if members is not None:
                weight, bias = weight[:members], bias[:members]
            if layer == last and weight.shape[-1] == 1:  # a batched product with one column is several times slower
                return (x * weight.mT).sum(-1, keepdim=True) + bias
            x = torch.baddbmm(bias, x, weight)
            if layer < last:
                x = self.activation(x)
                if self.layer_norm:
                    x = _normalised(x)
        return x


def _normalised(x: Tensor) -> Tensor:
    """`x` with mean 0 and variance 1 in its last dimension."""
    if not torch.compiler.is_compiling():
        return F.layer_norm(x, x.shape[-1:])
    # Written out, the compiler makes one vectorised loop of it; of F.layer_norm's backward pass in float32 it does not.
    wide = x.float()
    centred = wide - wide.mean(-1, keepdim=True)
    return (centred * (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt()).to(x.dtype)


class ActionValues(nn.Module):
    """Values Q(s, a) of raw observations and actions, by `members` critics.

    A discrete action is a one-hot row. A row of probabilities has its expected value.
    """

    def __init__(self, normaliser: Normaliser, members: int, **shape: int | bool | Callable[[Tensor], Tensor]) -> None:
        """Args: see `Ensemble` for `shape`."""
        super().__init__()
        self.normaliser = normaliser
        observations, actions = normaliser.input_size, normaliser.action_size
        inputs, outputs = (observations, actions) if normaliser.discrete else (observations + actions, 1)
        self.ensemble = Ensemble(members, inputs, outputs, **shape)  # pyright: ignore[reportArgumentType]

    def forward(self, observations: Tensor, actions: Tensor, members: int | None = None) -> Tensor:
        """(M, B) values of raw observations (B, observation size) and actions (B, action size).

        Args:
            members: M, only the first critics; None for all.
        """
        if self.normaliser.discrete:
            return (self.of_all(observations, members) * actions).sum(-1)
        scaled = self.normaliser.observations(observations), self.normaliser.actions(actions)
        return self.ensemble(torch.cat(scaled, dim=-1), members).squeeze(-1).float()

    def of_all(self, observations: Tensor, members: int | None = None) -> Tensor:
        """(M, B, action size) values of every action, where actions are discrete."""
        return self.ensemble(self.normaliser.observations(observations), members).float()


class StateValue(nn.Module):
    """The value V(s) of raw observations, by one perceptron."""

    def __init__(self, normaliser: Normaliser, **shape: int | bool | Callable[[Tensor], Tensor]) -> None:
        """Args: see `Ensemble` for `shape`."""
        super().__init__()
        self.normaliser = normaliser
        self.ensemble = Ensemble(1, normaliser.input_size, 1, **shape)  # pyright: ignore[reportArgumentType]

    def forward(self, observations: Tensor) -> Tensor:
        """(B,) values of raw observations (B, observation size)."""
        return self.ensemble(self.normaliser.observations(observations))[0, :, 0].float()
