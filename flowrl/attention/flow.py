"""Causal Flow-Attention, in parallel and as a recurrence.

Source: Wu et al., "Flowformer: Linearizing Transformers with Conservation Flows", ICML 2022, equations 4-8, in the
causal form of the authors' reinforcement-learning release (running sums, each divided by the count of its terms).

Sinks (queries) draw flow from sources (keys). With q, k in (0, 1), n_i = i the 1-based count and ε added once a sum::

    I_i = (q_i+ε)·(Σ_{j≤i} k_j + ε)                        incoming flow of sink i
    O_j = (k_j+ε)·(Σ_{i≤j} q_i + ε)                        outgoing flow of source j
    Î_i = (q_i+ε)·(Σ_{j≤i} k_j n_j/O_j + ε) / n_i          conserved incoming flow
    Ô_j = clamp((k_j+ε)·(Σ_{i≤j} q_i n_i/I_i + ε) / n_j)   conserved outgoing flow
    C_j = n_j exp(Ô_j) / Σ_{l≤j} exp(Ô_l)                  competition among the sources
    y_i = sigmoid(Î_i) / I_i · Σ_{j≤i} (q_i·k_j) C_j v_j   aggregation, then allocation to the sinks

Every sum is a running sum, so a tile of tokens needs only the sums before it and its own Gram matrix P = q kᵀ: with
A = tril(P) and U = triu(P) the five sums inside the tile are A·1, 1·U, A·(n/O), (n/I)·U and A·(C v). A short sequence
is one tile, a long one a row of tiles that are worked on all at once; the recurrence is a tile of the next few tokens.
The gradient is written by hand, see `_gradient`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid, rms_norm

from flowrl.attention.decayed_flow import decay_matrix, decayed_flow_attention
from flowrl.attention.features import FEATURE_MAPS, FeatureMap, map_features
from flowrl.attention.flow_state import FEW, FlowState
from flowrl.attention.multihead import CausalAttention, at_least_float32

CLIP = 10.0  # as in the authors' reinforcement-learning release; 1 would saturate half of the tokens
EPS = 1e-6
ONE_TILE = 128  # the longest sequence taken as a single tile
TILE = 64  # the tile of longer ones
OUTPUT_EPS = 1e-8  # below the mean square of the output, which falls to 2e-4 in 3,000 tokens of random weights
SHORTEST_MEMORY, LONGEST_MEMORY = 8, 4096  # tokens, 1/(1 - γ), that the heads begin with, evenly in its logarithm


def flow_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    clip: float = CLIP,
    eps: float = EPS,
    is_pad: Tensor | None = None,
    feature_map: FeatureMap = "sigmoid",
) -> Tensor:
    """Causal Flow-Attention over whole sequences, in time and memory linear in T.

    Args:
        q: (B, H, T, D) queries before the feature map.
        k: (B, H, T, D) keys before the feature map.
        v: (B, H, T, M) values.
        clip: bound on the conserved outgoing flow |Ô|.
        eps: ε, added once after each sum.
        is_pad: (B, T) bool, True at tokens that carry no flow and do not count, wherever they stand.
        feature_map: what makes queries and keys positive, a name in `FEATURE_MAPS`.

    Returns:
        (B, H, T, M) in the dtype of `v`, differentiable once; the arithmetic is float32, or float64 for float64 inputs.
    """
    tile = ONE_TILE if q.shape[-2] <= ONE_TILE else TILE
    q, k, mapped = _ready(q, k, feature_map)
    (y,) = _FlowAttention.apply(q, k, v, is_pad, clip, eps, tile, mapped)  # pyright: ignore[reportGeneralTypeIssues]
    return y


def flow_attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: FlowState | None,
    *,
    clip: float = CLIP,
    eps: float = EPS,
    is_pad: Tensor | None = None,
    feature_map: FeatureMap = "sigmoid",
    tile: int = TILE,
) -> tuple[Tensor, FlowState]:
    """Causal Flow-Attention for the tokens that follow `state` (None: the first ones), and the state after them.

    Takes q, k, v, clip, eps, is_pad and feature_map as `flow_attention` does, for T ≥ 1 next tokens.
    """
    if state is None:
        (batch, heads, _, d), m = q.shape, v.shape[-1]
        state = FlowState.zeros(batch, heads, d, m, device=q.device, dtype=at_least_float32(v))
    q, k, mapped = _ready(q, k, feature_map)
    if q.shape[-2] <= FEW and is_pad is None:
        with torch.autocast(q.device.type, enabled=False):
            return _few_tokens(q, k, v, state, clip, eps, mapped)
    y, *after = _FlowAttention.apply(q, k, v, is_pad, clip, eps, tile, mapped, *state)  # pyright: ignore[reportGeneralTypeIssues]
    return y, FlowState(*after)


def _ready(q: Tensor, k: Tensor, feature_map: FeatureMap) -> tuple[Tensor, Tensor, bool]:
    """Queries and keys as the functions below take them: the sigmoid, which they fuse, is left to them."""
    if feature_map == "sigmoid":
        return q, k, False
    return *map_features(q, k, feature_map), True


class FlowQuantities(NamedTuple):
    """What the equations of the module's head speak of, token by token: (B, H, T) each."""

    incoming: Tensor  # I
    outgoing: Tensor  # O
    conserved_incoming: Tensor  # Î
    conserved_outgoing: Tensor  # Ô, clamped
    competition: Tensor  # C
    allocation: Tensor  # sigmoid(Î)


