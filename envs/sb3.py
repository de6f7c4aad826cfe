"""Stable-Baselines3's part of training a behavior policy: start a model, save and load it, take its policy out."""

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flowrl.envs.recipes import EXPLORATION_NOISE, HYPERPARAMETERS, Recipe
from flowrl.errors import InputError

__all__ = ["load_model", "policy_arrays", "save_model", "start_model", "vector_env"]


def vector_env(recipe: Recipe, seed: int) -> Any:
    """The vector environment of a training.

    Raises:
        InputError: Stable-Baselines3 is not installed.
    """
    try:
        importlib.import_module("sb3_contrib")
        from stable_baselines3.common.env_util import make_vec_env
    except ImportError as error:
        raise InputError(f"training behavior policies needs the extra `behavior` of flowrl ({error})") from error
    return make_vec_env(recipe.env_id, recipe.num_envs, seed=seed)


def start_model(algorithm: str, envs: Any, seed: int) -> Any:
    """An untrained model of TRPO or TD3, on the CPU."""
    return _START[algorithm](envs, seed)


def load_model(algorithm: str, folder: Path, envs: Any) -> Any:
    """The model that `save_model` saved, with the rest of its training's state."""
    return _LOAD[algorithm](folder, envs)


def save_model(model: Any, folder: Path) -> None:
    """Save a model with all that its training resumes from.

    If the process is killed meanwhile, `folder` or `folder.old` holds a whole state.
    """
    partial, old = folder.with_name(f"{folder.name}.partial"), folder.with_name(f"{folder.name}.old")
    for stale in (partial, old):
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir()
    model.save(partial / "model.zip")
    if (normaliser := model.get_vec_normalize_env()) is not None:
        normaliser.save(str(partial / "normalizer.pkl"))
    if hasattr(model, "replay_buffer"):
        model.save_replay_buffer(partial / "replay.pkl")
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)


def policy_arrays(model: Any) -> dict[str, np.ndarray]:
    """The arrays that `flowrl.envs.behavior.read_policy` reads, of a model and its VecNormalize, if it has one.

    TD3 plays uniformly random actions before it learns: its policy after 0 steps has no layer.
    """
    space = model.env.action_space
    arrays = {"low": space.low, "high": space.high}
    off_policy = hasattr(model.policy, "actor")
    if off_policy and model.num_timesteps == 0:
        return arrays
    if off_policy:
        layers = model.policy.actor.mu[::2]
        half_range = (space.high - space.low) / 2
        arrays |= {"log_std": np.log(EXPLORATION_NOISE * half_range), "hidden": np.array("relu"), "squash": np.array(1)}
    else:
        layers = [*model.policy.mlp_extractor.policy_net[::2], model.policy.action_net]
        arrays["log_std"] = model.policy.log_std.detach().numpy()
    if (normaliser := model.get_vec_normalize_env()) is not None:
        arrays |= {
            "observation_mean": normaliser.obs_rms.mean,
            "observation_std": np.sqrt(normaliser.obs_rms.var + normaliser.epsilon),
            "observation_clip": np.array(normaliser.clip_obs),
        }
    for number, layer in enumerate(layers):
        arrays[f"weight_{number}"] = layer.weight.detach().numpy()
        arrays[f"bias_{number}"] = layer.bias.detach().numpy()
    return arrays


def _start_trpo(envs: Any, seed: int) -> Any:
    from sb3_contrib import TRPO
    from stable_baselines3.common.vec_env import VecNormalize

    keywords = HYPERPARAMETERS["TRPO"]
    return TRPO("MlpPolicy", VecNormalize(envs, gamma=keywords["gamma"]), seed=seed, device="cpu", **keywords)


def _load_trpo(folder: Path, envs: Any) -> Any:
    from sb3_contrib import TRPO
    from stable_baselines3.common.vec_env import VecNormalize

    return TRPO.load(folder / "model.zip", env=VecNormalize.load(str(folder / "normalizer.pkl"), envs), device="cpu")


def _start_td3(envs: Any, seed: int) -> Any:
    from stable_baselines3 import TD3
    from stable_baselines3.common.noise import NormalActionNoise

    size = envs.action_space.shape
    noise = NormalActionNoise(np.zeros(size), np.full(size, EXPLORATION_NOISE))
    return TD3("MlpPolicy", envs, action_noise=noise, seed=seed, device="cpu", **HYPERPARAMETERS["TD3"])


def _load_td3(folder: Path, envs: Any) -> Any:
    from stable_baselines3 import TD3

    model = TD3.load(folder / "model.zip", env=envs, device="cpu")
    model.load_replay_buffer(folder / "replay.pkl")
    return model


_START: dict[str, Callable[[Any, int], Any]] = {"TRPO": _start_trpo, "TD3": _start_td3}
_LOAD: dict[str, Callable[[Path, Any], Any]] = {"TRPO": _load_trpo, "TD3": _load_td3}
