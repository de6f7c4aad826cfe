"""Our own environments and the behaviour policies that our datasets are played by.

Importing this package registers `flowrl/Reach-v0` and `flowrl/Corridor-v0` with Gymnasium.
"""

import gymnasium as gym

from flowrl.envs.corridor import LONGEST
from flowrl.envs.tiny import HORIZON

if "flowrl/Reach-v0" not in gym.registry:
    gym.register("flowrl/Reach-v0", entry_point="flowrl.envs.tiny:Reach", max_episode_steps=HORIZON)
if "flowrl/Corridor-v0" not in gym.registry:
    # A limit that no episode reaches: the turn ends each of them, whatever its length. Where the limit falls on the
    # same step, Gymnasium flags that as cut off too, and who learns values would leave out the only reward.
    gym.register("flowrl/Corridor-v0", entry_point="flowrl.envs.corridor:Corridor", max_episode_steps=LONGEST + 1)
