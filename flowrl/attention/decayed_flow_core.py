"""Causal Flow-Attention with sums that decay, in tiles of tokens.

The twin of `flowrl.attention.flow_core`, with the same names in the same order. What a decay makes of the equations
stands in `flowrl.attention.decayed_flow`, the axes in `flowrl.attention.flow_tiling`. With p_i the real tokens of a
tile up to its i-th, `Decays` holds what terms are multiplied by: γ^(p_i - p_j) where token i draws on token j of the
same tile, γ^(p_C - p_j) in the sum after the tile, and γ^p_i where token i draws on the sum before the tile.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flowrl.attention.decayed_flow_gradient import Before, Decays, Forward, by_row, gradient, spread
from flowrl.attention.flow_state import FlowSums
from flowrl.attention.flow_tiling import (
    CoreOptions,
    Kept,
    Tiling,
    Tokens,
    dot,
    drawn_on,
    fill_up_with_ones,
    input_gradients,
    lay_out,
    masked,
    scaled_tiles,
    weigh,
    without_filling,
)
from flowrl.attention.multihead import at_least_float32


class DecayedFlowCore(torch.autograd.Function):
    """y and the `FlowSums` after the tokens.

    Call it as ``DecayedFlowCore.apply(q, k, v, n, log_decay, is_pad, options, *past)``: q and k (B, H, T, D), v (B, H,
    T, M), n (B, H, T) the count that is remembered at each token, at least 1, log_decay (H,), is_pad (B, T) or None,
    `CoreOptions`, and the `FlowSums` before the tokens.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        n: Tensor,
        log_decay: Tensor,
        is_pad: Tensor | None,
        options: CoreOptions,
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        tiling, dtype = Tiling.of(q, options.tile), at_least_float32(v)
        with torch.autocast(q.device.type, enabled=False):
            tokens = lay_out(q, k, n, is_pad, tiling, dtype, mapped=options.mapped)
            real, decays = _decays(tokens, log_decay.to(dtype), tiling)
            attended = _attend(tokens, v, real, decays, options, tiling, FlowSums(*past))
            y, after, kept, before, conserved = attended
        ctx.save_for_backward(is_pad, conserved, *kept, *before, *decays)
        ctx.options, ctx.tiling, ctx.dtypes, ctx.n_shape = options, tiling, (q.dtype, k.dtype, v.dtype), n.shape
        return y.to(v.dtype), *after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *d_after: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        is_pad, conserved, *saved = ctx.saved_tensors
        parts = len(Kept._fields), len(Kept._fields) + len(Before._fields)
        kept, before = Kept(*saved[: parts[0]]), Before(*saved[parts[0] : parts[1]])
        forward = Forward(kept, before, Decays(*saved[parts[1] :]), conserved, ctx.options.eps, ctx.tiling)
        with torch.autocast(dy.device.type, enabled=False):
            d_sides, d_values, d_n, d_log_decay, d_past = gradient(forward, dy, FlowSums(*d_after))
            d_inputs = input_gradients(d_sides, d_values, kept.sides, is_pad, ctx.tiling, mapped=ctx.options.mapped)
        inputs = (d.to(dtype) for d, dtype in zip(d_inputs, ctx.dtypes, strict=True))
        return *inputs, d_n.sum_to_size(ctx.n_shape), d_log_decay, None, None, *d_past


def decay_matrix(passed: Tensor, log_decay: Tensor) -> Tensor:
    """(..., T, T) γ^(p_i - p_j) for j ≤ i, else 0.

    Args:
        passed: (..., T) p, the tokens counted so far.
        log_decay: log γ, of a shape that goes with the result.
    """
    since = (passed[..., :, None] - passed[..., None, :]).tril()
    return (since * log_decay).exp().tril()


