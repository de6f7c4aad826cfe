"""cosFormer's causal attention: ReLU features, weighted by the cosine of the distance.

Source: Qin et al., "cosFormer: Rethinking Softmax in Attention", ICLR 2022, equations 10-12. With a_i = π i / 2 N for
the i-th token and N constant::

    weight of j for i ∝ relu(q_i)·relu(k_j) cos(a_i - a_j)
                      = (relu(q_i) cos a_i)·(relu(k_j) cos a_j) + (relu(q_i) sin a_i)·(relu(k_j) sin a_j)

so it is a kernelised attention of 2 D features. The paper's code takes the longest sequence of the batch as N, which
gives a token a hint of how many follow. Here N is part of the model, and every token past the N-th stands at a_N: the
cosine of two tokens is never negative, and past N the weights depend on agreement alone, not on distance.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowrl.attention.kernel import KernelState, causal_product, causal_product_step, product_weights, real_alone
from flowrl.attention.multihead import CausalAttention, at_least_float32

LENGTH = 60  # tokens of a window of 20 steps
EPS = 1e-6  # as in the paper's code; less would let a ReLU near 0 blow up the gradient


class CosformerState(NamedTuple):
    """All that the past of a sequence means to its future: 2 D M + 2 D numbers a head and a count."""

    n: Tensor  # (B, 1) int64         the real tokens seen
    memory: Tensor  # (B, H, 2 D, M)  Σ φ(k) ⊗ v
    total: Tensor  # (B, H, 2 D)      Σ φ(k)


class CosformerAttention(CausalAttention):
    """Multi-head causal cosFormer attention; its state is constant in size. It has no weights to drop.

    Args:
        length: N, tokens over which the cosine falls to 0; by default those of a window of 20 steps.

    Raises:
        ValueError: as `CausalAttention`; `length` is below 1.
    """

    constant_state = True

    def __init__(self, width: int, heads: int, dropout: float = 0.0, *, length: int = LENGTH) -> None:
        super().__init__(width, heads, dropout)
        self.check(width, heads, length=length)
        self.length = length

    @classmethod
    def check(cls, width: int, heads: int, *, length: int = LENGTH, **options: Any) -> None:
        super().check(width, heads, **options)
        if length < 1:
            raise ValueError(f"length is {length}: it must be at least 1")

    @classmethod
    def cautions(cls, tokens: int | None, *, length: int = LENGTH, **options: Any) -> list[str]:
        if tokens is not None and tokens <= length:
            return []
        given = "any number of tokens" if tokens is None else f"{tokens:,} tokens"
        return [
            f"attention cosformer tells distances apart only within its first {length:,} tokens, its option length, and"
            f" reads {given}"
        ]

    def initial_state(self, batch: int) -> CosformerState:
        d, weight = self.width // self.heads, self.project_in.weight
        n = torch.zeros(batch, 1, dtype=torch.int64, device=weight.device)
        return CosformerState(n, *KernelState.zeros(batch, self.heads, 2 * d, d, weight))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, is_pad: Tensor | None) -> Tensor:
        n = _count(q) if is_pad is None else (~is_pad).cumsum(-1)
        q, k = self._features(q, n), real_alone(self._features(k, n), is_pad)
        return causal_product(q, k, v, eps=EPS)

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: CosformerState) -> tuple[Tensor, CosformerState]:
        n = state.n + _count(q)
        past = KernelState(state.memory, state.total)
        y, after = causal_product_step(self._features(q, n), self._features(k, n), v, past, eps=EPS)
        return y, CosformerState(n[:, -1:].clone(), *after)

    def mix_weights(self, q: Tensor, k: Tensor, at: slice | Tensor) -> Tensor:
        """relu(q_i)·relu(k_j) cos(a_i - a_j), divided by its sum over j ≤ i: a row sums to 1, or to 0 if all vanish."""
        n = _count(q)
        return product_weights(self._features(q, n), self._features(k, n), at, eps=EPS)

    def _features(self, x: Tensor, n: Tensor) -> Tensor:
        """(B, H, T, D) of the tokens number n (B or 1, T), counted from 1, to (B, H, T, 2 D)."""
        x = x.to(at_least_float32(x)).relu()
        angle = n.clamp(max=self.length).to(x.dtype)[:, None, :, None] * (math.pi / 2 / self.length)
        return torch.cat([x * angle.cos(), x * angle.sin()], -1)


def _count(x: Tensor) -> Tensor:
    """(1, T) the numbers from 1 of the tokens of x (B, H, T, D)."""
    return torch.arange(1, x.shape[-2] + 1, device=x.device)[None]
