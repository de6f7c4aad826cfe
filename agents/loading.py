"""From a run folder to its agent, with no dataset at hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from flowrl.agents.bc import BCAgent
from flowrl.agents.policy import Policy
from flowrl.agents.registry import AGENTS
from flowrl.agents.sequence import Rollout, SequenceAgent, SequenceConfig
from flowrl.errors import InputError
from flowrl.nn.normaliser import Normaliser
from flowrl.training.loop import isolated_rng, load_weights
from flowrl.training.run_folder import RunFolder


def load_policy(
    run_dir: Path | str,
    *,
    device: str = "cpu",
    rollout: Rollout | None = None,
    acting_context: int | None = None,
) -> Policy:
    """A run's last checkpoint as a policy.

    Args:
        run_dir: a folder that `scripts.train` made.
        rollout: how a sequence agent acts; None as it was configured.
        acting_context: steps that its window rollout re-reads, or between the states of a staggered one; None as it was
            configured.

    Raises:
        InputError: the folder holds no run or no checkpoint yet, is damaged, or its agent has no such rollout.
    """
    run = RunFolder(run_dir)
    agent, _ = load_agent(run, torch.device(device), rollout=rollout, acting_context=acting_context)
    config = run.config() or {}
    return Policy(agent.eval(), torch.device(device), config["observation_size"], config["discrete_start"])


def load_agent(
    run: RunFolder,
    device: torch.device,
    *,
    rollout: Rollout | None = None,
    acting_context: int | None = None,
) -> tuple[SequenceAgent | BCAgent, int]:
    """A run's agent with the weights of its last checkpoint, and the step of that; raises as `load_policy` does."""
    config = run.config()
    if config is None:
        raise InputError(f"{run.path} is no run folder: it holds no config.json")
    checkpoint = run.load()
    if checkpoint is None:
        raise InputError(f"run folder {run.path} holds no checkpoint yet")
    try:
        agent_config = _agent_config(config["agent"], config["agent_config"])
        normaliser = Normaliser(
            config["observation_size"],
            config["action_size"],
            columns=config["observation_columns"],
            discrete=config["discrete_start"] is not None,
        )
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{run.path / 'config.json'} is of another version of flowrl: {error}") from error
    asked = {"rollout": rollout, "acting_context": acting_context}
    if changed := {name: value for name, value in asked.items() if value is not None}:
        if not isinstance(agent_config, SequenceConfig):
            raise InputError(f"agent {config['agent']} has no {' or '.join(changed)} to choose: it does not look back")
        try:
            if rollout not in (None, agent_config.acts):
                changed = {"acting_context": None} | changed  # the run's was of another rollout
            agent_config = replace(agent_config, **changed)
        except ValueError as error:
            raise InputError(str(error)) from error
    with isolated_rng(0, device):  # the weights that are drawn here are replaced at once
        agent = agent_config.build(normaliser).to(device)
    load_weights(agent, checkpoint, run)
    return agent, checkpoint["step"]


def _agent_config(name: str, values: dict[str, Any]) -> Any:
    if name not in AGENTS:
        raise InputError(f"unknown agent {name!r}: known are {', '.join(AGENTS)}")
    return type(AGENTS[name].config)(**values)
