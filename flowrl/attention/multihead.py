"""The part all causal attentions share: fused projections, heads, and the two ways to be called."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowrl.attention.dropout import Dropout

# Axes: B batch, T tokens, H heads, D features of a query or key, M features of a value (here D = M).

ALL = slice(None)


def at_least_float32(x: Tensor) -> torch.dtype:
    """The dtype in which numbers like `x` are summed: a bfloat16 running sum stalls at 256."""
    return torch.promote_types(x.dtype, torch.float32)


def drawn_seed() -> int:
    """A seed for what a layer draws beside its projections.

    It depends on the state of torch's generator, and so on the training seed and the layers before. The generator is
    left where it was: all other weights are what they would be without these draws.
    """
    with torch.random.fork_rng([]):
        return int(torch.randint(2**63 - 1, (), device="cpu"))


class CausalAttention(nn.Module, ABC):
    """Multi-head causal self-attention: one projection to q, k, v; a rule that mixes them; one projection out.

    A subclass states the rule three times: over a sequence (`mix`), for the tokens that follow one (`mix_step`), and as
    a matrix to look at (`mix_weights`). The three agree.

    Args:
        width: features of a token; a multiple of `heads`.
        heads: number of heads.
        dropout: probability of dropping an attention weight, where the rule has weights (softmax does, flow does not).

    Raises:
        ValueError: `width` is no multiple of `heads`.
    """

    why_no_step: ClassVar[str | None] = None
    """One sentence where there is no `step` and no `initial_state`, which then raise NotImplementedError with it."""
    constant_state: ClassVar[bool] = False
    """Whether the state keeps its size, however many tokens it stands for, and begins as zeros."""
    sees_all: ClassVar[bool] = True
    """Whether every token before reaches an output: a rule that chooses among them leaves some out."""
    parts: ClassVar[int] = 3
    """How many the projection makes of a token: query, key and value, or, where queries are keys, two."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        CausalAttention.check(width, heads)
        self.width, self.heads, self.dropout = width, heads, Dropout(dropout)
        self.project_in = nn.Linear(width, self.parts * width)
        self.project_out = nn.Linear(width, width)

    @classmethod
    def check(cls, width: int, heads: int, **options: Any) -> None:
        """Refuse what the constructor cannot take, without building anything.

        A subclass with options extends it, and calls it in its constructor.

        Args:
            width: as in the constructor.
            heads: as in the constructor.
            options: those of the constructor after its `*`; one that is left out has its default.

        Raises:
            ValueError: one sentence that names the value and what is allowed.
        """
        if width < 1 or heads < 1 or width % heads:
            raise ValueError(f"width is {width} and heads is {heads}: width must be a positive multiple of heads")

    @classmethod
    def cautions(cls, tokens: int | None, **options: Any) -> list[str]:
        """What is allowed with these options and probably not meant, a sentence each.

        Args:
            tokens: the most that the attention is given at once, in a training window or a past that is carried; None
                where nothing bounds them.
            options: as in `check`.
        """
        return []

    def prepare_step(self, step: int) -> None:
        """Training step `step` (1, 2, ...) is about to begin: change what changes in the course of training."""

    @classmethod
    def keeps_pairs(cls, device_type: str, dropout: float) -> bool:
        """Whether training keeps (T, T) matrices for the gradient, so that its memory grows with the square of T."""
        return False

    def forward(self, x: Tensor, is_pad: Tensor | None = None, at: slice = ALL) -> Tensor:
        """Attend over whole sequences.

        Args:
            x: (B, T, width).
            is_pad: (B, T) bool, True at padding. Padding on the right needs none: causality keeps it from real tokens.
            at: the tokens whose outputs are wanted; all are attended to.

        Returns:
            (B, T', width) for the T' tokens `at`; rows at padding are finite and mean nothing.
        """
        return self._merge(self.mix(*self._split(x), is_pad)[:, :, at])

    def step(self, x: Tensor, state: Any, at: slice = ALL) -> tuple[Tensor, Any]:
        """Attend for the next tokens of sequences whose past is `state`.

        Args:
            x: (B, t, width), the next t ≥ 1 tokens.
            state: from `initial_state` or the last `step`; it is not changed.
            at: the tokens among the t whose outputs are wanted.

        Returns:
            (B, t', width), what `forward` gives at these tokens, and the state after all of them.
        """
        y, state = self.mix_step(*self._split(x), state)
        return self._merge(y[:, :, at]), state

    def weights(self, x: Tensor, at: slice | Tensor = ALL) -> Tensor:
        """How much of each token's value enters the output of another: what `forward` does, outside training, as one
        matrix a head, in time and memory that the rule itself may not need.

        Args:
            x: (B, T, width), without padding on the left.
            at: the tokens whose outputs are looked at, a slice or (T',) int64.

        Returns:
            (B, H, T', T), at least 0, and 0 at later tokens. Whether a row sums to 1 is for the rule to say.
        """
        q, k, _ = self._split(x)
        return self.mix_weights(q, k, at)

    @abstractmethod
    def initial_state(self, batch: int) -> Any:
        """The state of `batch` sequences before their first token, on the device of the weights."""

    @abstractmethod
    def mix(self, q: Tensor, k: Tensor, v: Tensor, is_pad: Tensor | None) -> Tensor:
        """(B, H, T, D) queries, keys and values to (B, H, T, D)."""

    @abstractmethod
    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: Any) -> tuple[Tensor, Any]:
        """As `mix` for the tokens that follow `state`, and the state after them."""

    @abstractmethod
    def mix_weights(self, q: Tensor, k: Tensor, at: slice | Tensor) -> Tensor:
        """(B, H, T', T) by which `mix` without padding multiplies the values for its outputs `at`."""

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Not one permuted view: the gradient of chunk is laid out as the projection's backward pass wants it.
        projected = self.project_in(x).chunk(self.parts, dim=-1)
        parts = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in projected]
        return parts[0], parts[-2], parts[-1]

    def _merge(self, y: Tensor) -> Tensor:
        batch, _, tokens, _ = y.shape
        return self.project_out(y.transpose(1, 2).reshape(batch, tokens, self.width))