def _decays(tokens: Tokens, log_decay: Tensor, tiling: Tiling) -> tuple[Tensor, Decays]:
    """(B or 1, 1, L C) 1 at real tokens, 0 at padding and what fills up; and the powers of γ."""
    by_tile = tiling.tiles, tiling.tile
    if tokens.real is None:  # what fills up has no flow: its decays within the tile mean nothing
        real = tokens.n.new_zeros(1, 1, tiling.filled)
        real[..., : tiling.tokens] = 1
        since = real.new_ones(1, 1, 1, tiling.tile).cumsum(-1)
    else:
        real = tokens.real
        since = real.view(tiling.batch, 1, *by_tile).cumsum(-1)
    within = decay_matrix(since, log_decay[:, None, None, None])
    passed = real.view(len(real), 1, *by_tile).cumsum(-1)
    logarithm = log_decay[:, None, None]

    def by_token(x: Tensor) -> Tensor:
        return x.expand(tiling.batch, tiling.heads, *by_tile).reshape(tiling.tile_count, tiling.tile)

    from_before = by_token((passed * logarithm).exp())
    to_end = by_token(((passed[..., -1:] - passed) * logarithm).exp())
    return real, Decays(within, since, by_token(passed), from_before, to_end)


def _attend(
    tokens: Tokens, v: Tensor, real: Tensor, decays: Decays, options: CoreOptions, tiling: Tiling, past: FlowSums
) -> tuple[Tensor, FlowSums, Kept, Before, Tensor]:
    """The equations of `flowrl.attention.flow`, in their order, for all tiles at once; Î and Ô come last."""
    sides, totals, n, _ = tokens
    sinks, sources = sides
    within, from_before, to_end = decays.within, decays.from_before, decays.to_end
    to_sinks, from_sources = _pairs(sides, within, tiling)

    def draw(drawn: Tensor, weighted: Tensor, before: Tensor) -> Tensor:
        """(2, Z, C): (f_i + ε)·(Σ_{j≤i} γ^(i-j) w_j g_j + ε), g the other side.

        `drawn` is Σ_{j≤i} γ^(i-j) f_i·w_j g_j in the tile, `weighted` the sums over the features of w_j g_j.
        """
        drawn.add_(spread(weighted, within, tiling).flip(0), alpha=options.eps)
        drawn.add_(drawn_on(sides, before, options.eps) * from_before)
        return drawn.add_(totals, alpha=options.eps).add_(sides.shape[-1] * options.eps**2)

    # I, O: incoming and outgoing flow.
    given, k, q = _running_pair(weigh(to_end.expand(2, -1, -1), sides), past.k, past.q, decays, tiling)
    flow = draw(torch.stack([to_sinks.sum(-1), from_sources.sum(-2)]), totals, given)
    fill_up_with_ones(flow, tiling)
    per_flow = n / flow

    # Î, Ô: conserved flows.
    at_end = weigh(per_flow * to_end, sides)
    per_flow_given, k_per_flow, q_per_flow = _running_pair(at_end, past.k_per_flow, past.q_per_flow, decays, tiling)
    drawn = torch.stack([dot(to_sinks, per_flow[1]), weigh(per_flow[0], from_sources)])
    conserved = draw(drawn, totals * per_flow, per_flow_given).div_(n)

    # C: competition.
    exp_outgoing = masked(conserved[1].clamp(-options.clip, options.clip).exp_(), real, tiling)
    competing, competing_before, all_competing = _competing(exp_outgoing, past, decays, tiling)
    values = scaled_tiles(v, n * exp_outgoing / competing, tiling)

    # y: aggregation, then allocation.
    y = values.new_empty(tiling.batch, tiling.heads, tiling.filled, v.shape[-1])
    aggregated = torch.bmm(to_sinks, values, out=y.view(values.shape))
    memory, memory_end = _running_memory(sources, values, past, decays, tiling)
    aggregated.baddbmm_(sinks * from_before[..., None], memory)
    allocation = conserved[0].sigmoid()
    aggregated *= (allocation / flow[0])[..., None]

    free = conserved[1].abs() <= options.clip
    kept = Kept(
        sides, values, to_sinks, from_sources, n, totals, flow, per_flow, allocation, exp_outgoing, competing, free
    )
    before = Before(given, per_flow_given, competing_before, memory)
    after = FlowSums(k, q, k_per_flow, q_per_flow, all_competing, memory_end)
    return without_filling(y, tiling), after, kept, before, conserved


