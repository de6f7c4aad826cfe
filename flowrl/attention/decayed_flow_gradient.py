"""The gradient of causal Flow-Attention with sums that decay, written by hand.

The twin of `flowrl.attention.flow_gradient`, with the same names in the same order: A and U, and so X_A and X_U, are
multiplied by the powers of γ. The gradient of log γ is the sum of what each power does, times its exponent.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from flowrl.attention.flow_state import FlowSums
from flowrl.attention.flow_tiling import Kept, Tiling, dot, drawn_on, scaled_tiles, weigh


class Decays(NamedTuple):
    """The powers of γ, and their exponents."""

    within: Tensor  # (B or 1, H, L or 1, C, C)  γ^(p_i - p_j) for j ≤ i, else 0
    since: Tensor  # (B or 1, 1, L or 1, C)      p; what fills up counts where there is no padding
    passed: Tensor  # (Z, C)                     p; what fills up counts nowhere
    from_before: Tensor  # (Z, C)                γ^p_i, what is left of the sums before the tile
    to_end: Tensor  # (Z, C)                     γ^(p_C - p_j), what is left of a token at the tile's end

    def fades(self, tiling: Tiling) -> Tensor:
        """(R, L) γ^p_C, what is left of the sum before a tile in that after it."""
        return self.from_before[:, -1].reshape(tiling.rows, tiling.tiles)


class Before(NamedTuple):
    """What is summed before each tile, in the order in which the sides draw on it."""

    given: Tensor  # (2, Z, D)     Σ k, Σ q
    per_flow: Tensor  # (2, Z, D)  Σ k n/O, Σ q n/I
    competing: Tensor  # (Z, 1)    Σ exp(Ô)
    memory: Tensor  # (Z, D, M)    Σ k ⊗ C v


class Forward(NamedTuple):
    """All that the gradient needs of the forward pass."""

    kept: Kept
    before: Before
    decays: Decays
    conserved: Tensor  # (2, Z, C)  Î, Ô before the clamp
    eps: float
    tiling: Tiling


def gradient(
    forward: Forward, dy: Tensor, d_after: FlowSums
) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """The gradients of the sides (2, Z, C, D), of v (Z, C, M), of n (B, H, T), of log γ (H,) and of the sums before."""
    kept, tiling = forward.kept, forward.tiling
    decay = _DecayGradient(forward.decays, tiling)
    output = _through_output(forward, dy, d_after, decay)
    d_outgoing, d_competition = _through_competition(forward, output.d_log_competition, d_after, decay)
    d_conserved = torch.stack([output.d_log_gain * (1 - kept.allocation), d_outgoing]).div_(kept.n)
    flows = _through_flows(forward, output, d_conserved, d_after, decay)
    d_sides = _through_sides(forward, output, d_conserved, flows, decay)
    d_n = flows.d_n.view(tiling.batch, tiling.heads, tiling.filled)[:, :, : tiling.tokens]
    return d_sides, output.d_values, d_n, decay.total, (*flows.d_past, d_competition, output.d_memory)


class _OutputGradient(NamedTuple):
    """What y = g (A (C v) + q·S) hands back."""

    d_pairs: Tensor  # (Z, C, C)         (g dy)(C v)ᵀ, that of A before its decay
    room: Tensor  # (Z, C, C)            nobody needs any more
    d_values: Tensor  # (Z, C, M)        that of v
    d_log_gain: Tensor  # (Z, C)         that of log g
    d_log_competition: Tensor  # (Z, C)  that of log C
    d_sides: Tensor  # (2, Z, C, D)      through the memory
    d_memory: Tensor  # (B, H, D, M)     that of the memory before all tiles


def _through_output(forward: Forward, dy: Tensor, d_after: FlowSums, decay: "_DecayGradient") -> _OutputGradient:
    kept, before, decays, _, _, tiling = forward
    values, to_sinks, (sinks, sources) = kept.values, kept.to_sinks, kept.sides
    d, m = d_after.memory.shape[-2:]
    d_y = scaled_tiles(dy, kept.allocation / kept.flow[0], tiling)
    d_pairs = torch.bmm(d_y, values.mT)
    weighted = to_sinks * d_pairs
    d_log_gain, d_log_competition = weighted.sum(-1), weighted.sum(-2)
    d_values = torch.bmm(to_sinks.mT, d_y)

    given = torch.bmm((sinks * decays.from_before[..., None]).mT, d_y).view(tiling.rows, tiling.tiles, d, m)
    sums, whole = decaying_sums_from_end(d_after.memory.reshape(tiling.rows, d, m), given, decays.fades(tiling))
    d_given = sums.reshape(-1, d, m)
    d_values.baddbmm_(sources * decays.to_end[..., None], d_given)
    d_sides = torch.empty_like(kept.sides)
    torch.bmm(d_y, before.memory.mT, out=d_sides[0])
    torch.bmm(values, d_given.mT, out=d_sides[1])
    d_sides[0] *= decays.from_before[..., None]
    d_sides[1] *= decays.to_end[..., None]
    to_gain, to_competition = (d_sides * kept.sides).sum(-1)
    d_log_gain += to_gain
    d_log_competition += to_competition
    decay.carried(to_gain, before.memory.flatten(1), d_given.flatten(1), to_competition)
    d_values *= (kept.n * kept.exp_outgoing / kept.competing)[..., None]
    d_memory = whole.view(d_after.memory.shape)
    return _OutputGradient(d_pairs, weighted, d_values, d_log_gain, d_log_competition, d_sides, d_memory)


def _through_competition(
    forward: Forward, d_log_competition: Tensor, d_after: FlowSums, decay: "_DecayGradient"
) -> tuple[Tensor, Tensor]:
    """The gradients (Z, C) of Ô before its clamp and (B, H, 1) of Σ exp(Ô) before all tiles."""
    kept, before, decays, _, _, tiling = forward
    d_sum = (d_log_competition / kept.competing).neg_()
    d_competing = spread(d_sum[None], decays.within.mT, tiling)[0]
    drawn = (d_sum * decays.from_before).sum(-1).view(tiling.rows, tiling.tiles)
    sums, whole = decaying_sums_from_end(d_after.competition.reshape(tiling.rows), drawn, decays.fades(tiling))
    d_given = sums.reshape(-1, 1)
    to_the_end = decays.to_end * d_given
    d_competing += to_the_end
    drawn_from_before = d_sum * decays.from_before * before.competing
    decay.carried(drawn_from_before, before.competing, d_given, kept.exp_outgoing * to_the_end)
    decay.summed(d_sum[None], kept.exp_outgoing[None])
    d_outgoing = torch.addcmul(d_log_competition, kept.exp_outgoing, d_competing).mul_(kept.free)
    return d_outgoing, whole.view(tiling.batch, tiling.heads, 1)


class _FlowGradient(NamedTuple):
    """What the flows hand back."""

    d_flow: Tensor  # (2, Z, C)            those of I, O
    to_all_features: Tensor  # (2, Z, C)   that of every feature of a token alike, through ε
    d_given: Tensor  # (2, Z, D)           those of what the sides of each tile give to Σ q, Σ k
    d_per_flow_given: Tensor  # (2, Z, D)  and to Σ q n/I, Σ k n/O
    d_n: Tensor  # (Z, C)
    d_past: tuple[Tensor, ...]  # (B, H, D) each, those of Σ k, Σ q, Σ k n/O, Σ q n/I before all tiles


def _through_flows(
    forward: Forward, output: _OutputGradient, d_conserved: Tensor, d_after: FlowSums, decay: "_DecayGradient"
) -> _FlowGradient:
    """From the gradients of n Î, n Ô and log g to those of I and O."""
    kept, before, decays, conserved, eps, tiling = forward
    sides, totals, per_flow = kept.sides, kept.totals, kept.per_flow
    from_before, to_end = decays.from_before, decays.to_end

    def onwards(x: Tensor) -> Tensor:
        """Σ_{i≥j} γ^(i-j) x_i of what each token draws, as the other side has given it."""
        return spread(x, decays.within.mT, tiling).flip(0)

    d_conserved_onwards = onwards(d_conserved)
    d_per_flow = torch.stack([dot(kept.from_sources, d_conserved[1]), weigh(d_conserved[0], kept.to_sinks)])
    d_per_flow.addcmul_(totals, d_conserved_onwards, value=eps)
    drawn = weigh(d_conserved * from_before, sides, eps)
    d_per_flow_given, *d_past = _running_back(drawn, d_after.k_per_flow, d_after.q_per_flow, decays, tiling)
    to_the_end = dot(sides, d_per_flow_given) * to_end
    d_per_flow += to_the_end
    # Sinks draw on what sources gave: the sums stand as they are drawn on, their gradients as they are given.
    drawn = d_conserved * (drawn_on(sides, before.per_flow, eps) * from_before)
    decay.carried(drawn, before.per_flow, d_per_flow_given.flip(0), per_flow * to_the_end)
    decay.summed(eps * d_conserved, (totals * per_flow).flip(0))
    d_n = (d_per_flow / kept.flow - d_conserved * conserved).sum(0) + output.d_log_competition / kept.n
    d_flow = d_per_flow.mul_(per_flow)
    d_flow[0] += output.d_log_gain
    d_flow.div_(kept.flow).neg_()

    to_all_features = onwards(d_flow)
    drawn = weigh(d_flow * from_before, sides, eps)
    d_given, *earlier = _running_back(drawn, d_after.k, d_after.q, decays, tiling)
    decay.summed(eps * d_flow, totals.flip(0))
    drawn = d_flow * (drawn_on(sides, before.given, eps) * from_before)
    decay.carried(drawn, before.given, d_given.flip(0), dot(sides, d_given) * to_end)
    to_all_features.addcmul_(per_flow, d_conserved_onwards).add_(d_flow).add_(d_conserved).mul_(eps)
    return _FlowGradient(d_flow, to_all_features, d_given, d_per_flow_given, d_n, (*earlier, *d_past))


def _running_back(
    drawn: Tensor, d_k: Tensor, d_q: Tensor, decays: Decays, tiling: Tiling
) -> tuple[Tensor, Tensor, Tensor]:
    """As `_running_pair` from the end.

    Args:
        drawn: (2, Z, D) the gradients of the sums before each tile, from the sinks and sources that draw on them.
        d_k: (B, H, D) the gradient of the sources' sum after all tiles.
        d_q: (B, H, D) of the sinks'.

    Returns:
        (2, Z, D) the gradients of what the sinks and sources of each tile give, and those of both sums before all.
    """
    first = torch.stack([d_k, d_q]).flatten(0, 2)
    terms = drawn.view(2 * tiling.rows, tiling.tiles, drawn.shape[-1])
    sums, whole = decaying_sums_from_end(first, terms, decays.fades(tiling).repeat(2, 1))
    d_past_k, d_past_q = whole.view(2, *d_k.shape)
    return sums.reshape(drawn.shape).flip(0), d_past_k, d_past_q


def _through_sides(
    forward: Forward, output: _OutputGradient, d_conserved: Tensor, flows: _FlowGradient, decay: "_DecayGradient"
) -> Tensor:
    """(2, Z, C, D) the gradients of q and k after the feature map: X k and Xᵀ q, and what comes from other tiles."""
    kept, before, decays, _, _, tiling = forward
    per_flow, d_flow, x, room, d_sides = kept.per_flow, flows.d_flow, output.d_pairs, output.room, output.d_sides
    by_head = tiling.batch, tiling.heads, tiling.tiles, tiling.tile, tiling.tile
    x.addcmul_(d_conserved[0][..., None], per_flow[1][..., None, :]).add_(d_flow[0][..., None])
    decay.pairs(torch.mul(x, kept.to_sinks, out=room))
    x.view(by_head).mul_(decays.within)
    room.copy_(d_flow[1][..., None, :]).addcmul_(per_flow[0][..., None], d_conserved[1][..., None, :])
    decay.pairs((room * kept.from_sources).mT)
    x.view(by_head).addcmul_(room.view(by_head), decays.within.mT)

    from_before, to_end = decays.from_before, decays.to_end
    columns = [
        d_flow * from_before,
        d_conserved * from_before,
        to_end.expand_as(per_flow),
        per_flow * to_end,
        flows.to_all_features,
    ]
    vectors = [before.given, before.per_flow, flows.d_given, flows.d_per_flow_given, torch.ones_like(flows.d_given)]
    factors = torch.stack(columns, -1).flatten(0, 1)
    d_sides.flatten(0, 1).baddbmm_(factors, torch.stack(vectors, -2).flatten(0, 1))
    sinks, sources = kept.sides
    d_sides[0].baddbmm_(x, sources)
    d_sides[1].baddbmm_(x.mT, sinks)
    return d_sides


class _DecayGradient:
    """Adds up the gradient of log γ: what each power of γ in the sums of a tile does, times its exponent."""

    def __init__(self, decays: Decays, tiling: Tiling) -> None:
        self.tiling, self.passed, self.fades = tiling, decays.passed, decays.from_before[:, -1]
        self.exponents = (decays.since[..., :, None] - decays.since[..., None, :]).tril()  # p_i - p_j for j ≤ i
        self.within = self.exponents * decays.within
        self.total = decays.passed.new_zeros(tiling.heads)  # (H,)

    def pairs(self, x: Tensor) -> None:
        """(Z, C, C) what the gradient of a sum's i-th value and its j-th term make of γ^(p_i - p_j)."""
        by_head = x.view(self.tiling.batch, self.tiling.heads, self.tiling.tiles, *x.shape[1:])
        self._add((by_head * self.exponents).sum((-1, -2)))

    def summed(self, d_sums: Tensor, terms: Tensor) -> None:
        """The same of (S, Z, C) gradients of sums and their terms."""
        self._add((d_sums * spread(terms, self.within, self.tiling)).sum(-1))

    def carried(self, drawn: Tensor, before: Tensor, d_end: Tensor, given: Tensor) -> None:
        """What comes into tiles and leaves them.

        Args:
            drawn: (..., Z, C) what the gradient makes of what each token draws from before its tile.
            before: (..., Z, F) the sum before each tile.
            d_end: (..., Z, F) the gradient of the sum after it.
            given: (..., Z, C) what the gradient makes of what each token gives to the sum after its tile.
        """
        last = self.passed[:, -1:]
        kept_on = (before * d_end).sum(-1) * self.fades * last[:, 0]
        self._add((drawn * self.passed + given * (last - self.passed)).sum(-1) + kept_on)

    def _add(self, x: Tensor) -> None:
        """(..., Z) or (..., B, H, L)."""
        batch, heads, tiles = self.tiling.batch, self.tiling.heads, self.tiling.tiles
        copies = x.numel() // max(1, batch * heads * tiles)
        self.total = self.total + x.reshape(copies, batch, heads, tiles).sum((0, 1, 3))


def spread(x: Tensor, matrix: Tensor, tiling: Tiling) -> Tensor:
    """Σ_j w_ij x_j within tiles, of x (S, Z, C) and w (B or 1, H, L or 1, C, C)."""
    by_head = x.view(len(x), tiling.batch, tiling.heads, tiling.tiles, tiling.tile)
    return torch.einsum("bhlij,sbhlj->sbhli", matrix, by_head).reshape(x.shape)


def decaying_sums_from_end(first: Tensor, terms: Tensor, fades: Tensor) -> tuple[Tensor, Tensor]:
    """As `decaying_sums`, from the last term: those after each term, and that of all."""
    tiles = terms.shape[1]
    sums = terms.new_empty(tiles + 1, len(terms), *terms.shape[2:])
    sums[tiles] = first
    for i in reversed(range(tiles)):
        torch.addcmul(terms[:, i], sums[i + 1], by_row(fades[:, i], first), out=sums[i])
    return sums[1:].transpose(0, 1), sums[0]


def by_row(factors: Tensor, x: Tensor) -> Tensor:
    """factors (R,) in as many axes as x (R, ...)."""
    return factors.view(-1, *(1,) * (x.ndim - 1))
