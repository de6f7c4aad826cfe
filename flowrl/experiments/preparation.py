"""What a run needs, loaded and checked before it begins, and the configuration that its folder keeps."""

import json
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.selection import load
from flowrl.errors import InputError
from flowrl.evaluation.agreement import Agreement, agree
from flowrl.evaluation.environment_choice import choose_environment
from flowrl.evaluation.episodes import EvaluationConfig, EvaluationEnvironment, versions
from flowrl.evaluation.recorded import KEPT, Recorded
from flowrl.evaluation.reference_scores import DatasetReference, reference_scores, usable_reference
from flowrl.evaluation.targets import resolve_targets
from flowrl.evaluation.trial import UNTRIED, Trial, try_environment
from flowrl.experiments.options import RunOptions
from flowrl.inspection.steering import judge_steering
from flowrl.nn.normaliser import Normaliser
from flowrl.training import distributed
from flowrl.training.config import AgentConfig, TrainingConfig
from flowrl.training.device import choose_device, choose_precision
from flowrl.training.run_folder import NO_ENVIRONMENT, RunFolder


class Prepared(NamedTuple):
    """What a run needs, loaded and checked before it begins."""

    dataset: TrajectoryDataset  # the part that is trained on, on the CPU
    columns: list[int] | None  # the features of an observation that the agent is shown; None for all
    env: EvaluationEnvironment | None  # None: nothing is played
    env_cautions: tuple[str, ...]  # of its trial
    targets: list[float]
    returns: dict[str, Any]  # see `summarise_returns`
    config: AgentConfig  # the agent's, for these data
    training: TrainingConfig  # with a precision other than auto
    device: torch.device
    recorded: Recorded  # what of the whole dataset its environment was compared with
    agreement: Agreement


def prepare(options: RunOptions, like: Prepared | None = None, in_memory: TrajectoryDataset | None = None) -> Prepared:
    """Check the options and load the data; nothing is written.

    Args:
        like: of a run on the same data with the same targets, so that they need not be read again.
        in_memory: the dataset, in place of the one that the options name.

    Raises:
        InputError: an option cannot be used, or the environment fails at its first step.
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
    recorded = Recorded.of(dataset)
    agreement = agree(_environment(options, dataset), recorded, chosen=options.env is not None, dataset=dataset)
    agreement.check()
    spec = agreement.env
    config = options.config.for_dataset(selected)
    config.check_memory(Normaliser.of(selected, columns), training, device)
    check_record(options.agent, config)
    reference = _dataset_reference(options, dataset, spec)
    returns = summarise_returns(dataset, selected, spec, reference)
    targets = resolve_targets(options.evaluation.targets, returns["percentiles"])
    trial = _tried(spec, options.evaluation, len(targets))
    env = None if spec is None else EvaluationEnvironment(spec, reference, selected.offset, trial.one_at_a_time)
    return Prepared(
        selected, columns, env, trial.cautions, targets, returns, config, training, device, recorded, agreement
    )


def _environment(options: RunOptions, dataset: TrajectoryDataset) -> EnvSpec | None:
    if options.env == NO_ENVIRONMENT:
        return None
    if options.env is None and dataset.declared.environment_problem is not None:
        problem = (
            f"the environment that dataset {dataset.id} names cannot be read ({dataset.declared.environment_problem})"
        )
        raise InputError(f"{problem}: choose one (env)")
    if options.env is None and dataset.evaluation_env is None:
        raise InputError(
            f"dataset {dataset.id} names no environment: choose one (env); a training alone can also do without and"
            f" play nothing (env {NO_ENVIRONMENT})"
        )
    return choose_environment(options.env, dataset.evaluation_env, dataset.id, options.env_kwargs)


def _tried(env: EnvSpec | None, evaluation: EvaluationConfig, targets: int) -> Trial:
    """A trial of the environment by rank 0, which alone plays."""
    if env is None or distributed.rank() > 0:
        return UNTRIED
    episodes = evaluation.episodes * targets
    return try_environment(env, mode=evaluation.vector, seed=evaluation.episode_seed, episodes=episodes)


def _dataset_reference(options: RunOptions, dataset: TrajectoryDataset, env: EnvSpec | None) -> DatasetReference | None:
    """The reference scores stored with a dataset, of the environment that it is meant to be played in."""
    usable, _ = usable_reference(dataset.declared.references)
    if usable is None:
        return None
    of = env if options.env is None else dataset.evaluation_env
    return DatasetReference(usable.random, usable.expert, None if of is None else of.id)


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
    return folder.is_finished(config)


def summarise_returns(
    dataset: TrajectoryDataset,
    selected: TrajectoryDataset,
    env: EnvSpec | None,
    reference: DatasetReference | None = None,
) -> dict[str, Any]:
    """What a run keeps of its dataset's episode returns, so that targets and reports need no dataset.

    Args:
        selected: the part that is trained on; whether returns can steer is judged by it.
        env: None where nothing is played.
        reference: stored with the dataset.
    """
    returns, lengths = dataset.returns.double(), dataset.lengths.double()
    known = reference_scores("" if env is None else env.id, reference)
    by_trust = {"flowrl": known.flowrl, "dataset": known.dataset, "D4RL": known.d4rl}
    references = {name: None if each is None else (each.random, each.expert) for name, each in by_trust.items()}
    steering = judge_steering(selected, references, np.random.default_rng((0, 2)))  # as an inspection draws by default
    return {
        "steering": {"verdict": steering.verdict, "reason": steering.reason},
        "percentiles": np.percentile(dataset.returns.numpy(), range(101)).tolist(),
        "mean": float(returns.mean()),
        "mean_by_step": float((returns * lengths).sum() / lengths.sum()),  # short failures are many, but few steps
        "episodes": dataset.episodes,
        "steps": dataset.steps,
        "reference": None if reference is None else reference.record(),
    }


def describe(options: RunOptions, prepared: Prepared) -> dict[str, Any]:
    """The run's `config.json`: all that decides its numbers, and what is needed to play it without its dataset."""
    dataset = prepared.dataset
    # These two only where there is something to say, so that runs of earlier versions can be resumed.
    boundary = {} if dataset.offset is None else {"observation_offset": dataset.offset.tolist()}
    boundary |= {} if dataset.whole_actions is None else {"whole_actions": dataset.whole_actions}
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
        KEPT: prepared.recorded.record(),
        "observation_size": dataset.observations.shape[1],
        "observation_columns": prepared.columns,
        "action_size": dataset.actions.shape[1],
        "discrete_start": dataset.discrete_start,
        **boundary,
        "env_spec": NO_ENVIRONMENT if prepared.env is None else prepared.env.spec.to_json(),
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
