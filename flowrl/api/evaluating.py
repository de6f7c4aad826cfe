"""Playing episodes with trained agents, and comparing those of several runs."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gymnasium.envs.registration import EnvSpec

from flowrl.agents.loading import load_policy
from flowrl.api.playable_runs import PlayableRun, PlayOptions, load_run, try_environments
from flowrl.api.printing import print_comparison, print_report, steering_warning
from flowrl.api.rows_of_evaluation import CANNOT_WRITE, rows_of
from flowrl.api.training import study_run
from flowrl.errors import InputError
from flowrl.evaluation.episodes import EvaluationConfig, episodes_table, play
from flowrl.evaluation.targets import resolve_targets, target_cautions
from flowrl.evaluation.trust import trusting
from flowrl.evaluation.video import check_video, record_video
from flowrl.experiments.options import with_options
from flowrl.report import Comparison, Report, environment_name, write_report
from flowrl.streams import any_encoding
from flowrl.text import one_line
from flowrl.training.device import choose_device
from flowrl.training.rows import Row, append_rows
from flowrl.training.run_folder import NO_ENVIRONMENT, RunFolder
from flowrl.training.tracking import warn


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
    with trusting(options.trust, *run_dirs):
        return _evaluate_runs(run_dirs, evaluation, options, command)


def _evaluate_runs(
    run_dirs: Sequence[Path], evaluation: EvaluationConfig, options: PlayOptions, command: str
) -> list[Row]:
    _check(run_dirs, options)
    device = choose_device(options.device)
    runs = [load_run(RunFolder(path), options, device) for path in run_dirs]
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
    runs = try_environments(runs, evaluation, len(targets))
    played: list[list[Row]] = []
    reporting = len(runs) > 1 or options.out is not None
    with ExitStack() as held:
        # A training in progress owns its rows.
        places = {run: held.enter_context(rows_of(run.folder, options.out)) for run in runs}
        if reporting:  # whether the runs belong together is checked before they play
            loaded = [run.load(() if run.config["env_spec"] == NO_ENVIRONMENT else None) for run in runs]
            Report.of([replace(run, evaluation=loaded[0].evaluation) for run in loaded])  # they play the same now
        if options.out is not None:
            for folder in (options.out, *(place.parent for place in places.values())):
                folder.mkdir(parents=True, exist_ok=True)
        if options.video is not None:
            _record(run_dirs[0], first.env.spec, targets[-1], evaluation.episode_seed, options.video, options)
        finished = first.folder.is_finished(first.config)  # damaged rows are reported before anything is played
        for run in runs:
            rows = play(run.actor, run.env, targets, evaluation, device, kind="evaluate", step=run.step)
            rows = run.folder.named(rows)
            append_rows(places[run], rows)
            played.append(rows)
            over = " per target" if run.actor.conditioned else ""
            how = f"{evaluation.episodes} episodes{over}, {run.actor.rollout} rollout"
            where = environment_name(run.env.spec.id, run.env.spec.kwargs)
            print(one_line(f"{run.folder.path} at step {run.step:,}, {how}, {where}"))
            print(episodes_table(rows))
            print(f"rows appended to {places[run]}", flush=True)
    if reporting:
        _report(runs, played, targets, options, command)
    elif finished:  # an unfinished run has no report
        steering_warning(Comparison.of([first.load(played[0], targets=targets)]))
    return [row for rows in played for row in rows]


def _check(run_dirs: Sequence[Path], options: PlayOptions) -> None:
    if not run_dirs:
        raise InputError("no run folder is given: name at least one")
    if len({path.resolve() for path in run_dirs}) < len(run_dirs):
        raise InputError("a run folder is named twice")
    if options.env == NO_ENVIRONMENT:
        raise InputError(f"env is {NO_ENVIRONMENT}: an evaluation plays episodes, so it needs an environment")
    if options.video is not None and len(run_dirs) > 1:
        raise InputError(f"a video records one run, and {len(run_dirs)} are given")


def _report(
    runs: Sequence[PlayableRun],
    played: Sequence[list[Row]],
    targets: Sequence[float],
    options: PlayOptions,
    command: str,
) -> None:
    def report(studies: Mapping[PlayableRun, dict[str, Any]]) -> Report:
        loaded = [
            run.load(rows, targets=targets, study=studies.get(run)) for run, rows in zip(runs, played, strict=True)
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
    studies = {run: study for run in firsts if (study := _study(run, options)) is not None}
    files = write_report(report(studies), options.out)
    print("\nwritten:")
    print("\n".join(f"  {path}" for path in files))


def _study(run: PlayableRun, options: PlayOptions) -> dict[str, Any] | None:
    """The run's study; None where it has none and its folder cannot take one."""
    try:
        return study_run(run.folder.path, options.device)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        warn(f"run folder {run.folder.path} cannot be written to, so the run is not studied")
        return None


def _record(run_dir: Path, env: EnvSpec, target: float, seed: int, video: Path, options: PlayOptions) -> None:
    policy = load_policy(run_dir, rollout=options.rollout, acting_context=options.acting_context)
    policy.reset(target)
    try:
        check_video(video)
        frames, episode_return = record_video(policy.act, env, seed, video)
    except ValueError as error:
        raise InputError(str(error)) from error
    print(f"{video}: {frames:,} frames of an episode with target {target:,.1f} and return {episode_return:,.1f}")
