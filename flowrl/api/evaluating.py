"""Playing episodes with trained agents, and comparing those of several runs."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from gymnasium.envs.registration import EnvSpec

from flowrl.agents.loading import load_agent, load_policy
from flowrl.api.printing import print_comparison, print_report, steering_warning
from flowrl.api.training import study_run
from flowrl.errors import InputError
from flowrl.evaluation.environment_choice import check_spaces, choose_environment
from flowrl.evaluation.episodes import EvaluationConfig, episodes_table, play
from flowrl.evaluation.targets import resolve_targets, target_cautions
from flowrl.evaluation.video import check_video, record_video
from flowrl.experiments.options import with_options
from flowrl.nn.acting import RolloutMode
from flowrl.protocols import Actor
from flowrl.report import Comparison, Report, Run, environment_name, label_of, write_report
from flowrl.streams import any_encoding
from flowrl.training.device import choose_device
from flowrl.training.rows import EVALUATIONS, Row
from flowrl.training.run_folder import RunFolder
from flowrl.training.tracking import warn


@dataclass(frozen=True)
class PlayOptions:
    """How trained agents are played."""

    env: str | None = None
    """Environment id; by default the dataset's."""
    env_kwargs: tuple[str, ...] = ()
    """Keywords for the environment's constructor, as NAME=VALUE: length=300. They add to the run's or replace them. The
    reference scores stay the same."""
    rollout: RolloutMode | None = None
    """How a sequence agent acts: re-reading a window, with a state of the whole past, or with two staggered states; by
    default as it was trained."""
    acting_context: int | None = None
    """Steps that a window rollout re-reads, or between the states of a staggered one; at most the training windows'
    steps, if the agent was trained on windows. By default as it was trained."""
    device: str = "auto"
    """cpu, cuda, or auto for a GPU if there is one."""
    video: Path | None = None
    """Also record the first episode at the last target into this .gif or .mp4 file; of one run."""
    out: Path | None = None
    """Also write a report of the runs into this folder: report.html, report.md, results.json."""
    study: bool = True
    """With a report, also study the first run of every agent: how its action depends on the target return, what it
    attends to, a clip. A study shows a run as it was trained, so there is none where env, env_kwargs, rollout or
    acting_context are given."""

    @property
    def as_trained(self) -> bool:
        """Whether agents are played in their environment and in their way."""
        return self.rollout is None and self.acting_context is None and self.env is None and not self.env_kwargs


@dataclass(frozen=True, eq=False)
class _PlayableRun:
    """A run that is ready to play."""

    folder: RunFolder
    config: dict[str, Any]
    actor: Actor
    step: int
    env: EnvSpec

    @property
    def label(self) -> str:
        return label_of(self.folder.path)


@dataclass(frozen=True)
class _Options:
    """Every option of an evaluation."""

    evaluation: EvaluationConfig = EvaluationConfig()
    playing: PlayOptions = PlayOptions()


@any_encoding()
def evaluate(
    run_dirs: Path | str | Sequence[Path | str],
    *,
    targets: str | float | Sequence[str | float] = EvaluationConfig.targets,
    episodes: int = EvaluationConfig.episodes,
    episode_seed: int = EvaluationConfig.episode_seed,
    **options: Any,
) -> list[Row]:
    """Play episodes with the last checkpoints of runs on one dataset; their rows are appended to each run's folder.

    Args:
        run_dirs: one run folder or several.
        targets: target returns: numbers, ``"pNN"``, ``"rNN"`` or ``"best"``, see `EvaluationConfig`.
        episodes: per target.
        episode_seed: environment seed of the first episode.
        options: fields of `PlayOptions`, such as ``env="Hopper-v5", out="report"``, and ``vector``.

    Returns:
        A row per episode, run by run.

    Raises:
        InputError: there is no such run, it is damaged, the runs cannot be compared, or an option cannot be used.
    """
    folders = [run_dirs] if isinstance(run_dirs, Path | str) else run_dirs
    for name in ("video", "out"):
        if options.get(name) is not None:
            options[name] = Path(options[name])
    options |= {"targets": targets, "episodes": episodes, "episode_seed": episode_seed}
    chosen = with_options(_Options(), options)
    return evaluate_runs([Path(folder) for folder in folders], chosen.evaluation, chosen.playing)


