"""Trained agents that are ready to play, each in the environment that it was trained for or another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from gymnasium.envs.registration import EnvSpec

from flowrl.agents.loading import load_agent
from flowrl.data.stored_environments import read_spec
from flowrl.errors import InputError
from flowrl.evaluation.agreement import agree
from flowrl.evaluation.environment_choice import choose_environment
from flowrl.evaluation.episodes import EvaluationConfig, EvaluationEnvironment
from flowrl.evaluation.recorded import Recorded
from flowrl.evaluation.reference_scores import DatasetReference
from flowrl.evaluation.trial import Trial, try_environment
from flowrl.nn.acting import RolloutMode
from flowrl.protocols import Actor
from flowrl.report import Run, label_of
from flowrl.text import one_line
from flowrl.training.rows import Row
from flowrl.training.run_folder import NO_ENVIRONMENT, RunFolder
from flowrl.training.tracking import warn

__all__ = ["PlayOptions", "PlayableRun", "load_run", "try_environments"]


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
    trust: bool = False
    """Run whatever code the run names as its environment and agent, also what neither Gymnasium nor your own modules
    have."""
    out: Path | None = None
    """Also write a report of the runs into this folder: report.html, report.md, results.json. The rows of a run whose
    own folder cannot be written to go there as well."""
    study: bool = True
    """With a report, also study the first run of every agent: how its action depends on the target return, what it
    attends to, a clip. A study shows a run as it was trained, so there is none where env, env_kwargs, rollout or
    acting_context are given."""

    @property
    def as_trained(self) -> bool:
        """Whether agents are played in their environment and in their way."""
        return self.rollout is None and self.acting_context is None and self.env is None and not self.env_kwargs


@dataclass(frozen=True, eq=False)
class PlayableRun:
    """A run that is ready to play."""

    folder: RunFolder
    config: dict[str, Any]
    actor: Actor
    step: int
    env: EvaluationEnvironment

    @property
    def label(self) -> str:
        return label_of(self.folder.path)

    def load(self, episodes: Sequence[Row] | None, **options: Any) -> Run:
        """The finished run, for a report."""
        return Run.load(self.folder, self.label, episodes=episodes, **options)


def load_run(folder: RunFolder, options: PlayOptions, device: torch.device) -> PlayableRun:
    """Load a run's last checkpoint, and compare the environment to play in with the run's data; what is odd is said.

    Raises:
        InputError: there is no such run, it is damaged or of another version, or its environment cannot be used.
    """
    loaded = load_agent(folder, device, rollout=options.rollout, acting_context=options.acting_context)
    config = folder.config() or {}
    try:
        spec, recorded = config["env_spec"], Recorded.from_config(config)
        if config["dataset_returns"]["percentiles"] is None:
            raise KeyError("dataset_returns.percentiles")
        reference = DatasetReference.from_record(config["dataset_returns"].get("reference"))
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{folder.path / 'config.json'} was written by another version of flowrl: it has no {error}"
        ) from error
    except ValueError as error:
        raise InputError(f"{folder.path / 'config.json'} is damaged: {error}") from error
    if spec == NO_ENVIRONMENT and options.env is None:
        raise InputError(f"run {folder.path} was trained without an environment: choose one to play it in (env)")
    stored = _stored_spec(folder, spec, options)
    env = choose_environment(options.env, stored, recorded.dataset, options.env_kwargs)
    agreement = agree(env, recorded, chosen=options.env is not None)
    agreement.check()
    assert agreement.env is not None
    warn(*agreement.warnings, *loaded.config.acting_cautions())
    for note in agreement.notes:
        print(one_line(note))
    playing = EvaluationEnvironment(agreement.env, reference, config.get("observation_offset"))
    return PlayableRun(folder, config, loaded.actor, loaded.step, playing)


def try_environments(runs: Sequence[PlayableRun], evaluation: EvaluationConfig, targets: int) -> list[PlayableRun]:
    """The runs, after a trial of every environment before any is played for long; what is odd is said."""
    trials: dict[str, Trial] = {}
    ready, episodes = [], evaluation.episodes * targets
    for run in runs:
        spec = run.env.spec
        if (key := spec.to_json()) not in trials:
            trials[key] = try_environment(spec, mode=evaluation.vector, seed=evaluation.episode_seed, episodes=episodes)
            warn(*trials[key].cautions)
        ready.append(replace(run, env=replace(run.env, one_at_a_time=trials[key].one_at_a_time)))
    return ready


def _stored_spec(folder: RunFolder, stored: str | None, options: PlayOptions) -> EnvSpec | None:
    """The environment that a run was evaluated in; it need not be readable where another is given."""
    if stored is None or options.env is not None:
        return None
    try:
        return read_spec(stored)
    except InputError as error:
        raise InputError(
            f"the environment in {folder.path / 'config.json'} cannot be read ({error}): choose one (env)"
        ) from error
