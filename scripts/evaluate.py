"""Play episodes with trained agents: a row for each, a table, and with several runs a comparison.

python -m scripts.evaluate runs/hopper/flow-seed0 --episodes 100 --targets p50 best 2500
python -m scripts.evaluate runs/hopper/flow-seed* runs/hopper/dt-seed* --out runs/hopper/report
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from gymnasium.envs.registration import EnvSpec

from flowrl.agents import BCAgent, SequenceAgent, load_agent, load_policy
from flowrl.agents.sequence import Rollout
from flowrl.analysis.studies import study
from flowrl.errors import InputError
from flowrl.evaluation.episodes import (
    EvaluationConfig,
    check_spaces,
    choose_device,
    environment,
    play,
    resolve_targets,
    table,
)
from flowrl.evaluation.video import check_video, record_video
from flowrl.report import Comparison, Report, Run, label_of, overview_tables, tables_of, write_report
from flowrl.report import environment_name as env_told
from flowrl.scripts.cli import command, parse, run, warn
from flowrl.text import table as console
from flowrl.training.run_folder import RunFolder


@dataclass(frozen=True)
class Args:
    """Play episodes with trained agents: a row for each, a table, and with several runs a comparison."""

    run_dirs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders that scripts.train made, all of one dataset; their last checkpoints are played. A run is called as its
    folder is, without -seedN."""
    evaluation: EvaluationConfig = EvaluationConfig()
    env: str | None = None
    """Environment id; by default that of the dataset."""
    env_kwargs: tuple[str, ...] = ()
    """What the environment's constructor is told beside or instead of what the run's was, as NAME=VALUE: length=300.
    Scores are normalised by the same references all the same."""
    rollout: Rollout | None = None
    """How a sequence agent acts: re-reading a window, with a state of the whole past, or with two staggered states; by
    default as its run says."""
    acting_context: int | None = None
    """Steps that a window rollout re-reads, or between the states of a staggered one; of an agent trained on windows at
    most their steps. By default as its run says."""
    device: str = "auto"
    """cpu, cuda, or auto for a GPU where there is one."""
    video: Path | None = None
    """Also record the first episode at the last target into this .gif or .mp4 file; of one run."""
    out: Path | None = None
    """Also write a report of the runs here: report.html, report.md, results.json."""
    study: bool = True
    """With --out, also study the first run of every name: how its action depends on the return, what it attends to, a
    clip. Not with --rollout, --acting-context, --env or --env-kwargs: a study shows a run as it was configured."""


@dataclass(frozen=True, eq=False)
class _Player:
    """A run that is ready to play."""

    folder: RunFolder
    config: dict[str, Any]
    agent: SequenceAgent | BCAgent
    step: int
    env: EnvSpec


