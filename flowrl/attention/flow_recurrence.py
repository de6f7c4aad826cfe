"""Causal Flow-Attention as a recurrence: the next few tokens of sequences whose past is a state.

The equations of `flowrl.attention.flow` in their order, with running sums written out.
"""

import torch
from torch import Tensor

from flowrl.attention.flow_state import FlowState


def few_tokens(
    q: Tensor, k: Tensor, v: Tensor, past: FlowState, clip: float, eps: float, mapped: bool
) -> tuple[Tensor, FlowState]:
    """The next few tokens, as a step of an agent has them, in as few operations as can be.

    Sinks and sources play the same part in the first four equations, so each is computed for both at once. Takes q, k,
    v, clip and eps as `flowrl.attention.flow.flow_attention` does; `mapped`: q and k come after the feature map.
    """
    # In place where nothing else holds the tensor: at this size an operation costs more than its arithmetic.
    own = torch.stack([q, k]).to(past.k.dtype)  # (2, B, H, T, D)
    own = own if mapped else own.sigmoid_()
    q, k = own
    other = torch.stack([k, q]).add_(eps)
    n = past.n[..., None] + torch.arange(1, q.shape[-2] + 1, device=q.device, dtype=q.dtype)  # (B, 1, T)

    sums, (q_sum, k_sum) = _sums(torch.stack([past.q, past.k]), own)
    flows = (other * sums.add_(eps)).sum(-1)  # (2, B, H, T): outgoing, incoming
    sums, (q_per_flow, k_per_flow) = _sums(
        torch.stack([past.q_per_flow, past.k_per_flow]), own * (n / flows).flip(0)[..., None]
    )
    conserved_out, conserved_in = (other * sums.add_(eps)).sum(-1) / n

    exp_outgoing = conserved_out.clamp(-clip, clip).exp()
    competing = past.competition + exp_outgoing.cumsum(-1)
    values = (n * exp_outgoing / competing)[..., None] * v
    aggregated = (q @ past.memory).add_((q @ k.mT).tril_() @ values)
    y = (conserved_in.sigmoid() / flows[1])[..., None] * aggregated
    memory = torch.baddbmm(past.memory.flatten(0, 1), k.flatten(0, 1).mT, values.flatten(0, 1)).view_as(past.memory)
    return y.to(v.dtype), FlowState(n[:, 0, -1:], k_sum, q_sum, k_per_flow, q_per_flow, competing[..., -1:], memory)


def _sums(past: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
    """Running sums (..., T, D) of `terms` after `past` (..., D), and the last of them."""
    sums = []
    for term in terms.unbind(-2):  # `cumsum` takes longer
        past = past + term
        sums.append(past)
    return torch.stack(sums, dim=-2), past
