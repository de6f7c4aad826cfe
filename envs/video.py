"""One episode as a moving picture, rendered off screen."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v3 as imageio
import numpy as np
from gymnasium.envs.registration import EnvSpec

from envs.vector import make_env

__all__ = ["check_video", "record_video"]

GIF_RATE = 30  # frames a second; players slow down what is much faster


def check_video(path: Path) -> None:
    """Refuse a file that could not be written after the episode.

    Raises:
        ValueError: `path` ends in neither .gif nor .mp4, or is an .mp4 and there is no encoder here.
    """
    if path.suffix not in (".gif", ".mp4"):
        raise ValueError(f"video file {path} must end in .gif or .mp4")
    if path.suffix == ".mp4":
        try:
            import imageio_ffmpeg  # noqa: F401  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ValueError("an .mp4 needs ffmpeg: `pip install -e '.[video]'`, or name a .gif file") from None


def record_video(
    act: Callable[[np.ndarray, float], np.ndarray], env: str | EnvSpec, seed: int, path: Path
) -> tuple[int, float]:
    """Play one episode and write it to `path`, under a temporary name first.

    Args:
        act: ``act(observation, last reward)`` gives the next action.
        path: ends in .gif or .mp4.

    Returns:
        The number of frames rendered, and the episode's return.

    Raises:
        ValueError: the environment cannot be rendered here.
    """
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    still = make_env(env)
    still.close()
    if "rgb_array" not in (modes := still.metadata.get("render_modes", [])):
        raise ValueError(f"no video: {still.spec and still.spec.id} has no picture to render (its modes: {modes})")
    playing = make_env(env, render_mode="rgb_array")
    _follow(playing)
    try:
        observation, _ = playing.reset(seed=seed)
        frames, reward, achieved, over = [_render(playing)], 0.0, 0.0, False
        while not over:
            observation, paid, terminated, truncated, _ = playing.step(act(observation, reward))
            frames.append(_render(playing))
            reward = float(paid)
            achieved += reward
            over = terminated or truncated
    finally:
        playing.close()
    _write(path, np.stack(frames), playing.metadata.get("render_fps", GIF_RATE))
    return len(frames), achieved


def _follow(env: gym.Env) -> None:
    """Look through the model's own tracking camera, if it has one: Gymnasium's free camera lets the robot run away."""
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is not None:
        names = [renderer.model.camera(i).name for i in range(renderer.model.ncam)]
        renderer.camera_id = names.index("track") if "track" in names else -1


def _render(env: gym.Env) -> np.ndarray:
    """One frame (height, width, 3)."""
    try:
        frame: Any = env.render()
    except Exception as error:  # MuJoCo's GL loaders raise ImportError, AttributeError, RuntimeError and more
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise ValueError(
            f"no video: the off-screen renderer does not start ({type(error).__name__}: {reason});"
            " on Debian or Ubuntu `apt install libegl1 libgl1` brings what it needs"
        ) from error
    return np.asarray(frame)


def _write(path: Path, frames: np.ndarray, rate: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        if path.suffix == ".gif":
            stride = max(1, round(rate / GIF_RATE))
            imageio.imwrite(partial, frames[::stride], duration=1000 * stride / rate, loop=0)
        else:
            imageio.imwrite(partial, frames, fps=rate)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
