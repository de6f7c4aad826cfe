"""Train an agent on a Minari dataset; the same command goes on where a stopped run left off.

python -m scripts.train flow --dataset flowrl/hopper/medium-replay-v0 --steps 10000
torchrun --nproc-per-node 2 -m scripts.train flow ...    # in two processes, with the same batches
"""

import math
import os
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import tyro
from gymnasium.envs.registration import EnvSpec

from flowrl.agents import AGENTS, BCConfig, SequenceConfig
from flowrl.attention import ATTENTION
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.selection import Selection, folder_name, load
from flowrl.errors import InputError, cause
from flowrl.evaluation.episodes import (
    EvaluationConfig,
    check_spaces,
    choose_device,
    environment,
    play,
    resolve_targets,
    table,
    versions,
)
from flowrl.evaluation.reference_scores import reference_scores
from flowrl.inspection.steering import judge_steering
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.trajectory import TOKENS
from flowrl.scripts.cli import parse, run, warn
from flowrl.training import distributed
from flowrl.training.loop import TrainingConfig, check_batches, choose_precision, isolated_rng, train
from flowrl.training.run_folder import RunFolder
from flowrl.training.tracking import Tracker, duration

DEFAULT_DATASET = "flowrl/hopper/medium-replay-v0"
BYTES_OF_PAIR = 16  # of each head and layer, about: 15 (softmax) and 19 (reformer) at 1,800 tokens, float32


@dataclass(frozen=True)
class Args:
    """Train an agent on a Minari dataset; the same command goes on where a stopped run left off."""

    agent: Annotated[str, tyro.conf.Suppress]
    config: Annotated[SequenceConfig | BCConfig, tyro.conf.AvoidSubcommands]
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    dataset: str = DEFAULT_DATASET
    """Minari id (downloaded if it is not here), the folder of a dataset, or D4RL's name of one whose file is in
    $D4RL_DATASET_DIR. A+B mixes two, A:3+B:1 in these shares."""
    selection: Selection = Selection()
    env: str | None = None
    """Environment id to evaluate in; by default that of the dataset."""
    env_kwargs: tuple[str, ...] = ()
    """What the environment's constructor is told beside or instead of what the dataset's was, as NAME=VALUE:
    length=300. Scores are normalised by the same references all the same."""
    evaluate_every: int = 0
    """Steps between evaluations while training; 0 for one at the end alone."""
    evaluate_episodes: int = 5
    """Episodes per target in the evaluations before the last."""
    seed: int = 0
    """Of initial weights, dropout and data order."""
    run_dir: Path | None = None
    """Where all goes; by default runs/DATASET/AGENT-seedN. An unfinished run there is resumed."""
    device: str = "auto"
    """cpu, cuda, or auto for a GPU where there is one."""
    threads: int = 0
    """CPU threads of each process; 0 for torch's choice."""


def main(args: Args) -> Path:
    """Train to the last step, evaluate the last checkpoint, and return the run folder.

    Raises:
        InputError: what the user gave cannot be used.
        flowrl.training.Stopped: a signal ended it early; it can be resumed.
    """
    folder, name = RunFolder(args.run_dir or default_run_dir(args)), f"{args.agent} seed {args.seed}"
    with ExitStack() as held:  # rank 0's lock on the folder, and torch's generators
        with distributed.group():
            dataset, columns, env, targets, returns, training, device = distributed.rank_zero_first(prepare, args)
            if args.threads:
                torch.set_num_threads(args.threads)
            distributed.from_rank_zero(held.enter_context, folder.locked())
            config = describe(args, dataset, columns, env, targets, returns, training, device)
            distributed.from_rank_zero(folder.begin, config)
            if distributed.from_rank_zero(folder.final_rows, config):
                if distributed.rank() == 0:
                    print(f"[{name}] run {folder.path} is finished: nothing to do")
                return folder.path
            if distributed.rank() == 0:
                if isinstance(args.config, SequenceConfig):
                    sizes = _size_cautions(args.config, dataset, distributed.share(training.batch_size), device)
                    warn(*args.config.cautions(), *sizes, *_steering_cautions(args, returns))
                span = f"returns {float(dataset.returns.min()):,.0f} to {float(dataset.returns.max()):,.0f}"
                size = f"{dataset.episodes:,} episodes, {dataset.steps:,} steps, {span}"
                together = f" in {n} processes" if (n := distributed.world_size()) > 1 else ""
                print(f"[{name}] {dataset.id}: {size}; {training.precision} on {device}{together}", flush=True)
            dataset = dataset.to(device)
            held.enter_context(isolated_rng(args.seed, device))
            agent = args.config.build(Normaliser.of(dataset, columns)).to(device)

            def evaluate(step: int, tracker: Tracker) -> None:
                few = replace(args.evaluation, episodes=args.evaluate_episodes)
                began = time.perf_counter()
                rows = play(agent, env, targets, few, device, kind="training", step=step)
                folder.append("evaluations.jsonl", rows)
                tracker.record(step, *_evaluation_figures(rows, step, time.perf_counter() - began))

            train(
                agent, dataset, training, folder,
                seed=args.seed, name=name, evaluate=evaluate, evaluate_every=args.evaluate_every,
            )  # fmt: skip
        if distributed.rank() > 0:  # the rest needs one process
            return folder.path
        print(f"[{name}] final evaluation: {len(targets)} targets × {args.evaluation.episodes} episodes", flush=True)
        began = time.perf_counter()
        last = training.steps
        rows = play(agent, env, targets, args.evaluation, device, kind="final", step=last)
        folder.append("evaluations.jsonl", rows)
        figures, line = _evaluation_figures(rows, last, time.perf_counter() - began)
        with Tracker(folder, name, last, last) as tracker:
            tracker.record(last, figures | _peak_memory(device), line)
        print(table(rows))
        print(f"[{name}] done: {folder.path}")
    return folder.path


