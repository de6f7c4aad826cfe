"""Sequences in tiles of tokens, and the small sums that both cores of Flow-Attention, plain and decayed, are made of.

Axes, here and in the cores: B sequences of H heads are R = B H rows; a row is cut into L tiles of C tokens, Z = R L
tiles in all. D features of a query or key, M of a value. The last tile of a row is filled up with tokens of no flow.

A pair (2, ...) holds what belongs to the sinks (queries), then what belongs to the sources (keys). Each side draws on
what the other gives: `flip(0)` turns what the sides give into what they draw on.
"""

from typing import NamedTuple

import torch
from torch import Tensor

TILE = 64  # tokens of a tile, where there are several


class CoreOptions(NamedTuple):
    """How a core works its tiles out."""

    clip: float  # bound on |Ô|
    eps: float  # ε, added once after each sum
    tile: int  # the most tokens of a tile
    mapped: bool  # queries and keys come after the feature map; else their sigmoid is taken


class Tiling(NamedTuple):
    """How T tokens of B sequences and H heads are cut into tiles."""

    batch: int  # B
    heads: int  # H
    tokens: int  # T
    tiles: int  # L
    tile: int  # C

    @classmethod
    def of(cls, q: Tensor, most: int) -> "Tiling":
        """Tiles of at most `most` tokens for q (B, H, T, D), with as little left over in the last one as can be."""
        batch, heads, tokens, _ = q.shape
        tiles = -(-tokens // most)
        return cls(batch, heads, tokens, tiles, -(-tokens // tiles))

    @property
    def rows(self) -> int:
        """R = B H."""
        return self.batch * self.heads

    @property
    def tile_count(self) -> int:
        """Z = R L."""
        return self.batch * self.heads * self.tiles

    @property
    def filled(self) -> int:
        """L C: the tokens of a row with those that fill up its last tile."""
        return self.tiles * self.tile


class Tokens(NamedTuple):
    """Queries and keys in tiles; tokens that fill up have no flow and count as 1."""

    sides: Tensor  # (2, Z, C, D)     queries, keys after the feature map
    totals: Tensor  # (2, Z, C)       their sums over the features
    n: Tensor  # (Z, C)
    real: Tensor | None  # (B, 1, L C) 1 at real tokens, 0 at padding; None where there is none


class Kept(NamedTuple):
    """What the gradient of both cores needs of the forward pass."""

    sides: Tensor  # (2, Z, C, D)     queries, keys after the feature map
    values: Tensor  # (Z, C, M)       C v
    to_sinks: Tensor  # (Z, C, C)     A
    from_sources: Tensor  # (Z, C, C) U
    n: Tensor  # (Z, C)
    totals: Tensor  # (2, Z, C)       the sums of `sides` over the features
    flow: Tensor  # (2, Z, C)         I, O
    per_flow: Tensor  # (2, Z, C)     n/I, n/O
    allocation: Tensor  # (Z, C)      sigmoid(Î)
    exp_outgoing: Tensor  # (Z, C)    exp(Ô)
    competing: Tensor  # (Z, C)       Σ exp(Ô)
    free: Tensor  # (Z, C) bool       where the clamp is not active


def lay_out(
    q: Tensor, k: Tensor, n: Tensor, is_pad: Tensor | None, tiling: Tiling, dtype: torch.dtype, *, mapped: bool
) -> Tokens:
    """Queries and keys (B, H, T, D), after the sigmoid unless `mapped`, and counts (B or 1, H or 1, T), in tiles."""
    (batch, heads, tokens, d), filled = q.shape, tiling.filled
    sides = q.new_empty(2, batch, heads, filled, d, dtype=dtype)
    sides[:, :, :, tokens:] = 0
    for side, logits in zip(sides[:, :, :, :tokens], (q, k), strict=True):
        if mapped:
            side.copy_(logits)
        elif logits.dtype == dtype and side.is_contiguous():
            torch.sigmoid(logits, out=side)
        else:
            side.copy_(logits).sigmoid_()
    real = None
    if is_pad is not None:
        real = q.new_zeros(batch, 1, filled, dtype=dtype)
        real[:, 0, :tokens] = ~is_pad
        sides *= real[..., None]
    count = q.new_ones(batch, heads, filled, dtype=dtype)
    count[:, :, :tokens] = n
    sides = sides.view(2, tiling.tile_count, tiling.tile, d)
    return Tokens(sides, sides.sum(-1), count.view(tiling.tile_count, tiling.tile), real)


def masked(x: Tensor, real: Tensor, tiling: Tiling) -> Tensor:
    """x (Z, C) with 0 where real (B or 1, 1, L C) is 0."""
    return x * real.expand(tiling.batch, tiling.heads, tiling.filled).reshape(x.shape)


def scaled_tiles(x: Tensor, factors: Tensor, tiling: Tiling) -> Tensor:
    """(Z, C, M): x (B, H, T, M) in tiles, each token times its factor (Z, C), in the dtype of the factors."""
    (batch, heads, tokens, m), filled = x.shape, tiling.filled
    tiles = factors.new_empty(batch, heads, filled, m)
    tiles[:, :, tokens:] = 0
    out, factors = tiles[:, :, :tokens], factors.view(batch, heads, filled, 1)[:, :, :tokens]
    if x.dtype == out.dtype and out.is_contiguous():  # a compiler takes no other `out`
        torch.mul(factors, x, out=out)
    else:  # a product of two dtypes takes twice the time of this
        out.copy_(x).mul_(factors)
    return tiles.view(tiling.tile_count, tiling.tile, m)


def without_filling(y: Tensor, tiling: Tiling) -> Tensor:
    """(B, H, T, M) of y (B, H, L C, M)."""
    # A clone: autograd lets nobody change in place a view that a function returns.
    return y[:, :, : tiling.tokens].clone() if tiling.filled > tiling.tokens else y


def fill_up_with_ones(flow: Tensor, tiling: Tiling) -> None:
    """What fills up draws nothing, with ε = 0 not even that: let its flow (2, Z, C) be 1, as it is divided by."""
    if tiling.filled > tiling.tokens:
        flow.view(2, tiling.batch, tiling.heads, tiling.filled)[..., tiling.tokens :] = 1


def input_gradients(
    d_sides: Tensor, d_values: Tensor, sides: Tensor, is_pad: Tensor | None, tiling: Tiling, *, mapped: bool
) -> list[Tensor]:
    """The gradients of q, k and v (B, H, T, ...) from those of the sides after the feature map and of v in tiles."""
    if not mapped:
        torch.ops.aten.sigmoid_backward.grad_input(d_sides, sides, grad_input=d_sides)
    by_row = tiling.batch, tiling.heads, tiling.filled
    d_inputs = [d.view(*by_row, d.shape[-1])[:, :, : tiling.tokens] for d in (*d_sides, d_values)]
    if is_pad is not None:  # its flows were set to 0, whatever they had been
        d_inputs = [d.masked_fill(is_pad[:, None, :, None], 0) for d in d_inputs]
    return d_inputs


def drawn_on(sides: Tensor, sums: Tensor, eps: float) -> Tensor:
    """(2, Z, C): (f_i + ε)·s of the features f of each token and what its tile finds summed, s (2, Z, D)."""
    return dot(sides, sums).add_(sums.sum(-1, keepdim=True), alpha=eps)


def dot(matrix: Tensor, vector: Tensor) -> Tensor:
    """matrix (..., C, D) times vector (..., D), over D."""
    return torch.bmm(matrix.flatten(0, -3), vector.flatten(0, -2)[..., None]).view(matrix.shape[:-1])


def weigh(weights: Tensor, rows: Tensor, eps: float = 0.0) -> Tensor:
    """Σ_i w_i (r_i + ε) of weights (..., C) and rows (..., C, D), over C."""
    summed = torch.bmm(weights.flatten(0, -2)[:, None], rows.flatten(0, -3)).view(*rows.shape[:-2], rows.shape[-1])
    return summed.add_(weights.sum(-1, keepdim=True), alpha=eps) if eps else summed
