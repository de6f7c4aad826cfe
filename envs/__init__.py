"""Environments: vector envs that play one episode a slot, facts per id, our own small tasks, behaviour policies.

Importing this package registers `flowrl/Reach-v0` and `flowrl/Corridor-v0` with Gymnasium.
"""

import gymnasium as gym

from envs.behavior import BehaviorPolicy, Player, Policy, Rollout, dataset_ids, mixture, rollout_episodes
from envs.corridor import LONGEST, corridor_spec
from envs.facts import EnvFacts, Measured, Reference, d4rl_environment, d4rl_reference, facts
from envs.tiny import HORIZON
from envs.vector import OneEpisode, make_env, make_vector_env

__all__ = [
    "BehaviorPolicy",
    "EnvFacts",
    "Measured",
    "OneEpisode",
    "Player",
    "Policy",
    "Reference",
    "Rollout",
    "corridor_spec",
    "d4rl_environment",
    "d4rl_reference",
    "dataset_ids",
    "facts",
    "make_env",
    "make_vector_env",
    "mixture",
    "rollout_episodes",
]

if "flowrl/Reach-v0" not in gym.registry:
    gym.register("flowrl/Reach-v0", entry_point="envs.tiny:Reach", max_episode_steps=HORIZON)
if "flowrl/Corridor-v0" not in gym.registry:
    # A limit that no episode reaches: the turn ends each of them, whatever its length. Where the limit falls on the
    # same step, Gymnasium flags that as cut off too, and who learns values would leave out the only reward.
    gym.register("flowrl/Corridor-v0", entry_point="envs.corridor:Corridor", max_episode_steps=LONGEST + 1)