def flow_quantities(
    q: Tensor, k: Tensor, *, clip: float = CLIP, eps: float = EPS, decays: Tensor | None = None
) -> FlowQuantities:
    """The equations of the module's head as they stand there: to be looked at, not for speed.

    Args:
        q: (B, H, T, D) queries after the feature map.
        k: (B, H, T, D) keys after the feature map.
        clip: as `flow_attention` takes it.
        eps: as `flow_attention` takes it.
        decays: (H, T, T) by which the j-th term of the i-th sum is multiplied; None where nothing decays.
    """

    def sums(x: Tensor) -> Tensor:
        return x.cumsum(-2) if decays is None else decays @ x

    def draw(own: Tensor, given: Tensor) -> Tensor:
        return ((own + eps) * (sums(given) + eps)).sum(-1)

    n = sums(torch.ones_like(q[..., :1]))[..., 0]
    incoming, outgoing = draw(q, k), draw(k, q)
    conserved_incoming = draw(q, k * (n / outgoing)[..., None]) / n
    conserved_outgoing = (draw(k, q * (n / incoming)[..., None]) / n).clamp(-clip, clip)
    competition = n * conserved_outgoing.exp() / sums(conserved_outgoing.exp()[..., None])[..., 0]
    allocation = conserved_incoming.sigmoid()
    return FlowQuantities(incoming, outgoing, conserved_incoming, conserved_outgoing, competition, allocation)


