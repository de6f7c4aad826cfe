"""Causal Flow-Attention in tiles of tokens.

The equations stand in `flowrl.attention.flow`, the axes in `flowrl.attention.flow_tiling`. With P = q kᵀ the Gram
matrix of a tile, A = tril(P) and U = triu(P), the sums inside a tile are A·1, 1·U, A·(n/O), (n/I)·U and A·(C v); the
sums of all tiles before it come on top, from one tile to the next. A lone tile without a past has none.

The gradient is in `flowrl.attention.flow_gradient`; `flowrl.attention.decayed_flow_core` is the twin with decay.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flowrl.attention.flow_gradient import Before, gradient
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


class FlowCore(torch.autograd.Function):
    """y, and where a past came in, the `FlowSums` after the tokens.

    Call it as ``FlowCore.apply(q, k, v, n, is_pad, options, *past)``: q and k (B, H, T, D), v (B, H, T, M), n (B or 1,
    1, T) the count of the tokens, at least 1, is_pad (B, T) or None, `CoreOptions`, and the `FlowSums` before the
    tokens. Only a lone tile can do without these.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, n: Tensor, is_pad: Tensor | None, options: CoreOptions, *past: Tensor
    ) -> tuple[Tensor, ...]:
        tiling = Tiling.of(q, options.tile)
        with torch.autocast(q.device.type, enabled=False):
            tokens = lay_out(q, k, n, is_pad, tiling, at_least_float32(v), mapped=options.mapped)
            y, after, kept, before = _attend(tokens, v, options, tiling, FlowSums(*past) if past else None)
        ctx.save_for_backward(is_pad, *kept, *(before or ()))
        ctx.options, ctx.tiling, ctx.dtypes = options, tiling, (q.dtype, k.dtype, v.dtype)
        return y.to(v.dtype), *(after or ())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *d_after: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        is_pad, *saved = ctx.saved_tensors
        parts = len(Kept._fields)
        kept, before = Kept(*saved[:parts]), Before(*saved[parts:]) if d_after else None
        with torch.autocast(dy.device.type, enabled=False):
            d_sides, d_values, d_past = gradient(
                kept, before, ctx.options.eps, ctx.tiling, dy, FlowSums(*d_after) if d_after else None
            )
            d_inputs = input_gradients(d_sides, d_values, kept.sides, is_pad, ctx.tiling, mapped=ctx.options.mapped)
        inputs = (d.to(dtype) for d, dtype in zip(d_inputs, ctx.dtypes, strict=True))
        return *inputs, None, None, None, *d_past


def _attend(
    tokens: Tokens, v: Tensor, options: CoreOptions, tiling: Tiling, past: FlowSums | None
) -> tuple[Tensor, FlowSums | None, Kept, Before | None]:
    """The equations of `flowrl.attention.flow`, in their order, for all tiles at once."""
    sides, totals, n, real = tokens
    sinks, sources = sides
    to_sinks, from_sources, lower = _pairs(sides)
    given = per_flow_given = memory = None
    ends: list[Tensor] = []

    def draw(within: Tensor, weighted: Tensor, before: Tensor | None) -> Tensor:
        """(2, Z, C): (f_i + ε)·(Σ_{j≤i} w_j g_j + ε), g the other side.

        `within` is Σ_{j≤i} f_i·w_j g_j in the tile, `weighted` the sums over the features of w_j g_j.
        """
        within.add_((weighted @ lower.mT).flip(0), alpha=options.eps)
        if before is not None:
            within.add_(drawn_on(sides, before, options.eps))
        return within.add_(totals, alpha=options.eps).add_(sides.shape[-1] * options.eps**2)

    # I, O: incoming and outgoing flow.
    if past is not None:
        given, *ends = _running_pair(sides.sum(-2), past.k, past.q, tiling)
    flow = draw(torch.stack([to_sinks.sum(-1), from_sources.sum(-2)]), totals, given)
    fill_up_with_ones(flow, tiling)
    per_flow = n / flow

    # Î, Ô: conserved flows.
    if past is not None:
        per_flow_given, *more = _running_pair(weigh(per_flow, sides), past.k_per_flow, past.q_per_flow, tiling)
        ends += more
    within = torch.stack([dot(to_sinks, per_flow[1]), weigh(per_flow[0], from_sources)])
    conserved = draw(within, totals * per_flow, per_flow_given).div_(n)

    # C: competition.
    exp_outgoing = conserved[1].clamp(-options.clip, options.clip).exp_()
    if real is not None:
        exp_outgoing = masked(exp_outgoing, real, tiling)
    competing, all_competing = _competing(exp_outgoing, real is not None, past, tiling)
    values = scaled_tiles(v, n * exp_outgoing / competing, tiling)

    # y: aggregation, then allocation.
    y = values.new_empty(tiling.batch, tiling.heads, tiling.filled, v.shape[-1])
    aggregated = torch.bmm(to_sinks, values, out=y.view(values.shape))
    if past is not None:
        memory, end = _running_memory(sources, values, past, tiling)
        aggregated.baddbmm_(sinks, memory)
        ends += [all_competing, end]
    allocation = conserved[0].sigmoid()
    aggregated *= (allocation / flow[0])[..., None]

    free = conserved[1].abs() <= options.clip
    kept = Kept(
        sides, values, to_sinks, from_sources, n, totals, flow, per_flow, allocation, exp_outgoing, competing, free
    )
    y = without_filling(y, tiling)
    if given is None or per_flow_given is None or memory is None:
        return y, None, kept, None
    return y, FlowSums(*ends), kept, Before(given, per_flow_given, memory)


