"""The Decision Flowformer: return-conditioned cloning with causal Flow-Attention (Wu et al. 2022)."""

from flowrl.agents.cloning import CloningConfig
from flowrl.agents.sequence import SequenceConfig
from flowrl.training.config import TrainingConfig

# Context, width, layers and dropout of the literature; docs/reference/differences.md has the rest. dt differs in its
# attention alone.
FLOW = SequenceConfig(attention="flow")

# The settings of the Flowformer authors' reinforcement-learning release.
FLOW_PAPER = SequenceConfig(
    attention="flow",
    width=256,
    heads=4,
    cloning=CloningConfig(learning_rate=1e-3, warmup_steps=10_000, schedule="constant"),
)
PAPER_TRAINING = TrainingConfig(steps=100_000)
