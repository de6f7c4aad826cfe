"""Causal Flow-Attention in tiles of tokens, with or without a decay, and its gradient, written by hand.

The equations stand in `flowrl.attention.flow`, what a decay makes of them in `flowrl.attention.decayed_flow`. Axes:
L tiles of C tokens (the last one filled up with tokens of no flow), R = B H rows, Z = R L; D features of a query or
key, M of a value. A pair (2, ...) holds what belongs to the sinks (queries), then what belongs to the sources (keys).
Each draws on the running sum of the other: `flip(0)` turns what is given into what is drawn.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flowrl.attention.flow_state import FlowState
from flowrl.attention.multihead import at_least_float32


class FlowTiles(torch.autograd.Function):
    """y, and where a state came in, all parts of the state after but the count.

    Call it as ``FlowTiles.apply(q, k, v, n, log_decay, is_pad, clip, eps, tile, mapped, *state)``: n (B or 1, H or 1,
    T) counts the tokens, at least 1; log_decay (H,) or None; mapped: queries and keys are positive already, else their
    sigmoid is taken; state: all parts of a `FlowState` but the count, or nothing.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        n: Tensor,
        log_decay: Tensor | None,
        is_pad: Tensor | None,
        clip: float,
        eps: float,
        tile: int,
        mapped: bool,
        *state: Tensor,
    ) -> tuple[Tensor, ...]:
        with torch.autocast(q.device.type, enabled=False):
            past = FlowState(n, *state) if state else None
            y, after, kept = _attend(q, k, v, n, log_decay, is_pad, clip, eps, tile, mapped, past)
        ctx.save_for_backward(*kept, is_pad)
        ctx.mapped, ctx.eps, ctx.shape, ctx.dtypes = mapped, eps, y.shape, (q.dtype, k.dtype, v.dtype)
        ctx.n_shape = n.shape
        ctx.set_materialize_grads(False)
        return y.to(v.dtype), *after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, *d_after: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        *saved, is_pad = ctx.saved_tensors
        kept = _Kept(*saved)
        if dy is None:  # only the state was used
            dy = kept.values.new_zeros(ctx.shape)
        with torch.autocast(dy.device.type, enabled=False):
            d_inputs, d_n, d_log_decay, d_past = _gradient(kept, ctx.eps, ctx.mapped, dy, d_after)
        if is_pad is not None:  # its flows were set to 0, whatever they had been
            d_inputs = (d.masked_fill(is_pad[:, None, :, None], 0) for d in d_inputs)
        inputs = (d.to(dtype) for d, dtype in zip(d_inputs, ctx.dtypes, strict=True))
        d_n = None if d_n is None else d_n.sum_to_size(ctx.n_shape)
        return *inputs, d_n, d_log_decay, None, None, None, None, None, *d_past


