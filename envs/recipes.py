"""How the shipped behavior policies are trained: algorithm, hyperparameters, snapshots."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["EXPLORATION_NOISE", "HYPERPARAMETERS", "RECIPES", "Recipe", "stages"]


@dataclass(frozen=True)
class Recipe:
    """One environment, the algorithm that learns it soonest on one CPU core, and which snapshots are kept."""

    env_id: str
    algorithm: str
    """TRPO or TD3."""
    steps: int
    """Training steps, of all environments together."""
    chunk: int
    """Steps between two points of the learning curve; snapshots are taken at multiples of it."""
    snapshots: tuple[int, ...]
    """After which steps the policy is kept, 0 first."""
    early: int
    """The snapshot that is far better than random and far from good."""
    medium: int
    """The snapshot at about half of the best return (D4RL's is at about 40 %); replay datasets end with it."""
    expert: int
    """The best snapshot."""
    seed: int = 0
    """Of the training whose snapshots are shipped."""
    num_envs: int = 2
    rates: tuple[tuple[int, float], ...] = ()
    """From which step on which learning rate holds; if empty, the algorithm's own, constant."""

    expert_noise: float = 0.5
    """The expert is kept with this share of the standard deviation by which it explored: with all of it, it falls."""

    def __post_init__(self) -> None:
        if uneven := [steps for steps in (self.steps, *self.snapshots) if steps % self.chunk]:
            raise ValueError(f"steps and snapshots must be multiples of {self.chunk}, not {uneven}")
        if missing := {0, self.early, self.medium, self.expert} - set(self.snapshots):
            raise ValueError(f"stages must be snapshots; {sorted(missing)} are not")


UPDATE_STEPS = 1024  # TRPO's steps of each environment between two updates
EXPLORATION_NOISE = 0.1  # TD3's standard deviation, in units of half the action range

HYPERPARAMETERS: dict[str, dict[str, Any]] = {
    # As RL Baselines3 Zoo tuned TRPO for MuJoCo.
    "TRPO": {
        "n_steps": UPDATE_STEPS,
        "batch_size": 128,
        "learning_rate": 1e-3,  # of the critic; the policy's step is TRPO's
        "n_critic_updates": 20,
        "cg_max_steps": 25,
        "cg_damping": 0.1,
        "gamma": 0.99,
        "gae_lambda": 0.95,
    },
    # Fujimoto et al. (2018) with a narrower network, and one gradient step to two environment steps: a CPU core
    # simulates both in a twentieth of the time of the gradient step.
    "TD3": {
        "learning_rate": 1e-3,
        "batch_size": 128,
        "learning_starts": 10_240,
        "train_freq": (32, "step"),  # of each environment
        "gradient_steps": 32,
        "policy_kwargs": {"net_arch": [256, 256], "optimizer_kwargs": {"fused": True}},
    },
}

# Snapshots are dense while a policy learns to walk, because the replay datasets consist of these, then sparse. TRPO's
# return goes up and down from there on (Hopper sampled 1,700 to 3,300 between 540,000 and 610,000 steps): each training
# ends where it is good. The stages were chosen by the returns that envs/policies/*/snapshots.json record.
RECIPES = {
    "hopper": Recipe(
        "Hopper-v5",
        "TRPO",
        steps=573_440,
        chunk=2 * UPDATE_STEPS,
        snapshots=(*range(0, 163_841, 20_480), *range(245_760, 573_441, 81_920)),
        early=40_960,
        medium=245_760,
        expert=573_440,
    ),
    "walker2d": Recipe(
        "Walker2d-v5",
        "TRPO",
        steps=839_680,
        chunk=2 * UPDATE_STEPS,
        snapshots=(0, *range(20_480, 307_201, 40_960), 450_560, 573_440, 696_320, 839_680),
        early=102_400,
        medium=307_200,
        expert=839_680,
    ),
    "halfcheetah": Recipe(
        "HalfCheetah-v5",
        "TD3",
        steps=911_360,
        chunk=5_120,
        snapshots=(*range(0, 102_401, 20_480), 143_360, 184_320, 409_600, 614_400, 819_200, 911_360),
        early=61_440,
        medium=184_320,
        expert=911_360,
        # At the first rate the return rose by only 2 % from 470,000 to 620,000 steps.
        rates=((0, 1e-3), (624_640, 3e-4), (824_320, 1e-4)),
    ),
}


def stages(recipe: Recipe, kept: Sequence[int]) -> dict[str, int]:
    """Stage → its snapshot; in a training that stopped before a stage, the last snapshot stands for it."""
    planned = {"random": 0, "early": recipe.early, "medium": recipe.medium, "expert": recipe.expert}
    return {name: max(steps for steps in kept if steps <= planned_steps) for name, planned_steps in planned.items()}
