"""Dropout whose masks cost little on a CPU.

torch's own draws a Bernoulli variable per element, which was a fifth of a training step on a CPU core. Here 64 random
bits serve four elements: each is dropped with probability p rounded to a multiple of 2^-16, and what is left is scaled
by the inverse of exactly the rounded probability, so the mean stays what it was up to the rounding of the dtype.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

_LEVELS = 2**16


class Dropout(nn.Module):
    """As `nn.Dropout`, and able to add what is left to a residual stream in one pass.

    Args:
        p: probability of dropping an element, at least 0 and below 1; on a CPU rounded to a multiple of 2^-16.

    Raises:
        ValueError: p is out of range.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"p is {p}: it must be at least 0 and below 1")
        self.p = p

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x with elements dropped, of any shape; added to `residual` of that shape if there is one."""
        if not self.training or self.p == 0.0:
            return x if residual is None else residual + x
        if x.device.type != "cpu" or torch.compiler.is_compiling():  # both have fused kernels that draw on the way
            dropped = dropout(x, self.p)
            return dropped if residual is None else residual + dropped
        factors = _factors(x, min(round(self.p * _LEVELS), _LEVELS - 1))
        return x * factors if residual is None else torch.addcmul(residual, x, factors)


def _factors(x: Tensor, threshold: int) -> Tensor:
    """Of x's shape and dtype: 0 where 16 random bits are a number below `threshold`, else what keeps the mean."""
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: x.numel()]  # from -2^15 up; a comparison in place is the fast one
    kept = bits.ge_(threshold - _LEVELS // 2).to(x.dtype).view(x.shape)
    return kept.mul_(_LEVELS / (_LEVELS - threshold))