class DifferentiableOnce(torch.autograd.Function):
    """The same tensor; whoever differentiates its gradient is told that this cannot be done."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return dx


class _Kept(NamedTuple):
    """What the gradient needs of the forward pass."""

    flows: Tensor  # (2, Z, C, D)     queries, keys after the feature map
    values: Tensor  # (Z, C, M)       C v
    to_sinks: Tensor  # (Z, C, C)     A
    from_sources: Tensor  # (Z, C, C) U
    n: Tensor  # (Z, C)
    totals: Tensor  # (2, Z, C)       the sums over the features of flows
    drawn: Tensor  # (2, Z, C)        I, O
    per_flow: Tensor  # (2, Z, C)     n/I, n/O
    allocation: Tensor  # (Z, C)      sigmoid(Î)
    exp_outgoing: Tensor  # (Z, C)    exp(Ô)
    competing: Tensor  # (Z, C)       Σ exp(Ô)
    free: Tensor  # (Z, C) bool       where the clamp is not active
    # What each tile finds before it; None where a single tile has no past.
    before: Tensor | None  # (2, Z, D)           Σ k, Σ q
    before_per_flow: Tensor | None  # (2, Z, D)  Σ k n/O, Σ q n/I
    memory: Tensor | None  # (Z, D, M)           Σ k ⊗ C v
    # Where sums decay.
    conserved: Tensor | None  # (2, Z, C)  Î, Ô before the clamp
    within: Tensor | None  # (B or 1, H, L or 1, C, C) γ^(p_i - p_j) for j ≤ i, else 0
    since: Tensor | None  # (B or 1, 1, L or 1, C)  p, the real tokens of the tile so far
    passed: Tensor | None  # (Z, C)   the same, and no more at what fills up
    from_before: Tensor | None  # (Z, C)  γ^p_i, what is left of the sums before the tile
    to_end: Tensor | None  # (Z, C)       γ^(p_C - p_j), what is left of a token at the tile's end
    before_competing: Tensor | None  # (Z, 1)  Σ exp(Ô) before the tile


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    n: Tensor,
    log_decay: Tensor | None,
    is_pad: Tensor | None,
    clip: float,
    eps: float,
    tile: int,
    mapped: bool,
    past: FlowState | None,
) -> tuple[Tensor, list[Tensor], _Kept]:
    """The equations of `flowrl.attention.flow`, in their order, for all tiles at once."""
    (batch, heads, tokens, d), m, dtype = q.shape, v.shape[-1], at_least_float32(v)
    tiles = -(-tokens // tile)
    tile = -(-tokens // tiles)  # as little as can be is left over in the last one
    rows, filled, z = batch * heads, tiles * tile, batch * heads * tiles
    carried = tiles > 1 or past is not None

    flows = q.new_empty(2, batch, heads, filled, d, dtype=dtype)
    values = q.new_empty(batch, heads, filled, m, dtype=dtype)
    flows[:, :, :, tokens:] = 0
    values[:, :, tokens:] = 0
    for flow, logits in zip(flows[:, :, :, :tokens], (q, k), strict=True):
        if mapped:
            flow.copy_(logits)
        elif logits.dtype == dtype and flow.is_contiguous():
            torch.sigmoid(logits, out=flow)
        else:
            flow.copy_(logits).sigmoid_()
    real = None
    if is_pad is not None:
        real = q.new_zeros(batch, 1, filled, dtype=dtype)
        real[:, 0, :tokens] = ~is_pad
        flows *= real[..., None]
    count = q.new_ones(batch, heads, filled, dtype=dtype)
    count[:, :, :tokens] = n
    n = count.view(z, tile)
    flows = flows.view(2, z, tile, d)
    sinks, sources = flows

    within_tile = since = passed = from_before = to_end = None
    upto = torch.ones(tile, tile, device=q.device, dtype=dtype).triu()
    lower = upto.mT.contiguous()
    if log_decay is not None:
        if real is None:  # what fills up has no flow: its decays mean nothing
            real = q.new_zeros(1, 1, filled, dtype=dtype)
            real[..., :tokens] = 1
            since = real.new_ones(1, 1, 1, tile).cumsum(-1)
        else:
            since = real.view(batch, 1, tiles, tile).cumsum(-1)
        within_tile = lower = decay_matrix(since, log_decay.to(dtype)[:, None, None, None])
        passed = real.view(len(real), 1, tiles, tile).cumsum(-1)
        logarithm = log_decay.to(dtype)[:, None, None]
        by_token = batch, heads, tiles, tile
        from_before = (passed * logarithm).exp().expand(by_token).reshape(z, tile)
        to_end = ((passed[..., -1:] - passed) * logarithm).exp().expand(by_token).reshape(z, tile)
        passed = passed.expand(by_token).reshape(z, tile)
    fades = None if from_before is None else from_before[:, -1].reshape(rows, tiles)

    gram = torch.bmm(sinks, sources.mT)
    if within_tile is None:
        to_sinks, from_sources = gram * lower, gram.mul_(upto)  # A[i, j] for j ≤ i; U[i, j] for i ≤ j
    else:
        by_head = gram.view(batch, heads, tiles, tile, tile)
        to_sinks = (by_head * within_tile).view(z, tile, tile)
        by_head.mul_(within_tile.mT)
        from_sources = gram
    totals = flows.sum(-1)

    def draw(within: Tensor, weights: Tensor | None, before: Tensor | None) -> Tensor:
        """(2, Z, C): (f_i + ε)·(Σ_{j≤i} w_j g_j + ε), g the other side; `within` is Σ_{j≤i} f_i·w_j g_j in the tile."""
        weighted = totals if weights is None else totals * weights
        within.add_(_spread(weighted, lower, batch, tiles).flip(0), alpha=eps)
        if before is not None:
            within.add_(_from_before(flows, before, from_before, eps))
        return within.add_(totals, alpha=eps).add_(d * eps**2)

    def running(given: Tensor, first: Sequence[Tensor] | None) -> tuple[Tensor, Tensor]:
        """(2, Z, D) that each tile gives, to the sums before each tile that are drawn on, and (2, R, D) after all."""
        start = None if first is None else torch.stack(list(first)).flatten(0, 2)
        both = None if fades is None else fades.repeat(2, 1)
        sums, whole = _running(start, given.flip(0).view(2 * rows, tiles, d), both)
        return sums.reshape(2, z, d), whole.view(2, batch, heads, d)

    before = before_per_flow = before_competing = memory = None
    ends: list[Tensor] = []
    if carried:
        given = flows.sum(-2) if to_end is None else _weigh(to_end.expand(2, -1, -1), flows)
        before, end = running(given, past and (past.k, past.q))
        ends += [side.clone() for side in end]
    drawn = draw(torch.stack([to_sinks.sum(-1), from_sources.sum(-2)]), None, before)
    if filled > tokens:
        drawn.view(2, batch, heads, filled)[..., tokens:] = 1  # what fills up draws nothing, with ε = 0 not even that
    per_flow = n / drawn
    if carried:
        given = _weigh(_times(per_flow, to_end), flows)
        before_per_flow, end = running(given, past and (past.k_per_flow, past.q_per_flow))
        ends += [side.clone() for side in end]
    within = torch.stack([_dot(to_sinks, per_flow[1]), _weigh(per_flow[0], from_sources)])
    conserved = draw(within, per_flow, before_per_flow).div_(n)

    exp_outgoing = conserved[1].clamp(-clip, clip).exp_()
    if real is not None:
        exp_outgoing = exp_outgoing * real.expand(batch, heads, filled).reshape(z, tile)
    first_competing = None if past is None else past.competition.reshape(rows)
    if to_end is None:
        competing = exp_outgoing.view(rows, filled).cumsum(-1)
        if first_competing is not None:
            competing += first_competing[:, None]
        after_competition = competing[:, tokens - 1].clone()
        competing = competing.view(z, tile)
    else:
        sums, after_competition = _running(first_competing, (exp_outgoing * to_end).sum(-1).view(rows, tiles), fades)
        competing = _spread(exp_outgoing[None], lower, batch, tiles)[0]
        before_competing = sums.reshape(z, 1)
        competing += _times(before_competing, from_before)
    if real is not None:
        competing = competing.masked_fill(competing == 0, 1.0)  # before the first real token none compete
    competition = n * exp_outgoing / competing
    _scale(v, competition.view(batch, heads, filled, 1)[:, :, :tokens], out=values[:, :, :tokens])
    values = values.view(z, tile, m)

    y = values.new_empty(batch, heads, filled, m)
    aggregated = torch.bmm(to_sinks, values, out=y.view(z, tile, m))
    if carried:
        given = torch.bmm(_rows(sources, to_end).mT, values).view(rows, tiles, d, m)
        sums, whole = _running(past and past.memory.reshape(rows, d, m), given, fades)
        memory = sums.reshape(z, d, m)
        aggregated.baddbmm_(_rows(sinks, from_before), memory)
        if past is not None:
            ends += [after_competition.view(batch, heads, 1).clone(), whole.view(batch, heads, d, m).clone()]
    allocation = conserved[0].sigmoid()
    aggregated *= (allocation / drawn[0])[..., None]
    if filled > tokens:
        y = y[:, :, :tokens].clone()  # autograd lets nobody change a view of ours in place
    free = conserved[1].abs() <= clip
    kept = _Kept(
        flows, values, to_sinks, from_sources, n, totals, drawn, per_flow, allocation, exp_outgoing,
        competing, free, before, before_per_flow, memory, None if within_tile is None else conserved, within_tile,
        since, passed, from_before, to_end, before_competing,
    )  # fmt: skip
    return y, ends if past is not None else [], kept


def _gradient(
    kept: _Kept, eps: float, mapped: bool, dy: Tensor, d_after: Sequence[Tensor | None]
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor | None, Tensor | None, list[Tensor | None]]:
    """The gradients of q, k, v, of n and log γ (where sums decay), and of the state, from those of y and of the state
    after (none for a lone sequence).

    With N = A (C v) + q·S, y = g N and g = sigmoid(Î)/I, everything that reaches a flow goes through its Gram matrix:
    the gradient of A is X_A = (g dy)(C v)ᵀ + dÎ ⊗ n/O + dI ⊗ 1 over the lower triangle, of U it is
    X_U = n/I ⊗ dÔ + 1 ⊗ dO over the upper one, and with X = X_A + X_U that of q is X k, that of k is Xᵀ q. The sums
    over features that g and C need are the row and column sums of A ∘ (g dy)(C v)ᵀ, which is small. Running sums turn
    into running sums from the end.

    A decay multiplies A and U, and so X_A and X_U, by its powers; the gradient of log γ is the sum of what each power
    does, times its exponent.
    """
    flows, values, to_sinks, from_sources = kept.flows, kept.values, kept.to_sinks, kept.from_sources
    n, drawn, per_flow, exp_outgoing = kept.n, kept.drawn, kept.per_flow, kept.exp_outgoing
    from_before, to_end = kept.from_before, kept.to_end
    (batch, heads, tokens, m), (_, _, tile, d) = dy.shape, flows.shape
    rows = batch * heads
    tiles = -(-tokens // tile)
    filled = tiles * tile
    sinks, sources = flows
    lower = torch.ones(tile, tile, device=dy.device, dtype=n.dtype).tril() if kept.within is None else kept.within
    fades = None if from_before is None else from_before[:, -1].reshape(rows, tiles)
    d_state: list[Tensor | None] = [None] * len(d_after)
    through_decay = None if kept.passed is None else _ThroughDecay(kept, (batch, heads, tiles, tile))

    def onwards(x: Tensor) -> Tensor:
        """Σ_{i≥j} x_i of what each token draws, as the other side has given it."""
        return _spread(x, lower.mT, batch, tiles).flip(0)

    def running(given: Tensor, at: slice) -> Tensor:
        """(2, Z, D) gradients of the sums before each tile, to those of what each tile gives; the past's are noted."""
        start = None
        if any(d is not None for d in d_after[at]):
            start = torch.stack([given.new_zeros(rows, d) if x is None else x.reshape(rows, d) for x in d_after[at]])
        first = None if start is None else start.flatten(0, 1)
        both = None if fades is None else fades.repeat(2, 1)
        sums, whole = _running(first, given.view(2 * rows, tiles, d), both, backwards=True)
        if d_after:
            d_state[at] = whole.view(2, batch, heads, d)
        return sums.reshape(2, len(n), d).flip(0)

    gain = kept.allocation / drawn[0]
    d_y = n.new_empty(batch, heads, filled, m)
    d_y[:, :, tokens:] = 0
    _scale(dy, gain.view(batch, heads, filled, 1)[:, :, :tokens], out=d_y[:, :, :tokens])
    d_y = d_y.view(len(n), tile, m)
    x = torch.bmm(d_y, values.mT)
    scratch = to_sinks * x
    d_log_gain, d_log_competition = scratch.sum(-1), scratch.sum(-2)
    d_values = torch.bmm(to_sinks.mT, d_y)
    d_flows = torch.empty_like(flows)
    if kept.memory is not None:
        d_end = d_after[5].reshape(rows, d, m) if d_after and d_after[5] is not None else None
        given = torch.bmm(_rows(sinks, from_before).mT, d_y).view(rows, tiles, d, m)
        sums, whole = _running(d_end, given, fades, backwards=True)
        if d_after:
            d_state[5] = whole.view(batch, heads, d, m)
        d_given = sums.reshape(len(n), d, m)
        d_values.baddbmm_(_rows(sources, to_end), d_given)
        torch.bmm(d_y, kept.memory.mT, out=d_flows[0])
        torch.bmm(values, d_given.mT, out=d_flows[1])
        if from_before is not None and to_end is not None:
            d_flows[0] *= from_before[..., None]
            d_flows[1] *= to_end[..., None]
        through_memory = (d_flows * flows).sum(-1)
        d_log_gain += through_memory[0]
        d_log_competition += through_memory[1]
        if through_decay is not None:
            through_decay.carried(through_memory[0], kept.memory.flatten(1), d_given.flatten(1), through_memory[1])
    d_values *= (n * exp_outgoing / kept.competing)[..., None]

    d_sum = (d_log_competition / kept.competing).neg_()
    if to_end is None:
        d_competing = d_sum.view(rows, filled).flip(-1).cumsum(-1).flip(-1)
        if d_after and d_after[4] is not None:
            d_competing[:, :tokens] += d_after[4].reshape(rows, 1)  # what fills up the last tile does not compete
        if d_after:
            d_state[4] = d_competing[:, :1].view(batch, heads, 1)
        d_competing = d_competing.view(len(n), tile)
    else:
        assert from_before is not None
        assert fades is not None
        assert through_decay is not None
        d_competing = _spread(d_sum[None], lower.mT, batch, tiles)[0]
        if kept.before_competing is not None:
            first = d_after[4].reshape(rows) if d_after and d_after[4] is not None else None
            given = (d_sum * from_before).sum(-1).view(rows, tiles)
            sums, whole = _running(first, given, fades, backwards=True)
            if d_after:
                d_state[4] = whole.view(batch, heads, 1)
            d_given = sums.reshape(-1, 1)
            to_the_end = to_end * d_given
            d_competing += to_the_end
            drawn_from_before = d_sum * from_before * kept.before_competing
            through_decay.carried(drawn_from_before, kept.before_competing, d_given, exp_outgoing * to_the_end)
        through_decay.spread(d_sum[None], exp_outgoing[None])
    d_outgoing = torch.addcmul(d_log_competition, exp_outgoing, d_competing).mul_(kept.free)
    d_conserved = torch.stack([d_log_gain * (1 - kept.allocation), d_outgoing]).div_(n)

    later = onwards(d_conserved)
    d_per_flow = torch.stack([_dot(from_sources, d_conserved[1]), _weigh(d_conserved[0], to_sinks)])
    d_per_flow.addcmul_(kept.totals, later, value=eps)
    d_given_per_flow = None
    if kept.before_per_flow is not None:
        given = _weigh(_times(d_conserved, from_before), flows, eps)
        d_given_per_flow = running(given, slice(2, 4))
        to_the_end = _times(_dot(flows, d_given_per_flow), to_end)
        d_per_flow += to_the_end
        if through_decay is not None:
            # Sinks draw on what sources gave: the sums stand as they are drawn on, their gradients as they are given.
            through_decay.carried(
                d_conserved * _from_before(flows, kept.before_per_flow, from_before, eps),
                kept.before_per_flow,
                d_given_per_flow.flip(0),
                per_flow * to_the_end,
            )
    d_n = None
    if through_decay is not None:
        assert kept.conserved is not None
        through_decay.spread(eps * d_conserved, (kept.totals * per_flow).flip(0))
        d_n = (d_per_flow / drawn - d_conserved * kept.conserved).sum(0) + d_log_competition / n
    d_drawn = d_per_flow.mul_(per_flow)
    d_drawn[0] += d_log_gain
    d_drawn.div_(drawn).neg_()

    by_head = (batch, heads, tiles, tile, tile)
    later_drawn = onwards(d_drawn)
    d_given = None
    if kept.before is not None:
        d_given = running(_weigh(_times(d_drawn, from_before), flows, eps), slice(0, 2))
    if through_decay is not None:
        through_decay.spread(eps * d_drawn, kept.totals.flip(0))
        if d_given is not None and kept.before is not None:
            through_decay.carried(
                d_drawn * _from_before(flows, kept.before, from_before, eps),
                kept.before,
                d_given.flip(0),
                _times(_dot(flows, d_given), to_end),
            )

    x.addcmul_(d_conserved[0][..., None], per_flow[1][..., None, :]).add_(d_drawn[0][..., None])
    if through_decay is not None:
        through_decay.pairs(torch.mul(x, to_sinks, out=scratch))
    x.view(by_head).mul_(lower)
    scratch.copy_(d_drawn[1][..., None, :]).addcmul_(per_flow[0][..., None], d_conserved[1][..., None, :])
    if through_decay is not None:
        through_decay.pairs((scratch * from_sources).mT)
    x.view(by_head).addcmul_(scratch.view(by_head), lower.mT)
    to_all_features = later_drawn.addcmul_(per_flow, later).add_(d_drawn).add_(d_conserved).mul_(eps)
    if d_given is None or d_given_per_flow is None or kept.before is None or kept.before_per_flow is None:
        d_flows.copy_(to_all_features[..., None])
    else:
        ones = torch.ones_like(per_flow)
        columns = [
            _times(d_drawn, from_before),
            _times(d_conserved, from_before),
            _times(ones, to_end),
            _times(per_flow, to_end),
            to_all_features,
        ]
        vectors = torch.stack(
            [kept.before, kept.before_per_flow, d_given, d_given_per_flow, torch.ones_like(d_given)], -2
        )
        d_flows.flatten(0, 1).baddbmm_(torch.stack(columns, -1).flatten(0, 1), vectors.flatten(0, 1))
    d_flows[0].baddbmm_(x, sources)
    d_flows[1].baddbmm_(x.mT, sinks)
    if not mapped:
        torch.ops.aten.sigmoid_backward.grad_input(d_flows, flows, grad_input=d_flows)
    d_q, d_k = d_flows.view(2, batch, heads, filled, d)[:, :, :, :tokens]
    d_n = None if d_n is None else d_n.view(batch, heads, filled)[:, :, :tokens]
    d_log_decay = None if through_decay is None else through_decay.total
    d_inputs = d_q, d_k, d_values.view(batch, heads, filled, m)[:, :, :tokens]
    return d_inputs, d_n, d_log_decay, d_state