def _pairs(sides: Tensor, within: Tensor, tiling: Tiling) -> tuple[Tensor, Tensor]:
    """A and U (Z, C, C)."""
    sinks, sources = sides
    gram = torch.bmm(sinks, sources.mT)
    by_head = gram.view(tiling.batch, tiling.heads, tiling.tiles, tiling.tile, tiling.tile)
    to_sinks = (by_head * within).view(gram.shape)
    by_head.mul_(within.mT)
    return to_sinks, gram


def _running_pair(given: Tensor, k: Tensor, q: Tensor, decays: Decays, tiling: Tiling) -> tuple[Tensor, Tensor, Tensor]:
    """What both sides find summed.

    Args:
        given: (2, Z, D) what the sinks and the sources of each tile give to the sum after it.
        k: (B, H, D) what the sources gave before the first tile.
        q: (B, H, D) what the sinks gave.

    Returns:
        (2, Z, D) the sums before each tile that sinks and sources draw on, and k and q after all tiles.
    """
    first = torch.stack([k, q]).flatten(0, 2)
    terms = given.flip(0).view(2 * tiling.rows, tiling.tiles, given.shape[-1])
    sums, end = decaying_sums(first, terms, decays.fades(tiling).repeat(2, 1))
    after_k, after_q = end.view(2, *k.shape)
    return sums.reshape(given.shape), after_k.clone(), after_q.clone()


def _competing(exp_outgoing: Tensor, past: FlowSums, decays: Decays, tiling: Tiling) -> tuple[Tensor, Tensor, Tensor]:
    """Σ exp(Ô): (Z, C) up to each token, (Z, 1) before each tile, (B, H, 1) of all."""
    given = (exp_outgoing * decays.to_end).sum(-1).view(tiling.rows, tiling.tiles)
    sums, of_all = decaying_sums(past.competition.reshape(tiling.rows), given, decays.fades(tiling))
    before = sums.reshape(tiling.tile_count, 1)
    competing = spread(exp_outgoing[None], decays.within, tiling)[0]
    competing += before * decays.from_before
    competing = competing.masked_fill(competing == 0, 1.0)  # before the first real token none compete
    return competing, before, of_all.view(tiling.batch, tiling.heads, 1).clone()


def _running_memory(
    sources: Tensor, values: Tensor, past: FlowSums, decays: Decays, tiling: Tiling
) -> tuple[Tensor, Tensor]:
    """(Z, D, M) Σ k ⊗ C v before each tile, and (B, H, D, M) after all."""
    d, m = past.memory.shape[-2:]
    given = torch.bmm((sources * decays.to_end[..., None]).mT, values).view(tiling.rows, tiling.tiles, d, m)
    sums, end = decaying_sums(past.memory.reshape(tiling.rows, d, m), given, decays.fades(tiling))
    return sums.reshape(-1, d, m), end.view(past.memory.shape).clone()


def decaying_sums(first: Tensor, terms: Tensor, fades: Tensor) -> tuple[Tensor, Tensor]:
    """Running sums of (R, L, ...) terms from `first` (R, ...), multiplied by fades (R, L) before each term is added.

    Returns:
        The sums before each term, and that of all.
    """
    tiles = terms.shape[1]
    sums = terms.new_empty(tiles + 1, len(terms), *terms.shape[2:])
    sums[0] = first
    for i in range(tiles):
        torch.addcmul(terms[:, i], sums[i], by_row(fades[:, i], first), out=sums[i + 1])
    return sums[:-1].transpose(0, 1), sums[-1]
