"""Linformer's low-rank attention made causal: the current block exactly, finished blocks by learned summaries.

Source of the idea: Wang et al., "Linformer: Self-Attention with Linear Complexity", 2020, equation 7, which projects
the keys and values of the whole sequence onto a few rows. That mixes every token with all that follow and fixes the
length, so it cannot be made causal by a mask: this is an adaptation. The sequence is cut into blocks of c tokens. Once
a block is finished, R summaries of it take its place, with projections E, F (R, c) that all blocks and heads share::

    K'_b = E K_b,  V'_b = F V_b
    y_i = softmax(q_i·[K'_1 … K'_{b-1}, k_s … k_i] / √D) [V'_1 … V'_{b-1}, v_s … v_i],  i in block b, which begins at s

The rows of E and F are softmaxes of what is learned, so that a summary is a mean of tokens and a weight at least 0.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from flowrl.attention.multihead import CausalAttention, at_least_float32, drawn_seed

LONGEST_BLOCK = 4_096  # tokens; the projections have as many columns


class LinformerState(NamedTuple):
    """Two vectors for each summary of a finished block and each token of the current one: 2 D (R ⌊T/c⌋ + T mod c)."""

    summary_k: Tensor  # (B, H, S, D)
    summary_v: Tensor  # (B, H, S, D)
    k: Tensor  # (B, H, t, D), t < c
    v: Tensor  # (B, H, t, D)


class LinformerAttention(CausalAttention):
    """Multi-head causal low-rank attention; `dropout` acts on its weights while training.

    The initial E and F of each layer are drawn by a generator that `drawn_seed` seeds.

    Args:
        block: tokens of a block (c).
        rank: summaries of a finished block (R).

    Raises:
        ValueError: as `CausalAttention`; not 1 ≤ rank ≤ block ≤ `LONGEST_BLOCK`.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, *, block: int = 16, rank: int = 4) -> None:
        super().__init__(width, heads, dropout)
        self.check(width, heads, block=block, rank=rank)
        self.block, self.rank = block, rank
        drawn = torch.randn(2, rank, block, generator=torch.Generator().manual_seed(drawn_seed()))
        self.summarise_k, self.summarise_v = (nn.Parameter(logits.clone()) for logits in drawn)  # E, F as logits

    @classmethod
    def check(cls, width: int, heads: int, *, block: int = 16, rank: int = 4, **options: Any) -> None:
        super().check(width, heads, **options)
        if not 1 <= rank <= block:
            raise ValueError(f"rank is {rank} and block is {block}: rank must be at least 1 and at most block")
        if block > LONGEST_BLOCK:
            raise ValueError(f"block is {block}: it must be at most {LONGEST_BLOCK:,}")

    def initial_state(self, batch: int) -> LinformerState:
        weight = self.project_in.weight
        empty = weight.new_empty(batch, self.heads, 0, self.width // self.heads, dtype=at_least_float32(weight))
        return LinformerState(empty, empty, empty, empty)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, is_pad: Tensor | None) -> Tensor:
        state = self.initial_state(len(q))
        if is_pad is None:
            return self.mix_step(q, k, v, state)[0]
        # Real tokens first, so that padding takes no place in a block; then back.
        order = is_pad.long().argsort(dim=-1, stable=True)[:, None, :, None]
        q, k, v = (x.take_along_dim(order, -2) for x in (q, k, v))
        y, _ = self.mix_step(q, k, v, state)
        return y.take_along_dim(order.argsort(dim=-2), -2)

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: LinformerState) -> tuple[Tensor, LinformerState]:
        dtype, tokens = v.dtype, q.shape[-2]
        with torch.autocast(q.device.type, enabled=False):
            q, k, v = (x.to(at_least_float32(x)) for x in (q, k, v))
            k, v = torch.cat([state.k, k], -2), torch.cat([state.v, v], -2)
            summary_k, summary_v = self._summaries(k, self.summarise_k), self._summaries(v, self.summarise_v)
            all_k = torch.cat([state.summary_k, summary_k], -2)
            all_v = torch.cat([state.summary_v, summary_v], -2)
            of_summaries, of_tokens = (self.dropout(w) for w in self._weights(q, k, all_k))
            y = (of_summaries @ all_v[:, :, None] + of_tokens @ self._blocks(v)).flatten(2, 3)
        known = k.shape[-2]
        finished = known // self.block
        summaries = state.summary_k.shape[-2] + finished * self.rank
        current = slice(finished * self.block, None)
        after = all_k[:, :, :summaries], all_v[:, :, :summaries], k[:, :, current], v[:, :, current]
        # Clones: a view would keep all tokens as long as the state.
        return y[:, :, known - tokens : known].to(dtype), LinformerState(*(x.clone() for x in after))

    def mix_weights(self, q: Tensor, k: Tensor, at: slice | Tensor) -> Tensor:
        """Probabilities, those of a summary shared out among its tokens by F: every row sums to 1."""
        tokens = q.shape[-2]
        with torch.autocast(q.device.type, enabled=False):
            q, k = (x.to(at_least_float32(x)) for x in (q, k))
            of_summaries, of_tokens = self._weights(q, k, self._summaries(k, self.summarise_k))
            weights = (of_summaries.unflatten(-1, (-1, self.rank)) @ self.summarise_v.softmax(-1)).clone()
            weights.diagonal(dim1=2, dim2=4).add_(of_tokens.movedim(2, -1))
        return weights.flatten(4, 5).flatten(2, 3)[:, :, :tokens, :tokens][:, :, at]

    def _blocks(self, x: Tensor) -> Tensor:
        """(B, H, T, ...) to (B, H, L, c, ...), the last block filled up with zeros."""
        return pad(x, (0, 0, 0, -x.shape[2] % self.block)).unflatten(2, (-1, self.block))

    def _summaries(self, x: Tensor, logits: Tensor) -> Tensor:
        """(B, H, L R, D) of the blocks of x (B, H, T, D); those of an unfinished one are for nobody to see."""
        return (logits.to(x.dtype).softmax(-1) @ self._blocks(x)).flatten(2, 3)

    def _weights(self, q: Tensor, k: Tensor, summary_k: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, L, c, S) on the S summaries and (B, H, L, c, c) on the tokens of the own block.

        Args:
            q: (B, H, t, D) of the last t tokens.
            k: (B, H, T, D) of these and of what stands before them in the first one's block.
            summary_k: (B, H, S, D) of all blocks, those of `k` at the end.
        """
        q, k = self._blocks(pad(q, (0, 0, k.shape[2] - q.shape[2], 0))), self._blocks(k)
        blocks, seen = k.shape[2], summary_k.shape[2]
        before = seen - (blocks - torch.arange(blocks, device=q.device)) * self.rank  # (L,) of blocks finished before
        later = torch.arange(seen, device=q.device) >= before[:, None]
        ahead = torch.ones(self.block, self.block, dtype=torch.bool, device=q.device).triu(1)
        unseen = torch.cat([later[:, None].expand(-1, self.block, -1), ahead.expand(blocks, -1, -1)], -1)
        q = q * q.shape[-1] ** -0.5
        scores = torch.cat([q @ summary_k[:, :, None].mT, q @ k.mT], -1).masked_fill_(unseen, -math.inf)
        of_summaries, of_tokens = scores.softmax(-1).split([seen, self.block], -1)
        return of_summaries, of_tokens