def _few_tokens(
    q: Tensor, k: Tensor, v: Tensor, past: FlowState, clip: float, eps: float, mapped: bool
) -> tuple[Tensor, FlowState]:
    """The equations of the module's head for a few tokens, as an agent's step has them, in as few operations as can be.

    Sinks and sources play the same part in the first four, so each is worked out for both at once.
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


# From here on, axes: L tiles of C tokens (the last one filled up with tokens of no flow), R = B H rows, Z = R L; D
# features of a query or key, M of a value. A pair (2, ...) holds what belongs to the sinks (queries), then what belongs
# to the sources (keys). Each draws on the running sum of the other: `flip(0)` turns what is given into what is drawn.


class _FlowAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        is_pad: Tensor | None,
        clip: float,
        eps: float,
        tile: int,
        mapped: bool,
        *state: Tensor,
    ) -> tuple[Tensor, ...]:
        with torch.autocast(q.device.type, enabled=False):
            y, after, kept = _attend(q, k, v, is_pad, clip, eps, tile, mapped, FlowState(*state) if state else None)
        ctx.save_for_backward(*kept)
        ctx.mapped, ctx.eps, ctx.shape, ctx.dtypes = mapped, eps, y.shape, (q.dtype, k.dtype, v.dtype)
        ctx.set_materialize_grads(False)
        if after is not None:
            ctx.mark_non_differentiable(after.n)
        return y.to(v.dtype), *(after or ())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, *d_after: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        kept = _Kept(*ctx.saved_tensors)
        if dy is None:  # only the state was used
            dy = kept.values.new_zeros(ctx.shape)
        with torch.autocast(dy.device.type, enabled=False):
            d_inputs, d_past = _gradient(kept, ctx.eps, ctx.mapped, dy, d_after)
        inputs = (d.to(dtype) for d, dtype in zip(d_inputs, ctx.dtypes, strict=True))
        return *inputs, None, None, None, None, None, *d_past


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
    # What each tile finds before it, ε added to the vectors; None where a single tile has no past and leaves no state.
    before: Tensor | None  # (2, Z, D)           Σ k, Σ q
    before_per_flow: Tensor | None  # (2, Z, D)  Σ k n/O, Σ q n/I
    memory: Tensor | None  # (Z, D, M)           Σ k ⊗ C v


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    is_pad: Tensor | None,
    clip: float,
    eps: float,
    tile: int,
    mapped: bool,
    past: FlowState | None,
) -> tuple[Tensor, FlowState | None, _Kept]:
    """The equations of the module's head, in their order, for all tiles at once.

    Args:
        mapped: queries and keys are positive already; else their sigmoid is taken.
    """
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
    if is_pad is None:
        real = None
        n = torch.arange(1, filled + 1, device=q.device, dtype=dtype).expand(batch, 1, filled)
    else:
        real = q.new_zeros(batch, 1, filled, dtype=dtype)
        real[:, 0, :tokens] = ~is_pad
        flows *= real[..., None]
        n = real.cumsum(-1)
    if past is not None:
        n = n + past.n[..., None]
    seen = n[:, :, tokens - 1].clone()  # here and below: a view would keep all tokens' values as long as the state
    n = n.clamp(min=1.0)  # padding before the first real token has counted none
    n = n.expand(batch, heads, filled).reshape(z, tile)
    flows = flows.view(2, z, tile, d)
    sinks, sources = flows

    upto = torch.ones(tile, tile, device=q.device, dtype=dtype).triu()
    gram = torch.bmm(sinks, sources.mT)
    to_sinks, from_sources = gram * upto.mT.contiguous(), gram.mul_(upto)  # A[i, j] for j ≤ i; U[i, j] for i ≤ j
    totals = flows.sum(-1)

    def draw(within: Tensor, weights: Tensor | None, before: Tensor | None) -> Tensor:
        """(2, Z, C): (f_i + ε)·(Σ_{j≤i} w_j g_j + ε), g the other side; `within` is Σ_{j≤i} f_i·w_j g_j in the tile."""
        weighted = totals if weights is None else totals * weights
        within.add_((weighted @ upto).flip(0), alpha=eps)
        if before is None:
            return within.add_(totals, alpha=eps).add_(d * eps**2)
        return within.add_(_dot(flows, before)).add_(before.sum(-1, keepdim=True), alpha=eps)

    def running(given: Tensor, first: Sequence[Tensor] | None) -> tuple[Tensor, Tensor]:
        """(2, Z, D) that each tile gives, to the sums before each tile that are drawn on, and (2, R, D) after all."""
        start = None if first is None else torch.stack(list(first)).flatten(0, 2)
        sums, whole = _running(start, given.flip(0).view(2 * rows, tiles, d))
        return (sums + eps).reshape(2, z, d), whole.view(2, batch, heads, d)

    before = before_per_flow = memory = after = None
    ends: list[Tensor] = []
    if carried:
        before, end = running(flows.sum(-2), past and (past.k, past.q))
        ends += [side.clone() for side in end]
    drawn = draw(torch.stack([to_sinks.sum(-1), from_sources.sum(-2)]), None, before)
    if filled > tokens:
        drawn.view(2, batch, heads, filled)[..., tokens:] = 1  # what fills up draws nothing, with ε = 0 not even that
    per_flow = n / drawn
    if carried:
        before_per_flow, end = running(_weigh(per_flow, flows), past and (past.k_per_flow, past.q_per_flow))
        ends += [side.clone() for side in end]
    within = torch.stack([_dot(to_sinks, per_flow[1]), _weigh(per_flow[0], from_sources)])
    conserved = draw(within, per_flow, before_per_flow).div_(n)

    exp_outgoing = conserved[1].clamp(-clip, clip).exp_()
    if real is not None:
        exp_outgoing = exp_outgoing * real.expand(batch, heads, filled).reshape(z, tile)
    competing = exp_outgoing.view(rows, filled).cumsum(-1)
    if past is not None:
        competing += past.competition.view(rows, 1)
    after_competition = competing[:, tokens - 1].clone()
    if real is not None:
        competing = competing.masked_fill(competing == 0, 1.0)  # before the first real token none compete
    competing = competing.view(z, tile)
    competition = n * exp_outgoing / competing
    _scale(v, competition.view(batch, heads, filled, 1)[:, :, :tokens], out=values[:, :, :tokens])
    values = values.view(z, tile, m)

    y = values.new_empty(batch, heads, filled, m)
    aggregated = torch.bmm(to_sinks, values, out=y.view(z, tile, m))
    if carried:
        given = torch.bmm(sources.mT, values).view(rows, tiles, d, m)
        sums, whole = _running(past and past.memory.reshape(rows, d, m), given)
        memory = sums.reshape(z, d, m)
        aggregated.baddbmm_(sinks, memory)
        if past is not None:
            ends += [after_competition.view(batch, heads, 1), whole.clone().view(batch, heads, d, m)]
            after = FlowState(seen, *ends)
    allocation = conserved[0].sigmoid()
    aggregated *= (allocation / drawn[0])[..., None]
    if filled > tokens:
        y = y[:, :, :tokens].clone()  # autograd lets nobody change a view of ours in place
    free = conserved[1].abs() <= clip
    kept = _Kept(
        flows, values, to_sinks, from_sources, n, totals, drawn, per_flow, allocation, exp_outgoing, competing, free,
        before, before_per_flow, memory,
    )  # fmt: skip
    return y, after, kept


def _gradient(
    kept: _Kept, eps: float, mapped: bool, dy: Tensor, d_after: Sequence[Tensor | None]
) -> tuple[tuple[Tensor, Tensor, Tensor], list[Tensor | None]]:
    """The gradients of q, k, v and of the state, from those of y and of the state after (none for a lone sequence).

    With N = A (C v) + q·S, y = g N and g = sigmoid(Î)/I, everything that reaches a flow goes through its Gram matrix:
    the gradient of A is X_A = (g dy)(C v)ᵀ + dÎ ⊗ n/O + dI ⊗ 1 over the lower triangle, of U it is
    X_U = n/I ⊗ dÔ + 1 ⊗ dO over the upper one, and with X = X_A + X_U that of q is X k, that of k is Xᵀ q. The sums
    over features that g and C need are the row and column sums of A ∘ (g dy)(C v)ᵀ, which is small. Running sums turn
    into running sums from the end.
    """
    flows, values, to_sinks, from_sources = kept.flows, kept.values, kept.to_sinks, kept.from_sources
    n, drawn, per_flow, exp_outgoing = kept.n, kept.drawn, kept.per_flow, kept.exp_outgoing
    (batch, heads, tokens, m), (_, _, tile, d) = dy.shape, flows.shape
    rows = batch * heads
    tiles = -(-tokens // tile)
    filled = tiles * tile
    sinks, sources = flows
    onwards = torch.ones(tile, tile, device=dy.device, dtype=n.dtype).tril()  # x @ onwards is Σ_{j≥i} x_j
    d_state: list[Tensor | None] = [None] * len(d_after)

    def running(given: Tensor, at: slice) -> Tensor:
        """(2, Z, D) gradients of the sums before each tile, to those of what each tile gives; the past's are noted."""
        start = None
        if any(d is not None for d in d_after[at]):
            start = torch.stack([given.new_zeros(rows, d) if x is None else x.reshape(rows, d) for x in d_after[at]])
        first = None if start is None else start.flatten(0, 1)
        sums, whole = _running(first, given.view(2 * rows, tiles, d), backwards=True)
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
        d_end = d_after[6].reshape(rows, d, m) if d_after and d_after[6] is not None else None
        sums, whole = _running(d_end, torch.bmm(sinks.mT, d_y).view(rows, tiles, d, m), backwards=True)
        if d_after:
            d_state[6] = whole.view(batch, heads, d, m)
        d_given = sums.reshape(len(n), d, m)
        d_values.baddbmm_(sources, d_given)
        torch.bmm(d_y, kept.memory.mT, out=d_flows[0])
        torch.bmm(values, d_given.mT, out=d_flows[1])
        through_memory = (d_flows * flows).sum(-1)
        d_log_gain += through_memory[0]
        d_log_competition += through_memory[1]
    d_values *= (n * exp_outgoing / kept.competing)[..., None]

    d_competing = (d_log_competition / kept.competing).view(rows, filled).flip(-1).cumsum(-1).flip(-1).neg_()
    if d_after and d_after[5] is not None:
        d_competing[:, :tokens] += d_after[5].reshape(rows, 1)  # what fills up the last tile does not compete
    if d_after:
        d_state[5] = d_competing[:, :1].view(batch, heads, 1)
    d_outgoing = torch.addcmul(d_log_competition, exp_outgoing, d_competing.view(len(n), tile)).mul_(kept.free)
    d_conserved = torch.stack([d_log_gain * (1 - kept.allocation), d_outgoing]).div_(n)

    later = (d_conserved @ onwards).flip(0)
    d_per_flow = torch.stack([_dot(from_sources, d_conserved[1]), _weigh(d_conserved[0], to_sinks)])
    d_per_flow.addcmul_(kept.totals, later, value=eps)
    d_given_per_flow = None
    if kept.memory is not None:
        d_given_per_flow = running(_weigh(d_conserved, flows, eps), slice(3, 5))
        d_per_flow += _dot(flows, d_given_per_flow)
    d_drawn = d_per_flow.mul_(per_flow)
    d_drawn[0] += d_log_gain
    d_drawn.div_(drawn).neg_()

    x.addcmul_(d_conserved[0][..., None], per_flow[1][..., None, :]).add_(d_drawn[0][..., None]).mul_(onwards)
    scratch.copy_(d_drawn[1][..., None, :]).addcmul_(per_flow[0][..., None], d_conserved[1][..., None, :])
    x.addcmul_(scratch, onwards.mT.contiguous())
    to_all_features = ((d_drawn @ onwards).flip(0)).addcmul_(per_flow, later).mul_(eps)
    if d_given_per_flow is None or kept.before is None or kept.before_per_flow is None:
        to_all_features.add_(d_drawn, alpha=eps).add_(d_conserved, alpha=eps)
        d_flows.copy_(to_all_features[..., None])
    else:
        d_given = running(_weigh(d_drawn, flows, eps), slice(1, 3))
        ones = torch.ones_like(per_flow)
        columns = torch.stack([d_drawn, d_conserved, ones, per_flow, to_all_features], -1)
        vectors = torch.stack(
            [kept.before, kept.before_per_flow, d_given, d_given_per_flow, torch.ones_like(d_given)], -2
        )
        d_flows.flatten(0, 1).baddbmm_(columns.flatten(0, 1), vectors.flatten(0, 1))
    d_flows[0].baddbmm_(x, sources)
    d_flows[1].baddbmm_(x.mT, sinks)
    if not mapped:
        torch.ops.aten.sigmoid_backward.grad_input(d_flows, flows, grad_input=d_flows)
    d_q, d_k = d_flows.view(2, batch, heads, filled, d)[:, :, :, :tokens]
    return (d_q, d_k, d_values.view(batch, heads, filled, m)[:, :, :tokens]), d_state


