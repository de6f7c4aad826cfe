"""Play episodes with a trained agent and record one row for each.

python -m scripts.evaluate runs/hopper/flow-seed0 --episodes 100 --targets p50 best 2500
"""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.envs.registration import EnvSpec

from agents import BCAgent, Policy, SequenceAgent, load_agent, load_policy
from envs import facts, make_env, make_vector_env
from flowrl.checkpoint import RunFolder
from flowrl.errors import InputError
from flowrl.protocols import Agent
from flowrl.rollout import rollout
from flowrl.scores import interquartile_mean, normalised
from scripts.cli import parse, run


@dataclass(frozen=True)
class EvaluationConfig:
    """Which episodes are played: every target meets the same environment seeds."""

    targets: tuple[str, ...] = ("p90", "best")
    """Returns to ask for: numbers, `pNN` for a percentile of the dataset's episode returns, `best` for their maximum."""
    episodes: int = 20
    """Episodes per target."""
    episode_seed: int = 10_000
    """Episode i is played with environment seed `episode_seed + i`, whatever the agent and its training seed."""
    vector: Literal["sync", "async"] = "sync"
    """Step the environments in this process, or in one process each."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"episodes is {self.episodes}: it must be at least 1")
        if self.episode_seed < 0:
            raise ValueError(f"episode_seed is {self.episode_seed}: it must be at least 0")
        if not self.targets:
            raise ValueError("targets is empty: it must name at least one return, as in `p90 best 2500`")


@dataclass(frozen=True)
class Args:
    """Play episodes with a trained agent and record one row for each."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """A folder that scripts.train made; its last checkpoint is played."""
    evaluation: EvaluationConfig = EvaluationConfig()
    env: str | None = None
    """Environment id; by default that of the dataset."""
    rollout: Literal["window", "recurrent"] | None = None
    """How a sequence agent acts; by default as it was trained for."""
    device: str = "auto"
    """cpu, cuda, or auto for a GPU where there is one."""
    video: Path | None = None
    """Also record the first episode at the last target into this .gif or .mp4 file."""


def main(args: Args) -> list[dict[str, Any]]:
    """Play, append the rows to the run's evaluations.jsonl, print a table, and return the rows.

    Raises:
        InputError: no such run, a damaged one, or an unknown environment, target or device.
    """
    if args.video is not None:
        check_video(args.video)
    folder = RunFolder(args.run_dir)
    device = choose_device(args.device)
    agent, step = load_agent(folder, device, rollout=args.rollout)
    config = folder.config()
    assert config is not None
    targets = resolve_targets(args.evaluation.targets, config["dataset_returns"]["percentiles"])
    spec = config["env_spec"]
    env = environment(args.env, None if spec is None else EnvSpec.from_json(spec), config["dataset"])
    check_spaces(agent, env)
    rows = play(agent, env, targets, args.evaluation, device, kind="evaluate", step=step)
    folder.append("evaluations.jsonl", rows)
    print(
        f"{args.run_dir} at step {step:,}, {args.evaluation.episodes} episodes per target, {rows[0]['rollout']} rollout"
    )
    print(table(rows))
    print(f"rows appended to {folder.path / 'evaluations.jsonl'}")
    if args.video is not None:
        policy = load_policy(args.run_dir, device=str(device), rollout=args.rollout)
        frames, achieved = record_video(policy, env, targets[-1], args.evaluation.episode_seed, args.video)
        print(
            f"{args.video}: {frames:,} frames of an episode with target {targets[-1]:,.1f} and return {achieved:,.1f}"
        )
    return rows


def play(
    agent: Agent,
    env: EnvSpec,
    targets: Sequence[float],
    evaluation: EvaluationConfig,
    device: torch.device,
    *,
    kind: Literal["training", "final", "evaluate"],
    step: int,
) -> list[dict[str, Any]]:
    """Play every target on the same seeds in one vector env; a row per episode."""
    seeds = [evaluation.episode_seed + i for i in range(evaluation.episodes)]
    envs = make_vector_env(env, len(targets) * len(seeds), mode=evaluation.vector)
    try:
        results = rollout(agent, envs, targets, seeds, device)
    finally:
        envs.close()
    known = facts(env.id)
    d4rl, measured = (None if r is None else (r.random, r.expert) for r in (known.d4rl, known.measured))
    return [
        {
            "kind": kind,
            "step": step,
            "env": known.env_id,
            "rollout": getattr(getattr(agent, "config", None), "rollout", "memoryless"),
            "target": result.target,
            "seed": result.seed,
            "return": result.achieved,
            "length": result.length,
            "terminated": result.terminated,
            "score_d4rl": normalised(result.achieved, d4rl),
            "score_measured": normalised(result.achieved, measured),
        }
        for result in results
    ]


def environment(env_id: str | None, dataset_env: EnvSpec | None, dataset_id: str) -> EnvSpec:
    """The environment to play in: the one asked for, else the dataset's.

    Raises:
        InputError: it is unknown or cannot be made here, or there is none.
    """
    env = env_id or dataset_env
    if env is None:
        raise InputError(f"dataset {dataset_id} names no environment: give one with --env")
    try:
        made = make_env(env)
    except ValueError as error:
        raise InputError(str(error)) from error
    made.close()
    spec = made.spec
    assert spec is not None
    return spec


def check_spaces(agent: SequenceAgent | BCAgent, env: EnvSpec) -> None:
    """Raise InputError where an environment's spaces are not those the agent was trained for."""
    made = make_env(env)
    made.close()
    for what, space, size in [
        ("observation", made.observation_space, agent.normaliser.observation_size),
        ("action", made.action_space, agent.normaliser.action_size),
    ]:
        if space.shape != (size,):
            raise InputError(f"the {what} of {env.id} has shape {space.shape}: the agent was trained for ({size},)")