class _ThroughDecay:
    """The gradient of log γ: each power of γ, in the sums of a tile, times its exponent.

    Args:
        shape: (B, H, L, C).
    """

    def __init__(self, kept: _Kept, shape: tuple[int, int, int, int]) -> None:
        assert kept.since is not None
        assert kept.within is not None
        assert kept.passed is not None
        assert kept.from_before is not None
        self.shape, self.passed, self.fades = shape, kept.passed, kept.from_before[:, -1]
        self.exponents = (kept.since[..., :, None] - kept.since[..., None, :]).tril()  # p_i - p_j for j ≤ i
        self.within = self.exponents * kept.within
        self.total = kept.passed.new_zeros(shape[1])  # (H,)

    def pairs(self, x: Tensor) -> None:
        """(Z, C, C) what the gradient of a sum's i-th value and its j-th term make of γ^(p_i - p_j)."""
        self._add((x.view(*self.shape, self.shape[-1]) * self.exponents).sum((-1, -2)))

    def spread(self, d_sums: Tensor, terms: Tensor) -> None:
        """The same of (S, Z, C) gradients of sums and their terms."""
        self._add((d_sums * _spread(terms, self.within, self.shape[0], self.shape[2])).sum(-1))

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
        batch, heads, tiles, _ = self.shape
        copies = x.numel() // max(1, batch * heads * tiles)
        self.total = self.total + x.reshape(copies, batch, heads, tiles).sum((0, 1, 3))


