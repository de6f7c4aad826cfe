"""flowrl: offline reinforcement learning with causal Flow-Attention."""

__version__ = "0.1.0"
