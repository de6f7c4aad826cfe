"""Causal Flow-Attention that forgets: every running sum of it decays, and so does the count of its terms.

An extension of the equations in `flowrl.attention.flow`: with a decay γ of each head, every sum over the tokens so far
becomes Σ_{j≤i} γ^(i-j) ..., and the count becomes n_i = γ n_{i-1} + 1, the number of tokens that are remembered. As
they balance, the flows keep their size, and γ = 1 is the paper's attention. A token that is padding is no token: sums
and count stay as they are.

Written in operations that torch differentiates: γ is learnt. The sums of a tile of C tokens are products with its
C × C matrix of decays, and those of all tiles before it a product with the decays from tile to tile.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from flowrl.attention.flow_state import FEW, FlowState
from flowrl.attention.multihead import at_least_float32

TILE = 64


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
) -> tuple[Tensor, FlowState]:
    """The tokens that follow `state` (None: the first ones), and the state after them.

    Memory is linear in T, and so is time up to some ten thousand tokens: the T/`tile` sums before the tiles are a
    product with the square matrix of decays between them.

    Args:
        q: (B, H, T, D) queries after the feature map, in at least float32.
        k: (B, H, T, D) keys after the feature map.
        v: (B, H, T, M) values.
        log_decay: (H,) log γ, at most 0.
        clip: bound on the conserved outgoing flow |Ô|.
        eps: ε, added once after each sum.
        is_pad: (B, T) bool, True at tokens that carry no flow and do not count, wherever they stand.

    Returns:
        (B, H, T, M) in the dtype of `v`, and the state.
    """
    (batch, heads, tokens, d), m, dtype = q.shape, v.shape[-1], v.dtype
    with torch.autocast(q.device.type, enabled=False):
        if state is not None and tokens <= FEW and is_pad is None:
            return _few_tokens(q, k, v, log_decay, state, clip, eps)
        if state is None:
            state = FlowState.zeros(batch, heads, d, m, device=q.device, dtype=at_least_float32(q))
            state = state.with_counts_by_head()
        real = q.new_ones(1, 1, tokens, 1) if is_pad is None else (~is_pad).to(q.dtype)[:, None, :, None]
        sums = _Sums(real[..., 0], log_decay, min(tile, tokens))
        if is_pad is not None:
            q, k = q * real, k * real

        def draw(own: Tensor, given: Tensor) -> Tensor:
            return ((own + eps) * (given + eps)).sum(-1, keepdim=True)

        def both(k: Tensor, q: Tensor, past_k: Tensor, past_q: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            """Two sums at once, which takes fewer operations."""
            of_all, after = sums(torch.cat([k, q], -1), torch.cat([past_k, past_q], -1))
            return of_all.split(d, -1), after.split(d, -1)

        n, after_n = sums(real, state.n[..., None])
        n = n.clamp(min=1.0)  # padding before the first real token has counted none
        (k_sum, q_sum), after_flows = both(k, q, state.k, state.q)
        incoming, outgoing = draw(q, k_sum), draw(k, q_sum)
        (k_per_flow, q_per_flow), after_per_flow = both(
            k * (n / outgoing), q * (n / incoming), state.k_per_flow, state.q_per_flow
        )
        conserved_incoming = draw(q, k_per_flow) / n
        conserved_outgoing = (draw(k, q_per_flow) / n).clamp(-clip, clip)
        competing = conserved_outgoing.exp() * real
        all_competing, after_competition = sums(competing, state.competition)
        # Before the first real token none compete.
        competition = n * competing / all_competing.masked_fill(all_competing == 0, 1.0)
        aggregated, after_memory = sums.product(q, k, competition * v.to(q.dtype), state.memory)
        y = conserved_incoming.sigmoid() / incoming * aggregated
    # Clones: a view would keep its neighbour as well.
    after_k, after_q, after_k_per_flow, after_q_per_flow = (x.clone() for x in (*after_flows, *after_per_flow))
    return y.to(dtype), FlowState(
        after_n[..., 0], after_k, after_q, after_k_per_flow, after_q_per_flow, after_competition, after_memory
    )


def _few_tokens(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, past: FlowState, clip: float, eps: float
) -> tuple[Tensor, FlowState]:
    """The same for a few tokens, as an agent's step has them; sinks and sources are worked out at once."""
    tokens, dtype = q.shape[-2], past.k.dtype
    own, other = torch.stack([q, k]).to(dtype), torch.stack([k, q]).to(dtype) + eps  # (2, B, H, T, D)
    q, k = own
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


class _Sums:
    """Decaying running sums, those before each token's tile carried over from tile to tile.

    Args:
        real: (B or 1, 1, T) 1 at real tokens, 0 at padding.
        log_decay: (H,).
        tile: tokens of a tile, C; L tiles hold all tokens, the last one filled up with padding.
    """

    def __init__(self, real: Tensor, log_decay: Tensor, tile: int) -> None:
        self.tokens, self.tile = real.shape[-1], tile
        log_decay = log_decay.to(real.dtype)[:, None, None]
        passed = pad(real, (0, -self.tokens % tile)).unflatten(-1, (-1, tile)).cumsum(-1)  # (B, 1, L, C) in the tile
        of_tiles = pad(passed[..., -1].cumsum(-1), (1, 0))  # (B, 1, L+1) at the end of each tile; first, before all
        self.within = decay_matrix(passed, log_decay[..., None])  # (B, H, L, C, C)
        self.from_before = (passed * log_decay).exp()[..., None]  # (B, H, L, C, 1)
        self.to_end = self.within[..., -1, :, None]  # (B, H, L, C, 1)
        self.between = decay_matrix(of_tiles, log_decay)  # (B, H, L+1, L+1)

    def __call__(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, T, F) Σ_{j≤i} γ^(i-j) x_j, with `past` (B, H, F) before the first; and (B, H, F), that of all.

        x may have one row for the whole batch, and one head for all.
        """
        x = self._tiles(x)
        before, after = self._before((self.to_end * x).sum(-2), past)
        return self._all(self.within @ x + self.from_before * before[..., None, :]), after

    def product(self, q: Tensor, k: Tensor, v: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, T, M) q_i·(Σ_{j≤i} γ^(i-j) k_j ⊗ v_j), with `past` (B, H, D, M); and that sum of all."""
        q, k, v = (self._tiles(x) for x in (q, k, v))
        before, after = self._before((self.to_end * k).mT @ v, past)
        return self._all((q @ k.mT * self.within) @ v + self.from_before * (q @ before)), after

    def _before(self, given: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """The sums (B, H, L, ...) before each tile, of what each gives (B, H, L, ...), and the sum after all."""
        given = torch.cat([past[:, :, None], given.expand(len(past), *given.shape[1:])], 2)
        sums = (self.between @ given.flatten(3)).view_as(given)
        return sums[:, :, :-1], sums[:, :, -1].clone()  # a view would keep all sums as long as the state

    def _tiles(self, x: Tensor) -> Tensor:
        return pad(x, (0, 0, 0, -self.tokens % self.tile)).unflatten(2, (-1, self.tile))

    def _all(self, x: Tensor) -> Tensor:
        return x.flatten(2, 3)[:, :, : self.tokens]


def decay_matrix(passed: Tensor, log_decay: Tensor) -> Tensor:
    """(..., T, T) γ^(p_i - p_j) for j ≤ i, else 0.

    Args:
        passed: (..., T) p, the tokens counted so far.
        log_decay: log γ, of a shape that goes with the result.
    """
    since = (passed[..., :, None] - passed[..., None, :]).tril()
    return (since * log_decay).exp().tril()
