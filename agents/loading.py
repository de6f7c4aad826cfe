"""From a run folder to its trained actor, with no dataset at hand."""

from pathlib import Path
from typing import NamedTuple

import torch

from flowrl.agents.policy import Policy
from flowrl.agents.registry import find_agent
from flowrl.errors import InputError, cause
from flowrl.nn.acting import RolloutMode
from flowrl.nn.normaliser import Normaliser
from flowrl.protocols import Actor
from flowrl.training.checkpoint import UNFIT, check_run, restore
from flowrl.training.config import AgentConfig, TrainingConfig
from flowrl.training.device import choose_device, isolated_rng
from flowrl.training.run_folder import CHECKPOINT, PREVIOUS, RunFolder


class LoadedAgent(NamedTuple):
    """A run's agent with the weights of its last checkpoint."""

    actor: Actor  # in evaluation mode
    config: AgentConfig
    step: int


def load_policy(
    run_dir: Path | str,
    *,
    device: str = "cpu",
    rollout: RolloutMode | None = None,
    acting_context: int | None = None,
) -> Policy:
    """A run's last checkpoint as a policy; with a warning the one before, if the last one is damaged.

    Args:
        run_dir: a run folder.
        device: cpu, cuda, or auto for a GPU if there is one.
        rollout: how a sequence agent acts; None as it was trained.
        acting_context: steps that its window rollout re-reads, or between the states of a staggered one; None as it was
            trained.

    Raises:
        InputError: the folder holds no run or no checkpoint yet, is damaged, or has no such rollout; or there is
            no such device.
    """
    run, on = RunFolder(run_dir), choose_device(device)
    loaded = load_agent(run, on, rollout=rollout, acting_context=acting_context)
    config = run.config() or {}
    return Policy(loaded.actor, on, config["observation_size"], config["discrete_start"])


def load_agent(
    run: RunFolder,
    device: torch.device,
    *,
    rollout: RolloutMode | None = None,
    acting_context: int | None = None,
) -> LoadedAgent:
    """A run's agent with the weights of its last checkpoint; arguments and errors as of `load_policy`."""
    config = run.config()
    if config is None:
        raise InputError(f"{run.path} is no run folder: it holds no config.json")
    checkpoint = run.load()
    if checkpoint is None:
        spare = f" ({PREVIOUS} is there: rename it to {CHECKPOINT})" if (run.path / PREVIOUS).exists() else ""
        raise InputError(f"run folder {run.path} holds no checkpoint yet{spare}")
    try:
        settings = type(find_agent(config["agent"]).config).from_record(config["agent_config"])
        training = TrainingConfig(**config["training"])
        check_run(checkpoint, config, run.path)  # before networks are made as large as a damaged configuration says
        normaliser = Normaliser(
            config["observation_size"],
            config["action_size"],
            columns=config["observation_columns"],
            discrete=config["discrete_start"] is not None,
        )
        settings = settings.acting(rollout, acting_context)
        with isolated_rng(0, device):  # the initial weights are replaced at once
            learner = settings.build(normaliser, training, device)
    except InputError:
        raise
    except (*UNFIT, MemoryError) as error:
        raise InputError(
            f"{run.path / 'config.json'} was written by another version of flowrl: it cannot be loaded ({cause(error)})"
        ) from error
    restore(learner, checkpoint, config, run.path)
    learner.actor.train(False)
    return LoadedAgent(learner.actor, settings, checkpoint["step"])
