"""The agents, one file each; `AGENTS` names every one, and `load_policy` brings a trained one back."""

from agents.bc import BCAgent, BCConfig
from agents.loading import load_agent, load_policy
from agents.policy import Policy
from agents.registry import AGENTS, Preset
from agents.sequence import SequenceAgent, SequenceConfig

__all__ = [
    "AGENTS",
    "BCAgent",
    "BCConfig",
    "Policy",
    "Preset",
    "SequenceAgent",
    "SequenceConfig",
    "load_agent",
    "load_policy",
]