def evaluate_runs(
    run_dirs: Sequence[Path], evaluation: EvaluationConfig, options: PlayOptions, command: str = ""
) -> list[Row]:
    """As `evaluate`.

    Args:
        command: the command line that a report gives.
    """
    _check(run_dirs, options)
    device = choose_device(options.device)
    runs = [_playable(RunFolder(path), options, device) for path in run_dirs]
    first = runs[0]
    for run in runs[1:]:
        if run.config["dataset"] != first.config["dataset"]:
            raise InputError(
                f"run folders are of different datasets, {first.folder.path} of {first.config['dataset']} and"
                f" {run.folder.path} of {run.config['dataset']}: give those of one"
            )
    percentiles = first.config["dataset_returns"]["percentiles"]
    targets = resolve_targets(evaluation.targets, percentiles)
    if any(run.actor.conditioned for run in runs):
        warn(*target_cautions(evaluation.targets, percentiles))
    played: list[list[Row]] = []
    reporting = len(runs) > 1 or options.out is not None
    with ExitStack() as held:
        for run in runs:  # a training in progress owns its rows
            held.enter_context(run.folder.locked())
        if reporting:  # whether the runs belong together is checked before they play
            loaded = [Run.load(run.folder, run.label) for run in runs]
            Report.of([replace(run, evaluation=loaded[0].evaluation) for run in loaded])  # they play the same now
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
        if options.video is not None:
            _record(run_dirs[0], first.env, targets[-1], evaluation.episode_seed, options.video, options)
        finished = bool(first.folder.final_rows(first.config))  # damaged rows are reported before anything is played
        for run in runs:
            rows = play(run.actor, run.env, targets, evaluation, device, kind="evaluate", step=run.step)
            run.folder.append(EVALUATIONS, rows)
            played.append(rows)
            over = " per target" if run.actor.conditioned else ""
            how = f"{evaluation.episodes} episodes{over}, {run.actor.rollout} rollout"
            print(f"{run.folder.path} at step {run.step:,}, {how}, {environment_name(run.env.id, run.env.kwargs)}")
            print(episodes_table(rows))
            print(f"rows appended to {run.folder.path / EVALUATIONS}", flush=True)
    if reporting:
        _report(runs, played, targets, options, command)
    elif finished:  # an unfinished run has no report
        steering_warning(Comparison.of([Run.load(first.folder, first.label, episodes=played[0], targets=targets)]))
    return [row for rows in played for row in rows]


def _check(run_dirs: Sequence[Path], options: PlayOptions) -> None:
    if not run_dirs:
        raise InputError("no run folder is given: name at least one")
    if len({path.resolve() for path in run_dirs}) < len(run_dirs):
        raise InputError("a run folder is named twice")
    if options.video is not None and len(run_dirs) > 1:
        raise InputError(f"a video records one run, and {len(run_dirs)} are given")


def _playable(folder: RunFolder, options: PlayOptions, device: torch.device) -> _PlayableRun:
    loaded = load_agent(folder, device, rollout=options.rollout, acting_context=options.acting_context)
    config = folder.config() or {}
    try:
        spec, dataset, discrete_start = config["env_spec"], config["dataset"], config["discrete_start"]
        sizes = config["observation_size"], config["action_size"]
        config["dataset_returns"]["percentiles"]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{folder.path / 'config.json'} was written by another version of flowrl: it has no {error}"
        ) from error
    env = choose_environment(options.env, spec and EnvSpec.from_json(spec), dataset, options.env_kwargs)
    check_spaces(env, *sizes, discrete_start)
    warn(*loaded.config.acting_cautions())
    return _PlayableRun(folder, config, loaded.actor, loaded.step, env)


def _report(
    runs: Sequence[_PlayableRun],
    played: Sequence[list[Row]],
    targets: Sequence[float],
    options: PlayOptions,
    command: str,
) -> None:
    def report(studies: Mapping[_PlayableRun, dict[str, Any]]) -> Report:
        loaded = [
            Run.load(run.folder, run.label, episodes=rows, targets=targets, study=studies.get(run))
            for run, rows in zip(runs, played, strict=True)
        ]
        return Report.of(loaded, commands=[command] if command else [])

    plain = report({})
    for comparison in plain.comparisons:
        print_comparison(comparison)
    print_report(plain)
    if options.out is None:
        return
    studying = options.study and options.as_trained
    firsts = {run.label: run for run in reversed(runs)}.values() if studying else ()
    studies = {run: study_run(run.folder.path, options.device) for run in firsts}
    files = write_report(report(studies), options.out)
    print("\nwritten:")
    print("\n".join(f"  {path}" for path in files))


def _record(run_dir: Path, env: EnvSpec, target: float, seed: int, video: Path, options: PlayOptions) -> None:
    policy = load_policy(run_dir, rollout=options.rollout, acting_context=options.acting_context)
    policy.reset(target)
    try:
        check_video(video)
        frames, episode_return = record_video(policy.act, env, seed, video)
    except ValueError as error:
        raise InputError(str(error)) from error
    print(f"{video}: {frames:,} frames of an episode with target {target:,.1f} and return {episode_return:,.1f}")
