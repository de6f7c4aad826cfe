"""Numbers as JSON can hold them."""

import math
from typing import Any

from torch import Tensor


def finite(value: float) -> float | None:
    """The number; None where it is NaN or infinite."""
    return value if math.isfinite(value) else None


def rounded(values: Tensor, digits: str) -> list[Any]:
    """Nested lists of a tensor's numbers, formatted as `digits` says, such as ``.5g``; None where one is not finite."""
    if values.ndim > 1:
        return [rounded(part, digits) for part in values]
    return [None if finite(value) is None else float(format(value, digits)) for value in values.tolist()]
