"""The Reformer's attention by locality-sensitive hashing, in its exact limit: each token sees its whole bucket.

Source: Kitaev et al., "Reformer: The Efficient Transformer", ICLR 2020, section 2. Queries are keys, q_j up to its
length: k_j = q_j/|q_j|. Each of several rounds puts a token into bucket argmax [x R; -x R] with a fixed random R. A
token attends, by softmax, to the earlier tokens P_i that share its bucket in any round, and to itself only where it has
nothing else::

    y_i = Σ_{j∈P_i} softmax_j(q_i·k_j / √D) v_j

The original sorts the tokens by bucket, cuts them into chunks and looks at two chunks: faster for long sequences, but
where the cuts lie depends on the tokens to come, so a prediction changes with what follows it. Here a mask over all
pairs takes the place of sorting: exact and causal, at the quadratic cost of softmax attention.
"""

import math
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from flowrl.attention.multihead import ALL, CausalAttention, at_least_float32, drawn_seed

MOST = 1_024  # rounds, and buckets: rotations have as many columns as the two multiplied


class ReformerAttention(CausalAttention):
    """Multi-head causal LSH attention; `dropout` acts on its weights while training.

    The rotations R are a buffer, so that a checkpoint holds them. They differ between layers, heads and rounds, are
    drawn by a generator that `drawn_seed` seeds, and never change.

    Args:
        rounds: of hashing.
        buckets: of a round; even.

    Raises:
        ValueError: as `CausalAttention`; `rounds` is below 1, `buckets` not even or below 2, or either above `MOST`.
    """

    parts = 2  # queries are keys
    sees_all = False
    why_no_step: ClassVar[str | None] = (
        "attention reformer can only act by reading a window again (rollout window): hashing compares a token with all"
        " tokens of the past, and it keeps no state of them"
    )

    rotations: Tensor  # (H, rounds, D, buckets / 2)

    def __init__(self, width: int, heads: int, dropout: float = 0.0, *, rounds: int = 4, buckets: int = 8) -> None:
        super().__init__(width, heads, dropout)
        self.check(width, heads, rounds=rounds, buckets=buckets)
        generator = torch.Generator().manual_seed(drawn_seed())
        self.register_buffer("rotations", torch.randn(heads, rounds, width // heads, buckets // 2, generator=generator))

    @classmethod
    def check(cls, width: int, heads: int, *, rounds: int = 4, buckets: int = 8, **options: Any) -> None:
        super().check(width, heads, **options)
        if not 1 <= rounds <= MOST:
            raise ValueError(f"rounds is {rounds}: it must be at least 1 and at most {MOST:,}")
        if not 2 <= buckets <= MOST or buckets % 2:
            raise ValueError(f"buckets is {buckets}: it must be even, at least 2 and at most {MOST:,}")

    @classmethod
    def keeps_pairs(cls, device_type: str, dropout: float) -> bool:
        return True

    def initial_state(self, batch: int) -> NoReturn:
        raise NotImplementedError(self.why_no_step)

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: Any) -> NoReturn:
        raise NotImplementedError(self.why_no_step)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, is_pad: Tensor | None) -> Tensor:
        weights = self.dropout(self._weights(q, ALL, is_pad).to(v.dtype))
        return weights @ v

    def mix_weights(self, q: Tensor, k: Tensor, at: slice | Tensor) -> Tensor:
        """Probabilities: every row sums to 1; 0 where two tokens share no bucket."""
        return self._weights(q, at, None)

    def hashes(self, q: Tensor) -> Tensor:
        """(B, H, T, rounds) the buckets of queries (B, H, T, D)."""
        rotated = torch.einsum("bhtd,hrdn->bhtrn", q, self.rotations.to(q.dtype))
        return torch.cat([rotated, -rotated], -1).argmax(-1)

    def _weights(self, q: Tensor, at: slice | Tensor, is_pad: Tensor | None) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            q = q.to(at_least_float32(q))
            tokens = q.shape[-2]
            earlier = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).tril(-1)[at]
            itself = torch.eye(tokens, dtype=torch.bool, device=q.device)[at]
            if is_pad is not None:
                earlier = earlier & ~is_pad[:, None, None, :]
            hashes = self.hashes(q)
            # Round by round: all at once would hold a number for every pair and round.
            shared = torch.zeros((), dtype=torch.bool, device=q.device)
            for bucket in hashes.unbind(-1):
                shared = shared | (bucket[:, :, at, None] == bucket[:, :, None, :])
            seen = shared & earlier
            seen = seen | (itself & ~seen.any(-1, keepdim=True))
            keys = nn.functional.normalize(q, dim=-1)
            scores = (q[:, :, at] * q.shape[-1] ** -0.5) @ keys.mT
            return scores.masked_fill_(~seen, -math.inf).softmax(-1)
