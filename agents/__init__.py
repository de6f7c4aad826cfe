"""The agents, one file each; `AGENTS` names every one, and `load_policy` brings a trained one back."""

from flowrl.agents.bc import BCAgent, BCConfig
from flowrl.agents.loading import load_agent, load_policy
from flowrl.agents.policy import Policy
from flowrl.agents.registry import AGENTS, Preset
from flowrl.agents.sequence import SequenceAgent, SequenceConfig

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
