"""Our own environments, and the behavior policies that collect our datasets.

Importing this package registers `flowrl/Reach-v0` and `flowrl/Corridor-v0` with Gymnasium.
"""

import gymnasium as gym

from flowrl.envs.corridor import LONGEST
from flowrl.envs.tiny import HORIZON

gym.register("flowrl/Reach-v0", entry_point="flowrl.envs.tiny:Reach", max_episode_steps=HORIZON)
# No episode reaches this limit: the turn ends each of them, whatever its length. If the limit fell on the same step,
# Gymnasium would flag that step as truncated too, and value learning would leave out the only reward.
gym.register("flowrl/Corridor-v0", entry_point="flowrl.envs.corridor:Corridor", max_episode_steps=LONGEST + 1)
