"""What the attention of a trajectory model looks at: its weights and flows layer by layer, and summaries of them.

Axes: B windows, T steps in each, P tokens a step, of the kinds `TrajectoryModel.kinds`; T' of these are looked at.
"""

from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowrl.attention import CausalAttention, FlowAttention
from flowrl.attention.flow import FlowQuantities
from flowrl.attention.multihead import ALL
from flowrl.nn.trajectory import TrajectoryModel


class LayerMap(NamedTuple):
    """Of one layer."""

    weights: Tensor  # (B, H, T', P T) effective attention weights, see `CausalAttention.weights`
    flows: FlowQuantities | None  # (B, H, P T) each; None where the attention knows no flows


class Summary(NamedTuple):
    """Rows of weights in a few numbers; the first two are of the row scaled to sum to 1."""

    attended: Tensor  # (...)     exp(entropy), the effective number of tokens looked at: 1 to T
    share: Tensor  # (..., P)     of the weight, on the tokens of each kind
    gain: Tensor  # (...)         sum of the weights


@torch.inference_mode()
def attention_maps(
    model: TrajectoryModel,
    returns_to_go: Tensor,
    observations: Tensor,
    actions: Tensor,
    timesteps: Tensor,
    at: slice | Tensor = ALL,
) -> list[LayerMap]:
    """The maps of every layer for a batch of windows.

    Takes windows as `TrajectoryModel.forward` does. The model must be in evaluation mode: the weights are those without
    dropout.

    Args:
        at: the tokens whose weights are wanted, a slice or (T',) int64.
    """
    inputs: list[Tensor] = []
    with ExitStack() as hooks:
        for attention in _attentions(model):
            hooks.enter_context(attention.register_forward_pre_hook(lambda _, args: inputs.append(args[0])))
        model(returns_to_go, observations, actions, timesteps)
    return [
        LayerMap(attention.weights(x, at), attention.flows(x) if isinstance(attention, FlowAttention) else None)
        for attention, x in zip(_attentions(model), inputs, strict=True)
    ]


def _attentions(model: nn.Module) -> list[CausalAttention]:
    return [module for module in model.modules() if isinstance(module, CausalAttention)]


def summarise(weights: Tensor, kinds: int) -> Summary:
    """The summary of weights (..., P T), each at least 0, in float64; a row of zeros has the share 0 of everything.

    Args:
        kinds: P, tokens of a step.
    """
    weights = weights.double()
    gain = weights.sum(-1)
    normalised = weights / gain.clamp(min=torch.finfo(torch.float64).tiny)[..., None]
    share = torch.stack([normalised[..., kind::kinds].sum(-1) for kind in range(kinds)], -1)
    return Summary(torch.special.entr(normalised).sum(-1).exp(), share, gain)