def resolve_targets(words: Sequence[str], percentiles: Sequence[float]) -> list[float]:
    """Turn `best`, `pNN` and numbers into returns, each once; warn on stderr of those far from the data.

    Args:
        percentiles: the 0th to the 100th percentile of the dataset's episode returns.

    Raises:
        InputError: a word is none of these.
    """
    low, high = percentiles[0], percentiles[-1]
    targets: list[float] = []
    for word in words:
        match = re.fullmatch(r"p(\d{1,2}|100)", word)
        if word == "best" or match:
            target = high if match is None else percentiles[int(match[1])]
        else:
            try:
                target = float(word)
            except ValueError:
                target = float("nan")
            if not np.isfinite(target):
                raise InputError(f"target {word!r} is neither a number, nor pNN (0 to 100), nor best")
            _warn_if_far(target, low, high)
        if target not in targets:
            targets.append(target)
    return targets


def _warn_if_far(target: float, low: float, high: float) -> None:
    span = max(high - low, 1e-6)
    if target < 0 < low or high < 0 < target:
        trouble = "has the wrong sign"
    elif target > high + span / 4 or target < low - span / 4:
        trouble = "is far beyond the data"
    else:
        return
    print(
        f"warning: target {target:,.1f} {trouble}: returns in the dataset are {low:,.1f} to {high:,.1f}",
        file=sys.stderr,
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per target: what was asked, what came."""
    lines = [f"{'target':>10} {'mean':>10} {'std':>9} {'IQM':>10} {'length':>8} {'D4RL score':>11} {'own score':>10}"]
    for target in dict.fromkeys(row["target"] for row in rows):
        mine = [row for row in rows if row["target"] == target]
        returns = np.array([row["return"] for row in mine])
        scores = [_mean_or_dash([row[name] for row in mine]) for name in ("score_d4rl", "score_measured")]
        lines.append(
            f"{target:>10,.1f} {returns.mean():>10,.1f} {returns.std():>9,.1f} {interquartile_mean(returns):>10,.1f}"
            f" {np.mean([row['length'] for row in mine]):>8,.1f} {scores[0]:>11} {scores[1]:>10}"
        )
    return "\n".join(lines)


def _mean_or_dash(scores: Sequence[float | None]) -> str:
    known = [score for score in scores if score is not None]
    return f"{np.mean(known):.1f}" if known else "-"


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU where there is one.

    Raises:
        InputError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def check_video(path: Path) -> None:
    """Raise InputError unless `path` ends in .gif or .mp4 and can be encoded here."""
    if path.suffix not in (".gif", ".mp4"):
        raise InputError(f"video file {path} must end in .gif or .mp4")
    if path.suffix == ".mp4":
        try:
            import imageio_ffmpeg  # noqa: F401  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise InputError("an .mp4 needs ffmpeg: `pip install -e '.[video]'`, or name a .gif file") from None


def record_video(policy: Policy, env: EnvSpec, target: float, seed: int, path: Path) -> tuple[int, float]:
    """Play one episode off screen and write it to `path`; the number of frames and the return.

    Raises:
        InputError: the environment cannot be rendered here.
    """
    import imageio.v3 as imageio

    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    playing = make_env(env, render_mode="rgb_array")
    try:
        observation, _ = playing.reset(seed=seed)
        policy.reset(target)
        frames, reward, achieved, over = [], 0.0, 0.0, False
        while not over:
            frames.append(render(playing))
            observation, paid, terminated, truncated, _ = playing.step(policy.act(observation, reward))
            reward = float(paid)
            achieved += reward
            over = terminated or truncated
        frames.append(render(playing))
        rate = playing.metadata.get("render_fps", 30)
    finally:
        playing.close()
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if path.suffix == ".gif":  # GIF players slow down below 20 ms a frame
            skip = max(1, round(rate / 30))
            imageio.imwrite(partial, np.stack(frames[::skip]), duration=1000 * skip / rate, loop=0)
        else:
            imageio.imwrite(partial, np.stack(frames), fps=rate)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return len(frames), achieved


def render(env: gym.Env) -> np.ndarray:
    """One frame (height, width, 3); InputError where there is nothing to render with."""
    try:
        frame = env.render()
    except Exception as error:  # MuJoCo's GL loaders raise ImportError, AttributeError, RuntimeError and more
        raise InputError(
            f"no video: the off-screen renderer does not start ({type(error).__name__}: {str(error).splitlines()[0][:120]});"
            " on Debian or Ubuntu `apt install libegl1 libgl1` brings what it needs"
        ) from error
    if frame is None:
        raise InputError(f"no video: environment {env.spec and env.spec.id} has no picture to render")
    return np.asarray(frame)


def start(argv: list[str]) -> None:
    """Parse the command line and run."""
    main(parse(Args, argv))


if __name__ == "__main__":
    run(start)
