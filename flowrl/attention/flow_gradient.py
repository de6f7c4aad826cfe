"""The gradient of causal Flow-Attention in tiles of tokens, written by hand.

With N = A (C v) + q·S, y = g N and g = sigmoid(Î)/I, everything that reaches a side goes through its Gram matrix: the
gradient of A is X_A = (g dy)(C v)ᵀ + dÎ ⊗ n/O + dI ⊗ 1 over the lower triangle, of U it is X_U = n/I ⊗ dÔ + 1 ⊗ dO
over the upper one, and with X = X_A + X_U that of q is X k, that of k is Xᵀ q. The sums over features that g and C need
are the row and column sums of A ∘ (g dy)(C v)ᵀ, which is small. Running sums turn into running sums from the end.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from flowrl.attention.flow_state import FlowSums
from flowrl.attention.flow_tiling import Kept, Tiling, dot, scaled_tiles, weigh


class Before(NamedTuple):
    """What is summed before each tile, in the order in which the sides draw on it."""

    given: Tensor  # (2, Z, D)     Σ k, Σ q
    per_flow: Tensor  # (2, Z, D)  Σ k n/O, Σ q n/I
    memory: Tensor  # (Z, D, M)    Σ k ⊗ C v


def gradient(
    kept: Kept, before: Before | None, eps: float, tiling: Tiling, dy: Tensor, d_after: FlowSums | None
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """The gradients of the sides (2, Z, C, D), of v (Z, C, M), and of the sums before all tiles."""
    output = _through_output(kept, before, dy, d_after, tiling)
    d_outgoing, d_competition = _through_competition(kept, output.d_log_competition, d_after, tiling)
    d_conserved = torch.stack([output.d_log_gain * (1 - kept.allocation), d_outgoing]).div_(kept.n)
    flows = _through_flows(kept, before, d_conserved, output.d_log_gain, d_after, eps, tiling)
    d_sides = _through_sides(kept, before, output, d_conserved, flows)
    if d_after is None or output.d_memory is None:
        return d_sides, output.d_values, ()
    return d_sides, output.d_values, (*flows.d_past, d_competition, output.d_memory)


class _OutputGradient(NamedTuple):
    """What y = g (A (C v) + q·S) hands back."""

    d_pairs: Tensor  # (Z, C, C)            (g dy)(C v)ᵀ, that of A before its triangle is cut out
    room: Tensor  # (Z, C, C)               nobody needs any more
    d_values: Tensor  # (Z, C, M)           that of v
    d_log_gain: Tensor  # (Z, C)            that of log g
    d_log_competition: Tensor  # (Z, C)     that of log C
    d_sides: Tensor | None  # (2, Z, C, D)  through the memory
    d_memory: Tensor | None  # (B, H, D, M) that of the memory before all tiles


def _through_output(
    kept: Kept, before: Before | None, dy: Tensor, d_after: FlowSums | None, tiling: Tiling
) -> _OutputGradient:
    values, to_sinks = kept.values, kept.to_sinks
    d_y = scaled_tiles(dy, kept.allocation / kept.flow[0], tiling)
    d_pairs = torch.bmm(d_y, values.mT)
    weighted = to_sinks * d_pairs
    d_log_gain, d_log_competition = weighted.sum(-1), weighted.sum(-2)
    d_values = torch.bmm(to_sinks.mT, d_y)
    d_sides = d_memory = None
    if before is not None and d_after is not None:
        sinks, sources = kept.sides
        d, m = d_after.memory.shape[-2:]
        given = torch.bmm(sinks.mT, d_y).view(tiling.rows, tiling.tiles, d, m)
        sums, whole = running_sums_from_end(d_after.memory.reshape(tiling.rows, d, m), given)
        d_given, d_memory = sums.reshape(-1, d, m), whole.view(d_after.memory.shape)
        d_values.baddbmm_(sources, d_given)
        d_sides = torch.empty_like(kept.sides)
        torch.bmm(d_y, before.memory.mT, out=d_sides[0])
        torch.bmm(values, d_given.mT, out=d_sides[1])
        to_gain, to_competition = (d_sides * kept.sides).sum(-1)
        d_log_gain += to_gain
        d_log_competition += to_competition
    d_values *= (kept.n * kept.exp_outgoing / kept.competing)[..., None]
    return _OutputGradient(d_pairs, weighted, d_values, d_log_gain, d_log_competition, d_sides, d_memory)


def _through_competition(
    kept: Kept, d_log_competition: Tensor, d_after: FlowSums | None, tiling: Tiling
) -> tuple[Tensor, Tensor]:
    """The gradients (Z, C) of Ô before its clamp and (B, H, 1) of Σ exp(Ô) before all tiles."""
    d_sum = (d_log_competition / kept.competing).neg_()
    d_competing = d_sum.view(tiling.rows, tiling.filled).flip(-1).cumsum(-1).flip(-1)
    if d_after is not None:  # what fills up the last tile does not compete
        d_competing[:, : tiling.tokens] += d_after.competition.reshape(tiling.rows, 1)
    d_past = d_competing[:, :1].view(tiling.batch, tiling.heads, 1)
    d_outgoing = torch.addcmul(d_log_competition, kept.exp_outgoing, d_competing.view(d_sum.shape)).mul_(kept.free)
    return d_outgoing, d_past


class _FlowGradient(NamedTuple):
    """What the flows hand back."""

    d_flow: Tensor  # (2, Z, C)                    those of I, O
    to_all_features: Tensor  # (2, Z, C)           that of every feature of a token alike, through ε
    d_given: Tensor | None  # (2, Z, D)            those of what the sides of each tile give to Σ q, Σ k
    d_per_flow_given: Tensor | None  # (2, Z, D)   and to Σ q n/I, Σ k n/O
    d_past: tuple[Tensor, ...]  # (B, H, D) each   those of Σ k, Σ q, Σ k n/O, Σ q n/I before all tiles


def _through_flows(
    kept: Kept,
    before: Before | None,
    d_conserved: Tensor,
    d_log_gain: Tensor,
    d_after: FlowSums | None,
    eps: float,
    tiling: Tiling,
) -> _FlowGradient:
    """From the gradients of n Î, n Ô and log g to those of I and O."""
    per_flow, sides = kept.per_flow, kept.sides
    lower = torch.ones(tiling.tile, tiling.tile, device=sides.device, dtype=sides.dtype).tril()
    d_given = d_per_flow_given = None
    d_past: list[Tensor] = []

    def onwards(x: Tensor) -> Tensor:
        """Σ_{i≥j} x_i of what each token draws, as the other side has given it."""
        return (x @ lower).flip(0)

    d_conserved_onwards = onwards(d_conserved)
    d_per_flow = torch.stack([dot(kept.from_sources, d_conserved[1]), weigh(d_conserved[0], kept.to_sinks)])
    d_per_flow.addcmul_(kept.totals, d_conserved_onwards, value=eps)
    if d_after is not None:
        drawn = weigh(d_conserved, sides, eps)
        d_per_flow_given, *d_past = _running_back(drawn, d_after.k_per_flow, d_after.q_per_flow, tiling)
        d_per_flow += dot(sides, d_per_flow_given)
    d_flow = d_per_flow.mul_(per_flow)
    d_flow[0] += d_log_gain
    d_flow.div_(kept.flow).neg_()

    to_all_features = onwards(d_flow)
    if d_after is not None:
        d_given, *earlier = _running_back(weigh(d_flow, sides, eps), d_after.k, d_after.q, tiling)
        d_past = [*earlier, *d_past]
    to_all_features.addcmul_(per_flow, d_conserved_onwards).add_(d_flow).add_(d_conserved).mul_(eps)
    return _FlowGradient(d_flow, to_all_features, d_given, d_per_flow_given, tuple(d_past))


def _running_back(drawn: Tensor, d_k: Tensor, d_q: Tensor, tiling: Tiling) -> tuple[Tensor, Tensor, Tensor]:
    """As `_running_pair` from the end.

    Args:
        drawn: (2, Z, D) the gradients of the sums before each tile, from the sinks and sources that draw on them.
        d_k: (B, H, D) the gradient of the sources' sum after all tiles.
        d_q: (B, H, D) of the sinks'.

    Returns:
        (2, Z, D) the gradients of what the sinks and sources of each tile give, and those of both sums before all.
    """
    first = torch.stack([d_k, d_q]).flatten(0, 2)
    sums, whole = running_sums_from_end(first, drawn.view(2 * tiling.rows, tiling.tiles, drawn.shape[-1]))
    d_past_k, d_past_q = whole.view(2, *d_k.shape)
    return sums.reshape(drawn.shape).flip(0), d_past_k, d_past_q


def _through_sides(
    kept: Kept, before: Before | None, output: _OutputGradient, d_conserved: Tensor, flows: _FlowGradient
) -> Tensor:
    """(2, Z, C, D) the gradients of q and k after the feature map: X k and Xᵀ q, and what comes from other tiles."""
    per_flow, d_flow, x, room, d_sides = kept.per_flow, flows.d_flow, output.d_pairs, output.room, output.d_sides
    lower = torch.ones(x.shape[1:], device=x.device, dtype=x.dtype).tril()
    x.addcmul_(d_conserved[0][..., None], per_flow[1][..., None, :]).add_(d_flow[0][..., None]).mul_(lower)
    room.copy_(d_flow[1][..., None, :]).addcmul_(per_flow[0][..., None], d_conserved[1][..., None, :])
    x.addcmul_(room, lower.mT)
    if before is None or d_sides is None or flows.d_given is None or flows.d_per_flow_given is None:
        d_sides = torch.empty_like(kept.sides).copy_(flows.to_all_features[..., None])
    else:
        ones = torch.ones_like(flows.d_given)
        columns = [d_flow, d_conserved, torch.ones_like(per_flow), per_flow, flows.to_all_features]
        vectors = [before.given, before.per_flow, flows.d_given, flows.d_per_flow_given, ones]
        factors = torch.stack(columns, -1).flatten(0, 1)
        d_sides.flatten(0, 1).baddbmm_(factors, torch.stack(vectors, -2).flatten(0, 1))
    sinks, sources = kept.sides
    d_sides[0].baddbmm_(x, sources)
    d_sides[1].baddbmm_(x.mT, sinks)
    return d_sides


def running_sums_from_end(first: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
    """As `running_sums`, from the last term: those after each term, and that of all."""
    tiles = terms.shape[1]
    sums = terms.new_empty(tiles + 1, len(terms), *terms.shape[2:])
    sums[tiles] = first
    for i in reversed(range(tiles)):
        torch.add(sums[i + 1], terms[:, i], out=sums[i])
    return sums[1:].transpose(0, 1), sums[0]
