"""Play episodes with a trained agent and record one row for each.

python -m scripts.evaluate runs/hopper/flow-seed0 --episodes 100 --targets p50 best 2500
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from gymnasium.envs.registration import EnvSpec

from agents import load_agent, load_policy
from envs.video import check_video, record_video
from flowrl.checkpoint import RunFolder
from flowrl.errors import InputError
from scripts.cli import parse, run
from scripts.episodes import (
    EvaluationConfig,
    check_spaces,
    choose_device,
    environment,
    play,
    resolve_targets,
    table,
)


@dataclass(frozen=True)
class Args:
    """Play episodes with a trained agent and record one row for each."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """A folder that scripts.train made; its last checkpoint is played."""
    evaluation: EvaluationConfig = EvaluationConfig()
    env: str | None = None
    """Environment id; by default that of the dataset."""
    rollout: Literal["window", "recurrent"] | None = None
    """How a sequence agent acts; by default as its run says. Training reads windows, so `window` is what it learnt."""
    device: str = "auto"
    """cpu, cuda, or auto for a GPU where there is one."""
    video: Path | None = None
    """Also record the first episode at the last target into this .gif or .mp4 file."""


def main(args: Args) -> list[dict[str, Any]]:
    """Play, append the rows to the run's evaluations.jsonl, print a table, and return the rows.

    Raises:
        InputError: no such run, a damaged one, or an unknown environment, target or device.
    """
    folder = RunFolder(args.run_dir)
    device = choose_device(args.device)
    agent, step = load_agent(folder, device, rollout=args.rollout)
    config = folder.config() or {}
    try:
        spec, dataset, percentiles = config["env_spec"], config["dataset"], config["dataset_returns"]["percentiles"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder.path / 'config.json'} is of another version of flowrl: no {error}") from error
    env = environment(args.env, spec and EnvSpec.from_json(spec), dataset)
    check_spaces(env, agent.normaliser.observation_size, agent.normaliser.action_size, config["discrete_start"])
    targets = resolve_targets(args.evaluation.targets, percentiles)
    if args.rollout == "recurrent":
        print(
            f"warning: the agent learnt from windows of {agent.context} steps: a state that is carried over a whole"
            " episode is another function, which it was not trained for",
            file=sys.stderr,
        )
    with folder.locked():  # a training run in progress owns its rows
        if args.video is not None:
            _record(args, env, targets[-1])
        rows = play(agent, env, targets, args.evaluation, device, kind="evaluate", step=step)
        folder.append("evaluations.jsonl", rows)
    how = f"{args.evaluation.episodes} episodes per target, {rows[0]['rollout']} rollout"
    print(f"{args.run_dir} at step {step:,}, {how}, {env.id}")
    print(table(rows))
    print(f"rows appended to {folder.path / 'evaluations.jsonl'}")
    return rows


def _record(args: Args, env: EnvSpec, target: float) -> None:
    assert args.video is not None
    policy = load_policy(args.run_dir, rollout=args.rollout)
    policy.reset(target)
    try:
        check_video(args.video)
        frames, achieved = record_video(policy.act, env, args.evaluation.episode_seed, args.video)
    except ValueError as error:
        raise InputError(str(error)) from error
    print(f"{args.video}: {frames:,} frames of an episode with target {target:,.1f} and return {achieved:,.1f}")


def start(argv: list[str]) -> None:
    """Parse the command line and run."""
    main(parse(Args, argv))


if __name__ == "__main__":
    run(start)
