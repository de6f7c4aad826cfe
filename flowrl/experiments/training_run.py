"""One training run from its options: load the data, check everything, train, evaluate the last checkpoint."""

import json
import subprocess
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.selection import Selection, load
from flowrl.errors import InputError
from flowrl.evaluation.environment_choice import check_spaces, choose_environment
from flowrl.evaluation.episodes import episodes_table, play, versions
from flowrl.evaluation.reference_scores import reference_scores
from flowrl.evaluation.targets import resolve_targets, target_cautions
from flowrl.experiments.options import RunOptions
from flowrl.inspection.steering import judge_steering
from flowrl.nn.normaliser import Normaliser
from flowrl.text import duration
from flowrl.training import distributed
from flowrl.training.config import AgentConfig, TrainingConfig
from flowrl.training.device import choose_device, choose_precision, isolated_rng, peak_memory
from flowrl.training.loop import train
from flowrl.training.rows import EVALUATIONS, Row
from flowrl.training.run_folder import RunFolder
from flowrl.training.tracking import Tracker, warn


class Prepared(NamedTuple):
    """What a run needs, loaded and checked before it begins."""

    dataset: TrajectoryDataset  # the part that is trained on, on the CPU
    columns: list[int] | None  # the features of an observation that the agent is shown; None for all
    env: EnvSpec
    targets: list[float]
    returns: dict[str, Any]  # see `summarise_returns`
    config: AgentConfig  # the agent's, for these data
    training: TrainingConfig  # with a precision other than auto
    device: torch.device


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
            if distributed.from_rank_zero(folder.final_rows, config):
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
                began = time.perf_counter()
                rows = play(learner.actor, prepared.env, prepared.targets, few, device, kind="training", step=step)
                folder.append(EVALUATIONS, rows)
                tracker.record(step, *_evaluation_metrics(rows, options, prepared, step, time.perf_counter() - began))

            train(
                learner, dataset, training, folder,
                seed=options.seed, name=name, evaluate=evaluate, evaluate_every=options.steps_between_evaluations,
            )  # fmt: skip
        if distributed.rank() > 0:  # the rest needs one process
            return folder.path
        episodes, last = options.evaluation.episodes, training.steps
        over = f"{len(prepared.targets)} targets × " if learner.actor.conditioned else ""
        print(f"[{name}] final evaluation: {over}{episodes} episodes", flush=True)
        began = time.perf_counter()
        rows = play(learner.actor, prepared.env, prepared.targets, options.evaluation, device, kind="final", step=last)
        folder.append(EVALUATIONS, rows)
        metrics, line = _evaluation_metrics(rows, options, prepared, last, time.perf_counter() - began)
        with Tracker(folder, name, last, last) as tracker:
            tracker.record(last, metrics | peak_memory(device), line)
        print(episodes_table(rows))
        print(f"[{name}] done: {folder.path}")
    return folder.path


def prepare(options: RunOptions, like: Prepared | None = None, in_memory: TrajectoryDataset | None = None) -> Prepared:
    """Check the options and load the data; nothing is written.

    Args:
        like: of a run on the same data with the same targets, so that they need not be read again.
        in_memory: the dataset, in place of the one that the options name.

    Raises:
        InputError: an option cannot be used.
    """
    options.check()
    device = distributed.local_device(choose_device(options.device))
    distributed.share(options.training.batch_size)
    training = replace(options.training, precision=choose_precision(options.training.precision, device))
    if like is not None:
        config = options.config.for_dataset(like.dataset)
        config.check_memory(Normaliser.of(like.dataset, like.columns), training, device)
        return like._replace(config=config, training=training, device=device)
    dataset, selected, columns = load(in_memory or options.dataset, options.selection, options.env)
    env = choose_environment(options.env, dataset.env_spec, dataset.id, options.env_kwargs)
    check_spaces(env, dataset.observations.shape[1], dataset.actions.shape[1], dataset.discrete_start)
    config = options.config.for_dataset(selected)
    config.check_memory(Normaliser.of(selected, columns), training, device)
    check_record(options.agent, config)
    returns = summarise_returns(dataset, selected, env)
    targets = resolve_targets(options.evaluation.targets, returns["percentiles"])
    return Prepared(selected, columns, env, targets, returns, config, training, device)


def check_record(agent: str, config: AgentConfig) -> None:
    """Raise InputError where a run folder cannot keep an agent's settings."""
    for name, value in config.record().items():
        try:
            json.dumps(value, allow_nan=True)
        except (TypeError, ValueError) as error:
            raise InputError(f"agent {agent}: a run folder cannot keep its {name}, which is {value!r}") from error


