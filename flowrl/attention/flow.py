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

Every sum is a running sum, so a tile of tokens needs only the sums before it (`FlowState`) and its own Gram matrix
P = q kᵀ: with A = tril(P) and U = triu(P) the five sums inside the tile are A·1, 1·U, A·(n/O), (n/I)·U and A·(C v).
The sequence is one tile when it is short, else a row of tiles; the recurrence is a tile of the next few tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from flowrl.attention.multihead import CausalAttention

CLIP = 10.0  # as in the authors' reinforcement-learning release; 1 would saturate half of the tokens
EPS = 1e-6
ONE_TILE = 128  # the longest sequence taken as a single tile
TILE = 64  # the tile of longer ones
FEW = 4  # up to so many tokens, running sums written out are faster than a tile's matrix products


class FlowState(NamedTuple):
    """All that the past of a sequence means to its future: D·M + 4 D + 2 numbers a head, however long it was."""

    n: Tensor  # (B, 1)            the real tokens seen
    k: Tensor  # (B, H, D)         Σ k
    q: Tensor  # (B, H, D)         Σ q
    k_per_flow: Tensor  # (B, H, D)  Σ k n/O
    q_per_flow: Tensor  # (B, H, D)  Σ q n/I
    competition: Tensor  # (B, H, 1)  Σ exp(Ô)
    memory: Tensor  # (B, H, D, M)  Σ k ⊗ C v

    @classmethod
    def zeros(cls, batch: int, heads: int, d: int, m: int, *, device: torch.device, dtype: torch.dtype) -> "FlowState":
        """The state before the first token."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=device, dtype=dtype)

        vector = zeros(batch, heads, d)
        return cls(zeros(batch, 1), vector, vector, vector, vector, zeros(batch, heads, 1), zeros(batch, heads, d, m))


def flow_attention(
    q: Tensor, k: Tensor, v: Tensor, *, clip: float = CLIP, eps: float = EPS, is_pad: Tensor | None = None
) -> Tensor:
    """Causal Flow-Attention over whole sequences, in time and memory linear in T.

    Args:
        q: (B, H, T, D) queries before the sigmoid.
        k: (B, H, T, D) keys before the sigmoid.
        v: (B, H, T, M) values.
        clip: bound on the conserved outgoing flow |Ô|.
        eps: ε, added once after each sum.
        is_pad: (B, T) bool, True at tokens that carry no flow and do not count, wherever they stand.

    Returns:
        (B, H, T, M) in the dtype of `v`; the arithmetic is float32, or float64 for float64 inputs.
    """
    if q.shape[-2] <= ONE_TILE:
        return _tile(*_flows(q, k, v), None, clip, eps, is_pad).y.to(v.dtype)
    return flow_attention_step(q, k, v, None, clip=clip, eps=eps, is_pad=is_pad, tile=TILE)[0]


def flow_attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: FlowState | None,
    *,
    clip: float = CLIP,
    eps: float = EPS,
    is_pad: Tensor | None = None,
    tile: int = TILE,
) -> tuple[Tensor, FlowState]:
    """Causal Flow-Attention for the tokens that follow `state` (None: the first ones), and the state after them.

    Takes q, k, v, clip, eps and is_pad as `flow_attention` does, for T ≥ 1 next tokens.
    """
    dtype = v.dtype
    if state is None:
        (batch, heads, _, d), m = q.shape, v.shape[-1]
        state = FlowState.zeros(batch, heads, d, m, device=q.device, dtype=torch.promote_types(dtype, torch.float32))
    if q.shape[-2] <= FEW and is_pad is None:
        y, state = _few_tokens(q, k, v, state, clip, eps)
        return y.to(dtype), state
    q, k, v = _flows(q, k, v)
    outputs = []
    for start in range(0, q.shape[-2], tile):
        at = slice(start, start + tile)
        pad = None if is_pad is None else is_pad[:, at]
        result = _tile(q[:, :, at], k[:, :, at], v[:, :, at], state, clip, eps, pad)
        state = result.advance(state)
        outputs.append(result.y)
    return torch.cat(outputs, dim=-2).to(dtype), state


class _Tile(NamedTuple):
    """One tile's output and what its tokens add to the running sums."""

    y: Tensor  # (B, H, T, M)
    n: Tensor  # (B or 1, 1)  the real tokens seen after it
    k: Tensor  # (B, H, T, D)
    q: Tensor  # (B, H, T, D)
    per_outgoing: Tensor  # (B, H, T)  n/O
    per_incoming: Tensor  # (B, H, T)  n/I
    exp_outgoing: Tensor  # (B, H, T)  exp(Ô)
    values: Tensor  # (B, H, T, M)  C v

    def advance(self, state: FlowState) -> FlowState:
        """The running sums after this tile."""
        return FlowState(
            self.n.expand_as(state.n),
            state.k + self.k.sum(-2),
            state.q + self.q.sum(-2),
            state.k_per_flow + _row(self.per_outgoing, self.k),
            state.q_per_flow + _row(self.per_incoming, self.q),
            state.competition + self.exp_outgoing.sum(-1, keepdim=True),
            state.memory + self.k.mT @ self.values,
        )


