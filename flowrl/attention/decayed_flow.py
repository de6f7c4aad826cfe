"""Causal Flow-Attention that forgets: every running sum of it decays, and so does the count of its terms.

An extension of the equations in `flowrl.attention.flow`: with a decay γ of each head, every sum over the tokens so far
becomes Σ_{j≤i} γ^(i-j) ..., and the count becomes n_i = γ n_{i-1} + 1, the number of tokens that are remembered. As
they balance, the flows keep their size, and γ = 1 is the paper's attention. A token that is padding is no token: sums
and count stay as they are.

γ is learnt. Tiles of tokens are worked out in `flowrl.attention.decayed_flow_core`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flowrl.attention.decayed_flow_core import DecayedFlowCore, decay_matrix
from flowrl.attention.flow_state import FEW, FlowState
from flowrl.attention.flow_tiling import TILE, CoreOptions
from flowrl.attention.multihead import at_least_float32


def decayed_flow_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    state: FlowState | None = None,
    *,
    clip: float,
    eps: float,
    is_pad: Tensor | None = None,
    tile: int = TILE,
    mapped: bool = True,
) -> tuple[Tensor, FlowState]:
    """The tokens that follow `state` (None: the first ones), and the state after them.

    Time and memory are linear in T; differentiable once.

    Args:
        q: (B, H, T, D) queries after the feature map, or before it where that is the sigmoid.
        k: (B, H, T, D) keys, likewise.
        v: (B, H, T, M) values.
        log_decay: (H,) log γ, at most 0.
        clip: bound on the conserved outgoing flow |Ô|.
        eps: ε, added once after each sum.
        is_pad: (B, T) bool, True at tokens that carry no flow and do not count, wherever they stand.
        mapped: whether queries and keys are those after the map; else their sigmoid is taken.

    Returns:
        (B, H, T, M) in the dtype of `v`, and the state.
    """
    (batch, heads, tokens, d), m = q.shape, v.shape[-1]
    with torch.autocast(q.device.type, enabled=False):
        if state is not None and tokens <= FEW and is_pad is None:
            return _few_tokens(q, k, v, log_decay, state, clip, eps, mapped)
        if state is None:
            state = FlowState.zeros(batch, heads, d, m, device=q.device, dtype=at_least_float32(v))
            state = state.with_counts_by_head()
        # The counts alone could be differentiated twice, which would be half of the truth.
        log_decay = _DifferentiableOnce.apply(log_decay)
        assert isinstance(log_decay, Tensor)
        real = q.new_ones(1, tokens) if is_pad is None else (~is_pad).to(q.dtype)
        n, after_n = _counts(real, log_decay, state.n, tile)
        options = CoreOptions(clip, eps, tile, mapped)
        y, *after = DecayedFlowCore.apply(q, k, v, n, log_decay, is_pad, options, *state[1:])  # pyright: ignore[reportGeneralTypeIssues]
    return y, FlowState(after_n, *after)


class _DifferentiableOnce(torch.autograd.Function):
    """The same tensor; to differentiate its gradient raises RuntimeError."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return dx


def _counts(real: Tensor, log_decay: Tensor, past: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """(B, H, T) the tokens remembered at each, at least 1, after (B, H) past ones; and (B, H) those after all.

    Args:
        real: (B or 1, T) 1 at real tokens, 0 at padding.
    """
    log_decay = log_decay.to(past.dtype)[:, None]
    counts = []
    for part in real.to(past.dtype).split(tile, dim=-1):
        passed = part.cumsum(-1)[:, None]  # (B or 1, 1, C)
        own = decay_matrix(passed, log_decay[..., None]) @ part[:, None, :, None]  # (B or 1, H, C, 1)
        counts.append(own[..., 0] + (passed * log_decay).exp() * past[..., None])
        past = counts[-1][..., -1]
    return torch.cat(counts, -1).clamp(min=1.0), past.clone()  # padding before the first real token has counted none


def _few_tokens(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, past: FlowState, clip: float, eps: float, mapped: bool
) -> tuple[Tensor, FlowState]:
    """The same for a few tokens, as an agent's step has them; sinks and sources are worked out at once."""
    tokens, dtype = q.shape[-2], past.k.dtype
    own = torch.stack([q, k]).to(dtype)  # (2, B, H, T, D)
    own = own if mapped else own.sigmoid()
    q, k = own
    other = own.flip(0) + eps
    log_decay = log_decay.to(dtype)[:, None]
    since = torch.arange(1, tokens + 1, device=q.device, dtype=dtype)
    kept = (since * log_decay).exp()  # (H, T) of the past
    within = decay_matrix(since, log_decay[..., None])  # (H, T, T)

    n = past.n[..., None] * kept + within.sum(-1)  # (B, H, T)
    sums, (q_sum, k_sum) = _written_out(torch.stack([past.q, past.k]), own, kept[:, :1])
    flows = (other * (sums + eps)).sum(-1)  # (2, B, H, T): outgoing, incoming
    sums, (q_per_flow, k_per_flow) = _written_out(
        torch.stack([past.q_per_flow, past.k_per_flow]), own * (n / flows).flip(0)[..., None], kept[:, :1]
    )
    conserved_out, conserved_in = (other * (sums + eps)).sum(-1) / n

    exp_outgoing = conserved_out.clamp(-clip, clip).exp()
    competing = past.competition * kept + (within @ exp_outgoing[..., None])[..., 0]
    values = (n * exp_outgoing / competing)[..., None] * v.to(dtype)
    aggregated = (q @ past.memory) * kept[..., None] + (q @ k.mT * within) @ values
    y = (conserved_in.sigmoid() / flows[1])[..., None] * aggregated
    memory = past.memory * kept[:, -1:, None] + (k * within[:, -1, :, None]).mT @ values
    return y.to(v.dtype), FlowState(
        n[..., -1].clone(), k_sum, q_sum, k_per_flow, q_per_flow, competing[..., -1:].clone(), memory
    )


def _written_out(past: Tensor, terms: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
    """Decaying sums (..., T, D) of `terms` after `past` (..., D), and the last of them."""
    sums = []
    for term in terms.unbind(-2):
        past = torch.addcmul(term, past, decay)
        sums.append(past)
    return torch.stack(sums, dim=-2), past