def _from_before(flows: Tensor, before: Tensor, left: Tensor | None, eps: float) -> Tensor:
    """(2, Z, C): (f_i + ε)·Σ w_j g_j over all before the tile, times what is `left` (Z, C) of it at each token."""
    return _times(_dot(flows, before).add_(before.sum(-1, keepdim=True), alpha=eps), left)


def decay_matrix(passed: Tensor, log_decay: Tensor) -> Tensor:
    """(..., T, T) γ^(p_i - p_j) for j ≤ i, else 0.

    Args:
        passed: (..., T) p, the tokens counted so far.
        log_decay: log γ, of a shape that goes with the result.
    """
    since = (passed[..., :, None] - passed[..., None, :]).tril()
    return (since * log_decay).exp().tril()


def _times(x: Tensor, factors: Tensor | None) -> Tensor:
    """x (..., C) times the factors of its tokens, if there are any."""
    return x if factors is None else x * factors


def _rows(x: Tensor, factors: Tensor | None) -> Tensor:
    """The rows of x (..., C, D) times the factors of their tokens, if there are any."""
    return x if factors is None else x * factors[..., None]


def _spread(x: Tensor, matrix: Tensor, batch: int, tiles: int) -> Tensor:
    """Σ_j w_ij x_j within tiles, of x (S, Z, C) and w (C, C) or (B or 1, H, L or 1, C, C)."""
    if matrix.ndim == 2:
        return x @ matrix.mT
    by_head = x.view(len(x), batch, matrix.shape[1], tiles, x.shape[-1])
    return torch.einsum("bhlij,sbhlj->sbhli", matrix, by_head).reshape(x.shape)