def _scale(x: Tensor, factors: Tensor, out: Tensor) -> None:
    """x times factors into `out`, whose dtype may be wider: a product of two dtypes takes twice the time of this."""
    if x.dtype == out.dtype and out.is_contiguous():  # a compiler takes no other `out`
        torch.mul(factors, x, out=out)
    else:
        out.copy_(x).mul_(factors)


def _running(first: Tensor | None, terms: Tensor, *, backwards: bool = False) -> tuple[Tensor, Tensor]:
    """Running sums of (R, L, ...) terms from `first` (R, ...; None: zero): those before each term, and that of all.

    Backwards: those after each term.
    """
    tiles = terms.shape[1]
    sums = terms.new_empty(tiles + 1, len(terms), *terms.shape[2:])
    sums[tiles if backwards else 0] = 0 if first is None else first
    for i in reversed(range(tiles)) if backwards else range(tiles):
        done, due = (i + 1, i) if backwards else (i, i + 1)
        torch.add(sums[done], terms[:, i], out=sums[due])
    others, whole = (sums[1:], sums[0]) if backwards else (sums[:-1], sums[-1])
    return others.transpose(0, 1), whole


def _dot(matrix: Tensor, vector: Tensor) -> Tensor:
    """matrix (..., C, D) times vector (..., D), over D."""
    return torch.bmm(matrix.flatten(0, -3), vector.flatten(0, -2)[..., None]).view(matrix.shape[:-1])


