"""What the kernelised attentions share: a causal product that is linear in the sequence length, and its running sums.

With non-negative features φ the output is a mean of the values so far, weighted by agreement::

    y_i = φ(q_i)·S_i / φ(q_i)·z_i        S_i = Σ_{j≤i} φ(k_j) ⊗ v_j        z_i = Σ_{j≤i} φ(k_j)

A tile of tokens needs S and z before it and its own lower triangle of φ(q) φ(k)ᵀ; the recurrence is a tile that begins
at the state. Nothing is scaled by a statistic over the tokens, which would tell a token of later ones.
"""

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from flowrl.attention.multihead import CausalAttention, at_least_float32

ONE_TILE = 128  # the longest sequence taken as a single tile
TILE = 64  # the tile of longer ones
EPS = 1e-30  # a sum of features below this is taken as this: what agrees with nothing gives 0, not 0/0


class KernelState(NamedTuple):
    """All that the past of a sequence means to its future: F M + F numbers a head, however long it was."""

    memory: Tensor  # (B, H, F, M)  S
    total: Tensor  # (B, H, F)      z

    @classmethod
    def zeros(cls, batch: int, heads: int, f: int, m: int, like: Tensor) -> "KernelState":
        """The state before the first token, on the device of `like` and in the dtype of sums of its numbers."""
        dtype = at_least_float32(like)
        return cls(like.new_zeros(batch, heads, f, m, dtype=dtype), like.new_zeros(batch, heads, f, dtype=dtype))


def causal_product(q: Tensor, k: Tensor, v: Tensor, *, eps: float = EPS) -> Tensor:
    """The equations of the module's head over whole sequences, in time and memory linear in T.

    Args:
        q: (B, H, T, F) features of the queries, at least 0, in at least float32.
        k: (B, H, T, F) features of the keys, as `q`; zeros at padding.
        v: (B, H, T, M) values.
        eps: the least that is divided by.

    Returns:
        (B, H, T, M) in the dtype of `v`.
    """
    if q.shape[-2] > ONE_TILE:
        batch, heads, _, f = q.shape
        return causal_product_step(q, k, v, KernelState.zeros(batch, heads, f, v.shape[-1], q), eps=eps)[0]
    with torch.autocast(q.device.type, enabled=False):
        within = (q @ k.mT).tril()
        return (within @ v.to(q.dtype) / within.sum(-1, keepdim=True).clamp(min=eps)).to(v.dtype)


def causal_product_step(
    q: Tensor, k: Tensor, v: Tensor, past: KernelState, *, eps: float = EPS, tile: int = TILE
) -> tuple[Tensor, KernelState]:
    """As `causal_product` for the T ≥ 1 tokens that follow `past`, and the state after them.

    Args:
        tile: tokens whose pairs are worked out directly.
    """
    tokens, dtype, tile = q.shape[-2], v.dtype, min(tile, q.shape[-2])
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = (pad(x, (0, 0, 0, -tokens % tile)).unflatten(2, (-1, tile)) for x in (q, k, v.to(q.dtype)))
        memory, after_memory = _running(past.memory, k.mT @ v)
        total, after_total = _running(past.total, k.sum(-2))
        within = (q @ k.mT).tril()
        weighted = within @ v + q @ memory
        weight = within.sum(-1, keepdim=True) + q @ total[..., None]
        y = (weighted / weight.clamp(min=eps)).flatten(2, 3)[:, :, :tokens]
        return y.to(dtype), KernelState(after_memory, after_total)


def _running(first: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
    """Running sums of (B, H, L, ...) terms from `first` (B, H, ...): those before each term, and that of all."""
    if terms.shape[2] == 1:
        return first[:, :, None], first + terms[:, :, 0]
    sums = torch.cat([first[:, :, None], terms], 2).cumsum(2)
    return sums[:, :, :-1], sums[:, :, -1].clone()  # a view would keep the sums of every tile as long as the state


def product_weights(q: Tensor, k: Tensor, at: slice | Tensor, *, eps: float = EPS) -> Tensor:
    """(B, H, T', T) by which `causal_product` multiplies the values for its outputs `at`; takes features as it does."""
    causal = torch.ones(q.shape[-2], k.shape[-2], device=q.device, dtype=q.dtype).tril()
    agreement = q[:, :, at] @ k.mT * causal[at]
    return agreement / agreement.sum(-1, keepdim=True).clamp(min=eps)


class KernelAttention(CausalAttention):
    """Multi-head attention by features of each query and each key alone; its state is constant in size.

    It has no weights that `dropout` could drop.
    """

    constant_state = True

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__(width, heads, dropout)
        self.features = width // heads  # F, of a query or key of a head

    @abstractmethod
    def query_features(self, q: Tensor) -> Tensor:
        """(B, H, T, D) in at least float32 to (B, H, T, F), at least 0; a factor common to a query's cancels."""

    @abstractmethod
    def key_features(self, k: Tensor) -> Tensor:
        """(B, H, T, D) in at least float32 to (B, H, T, F), at least 0."""

    def initial_state(self, batch: int) -> KernelState:
        return KernelState.zeros(batch, self.heads, self.features, self.width // self.heads, self.project_in.weight)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, is_pad: Tensor | None) -> Tensor:
        q, k = self._features(q, k)
        return causal_product(q, real_alone(k, is_pad), v)

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: KernelState) -> tuple[Tensor, KernelState]:
        return causal_product_step(*self._features(q, k), v, state)

    def mix_weights(self, q: Tensor, k: Tensor, at: slice | Tensor) -> Tensor:
        """φ(q_i)·φ(k_j) / φ(q_i)·z_i for j ≤ i: every row sums to 1, unless its features vanish."""
        return product_weights(*self._features(q, k), at)

    def _features(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        dtype = at_least_float32(q)
        with torch.autocast(q.device.type, enabled=False):
            return self.query_features(q.to(dtype)), self.key_features(k.to(dtype))


def real_alone(x: Tensor, is_pad: Tensor | None) -> Tensor:
    """(B, H, T, F) with zeros at the padding (B, T)."""
    return x if is_pad is None else x * ~is_pad[:, None, :, None]