def _scale(x: Tensor, factors: Tensor, out: Tensor) -> None:
    """x times factors into `out`, whose dtype may be wider: a product of two dtypes takes twice the time of this."""
    if x.dtype == out.dtype and out.is_contiguous():  # a compiler takes no other `out`
        torch.mul(factors, x, out=out)
    else:
        out.copy_(x).mul_(factors)


def _running(
    first: Tensor | None, terms: Tensor, fades: Tensor | None = None, *, backwards: bool = False
) -> tuple[Tensor, Tensor]:
    """Running sums of (R, L, ...) terms from `first` (R, ...; None: zero): those before each term, and that of all.

    Args:
        fades: (R, L) by which the sum so far is multiplied before each term is added; None for 1.
        backwards: those after each term, and that of all.
    """
    tiles = terms.shape[1]
    sums = terms.new_empty(tiles + 1, len(terms), *terms.shape[2:])
    sums[tiles if backwards else 0] = 0 if first is None else first
    for i in reversed(range(tiles)) if backwards else range(tiles):
        done, due = (i + 1, i) if backwards else (i, i + 1)
        if fades is None:
            torch.add(sums[done], terms[:, i], out=sums[due])
        else:
            torch.addcmul(terms[:, i], sums[done], fades[:, i].view(-1, *(1,) * (terms.ndim - 2)), out=sums[due])
    others, whole = (sums[1:], sums[0]) if backwards else (sums[:-1], sums[-1])
    return others.transpose(0, 1), whole


def _dot(matrix: Tensor, vector: Tensor) -> Tensor:
    """matrix (..., C, D) times vector (..., D), over D."""
    return torch.bmm(matrix.flatten(0, -3), vector.flatten(0, -2)[..., None]).view(matrix.shape[:-1])


def _weigh(weights: Tensor, rows: Tensor, eps: float = 0.0) -> Tensor:
    """Σ_i w_i (r_i + ε) of weights (..., C) and rows (..., C, D), over C."""
    summed = torch.bmm(weights.flatten(0, -2)[:, None], rows.flatten(0, -3)).view(*rows.shape[:-2], rows.shape[-1])
    return summed.add_(weights.sum(-1, keepdim=True), alpha=eps) if eps else summed