class Prepared(NamedTuple):
    """What a run needs, found and checked before it begins."""

    dataset: TrajectoryDataset  # what is trained on, on the CPU
    columns: list[int] | None  # the features of an observation that the agent is shown; None for all
    env: EnvSpec
    targets: list[float]
    returns: dict[str, Any]  # see `summarise_returns`
    training: TrainingConfig  # with no choice left to the device
    device: torch.device


def prepare(args: Args, like: Prepared | None = None) -> Prepared:
    """Check what the user gave and load the data; nothing is written.

    Args:
        like: of a run on the same data with the same targets, so that they need not be read again.

    Raises:
        InputError: what the user gave cannot be used.
    """
    for name, least in (("evaluate_every", 0), ("evaluate_episodes", 1), ("seed", 0), ("threads", 0)):
        if not least <= (value := getattr(args, name)) < 2**31:
            raise InputError(f"{name} is {value}: it must be at least {least} and below 2^31")
    device = distributed.local_device(choose_device(args.device))
    distributed.share(args.training.batch_size)
    carries = isinstance(args.config, SequenceConfig) and args.config.carry_state
    check_batches(args.training, args.config.context, carries=carries)
    training = replace(args.training, precision=choose_precision(args.training.precision, device))
    if like is not None:
        return like._replace(training=training, device=device)
    dataset, selected, columns = load(args.dataset, args.selection, args.env)
    env = environment(args.env, dataset.env_spec, dataset.id, args.env_kwargs)
    try:
        env.to_json()
    except (ValueError, TypeError) as error:
        raise InputError(f"environment {env.id} cannot be kept with the run: {cause(error)}") from error
    check_spaces(env, dataset.observations.shape[1], dataset.actions.shape[1], dataset.discrete_start)
    returns = summarise_returns(dataset, selected, env)
    targets = resolve_targets(args.evaluation.targets, returns["percentiles"])
    return Prepared(selected, columns, env, targets, returns, training, device)


def is_finished(args: Args, prepared: Prepared) -> bool:
    """Whether the run is finished that these options ask for; nothing is written.

    Raises:
        InputError: the run folder's checkpoint is of a run with other options, or the folder is damaged.
    """
    folder = RunFolder(args.run_dir or default_run_dir(args))
    if folder.binding_config() is None:
        return False
    config = describe(args, *prepared)
    folder.begin(config)
    return bool(folder.final_rows(config))


def summarise_returns(dataset: TrajectoryDataset, selected: TrajectoryDataset, env: EnvSpec) -> dict[str, Any]:
    """What a run keeps of its dataset's episode returns, so that targets and reports need no dataset.

    Args:
        selected: the part of it that is trained on, which is what must be able to steer.
    """
    returns, lengths = dataset.returns.double(), dataset.lengths.double()
    known = reference_scores(env.id)
    references = {
        "own": None if known.flowrl is None else (known.flowrl.random, known.flowrl.expert),
        "D4RL": None if known.d4rl is None else (known.d4rl.random, known.d4rl.expert),
    }
    steered = judge_steering(selected, references, np.random.default_rng((0, 2)))  # scripts.inspect draws so by default
    return {
        "steering": {"verdict": steered.verdict, "reason": steered.reason},
        "percentiles": np.percentile(dataset.returns.numpy(), range(101)).tolist(),
        "mean": float(returns.mean()),
        "mean_by_step": float((returns * lengths).sum() / lengths.sum()),  # short failures are many, but few steps
        "episodes": dataset.episodes,
        "steps": dataset.steps,
    }


