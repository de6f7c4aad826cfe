"""What is in a dataset: statistics of its episodes, returns and columns, and what is wrong with it.

Four questions get an answer in a sentence: what training would refuse (`refusals`), whether transitions follow from
their actions (`simulator` gathers errors, `alignment_verdict` judges them), whether returns can steer a policy
(`steering`), and whether the best that the data allow needs parts of several episodes (`stitching`).
"""

from flowrl.inspection.inspecting import inspect_dataset
from flowrl.inspection.page import write_inspection
from flowrl.inspection.result import Inspection
from flowrl.inspection.screen import screen

__all__ = ["Inspection", "inspect_dataset", "screen", "write_inspection"]
