"""The Decision Flowformer: a trajectory model with causal Flow-Attention (Wu et al. 2022)."""

from flowrl.agents.sequence import SequenceConfig
from flowrl.training.loop import TrainingConfig

# Context, width, layers and dropout of the literature (docs/differences.md has the rest); dt differs in its attention
# alone.
FLOW = SequenceConfig(attention="flow")

# The setting of the Flowformer authors' reinforcement-learning release.
FLOW_PAPER = SequenceConfig(attention="flow", width=256, heads=4)
PAPER_TRAINING = TrainingConfig(steps=100_000, learning_rate=1e-3, warmup_steps=10_000, schedule="constant")
