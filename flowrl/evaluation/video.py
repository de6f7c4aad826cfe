"""One episode as a moving picture, rendered off screen: a video of all of it, or a clip small enough for a page."""

import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import imageio.v3 as imageio
import numpy as np
from gymnasium.envs.registration import EnvSpec
from PIL import Image

from flowrl.errors import InputError, cause
from flowrl.evaluation.environments import make_env
from flowrl.evaluation.missing_renderer import missing, of_opengl
from flowrl.files import replacing

__all__ = ["Clip", "check_video", "record_clip", "record_video"]

GIF_RATE = 30  # frames a second; players slow down what is much faster
CLIP_WIDTH = 160  # pixels
CLIP_FRAMES = 80
CLIP_SECONDS = 8  # of the simulation: longer ones would have to skip so much that a gait cannot be seen
CLIP_COLOURS = 16


def check_video(path: Path) -> None:
    """Check before the episode that the video can be written.

    Raises:
        InputError: `path` ends in neither .gif nor .mp4, or is an .mp4 and there is no encoder here.
    """
    if path.suffix not in (".gif", ".mp4"):
        raise InputError(f"video file {path} must end in .gif or .mp4")
    if path.suffix == ".mp4":
        try:
            import imageio_ffmpeg  # pyright: ignore[reportMissingImports]

            imageio_ffmpeg.get_ffmpeg_exe()
        except ImportError:
            raise InputError("an .mp4 needs ffmpeg: install the extra `video` of flowrl, or name a .gif file") from None
        except Exception as error:  # a RuntimeError, of which the class is not promised
            raise InputError(
                f"an .mp4 needs ffmpeg, which imageio-ffmpeg does not find ({cause(error)}): install it, or name a"
                " .gif file"
            ) from error


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
        InputError: the environment cannot be rendered here.
    """
    playing = _rendering(env)
    try:
        observation, _ = playing.reset(seed=seed)
        frames, reward, episode_return, over = [_render(playing)], 0.0, 0.0, False
        while not over:
            observation, paid, terminated, truncated, _ = playing.step(act(observation, reward))
            frames.append(_render(playing))
            reward = float(paid)
            episode_return += reward
            over = terminated or truncated
    finally:
        playing.close()
    _write(path, np.stack(frames), playing.metadata.get("render_fps", GIF_RATE))
    return len(frames), episode_return


class Clip(NamedTuple):
    """The extent of a clip."""

    frames: int
    steps: int  # of the episode, counted from its start
    seconds: float  # of simulated time


def record_clip(actions: np.ndarray, env: str | EnvSpec, seed: int, path: Path) -> Clip:
    """Replay an episode's actions and write a small .gif of its first seconds, or of all of it if it is short.

    Args:
        actions: (steps, ...) valid in the environment.
        path: written under a temporary name first.

    Raises:
        InputError: the environment cannot be rendered here.
    """
    playing = _rendering(env)
    if (renderer := _mujoco_renderer(playing)) is not None:  # fewer pixels to draw, and enough to average over
        renderer.width = renderer.height = 3 * CLIP_WIDTH // 2
    rate = playing.metadata.get("render_fps") or GIF_RATE
    steps = min(len(actions), round(CLIP_SECONDS * rate))
    stride = max(1, round(rate / GIF_RATE), math.ceil(steps / CLIP_FRAMES))
    frames = []
    try:
        playing.reset(seed=seed)
        for left, action in zip(reversed(range(steps)), actions, strict=False):
            playing.step(action)
            if left % stride == 0:  # so that the last step is shown, a fall or an arrival
                frames.append(_render(playing))
    finally:
        playing.close()
    _write_small(path, frames, 10 * round(100 * stride / rate))  # GIF counts in these
    return Clip(len(frames), steps, steps / rate)


def can_be_shown(env: str | EnvSpec) -> bool:
    """Whether the environment has a mode that renders pictures."""
    return "rgb_array" in _render_modes(env)


def _render_modes(env: str | EnvSpec) -> list[str]:
    still = make_env(env)
    still.close()
    return still.metadata.get("render_modes", [])


def _rendering(env: str | EnvSpec) -> gym.Env:
    """The environment in a mode that renders pictures.

    Raises:
        InputError: it has no such mode.
    """
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        if "rgb_array" not in (modes := _render_modes(env)):
            name = env if isinstance(env, str) else env.id
            raise InputError(f"no video: {name} has no picture to render (its modes: {modes})")
        playing = make_env(env, render_mode="rgb_array")
    except InputError as error:
        if error.__cause__ is not None and of_opengl(error.__cause__):
            raise InputError(f"no video: {missing(error.__cause__)}") from error
        raise
    _follow(playing)
    return playing


def _follow(env: gym.Env) -> None:
    """Look through the model's own tracking camera, if it has one: Gymnasium's free camera lets the robot run away."""
    if (renderer := _mujoco_renderer(env)) is not None:
        names = [renderer.model.camera(i).name for i in range(renderer.model.ncam)]
        renderer.camera_id = names.index("track") if "track" in names else -1


def _mujoco_renderer(env: gym.Env) -> Any:
    return getattr(env.unwrapped, "mujoco_renderer", None)


def _render(env: gym.Env) -> np.ndarray:
    """One frame (height, width, 3)."""
    try:
        frame: Any = env.render()
    except Exception as error:  # it is a library's or the environment's own code
        raise InputError(f"no video: {missing(error, mujoco=_mujoco_renderer(env) is not None)}") from error
    picture = np.asarray(frame)
    if picture.ndim != 3 or picture.shape[-1] != 3 or picture.dtype != np.uint8:
        raise InputError(
            f"no video: the environment's picture has shape {picture.shape} and type {picture.dtype}:"
            " it must be (height, width, 3) and uint8"
        )
    return picture


def _write(path: Path, frames: np.ndarray, rate: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        if path.suffix == ".gif":
            stride = max(1, round(rate / GIF_RATE))
            imageio.imwrite(partial, frames[::stride], duration=1000 * stride / rate, loop=0)
        else:
            imageio.imwrite(partial, frames, fps=rate)


def _write_small(path: Path, frames: Sequence[np.ndarray], milliseconds: int) -> None:
    """Few pixels and one palette of few colours for all frames, undithered: noise would cost most of the bytes.

    Pillow's default palette is of the most frequent colours, which leaves none for a slender robot.
    """
    pictures = [Image.fromarray(frame) for frame in frames]
    width = min(CLIP_WIDTH, pictures[0].width)
    size = width, round(width * pictures[0].height / pictures[0].width)
    pictures = [picture.resize(size, Image.Resampling.BOX) for picture in pictures]
    sample = np.concatenate([np.asarray(picture) for picture in pictures[:: max(1, len(pictures) // 8)]])
    palette = Image.fromarray(sample).quantize(CLIP_COLOURS, Image.Quantize.FASTOCTREE)
    first, *others = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        first.save(partial, save_all=True, append_images=others, duration=milliseconds, loop=0, optimize=True)
