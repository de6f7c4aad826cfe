"""Causal softmax attention (Vaswani et al. 2017), with a key-value cache for the step."""

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

    def initial_state(self, batch: int) -> SoftmaxState:
        empty = self.project_in.weight.new_empty(batch, self.heads, 0, self.width // self.heads)
        return SoftmaxState(empty, empty)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, is_pad: Tensor | None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if is_pad is None:
            return scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        tokens = q.shape[-2]
        causal = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).tril()
        # A padded token sees itself, so that no row is empty and softmax stays finite.
        itself = torch.eye(tokens, dtype=torch.bool, device=q.device)
        seen = (causal & ~is_pad[:, None, None, :]) | itself
        return scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout)

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: SoftmaxState) -> tuple[Tensor, SoftmaxState]:
        state = SoftmaxState(torch.cat([state.k.to(k.dtype), k], -2), torch.cat([state.v.to(v.dtype), v], -2))
        tokens, seen = q.shape[-2], state.k.shape[-2]
        causal = torch.ones(tokens, seen, dtype=torch.bool, device=q.device).tril(seen - tokens)
        dropout = self.dropout if self.training else 0.0
        return scaled_dot_product_attention(q, state.k, state.v, attn_mask=causal, dropout_p=dropout), state
