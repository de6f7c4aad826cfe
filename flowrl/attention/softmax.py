"""Causal softmax attention (Vaswani et al. 2017), with a key-value cache for the step."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from flowrl.attention.multihead import CausalAttention


class SoftmaxState(NamedTuple):
    """Every key and value seen so far: 2 T D numbers a head, growing with each token."""

    k: Tensor  # (B, H, T, D)
    v: Tensor  # (B, H, T, D)


class SoftmaxAttention(CausalAttention):
    """Multi-head causal softmax attention; `dropout` acts on its weights while training."""

    @classmethod
    def keeps_pairs(cls, device_type: str, dropout: float) -> bool:
        return device_type == "cpu" and dropout > 0  # fused kernels keep none

    def initial_state(self, batch: int) -> SoftmaxState:
        empty = self.project_in.weight.new_empty(batch, self.heads, 0, self.width // self.heads)
        return SoftmaxState(empty, empty)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, is_pad: Tensor | None) -> Tensor:
        tokens = q.shape[-2]
        seen = None
        if is_pad is not None:
            causal = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).tril()
            # A padded token sees itself, so that no row is empty and softmax stays finite.
            itself = torch.eye(tokens, dtype=torch.bool, device=q.device)
            seen = (causal & ~is_pad[:, None, None, :]) | itself
        return self._attend(q, k, v, seen)

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: SoftmaxState) -> tuple[Tensor, SoftmaxState]:
        state = SoftmaxState(torch.cat([state.k.to(k.dtype), k], -2), torch.cat([state.v.to(v.dtype), v], -2))
        tokens, seen = q.shape[-2], state.k.shape[-2]
        causal = torch.ones(tokens, seen, dtype=torch.bool, device=q.device).tril(seen - tokens)
        return self._attend(q, state.k, state.v, causal), state

    def mix_weights(self, q: Tensor, k: Tensor, at: slice | Tensor) -> Tensor:
        """Probabilities: every row sums to 1."""
        scores = q[:, :, at] @ k.mT * q.shape[-1] ** -0.5
        causal = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        return scores.masked_fill(~causal[at], -math.inf).softmax(-1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
        """Attention of the keys `seen` (..., queries, keys) bool; None for the causal ones."""
        if q.device.type != "cpu" or not self.training or not self.dropout.p:
            dropout = self.dropout.p if self.training else 0.0
            return scaled_dot_product_attention(q, k, v, seen, dropout_p=dropout, is_causal=seen is None)
        # With dropout a CPU has no fused kernel: torch's would take such steps too, and draw slower masks. Scores and
        # softmax in at least float32, the product with the values in their dtype, as fused kernels have it.
        if seen is None:
            seen = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
        dtype = torch.promote_types(q.dtype, torch.float32)
        unseen = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -math.inf)
        unseen = unseen.expand(*q.shape[:2], -1, -1).flatten(0, 1)  # a view still where all see the same
        with torch.autocast("cpu", enabled=False):
            q, k = (x.flatten(0, 1).to(dtype) for x in (q, k))
            scores = torch.baddbmm(unseen, q, k.mT, alpha=q.shape[-1] ** -0.5)
            weights = self.dropout(torch.softmax(scores, dim=-1).to(v.dtype))
            return torch.bmm(weights, v.flatten(0, 1)).unflatten(0, v.shape[:2])