def _flows(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Non-negative flows, in at least float32: a bfloat16 running sum stalls."""
    dtype = torch.promote_types(v.dtype, torch.float32)
    return torch.sigmoid(q.to(dtype)), torch.sigmoid(k.to(dtype)), v.to(dtype)


def _tile(
    q: Tensor, k: Tensor, v: Tensor, past: FlowState | None, clip: float, eps: float, is_pad: Tensor | None
) -> _Tile:
    """The equations of the module's head, in their order, for the tokens of one tile."""
    tokens, d = q.shape[-2:]
    if is_pad is None:
        real = None
        n = torch.arange(1, tokens + 1, device=q.device, dtype=q.dtype).expand(1, 1, tokens)
    else:
        real = (~is_pad)[:, None, :].to(q.dtype)  # (B, 1, T)
        q, k, v = q * real[..., None], k * real[..., None], v * real[..., None]
        n = real.cumsum(-1)
    if past is not None:
        n = n + past.n[..., None]
    seen = n[:, 0, -1:]
    n = n.clamp(min=1.0)  # padding before the first real token has counted none

    gram = q @ k.mT
    to_sinks, from_sources = gram.tril(), gram.triu()  # A[i, j] for j ≤ i; U[i, j] for i ≤ j
    q_sum, k_sum = q.sum(-1), k.sum(-1)

    # ε meets every sum once: (a + ε)·(Σ b + ε) = a·Σb + ε (1·a + 1·Σb) + d ε².
    incoming = to_sinks.sum(-1) + eps * (q_sum + k_sum.cumsum(-1)) + d * eps**2
    outgoing = from_sources.sum(-2) + eps * (k_sum + q_sum.cumsum(-1)) + d * eps**2
    if past is not None:
        incoming = incoming + _column(q, past.k) + eps * past.k.sum(-1, keepdim=True)
        outgoing = outgoing + _column(k, past.q) + eps * past.q.sum(-1, keepdim=True)
    per_incoming, per_outgoing = n / incoming, n / outgoing

    conserved_in = _column(to_sinks, per_outgoing) + eps * (q_sum + (k_sum * per_outgoing).cumsum(-1)) + d * eps**2
    conserved_out = _row(per_incoming, from_sources) + eps * (k_sum + (q_sum * per_incoming).cumsum(-1)) + d * eps**2
    if past is not None:
        conserved_in = conserved_in + _column(q, past.k_per_flow) + eps * past.k_per_flow.sum(-1, keepdim=True)
        conserved_out = conserved_out + _column(k, past.q_per_flow) + eps * past.q_per_flow.sum(-1, keepdim=True)

    exp_outgoing = (conserved_out / n).clamp(-clip, clip).exp()
    if real is not None:
        exp_outgoing = exp_outgoing * real
    competing = exp_outgoing.cumsum(-1)
    if past is not None:
        competing = competing + past.competition
    if real is not None:
        competing = competing.masked_fill(competing == 0, 1.0)  # before the first real token none compete
    values = (n * exp_outgoing / competing)[..., None] * v

    aggregated = to_sinks @ values
    if past is not None:
        aggregated = aggregated + q @ past.memory
    y = (torch.sigmoid(conserved_in / n) / incoming)[..., None] * aggregated
    return _Tile(y, seen, k, q, per_outgoing, per_incoming, exp_outgoing, values)


def _few_tokens(q: Tensor, k: Tensor, v: Tensor, past: FlowState, clip: float, eps: float) -> tuple[Tensor, FlowState]:
    """The equations of the module's head for a few tokens, as an agent's step has them, in as few operations as can be.

    Sinks and sources play the same part in the first four, so each is worked out for both at once.
    """
    # In place where nothing else holds the tensor: at this size an operation costs more than its arithmetic.
    own = torch.stack([q, k]).to(past.k.dtype).sigmoid_()  # (2, B, H, T, D)
    q, k = own
    other = torch.stack([k, q]).add_(eps)
    n = past.n[..., None] + torch.arange(1, q.shape[-2] + 1, device=q.device, dtype=q.dtype)  # (B, 1, T)

    sums, (q_sum, k_sum) = _running(torch.stack([past.q, past.k]), own)
    flows = (other * sums.add_(eps)).sum(-1)  # (2, B, H, T): outgoing, incoming
    sums, (q_per_flow, k_per_flow) = _running(
        torch.stack([past.q_per_flow, past.k_per_flow]), own * (n / flows).flip(0)[..., None]
    )
    conserved_out, conserved_in = (other * sums.add_(eps)).sum(-1) / n

    exp_outgoing = conserved_out.clamp(-clip, clip).exp()
    competing = past.competition + exp_outgoing.cumsum(-1)
    values = (n * exp_outgoing / competing)[..., None] * v
    aggregated = (q @ past.memory).add_((q @ k.mT).tril_() @ values)
    y = (conserved_in.sigmoid() / flows[1])[..., None] * aggregated
    memory = torch.baddbmm(past.memory.flatten(0, 1), k.flatten(0, 1).mT, values.flatten(0, 1)).view_as(past.memory)
    return y, FlowState(n[:, 0, -1:], k_sum, q_sum, k_per_flow, q_per_flow, competing[..., -1:], memory)


def _running(past: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
    """Running sums (..., T, D) of `terms` after `past` (..., D), and the last of them."""
    sums = []
    for term in terms.unbind(-2):  # `cumsum` takes longer
        past = past + term
        sums.append(past)
    return torch.stack(sums, dim=-2), past


def _column(matrix: Tensor, vector: Tensor) -> Tensor:
    """matrix (..., R, S) times vector (..., S), over R."""
    return (matrix @ vector[..., None]).squeeze(-1)


def _row(vector: Tensor, matrix: Tensor) -> Tensor:
    """vector (..., R) times matrix (..., R, S), over S."""
    return (vector[..., None, :] @ matrix).squeeze(-2)


class FlowAttention(CausalAttention):
    """Multi-head causal Flow-Attention; its state is constant in size. It has no weights that `dropout` could drop."""

    def initial_state(self, batch: int) -> FlowState:
        weight = self.project_in.weight
        head = self.width // self.heads
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return FlowState.zeros(batch, self.heads, head, head, device=weight.device, dtype=dtype)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, is_pad: Tensor | None) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            return flow_attention(q, k, v, is_pad=is_pad)

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: FlowState) -> tuple[Tensor, FlowState]:
        with torch.autocast(q.device.type, enabled=False):
            return flow_attention_step(q, k, v, state)