def _weigh(weights: Tensor, rows: Tensor, eps: float = 0.0) -> Tensor:
    """Σ_i w_i (r_i + ε) of weights (..., C) and rows (..., C, D), over C."""
    summed = torch.bmm(weights.flatten(0, -2)[:, None], rows.flatten(0, -3)).view(*rows.shape[:-2], rows.shape[-1])
    return summed.add_(weights.sum(-1, keepdim=True), alpha=eps) if eps else summed


class FlowAttention(CausalAttention):
    """Multi-head causal Flow-Attention; its state is constant in size. It has no weights that `dropout` could drop.

    Args:
        clip: bound on the conserved outgoing flow |Ô|.
        feature_map: what makes queries and keys positive, a name in `FEATURE_MAPS`.
        output_norm: divide each head's output by its root mean square (Zhang and Sennrich 2019) and scale it by learnt
            factors: it then keeps its size, however many tokens it is a mean of.
        decay: let the sums of each head decay at a learnt rate, see `flowrl.attention.decayed_flow`.

    Raises:
        ValueError: as `CausalAttention`; `clip` is not above 0, or `feature_map` unknown.
    """

    constant_state = True

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float = 0.0,
        *,
        clip: float = CLIP,
        feature_map: FeatureMap = "sigmoid",
        output_norm: bool = False,
        decay: bool = False,
    ) -> None:
        super().__init__(width, heads, dropout)
        if not 0 < clip < math.inf:
            raise ValueError(f"clip is {clip}: it must be above 0 and finite")
        if feature_map not in FEATURE_MAPS:
            raise ValueError(f"feature_map is {feature_map!r}: known are {', '.join(FEATURE_MAPS)}")
        self.clip = clip
        self.feature_map: FeatureMap = feature_map
        self.output_scale = nn.Parameter(torch.ones(heads, 1, width // heads)) if output_norm else None
        self.decay_logit = None
        if decay:
            memory = torch.logspace(math.log2(LONGEST_MEMORY), math.log2(SHORTEST_MEMORY), heads, base=2.0)
            self.decay_logit = nn.Parameter((memory - 1).log())  # γ = 1 - 1/memory

    @property
    def log_decay(self) -> Tensor | None:
        """(H,) log γ; None where nothing decays."""
        return None if self.decay_logit is None else logsigmoid(self.decay_logit.to(at_least_float32(self.decay_logit)))

    def initial_state(self, batch: int) -> FlowState:
        weight, head = self.project_in.weight, self.width // self.heads
        state = FlowState.zeros(batch, self.heads, head, head, device=weight.device, dtype=at_least_float32(weight))
        return state if self.decay_logit is None else state.with_counts_by_head()

    def mix(self, q: Tensor, k: Tensor, v: Tensor, is_pad: Tensor | None) -> Tensor:
        if (log_decay := self.log_decay) is None:
            y = flow_attention(q, k, v, clip=self.clip, is_pad=is_pad, feature_map=self.feature_map)
        else:
            q, k = map_features(q, k, self.feature_map)
            y, _ = decayed_flow_attention(q, k, v, log_decay, clip=self.clip, eps=EPS, is_pad=is_pad)
        return self._normalised(y)

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: FlowState) -> tuple[Tensor, FlowState]:
        if (log_decay := self.log_decay) is None:
            y, state = flow_attention_step(q, k, v, state, clip=self.clip, feature_map=self.feature_map)
        else:
            q, k = map_features(q, k, self.feature_map)
            y, state = decayed_flow_attention(q, k, v, log_decay, state, clip=self.clip, eps=EPS)
        return self._normalised(y), state

    def mix_weights(self, q: Tensor, k: Tensor, at: slice | Tensor) -> Tensor:
        """sigmoid(Î_i)/I_i (q_i·k_j) C_j for j ≤ i: a row sums to what the sink lets in, not to 1.

        Before an output norm, and with a decay times γ^(i-j).
        """
        q, k = map_features(q, k, self.feature_map)
        decays = self._decays(q)
        flows = flow_quantities(q, k, clip=self.clip, decays=decays)
        gain = flows.allocation / flows.incoming
        if decays is None:
            decays = torch.ones(q.shape[-2], k.shape[-2], device=q.device, dtype=q.dtype).tril()
        return gain[:, :, at, None] * (q[:, :, at] @ k.mT) * decays[..., at, :] * flows.competition[..., None, :]

    def flows(self, x: Tensor) -> FlowQuantities:
        """The flows of sequences x (B, T, width) without padding on the left."""
        q, k, _ = self._split(x)
        q, k = map_features(q, k, self.feature_map)
        return flow_quantities(q, k, clip=self.clip, decays=self._decays(q))

    def _normalised(self, y: Tensor) -> Tensor:
        if self.output_scale is None:
            return y
        with torch.autocast(y.device.type, enabled=False):
            scaled = rms_norm(y.to(at_least_float32(y)), y.shape[-1:], eps=OUTPUT_EPS) * self.output_scale
        return scaled.to(y.dtype)

    def _decays(self, q: Tensor) -> Tensor | None:
        """(H, T, T) γ^(i-j) for j ≤ i, else 0; None where nothing decays."""
        log_decay = self.log_decay
        return (
            None
            if log_decay is None
            else decay_matrix(torch.arange(q.shape[-2], device=q.device), log_decay[:, None, None])
        )
