"""Our own environments, and the behavior policies that collect our datasets.

Importing this package registers `flowrl/Reach-v0`, `flowrl/Corridor-v0`, `flowrl/Detour-v0` and the four
`flowrl/PointMaze...-v0` with Gymnasium.
"""

import gymnasium as gym

from flowrl.envs import detour, tiny
from flowrl.envs.corridor import LONGEST

gym.register("flowrl/Reach-v0", entry_point="flowrl.envs.tiny:Reach", max_episode_steps=tiny.HORIZON)
# No episode reaches this limit: the turn ends each of them, whatever its length. If the limit fell on the same step,
# Gymnasium would flag that step as truncated too, and value learning would leave out the only reward.
gym.register("flowrl/Corridor-v0", entry_point="flowrl.envs.corridor:Corridor", max_episode_steps=LONGEST + 1)
gym.register("flowrl/Detour-v0", entry_point="flowrl.envs.detour:Detour", max_episode_steps=detour.HORIZON)
for _maze, _name, _steps in (("umaze", "UMaze", 300), ("medium", "Medium", 600)):
    for _reward, _suffix in (("sparse", ""), ("dense", "Dense")):
        gym.register(
            f"flowrl/PointMaze{_name}{_suffix}-v0",
            entry_point="flowrl.envs.pointmaze:PointMaze",
            max_episode_steps=_steps,
            kwargs={"maze": _maze, "reward": _reward},
        )
