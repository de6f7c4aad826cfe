"""Offline reinforcement learning with causal Flow-Attention."""

from pathlib import Path

__version__ = "0.2.0"

# Where a checkout has no links (Windows), agents, envs and scripts are found beside this folder.
if not (Path(__file__).parent / "agents").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

import flowrl.envs  # noqa: F401  (registers our own environments with Gymnasium)