def _pairs(sides: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A and U (Z, C, C), and the lower triangle of ones (C, C)."""
    sinks, sources = sides
    upto = torch.ones(sinks.shape[1], sinks.shape[1], device=sides.device, dtype=sides.dtype).triu()
    lower = upto.mT.contiguous()
    gram = torch.bmm(sinks, sources.mT)
    return gram * lower, gram.mul_(upto), lower


def _running_pair(given: Tensor, k: Tensor, q: Tensor, tiling: Tiling) -> tuple[Tensor, Tensor, Tensor]:
    """What both sides find summed.

    Args:
        given: (2, Z, D) what the sinks and the sources of each tile give.
        k: (B, H, D) what the sources gave before the first tile.
        q: (B, H, D) what the sinks gave.

    Returns:
        (2, Z, D) the sums before each tile that sinks and sources draw on, and k and q after all tiles.
    """
    first = torch.stack([k, q]).flatten(0, 2)
    sums, end = running_sums(first, given.flip(0).view(2 * tiling.rows, tiling.tiles, given.shape[-1]))
    after_k, after_q = end.view(2, *k.shape)
    return sums.reshape(given.shape), after_k.clone(), after_q.clone()


def _competing(exp_outgoing: Tensor, padded: bool, past: FlowSums | None, tiling: Tiling) -> tuple[Tensor, Tensor]:
    """(Z, C) Σ exp(Ô) up to each token, and (B, H, 1) that of all."""
    competing = exp_outgoing.view(tiling.rows, tiling.filled).cumsum(-1)
    if past is not None:
        competing += past.competition.reshape(tiling.rows)[:, None]
    of_all = competing[:, tiling.tokens - 1].view(tiling.batch, tiling.heads, 1).clone()
    if padded:
        competing = competing.masked_fill(competing == 0, 1.0)  # before the first real token none compete
    return competing.view(exp_outgoing.shape), of_all


def _running_memory(sources: Tensor, values: Tensor, past: FlowSums, tiling: Tiling) -> tuple[Tensor, Tensor]:
    """(Z, D, M) Σ k ⊗ C v before each tile, and (B, H, D, M) after all."""
    d, m = past.memory.shape[-2:]
    given = torch.bmm(sources.mT, values).view(tiling.rows, tiling.tiles, d, m)
    sums, end = running_sums(past.memory.reshape(tiling.rows, d, m), given)
    return sums.reshape(-1, d, m), end.view(past.memory.shape).clone()


def running_sums(first: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
    """Running sums of (R, L, ...) terms from `first` (R, ...): those before each term, and that of all."""
    tiles = terms.shape[1]
    sums = terms.new_empty(tiles + 1, len(terms), *terms.shape[2:])
    sums[0] = first
    for i in range(tiles):
        torch.add(sums[i], terms[:, i], out=sums[i + 1])
    return sums[:-1].transpose(0, 1), sums[-1]
