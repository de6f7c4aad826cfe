"""One training run from its options: load the data, check everything, train, evaluate the last checkpoint."""

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from flowrl.data import scales
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.selection import Selection
from flowrl.errors import InputError
from flowrl.evaluation.episodes import EvaluationConfig, episodes_table, play
from flowrl.evaluation.reference_scores import usable_reference
from flowrl.evaluation.targets import resolve_targets, target_cautions
from flowrl.experiments.options import RunOptions
from flowrl.experiments.preparation import Prepared, describe, prepare
from flowrl.nn.normaliser import Normaliser
from flowrl.protocols import Actor
from flowrl.text import duration, one_line
from flowrl.training import distributed
from flowrl.training.device import isolated_rng, peak_memory
from flowrl.training.loop import train
from flowrl.training.rows import EVALUATIONS, Row
from flowrl.training.run_folder import NO_ENVIRONMENT, RunFolder
from flowrl.training.tracking import Tracker, warn


def run_training(options: RunOptions, dataset: TrajectoryDataset | None = None) -> Path:
    """Train to the last step, evaluate the last checkpoint, and return the run folder; a finished run is left alone.

    With several processes, all call it at the same time.

    Args:
        dataset: in memory, in place of the one that the options name.

    Raises:
        InputError: an option cannot be used.
        flowrl.training.loop.Stopped: a signal ended the training early; it can be resumed.
    """
    folder, name = RunFolder(options.folder), options.name
    with ExitStack() as held:  # rank 0's lock on the folder, and torch's generators
        with distributed.group():
            prepared = distributed.rank_zero_first(prepare, options, None, dataset)
            if options.threads:
                torch.set_num_threads(options.threads)
            distributed.from_rank_zero(held.enter_context, folder.locked())
            config = describe(options, prepared)
            distributed.from_rank_zero(folder.begin, config)
            if distributed.from_rank_zero(folder.is_finished, config):
                if distributed.rank() == 0:
                    print(f"[{name}] run {folder.path} is finished: nothing to do")
                return folder.path
            training, device = prepared.training, prepared.device
            dataset = prepared.dataset.to(device)
            held.enter_context(isolated_rng(options.seed, device))
            learner = prepared.config.build(Normaliser.of(dataset, prepared.columns), training, device)
            if distributed.rank() == 0:
                _introduce(options, prepared, conditioned=learner.actor.conditioned)

            def evaluate(step: int, tracker: Tracker) -> None:
                few = replace(options.evaluation, episodes=options.evaluate_episodes)
                _evaluate(learner.actor, few, options, prepared, folder, tracker, kind="training", step=step)

            train(
                learner, dataset, training, folder,
                seed=options.seed, name=name, evaluate=None if prepared.env is None else evaluate,
                evaluate_every=options.steps_between_evaluations,
            )  # fmt: skip
        if distributed.rank() > 0:  # the rest needs one process
            return folder.path
        last = training.steps
        with Tracker(folder, name, last, last) as tracker:
            if prepared.env is None:
                line = f"nothing was played (env {NO_ENVIRONMENT}), so no return is known"
                tracker.record(last, peak_memory(device), line)
            else:
                over = f"{len(prepared.targets)} targets × " if learner.actor.conditioned else ""
                tracker.say(f"final evaluation: {over}{options.evaluation.episodes} episodes")
                rows = _evaluate(
                    learner.actor, options.evaluation, options, prepared, folder, tracker, kind="final", step=last
                )
                print(episodes_table(rows))
        print(f"[{name}] done: {folder.path}")
    return folder.path


