"""What is in a dataset, whether it is sound, whether returns can steer an agent, and whether it needs stitching."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import minari
import numpy as np
from gymnasium.envs.registration import EnvSpec

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.minari_store import open_dataset
from flowrl.errors import InputError
from flowrl.evaluation.action_bounds import settle_bounds
from flowrl.evaluation.agreement import Agreement, agree, check_spaces, outside_bounds
from flowrl.evaluation.environment_choice import choose_environment
from flowrl.evaluation.environments import make_env
from flowrl.evaluation.recorded import Recorded
from flowrl.evaluation.trust import check_spec, trusting
from flowrl.inspection.alignment import Alignment
from flowrl.inspection.features import Layout
from flowrl.inspection.references import TRUSTED, References, dataset_references
from flowrl.inspection.refusals import load
from flowrl.inspection.result import Inspection, metadata
from flowrl.inspection.simulator import check_alignment
from flowrl.inspection.statistics import summarise
from flowrl.inspection.steering import judge_steering
from flowrl.inspection.stitching import Stitching, evaluation_starts, judge_stitching
from flowrl.inspection.warnings import find_warnings

__all__ = ["inspect_dataset"]


def inspect_dataset(
    dataset: minari.MinariDataset | str,
    *,
    env: str | None = None,
    transitions: int = 100,
    seed: int = 0,
    trust: bool = False,
    say: Callable[[str], None] = lambda step: None,
) -> Inspection:
    """Inspect a dataset; one that training would refuse is inspected as far as it can be read.

    Args:
        dataset: opened, or its Minari id or folder.
        env: the environment to check the transitions against; None takes the one that the dataset names.
        transitions: how many stored transitions to check against the simulator, about; 0 leaves the simulator out, and
            stitching is judged from where the data start.
        seed: of what is drawn: which transitions, which steps.
        trust: run whatever code the dataset names as its environment, see `flowrl.evaluation.trust`.
        say: called with the name of each step before it begins.

    Raises:
        InputError: there is no such dataset or environment, its code may not be run, or a number is negative.
    """
    if transitions < 0 or seed < 0:
        raise InputError(f"transitions and seed must be at least 0, not {transitions} and {seed}")
    if env is not None:
        _check_env(env)
    if isinstance(dataset, str):
        dataset = open_dataset(dataset)
    with trusting(trust, str(dataset.storage.data_path)):
        if env is None and transitions and dataset.env_spec is not None:
            with suppress(ImportError):  # the alignment says so
                check_spec(dataset.env_spec)
        return _inspect(dataset, env, transitions, seed, say)


def _inspect(
    dataset: minari.MinariDataset, env: str | None, transitions: int, seed: int, say: Callable[[str], None]
) -> Inspection:
    arrays, loaded, refused = load(dataset)
    # References belong to the environment that the returns are from, whatever simulator checks them.
    references = dataset_references(dataset, env if dataset.env_spec is None else dataset.env_spec.id)
    statistics = alignment = steering = stitching = agreement = None
    if arrays is not None:
        say("summarising the arrays")
        indices = dataset.episode_indices[arrays.places].tolist()
        statistics = summarise(arrays, indices, Layout.of(dataset), references)
        if transitions:
            say("checking transitions against the simulator")
            alignment = _alignment(dataset, loaded, env, transitions, seed)
    if loaded is not None:
        say("judging whether returns can steer")
        by_trust = {name: references[name] for name in TRUSTED}
        steering = judge_steering(loaded, by_trust, np.random.default_rng((seed, 2)))
        say("judging whether it needs stitching")
        agreement, problem = _agreement(loaded, env, played=transitions > 0)
        refused = [*refused, *problem]
        stitching = _stitching(loaded, agreement.env, by_trust, seed)
    warnings = find_warnings(statistics, alignment, references)
    if agreement is not None:
        refused = [*refused, *(finding.sentence for finding in agreement.findings if finding.kind == "wrong")]
        warnings += agreement.warnings
    return Inspection(
        id=dataset.id,
        fingerprint=None if loaded is None else loaded.fingerprint,
        metadata=metadata(dataset),
        references=references,
        refused=refused,
        warnings=warnings,
        notes=[] if agreement is None else agreement.notes,
        statistics=statistics,
        alignment=alignment,
        steering=steering,
        stitching=stitching,
    )


def _agreement(dataset: TrajectoryDataset, env: str | None, *, played: bool) -> tuple[Agreement, list[str]]:
    """With the environment that it would be played in; where there is none that can be made here, of itself.

    Args:
        played: False makes no environment.

    Returns:
        Also why training would refuse its evaluation environment; of the one it was recorded in the alignment says.
    """
    recorded, problem = Recorded.of(dataset), []
    stated = outside_bounds(recorded)  # the statistics have it
    agreement = None
    if played and (env is not None or dataset.evaluation_env is not None):
        try:
            spec = choose_environment(env, dataset.evaluation_env, dataset.id)
            agreement = agree(spec, recorded, chosen=env is not None, dataset=dataset)
        except InputError as error:
            if env is None and dataset.evaluation_env != dataset.env_spec:
                problem.append(str(error))
    agreement = agreement or agree(None, recorded, chosen=False)
    return replace(agreement, findings=tuple(f for f in agreement.findings if f != stated)), problem


def _alignment(
    dataset: minari.MinariDataset, loaded: TrajectoryDataset | None, env: str | None, transitions: int, seed: int
) -> Alignment:
    """In the recorded environment or the chosen one; with scaled actions where these explain the data better."""

    def check(simulator: str | EnvSpec | None) -> Alignment:
        return check_alignment(dataset, simulator, transitions, np.random.default_rng((seed, 1)))

    plain = check(env or dataset.env_spec)
    if plain.aligned or loaded is None or (scaled := _scaled(dataset, loaded, env)) is None:
        return plain
    return max(plain, check(scaled), key=lambda alignment: alignment.certainty)


def _scaled(dataset: minari.MinariDataset, loaded: TrajectoryDataset, env: str | None) -> EnvSpec | None:
    """The recorded environment or the chosen one, with scaled actions; None where nothing speaks for scaling."""
    try:
        spec = choose_environment(env, dataset.env_spec, dataset.id)
        check_spaces(spec, loaded.observations.shape[1], loaded.actions.shape[1], loaded.discrete_start)
        playing = make_env(spec)
        playing.close()
    except ValueError:  # the alignment says why
        return None
    settled, _ = settle_bounds(spec, playing.action_space, Recorded.of(loaded), loaded)
    return None if settled is spec else settled


def _stitching(dataset: TrajectoryDataset, env: EnvSpec | None, references: References, seed: int) -> Stitching:
    """Judged from where `env` starts, or where that cannot be made here from where the data do."""
    starts = None
    if env is not None:
        with suppress(ValueError):  # the alignment says why
            starts = evaluation_starts(env, seed)
    judging = dataset.evaluation_env
    horizon = None if judging is None else judging.max_episode_steps
    return judge_stitching(dataset, starts, horizon, references, np.random.default_rng((seed, 3)))


def _check_env(env_id: str) -> None:
    try:
        make_env(env_id).close()
    except ValueError as error:
        raise InputError(str(error)) from error