def is_finished(options: RunOptions, prepared: Prepared) -> bool:
    """Whether the run with these options is finished; nothing is written.

    Raises:
        InputError: the run folder's checkpoint is of a run with other options, or the folder is damaged.
    """
    folder = RunFolder(options.folder)
    if folder.binding_config() is None:
        return False
    config = describe(options, prepared)
    folder.begin(config)
    return bool(folder.final_rows(config))


def summarise_returns(dataset: TrajectoryDataset, selected: TrajectoryDataset, env: EnvSpec) -> dict[str, Any]:
    """What a run keeps of its dataset's episode returns, so that targets and reports need no dataset.

    Args:
        selected: the part that is trained on; whether returns can steer is judged by it.
    """
    returns, lengths = dataset.returns.double(), dataset.lengths.double()
    known = reference_scores(env.id)
    references = {
        "flowrl": None if known.flowrl is None else (known.flowrl.random, known.flowrl.expert),
        "D4RL": None if known.d4rl is None else (known.d4rl.random, known.d4rl.expert),
    }
    steering = judge_steering(selected, references, np.random.default_rng((0, 2)))  # as an inspection draws by default
    return {
        "steering": {"verdict": steering.verdict, "reason": steering.reason},
        "percentiles": np.percentile(dataset.returns.numpy(), range(101)).tolist(),
        "mean": float(returns.mean()),
        "mean_by_step": float((returns * lengths).sum() / lengths.sum()),  # short failures are many, but few steps
        "episodes": dataset.episodes,
        "steps": dataset.steps,
    }


def describe(options: RunOptions, prepared: Prepared) -> dict[str, Any]:
    """The run's `config.json`: all that decides its numbers, and what is needed to play it without its dataset."""
    dataset = prepared.dataset
    return {
        "agent": options.agent,
        "agent_config": prepared.config.record(),
        "training": asdict(prepared.training),
        "evaluation": asdict(options.evaluation) | {"targets": prepared.targets},
        "evaluate_every": options.steps_between_evaluations,
        "evaluate_episodes": options.evaluate_episodes,
        "seed": options.seed,
        "dataset": dataset.id,
        "selection": asdict(options.selection),
        "fingerprint": dataset.fingerprint,
        "dataset_returns": prepared.returns,
        "observation_size": dataset.observations.shape[1],
        "observation_columns": prepared.columns,
        "action_size": dataset.actions.shape[1],
        "discrete_start": dataset.discrete_start,
        "env_spec": prepared.env.to_json(),
        "device": str(prepared.device),
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "versions": versions(),
        "commit": commit(),
    }


def commit() -> str | None:
    """The git commit of the checkout that flowrl runs from, marked where files are changed; None outside of one."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(checkout), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _introduce(options: RunOptions, prepared: Prepared, *, conditioned: bool) -> None:
    """Say what is about to be trained, and what is probably not meant."""
    dataset, training, device = prepared.dataset, prepared.training, prepared.device
    mine = replace(training, batch_size=distributed.share(training.batch_size))
    warn(*prepared.config.cautions(dataset, mine, device))
    if conditioned:
        warn(*target_cautions(options.evaluation.targets, prepared.returns["percentiles"]))
    if conditioned and prepared.returns["steering"]["verdict"] == "no":
        part = "" if options.selection == Selection() else "the selected part of "
        warn(f"returns are not expected to steer on {part}{options.dataset}: {prepared.returns['steering']['reason']}")
    span = f"returns {float(dataset.returns.min()):,.0f} to {float(dataset.returns.max()):,.0f}"
    size = f"{dataset.episodes:,} episodes, {dataset.steps:,} steps, {span}"
    together = f" in {n} processes" if (n := distributed.world_size()) > 1 else ""
    print(f"[{options.name}] {dataset.id}: {size}; {training.precision} on {device}{together}", flush=True)


def _evaluation_metrics(
    rows: list[Row], options: RunOptions, prepared: Prepared, step: int, seconds: float
) -> tuple[dict[str, float], str]:
    """Metrics of an evaluation, and a line for the console.

    A target is named by its word (`best`, `p90`, `3000`), so that curves of several datasets lie over each other. The
    score is that of the episodes that agents are judged at, by the flowrl references or else D4RL's.
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
    scores = [row["score_d4rl"] if row["score_measured"] is None else row["score_measured"] for row in judged]
    metrics = {
        "eval/return" if target is None else f"eval/return@{words[target]}": mean for target, mean in means.items()
    }
    metrics |= {} if None in scores else {"eval/score": float(np.mean(scores))}
    metrics |= {"eval/length": float(np.mean([row["length"] for row in judged])), "eval/seconds": seconds}
    if None in means:
        return metrics, f"evaluation at step {step:,}: return {means[None]:,.0f}  in {duration(seconds)}"
    pairs = "  ".join(f"{target:,.0f} → {mean:,.0f}" for target, mean in means.items())
    return metrics, f"evaluation at step {step:,} (target → return): {pairs}  in {duration(seconds)}"