def main(args: Args) -> list[dict[str, Any]]:
    """Play, append the rows to each run's evaluations.jsonl, print tables, and return all rows.

    Raises:
        InputError: no such run, a damaged one, runs that cannot be compared, or an unknown environment, target or
            device.
    """
    if not args.run_dirs:
        raise InputError("no run folder is given: name at least one that scripts.train made")
    if len({path.resolve() for path in args.run_dirs}) < len(args.run_dirs):
        raise InputError("a run folder is named twice")
    if args.video is not None and len(args.run_dirs) > 1:
        raise InputError(f"--video records one run, and {len(args.run_dirs)} are given")
    device = choose_device(args.device)
    players = [_player(RunFolder(path), args, device) for path in args.run_dirs]
    first = players[0]
    for player in players[1:]:
        if player.config["dataset"] != first.config["dataset"]:
            raise InputError(
                f"run folders are of different datasets, {first.folder.path} of {first.config['dataset']} and"
                f" {player.folder.path} of {player.config['dataset']}: give those of one"
            )
    targets = resolve_targets(args.evaluation.targets, first.config["dataset_returns"]["percentiles"])
    played: list[list[dict[str, Any]]] = []
    with ExitStack() as held:
        for player in players:  # a training run in progress owns its rows
            held.enter_context(player.folder.locked())
        # Whether runs belong together is found out before they play.
        reporting = len(players) > 1 or args.out is not None
        if reporting:
            runs = [Run.load(player.folder, label_of(player.folder.path)) for player in players]
            Report.of([replace(run, evaluation=runs[0].evaluation) for run in runs])  # what they play now is the same
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
        if args.video is not None:
            _record(args, first.env, targets[-1])
        finished = bool(first.folder.final_rows(first.config))  # damage is told before anything is played
        for player in players:
            rows = play(player.agent, player.env, targets, args.evaluation, device, kind="evaluate", step=player.step)
            player.folder.append("evaluations.jsonl", rows)
            played.append(rows)
            how = f"{args.evaluation.episodes} episodes per target, {rows[0]['rollout']} rollout"
            print(f"{player.folder.path} at step {player.step:,}, {how}, {env_told(player.env.id, player.env.kwargs)}")
            print(table(rows))
            print(f"rows appended to {player.folder.path / 'evaluations.jsonl'}", flush=True)
    if reporting:
        _report(args, players, played, device)
    elif finished:  # an unfinished run has no report
        warn_of_steering(Comparison.of([Run.load(first.folder, label_of(first.folder.path), episodes=played[0])]))
    return [row for rows in played for row in rows]


def _player(folder: RunFolder, args: Args, device: torch.device) -> _Player:
    agent, step = load_agent(folder, device, rollout=args.rollout, acting_context=args.acting_context)
    config = folder.config() or {}
    try:
        spec, dataset, discrete_start = config["env_spec"], config["dataset"], config["discrete_start"]
        config["dataset_returns"]["percentiles"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder.path / 'config.json'} is of another version of flowrl: no {error}") from error
    env = environment(args.env, spec and EnvSpec.from_json(spec), dataset, args.env_kwargs)
    check_spaces(env, agent.normaliser.observation_size, agent.normaliser.action_size, discrete_start)
    if isinstance(agent, SequenceAgent):
        warn(*agent.config.cautions())
    return _Player(folder, config, agent, step, env)


def print_comparison(comparison: Comparison) -> None:
    """Print the tables of the runs on one dataset, and warn where its returns cannot steer an agent."""
    for title, lines in tables_of(comparison):
        print(f"\n{title}\n{console(lines)}")
    warn_of_steering(comparison)


def warn_of_steering(comparison: Comparison) -> None:
    """Warn where returns cannot steer an agent."""
    if warning := comparison.steering_warning():
        warn(f"{comparison.dataset}: {warning}")


def _report(
    args: Args, players: Sequence[_Player], played: Sequence[list[dict[str, Any]]], device: torch.device
) -> None:
    def report(studies: Mapping[_Player, dict[str, Any]]) -> Report:
        runs = [
            Run.load(player.folder, label_of(player.folder.path), episodes=rows, study=studies.get(player))
            for player, rows in zip(players, played, strict=True)
        ]
        return Report.of(runs, commands=[command("evaluate")])

    told = report({})
    for comparison in told.comparisons:
        print_comparison(comparison)
    for title, lines in overview_tables(told):
        print(f"\n{title}\n{console(lines)}")
    print(f"\n{told.summary()}")
    if args.out is None:
        return
    # A study shows a run as it was configured, in the environment of its data.
    as_configured = args.rollout is None and args.acting_context is None and args.env is None and not args.env_kwargs
    studying = args.study and as_configured
    firsts = {label_of(player.folder.path): player for player in reversed(players)}.values() if studying else ()
    made = write_report(report({player: study(player.folder, device) for player in firsts}), args.out)
    print("\nwritten:")
    print("\n".join(f"  {path}" for path in made))


def _record(args: Args, env: EnvSpec, target: float) -> None:
    assert args.video is not None
    policy = load_policy(args.run_dirs[0], rollout=args.rollout, acting_context=args.acting_context)
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
