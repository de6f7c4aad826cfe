"""One thing in which a dataset and the environment to play in disagree."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding"]


@dataclass(frozen=True)
class Finding:
    """What disagrees, and what is done."""

    kind: Literal["wrong", "doubtful", "settled"]
    """Certain to be wrong, which is refused; probably not meant; or done as the dataset's maker meant it."""
    sentence: str
