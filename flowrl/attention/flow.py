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
is one tile, a long one a row of tiles that are computed together; the recurrence is a tile of the next few tokens.
`flowrl.attention.flow_core` has the tiles, `flow_gradient` their gradient, written by hand, `flow_recurrence` the
recurrence, and `flow_oracle` the equations one by one, which the tests compare with.

Axes: B sequences, H heads, T tokens; D features of a query or key, M of a value.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, rms_norm

from flowrl.attention.decayed_flow import decayed_flow_attention
from flowrl.attention.decayed_flow_core import decay_matrix
from flowrl.attention.features import FEATURE_MAPS, FeatureMap, map_features
from flowrl.attention.flow_core import FlowCore
from flowrl.attention.flow_recurrence import few_tokens
from flowrl.attention.flow_state import FEW, FlowState
from flowrl.attention.flow_tiling import TILE, CoreOptions
from flowrl.attention.multihead import CausalAttention, at_least_float32

CLIP = 10.0  # as in the authors' reinforcement-learning release; 1 would saturate half of the tokens
MOST_CLIP = 50.0  # exp(Ô) is summed in float32, which ends at exp(88)
EPS = 1e-6
ONE_TILE = 128  # the longest sequence taken as a single tile
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
    if q.shape[-2] > ONE_TILE:
        y, _ = flow_attention_step(q, k, v, None, clip=clip, eps=eps, is_pad=is_pad, feature_map=feature_map)
        return y
    q, k, mapped = _ready(q, k, feature_map)
    n, _ = _counts(q, is_pad, None)
    (y,) = FlowCore.apply(q, k, v, n, is_pad, CoreOptions(clip, eps, ONE_TILE, mapped))  # pyright: ignore[reportGeneralTypeIssues]
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
            return few_tokens(q, k, v, state, clip, eps, mapped)
    n, after_n = _counts(q, is_pad, state.n)
    y, *after = FlowCore.apply(q, k, v, n, is_pad, CoreOptions(clip, eps, tile, mapped), *state[1:])  # pyright: ignore[reportGeneralTypeIssues]
    return y, FlowState(after_n, *after)


def _counts(q: Tensor, is_pad: Tensor | None, past: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B or 1, 1, T) the tokens counted up to each of q's, at least 1, after (B, 1) past ones; and those after all."""
    dtype = at_least_float32(q)
    if is_pad is None:
        n = torch.arange(1, q.shape[-2] + 1, device=q.device, dtype=dtype)[None, None]
    else:
        n = (~is_pad).to(dtype).cumsum(-1)[:, None]
    if past is not None:
        n = n + past[..., None]
    # Padding before the first real token has counted none. The last is a clone: a view would keep all tokens'.
    return n.clamp(min=1.0), n[..., -1].clone()


def _ready(q: Tensor, k: Tensor, feature_map: FeatureMap) -> tuple[Tensor, Tensor, bool]:
    """Queries and keys for the core, and whether they are mapped: the sigmoid is left to the core, which fuses it."""
    if feature_map == "sigmoid":
        return q, k, False
    return *map_features(q, k, feature_map), True


class FlowQuantities(NamedTuple):
    """The flows of the equations at the top of this module: (B, H, T) each."""

    incoming: Tensor  # I
    outgoing: Tensor  # O
    conserved_incoming: Tensor  # Î
    conserved_outgoing: Tensor  # Ô, clamped
    competition: Tensor  # C
    allocation: Tensor  # sigmoid(Î)


def flow_quantities(
    q: Tensor, k: Tensor, *, clip: float = CLIP, eps: float = EPS, decays: Tensor | None = None
) -> FlowQuantities:
    """The equations at the top of this module as they stand there: for looking at flows, not for speed.

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


class FlowAttention(CausalAttention):
    """Multi-head causal Flow-Attention; its state is constant in size. It has no weights that `dropout` could drop.

    Args:
        clip: bound on the conserved outgoing flow |Ô|.
        feature_map: what makes queries and keys positive, a name in `FEATURE_MAPS`.
        output_norm: divide each head's output by its root mean square (Zhang and Sennrich 2019) and scale it by learnt
            factors: it then keeps its size, however many tokens it is a mean of.
        decay: let the sums of each head decay at a learnt rate, see `flowrl.attention.decayed_flow`.

    Raises:
        ValueError: as `CausalAttention`; `clip` is not above 0 or is above `MOST_CLIP`, or `feature_map` unknown.
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
        self.check(width, heads, clip=clip, feature_map=feature_map)
        self.clip = clip
        self.feature_map: FeatureMap = feature_map
        self.output_scale = nn.Parameter(torch.ones(heads, 1, width // heads)) if output_norm else None
        self.decay_logit = None
        if decay:
            memory = torch.logspace(math.log2(LONGEST_MEMORY), math.log2(SHORTEST_MEMORY), heads, base=2.0)
            self.decay_logit = nn.Parameter((memory - 1).log())  # γ = 1 - 1/memory

    @classmethod
    def check(cls, width: int, heads: int, *, clip: float = CLIP, feature_map: str = "sigmoid", **options: Any) -> None:
        super().check(width, heads, **options)
        if not 0 < clip <= MOST_CLIP:
            raise ValueError(f"clip is {clip}: it must be above 0 and at most {MOST_CLIP:g}")
        if feature_map not in FEATURE_MAPS:
            raise ValueError(f"feature_map is {feature_map!r}: known are {', '.join(FEATURE_MAPS)}")

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
            q, k, mapped = _ready(q, k, self.feature_map)
            y, _ = decayed_flow_attention(q, k, v, log_decay, clip=self.clip, eps=EPS, is_pad=is_pad, mapped=mapped)
        return self._normalised(y)

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: FlowState) -> tuple[Tensor, FlowState]:
        if (log_decay := self.log_decay) is None:
            y, state = flow_attention_step(q, k, v, state, clip=self.clip, feature_map=self.feature_map)
        else:
            q, k, mapped = _ready(q, k, self.feature_map)
            y, state = decayed_flow_attention(q, k, v, log_decay, state, clip=self.clip, eps=EPS, mapped=mapped)
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
