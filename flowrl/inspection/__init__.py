"""What is in a dataset: figures on its episodes, returns, columns and flags, and what is wrong with it.

Three questions get an answer in a sentence: what training would refuse (`load`), whether transitions follow from their
actions (`judge_alignment`, of errors that a simulator was asked for), and whether returns can steer a policy
(`flowrl.inspection.steering`).
"""

from flowrl.inspection.alignment import (
    ACTIONS,
    REPRODUCED,
    Alignment,
    SeededReplay,
    TransitionErrors,
    judge_alignment,
    reset_seeds,
)
from flowrl.inspection.figures import count_figures
from flowrl.inspection.page import write_inspection
from flowrl.inspection.refusals import load
from flowrl.inspection.result import Inspection, metadata, screen
from flowrl.inspection.warnings import find_warnings

__all__ = [
    "ACTIONS",
    "REPRODUCED",
    "Alignment",
    "Inspection",
    "SeededReplay",
    "TransitionErrors",
    "count_figures",
    "find_warnings",
    "judge_alignment",
    "load",
    "metadata",
    "reset_seeds",
    "screen",
    "write_inspection",
]
