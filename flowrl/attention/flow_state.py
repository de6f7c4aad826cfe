"""The running sums of causal Flow-Attention between one token and the next."""

from typing import NamedTuple

import torch
from torch import Tensor

FEW = 4  # up to so many tokens, running sums written out are faster than a tile's matrix products


class FlowSums(NamedTuple):
    """The sums of a `FlowState` without its count, or their gradients."""

    k: Tensor  # (B, H, D)           Σ k
    q: Tensor  # (B, H, D)           Σ q
    k_per_flow: Tensor  # (B, H, D)  Σ k n/O
    q_per_flow: Tensor  # (B, H, D)  Σ q n/I
    competition: Tensor  # (B, H, 1) Σ exp(Ô)
    memory: Tensor  # (B, H, D, M)   Σ k ⊗ C v


class FlowState(NamedTuple):
    """All that the past of a sequence means to its future: D·M + 4 D + 2 numbers a head, however long it was."""

    n: Tensor  # (B, 1) the real tokens seen; (B, H) the count of each head, where sums decay
    k: Tensor  # (B, H, D)           Σ k
    q: Tensor  # (B, H, D)           Σ q
    k_per_flow: Tensor  # (B, H, D)  Σ k n/O
    q_per_flow: Tensor  # (B, H, D)  Σ q n/I
    competition: Tensor  # (B, H, 1) Σ exp(Ô)
    memory: Tensor  # (B, H, D, M)   Σ k ⊗ C v

    @classmethod
    def zeros(cls, batch: int, heads: int, d: int, m: int, *, device: torch.device, dtype: torch.dtype) -> "FlowState":
        """The state before the first token."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=device, dtype=dtype)

        vectors = [(batch, heads, d)] * 4
        return cls(*(zeros(*s) for s in ((batch, 1), *vectors, (batch, heads, 1), (batch, heads, d, m))))

    def with_counts_by_head(self) -> "FlowState":
        """The same state with one count for each head, as sums that decay need it."""
        return self._replace(n=self.n.expand(len(self.n), self.k.shape[1]).clone())