def _evaluate(
    actor: Actor,
    evaluation: EvaluationConfig,
    options: RunOptions,
    prepared: Prepared,
    folder: RunFolder,
    tracker: Tracker,
    *,
    kind: Literal["training", "final"],
    step: int,
) -> list[Row]:
    """Play, and record the rows and what they come to; the last time with the memory that all took.

    Where the episodes cannot be played to their ends there are no rows, and the training is not lost.
    """
    assert prepared.env is not None
    began = time.perf_counter()
    try:
        rows = play(
            actor, prepared.env, prepared.targets, evaluation, prepared.device,
            kind=kind, step=step,
        )  # fmt: skip
    except InputError as error:
        raise InputError(
            f"{error}; the training is kept up to step {step:,}: evaluate {folder.path} plays it, and the same training"
            " goes on from there"
        ) from error
    metrics, line = _evaluation_metrics(rows, options, prepared, step, time.perf_counter() - began)
    tracker.record(step, metrics | (peak_memory(prepared.device) if kind == "final" else {}), line)
    folder.append(EVALUATIONS, folder.named(rows))  # last of all: the final ones end the run
    return rows


def _introduce(options: RunOptions, prepared: Prepared, *, conditioned: bool) -> None:
    """Say what is about to be trained, and what is probably not meant."""
    dataset, training, device = prepared.dataset, prepared.training, prepared.device
    mine = replace(training, batch_size=distributed.share(training.batch_size))
    warn(*dataset.cautions, *scales.cautions(dataset, prepared.columns))
    warn(*usable_reference(dataset.declared.references)[1], *prepared.agreement.warnings, *prepared.env_cautions)
    warn(*prepared.config.cautions(dataset, mine, device))
    if conditioned:
        warn(*target_cautions(options.evaluation.targets, prepared.returns["percentiles"]))
    if conditioned and prepared.returns["steering"]["verdict"] == "no":
        part = "" if options.selection == Selection() else "the selected part of "
        warn(f"returns are not expected to steer on {part}{options.dataset}: {prepared.returns['steering']['reason']}")
    for note in prepared.agreement.notes:
        print(one_line(f"[{options.name}] {note}"))
    span = f"returns {float(dataset.returns.min()):,.0f} to {float(dataset.returns.max()):,.0f}"
    size = f"{dataset.episodes:,} episodes, {dataset.steps:,} steps, {span}"
    together = f" in {n} processes" if (n := distributed.world_size()) > 1 else ""
    lines = [f"{dataset.id}: {size}; {training.precision} on {device}{together}"]
    for line in (*lines, *scales.sentences(dataset, prepared.columns)):
        print(one_line(f"[{options.name}] {line}"), flush=True)


def _evaluation_metrics(
    rows: list[Row], options: RunOptions, prepared: Prepared, step: int, seconds: float
) -> tuple[dict[str, float], str]:
    """Metrics of an evaluation, and a line for the console.

    A target is named by its word (`best`, `p90`, `3000`), so that curves of several datasets lie over each other. The
    score is that of the episodes that agents are judged at, by the flowrl references, else D4RL's, else the dataset's.
    """
    percentiles = prepared.returns["percentiles"]
    words: dict[float | None, str] = {}
    for word in options.evaluation.targets:
        words.setdefault(resolve_targets([word], percentiles)[0], word)
    played: dict[float | None, list[Row]] = {}
    for row in rows:
        played.setdefault(row["target"], []).append(row)
    means = {target: float(np.mean([row["return"] for row in mine])) for target, mine in played.items()}
    targets = [target for target in played if target is not None]
    within = [target for target in targets if target <= percentiles[-1]]  # as `flowrl.report.matched.JUDGED_AT`
    judged = played[max(within, default=min(targets)) if targets else None]
    kinds = ("score_measured", "score_d4rl", "score_dataset")
    scores = [next((row[name] for name in kinds if row[name] is not None), None) for row in judged]
    metrics = {
        "eval/return" if target is None else f"eval/return@{words[target]}": mean for target, mean in means.items()
    }
    known = [score for score in scores if score is not None]
    metrics |= {"eval/score": float(np.mean(known))} if len(known) == len(scores) else {}
    metrics |= {"eval/length": float(np.mean([row["length"] for row in judged])), "eval/seconds": seconds}
    if None in means:
        return metrics, f"evaluation at step {step:,}: return {means[None]:,.0f}  in {duration(seconds)}"
    pairs = "  ".join(f"{target:,.0f} → {mean:,.0f}" for target, mean in means.items())
    return metrics, f"evaluation at step {step:,} (target → return): {pairs}  in {duration(seconds)}"
