"""flowrl from Python: what the scripts call."""

from flowrl.agents.loading import load_policy
from flowrl.api.comparing import compare
from flowrl.api.evaluating import evaluate
from flowrl.api.training import train

__all__ = ["compare", "evaluate", "load_policy", "train"]
