"""The agents, one file each: `AGENTS` has every one by name, and `load_policy` brings a trained one back."""

from flowrl.agents.loading import load_agent, load_policy
from flowrl.agents.policy import Policy
from flowrl.agents.registry import AGENTS, Preset, find_agent

__all__ = ["AGENTS", "Policy", "Preset", "find_agent", "load_agent", "load_policy"]