def _size_cautions(
    config: SequenceConfig, dataset: TrajectoryDataset, batch_size: int, device: torch.device
) -> list[str]:
    """What a training step of this process does in vain, or may have no memory for."""
    told, longest = [], int(dataset.lengths.max())
    if config.context != "episode" and config.context > longest:
        told.append(f"context is {config.context:,} and the longest episode has {longest:,} steps: the rest is padding")
    if ATTENTION[config.attention].keeps_pairs(device.type, config.dropout):
        steps = longest if config.context == "episode" else config.context
        tokens = steps * len(TOKENS[config.tokens])
        layers = 1 if config.recompute else config.layers
        needed = BYTES_OF_PAIR * batch_size * layers * config.heads * tokens**2
        if needed > (memory := _memory(device)) / 2:
            what = "episodes of up to" if config.context == "episode" else "windows of"
            told.append(
                f"attention {config.attention} keeps numbers of all pairs of tokens: {batch_size} {what} {steps:,}"
                f" steps may take {needed / 1e9:,.0f} GB, and the {device.type} has {memory / 1e9:,.0f} GB"
                " (--batch-size, --recompute)"
            )
    return told


def _memory(device: torch.device) -> float:
    """Bytes of the device that trains; without bound where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        return math.inf


def _steering_cautions(args: Args, returns: dict[str, Any]) -> list[str]:
    judged = returns["steering"]
    if judged["verdict"] != "no":
        return []
    whose = f"of {args.dataset}" if args.selection == Selection() else f"that are selected of {args.dataset}"
    return [f"the returns {whose} are not expected to steer an agent: {judged['reason']}"]


def default_run_dir(args: Args) -> Path:
    """runs/DATASET/AGENT-seedN, the dataset's slashes and colons as dashes."""
    return Path("runs") / folder_name(args.dataset) / f"{args.agent}-seed{args.seed}"


def describe(
    args: Args,
    dataset: TrajectoryDataset,
    columns: list[int] | None,
    env: EnvSpec,
    targets: list[float],
    returns: dict[str, Any],
    training: TrainingConfig,
    device: torch.device,
) -> dict[str, Any]:
    """Everything that decides a run's numbers, and what is needed to play it without its dataset."""
    return {
        "agent": args.agent,
        "agent_config": args.config.record(),
        "training": asdict(training),
        "evaluation": asdict(args.evaluation) | {"targets": targets},
        "evaluate_every": args.evaluate_every,
        "evaluate_episodes": args.evaluate_episodes,
        "seed": args.seed,
        "dataset": dataset.id,
        "selection": asdict(args.selection),
        "fingerprint": dataset.fingerprint,
        "dataset_returns": returns,
        "observation_size": dataset.observations.shape[1],
        "observation_columns": columns,
        "action_size": dataset.actions.shape[1],
        "discrete_start": dataset.discrete_start,
        "env_spec": env.to_json(),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "versions": versions(),
    }


def _peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory that this process has held, in bytes: resident, and on its GPU if it has one."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux's ru_maxrss counts what the process was before it became this program
        peak = 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    else:  # macOS: in bytes
        import resource  # not on every system

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    on_gpu = {"memory/peak_gpu_bytes": float(torch.cuda.max_memory_allocated(device))}
    return {"memory/peak_bytes": float(peak)} | (on_gpu if device.type == "cuda" else {})


def _evaluation_figures(rows: list[dict[str, Any]], step: int, seconds: float) -> tuple[dict[str, float], str]:
    means = {
        target: float(np.mean([r["return"] for r in rows if r["target"] == target]))
        for target in dict.fromkeys(r["target"] for r in rows)
    }
    figures = {f"return/target_{target:g}": mean for target, mean in means.items()}
    told = "  ".join(f"{target:,.0f} → {mean:,.0f}" for target, mean in means.items())
    return figures | {
        "evaluate/seconds": seconds
    }, f"evaluation at step {step:,} (target → return): {told}  in {duration(seconds)}"


def parse_args(argv: list[str]) -> Args:
    """AGENT and its options; the agent's preset gives the defaults.

    Raises:
        InputError: the agent or an option is unknown.
    """
    known = ", ".join(AGENTS)
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        print("agents (`python -m scripts.train AGENT --help` lists the options of one):")
        print("\n".join(f"  {name:<11} {preset.description}" for name, preset in AGENTS.items()))
        raise SystemExit(0 if argv else 2)
    name, *options = argv
    if name not in AGENTS:
        raise InputError(f"unknown agent {name!r}: known are {known}")
    preset = AGENTS[name]
    return parse(Args, options, Args(agent=name, config=preset.config, training=preset.training), after=name)


def start(argv: list[str]) -> None:
    """Parse the command line and run."""
    main(parse_args(argv))


if __name__ == "__main__":
    run(start, parallel=True)
