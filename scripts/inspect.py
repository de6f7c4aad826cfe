"""Say what is in a dataset: one screen, one self-contained page, and every figure as JSON.

    python -m scripts.inspect flowrl/hopper/medium-replay-v0

Run it as a module only: as a file, `inspect.py` would take the place of the standard library's `inspect`.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import minari
import numpy as np
import tyro
from numpy.typing import NDArray

from flowrl.data.minari_store import open_dataset
from flowrl.data.spaces import columns, leaves
from flowrl.data.stored_arrays import observation_rows
from flowrl.errors import InputError, cause
from flowrl.evaluation.environments import FlatObservation, make_env
from flowrl.evaluation.reference_scores import reference_scores
from flowrl.inspection import (
    ACTIONS,
    REPRODUCED,
    Alignment,
    Inspection,
    SeededReplay,
    TransitionErrors,
    count_figures,
    find_warnings,
    judge_alignment,
    load,
    metadata,
    reset_seeds,
    screen,
    write_inspection,
)
from flowrl.inspection.replay import Replayed, distance, is_clipped, replay, step_from
from flowrl.inspection.steering import judge_steering
from flowrl.scripts.cli import parse, run
from flowrl.scripts.import_d4rl import resolve

SEEDED_STEPS = 3_000  # about so many are played again from recorded seeds
SEEDED_EPISODES = 10
SEEDS_READ = 200
QUIET = 3.0  # seconds without a word on progress


@dataclass(frozen=True)
class Args:
    """Say what is in a dataset, whether it is sound, and whether returns can steer what is trained on it."""

    dataset: Annotated[str, tyro.conf.Positional]
    """Minari id, a dataset's folder, or D4RL's name of a dataset whose file is in $D4RL_DATASET_DIR."""
    out: Path | None = None
    """Folder for index.html, returns.png and summary.json; if not given: runs/inspect/ID-WITH-DASHES."""
    env: str | None = None
    """Environment to check the transitions against; if not given: the one that the dataset names."""
    transitions: int = 100
    """How many stored transitions to check against the simulator; 0 leaves the simulator out."""
    seed: int = 0
    """Of what is drawn: which transitions, which steps."""


def main(args: Args) -> Inspection:
    """Inspect a dataset, print the screen and write the files.

    Raises:
        InputError: there is no such dataset, the environment asked for is unknown, or a number is out of range.
    """
    if args.transitions < 0 or args.seed < 0:
        raise InputError(f"--transitions and --seed must be at least 0, not {args.transitions} and {args.seed}")
    if args.env is not None:
        _made(args.env).close()
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out {args.out} is a file: it must be a folder, or not be there yet")
    dataset = open_dataset(resolve(args.dataset))
    began = time.monotonic()

    def say(what: str) -> None:
        if time.monotonic() - began > QUIET:
            print(f"{what} ({time.monotonic() - began:.0f} s)", flush=True)

    arrays, loaded, refused = load(dataset)
    # References belong to the environment that the returns are from, whatever simulator is asked.
    env_id = args.env if dataset.env_spec is None else dataset.env_spec.id
    about = metadata(dataset)
    references = _references(dataset, env_id)
    found = alignment = steered = None
    if arrays is not None:
        say("counting")
        box = dataset.action_space if isinstance(dataset.action_space, gym.spaces.Box) else None
        found = count_figures(
            arrays,
            dataset.episode_indices.tolist(),
            observation_names=columns(leaves(dataset.observation_space, "observation"), "observation"),
            action_names=columns(leaves(dataset.action_space, "action"), "action"),
            action_low=None if box is None else box.low,
            action_high=None if box is None else box.high,
            references=references,
        )
        if args.transitions:
            say("asking the simulator")
            alignment = check_alignment(dataset, args.env, args.transitions, np.random.default_rng((args.seed, 1)))
    if loaded is not None:
        say("asking whether returns can steer")
        # The scale of the spread: our own reference, for exactly this environment, before any other.
        by_trust = {name: references[name] for name in ("own", "dataset", "D4RL")}
        steered = judge_steering(loaded, by_trust, np.random.default_rng((args.seed, 2)))
    inspection = Inspection(
        id=dataset.id,
        fingerprint=None if loaded is None else loaded.fingerprint,
        metadata=about,
        references=references,
        refused=refused,
        warnings=find_warnings(found, alignment, references),
        figures=found,
        alignment=alignment,
        steering=steered,
    )
    print(screen(inspection))
    out = args.out or Path("runs/inspect") / dataset.id.replace("/", "-")
    for path in write_inspection(inspection, out):
        print(f"written to {path}")
    return inspection


def check_alignment(
    dataset: minari.MinariDataset,
    env_id: str | None,
    transitions: int,
    generator: np.random.Generator,
) -> Alignment:
    """Step a simulator from about `transitions` stored observations, and from recorded seeds; never raises."""
    env_name = env_id or (None if dataset.env_spec is None else dataset.env_spec.id)
    if env_name is None:
        return Alignment("unknown", "Not checked: the dataset names no environment; --env gives one.")
    env = None
    try:
        try:
            env = make_env(env_id or dataset.env_spec)  # pyright: ignore[reportArgumentType]
        except ValueError as error:
            return Alignment("unknown", f"Not checked: {error}.", env_id=env_name)
        if (mismatch := _space_mismatch(dataset, env)) is not None:
            return Alignment("unknown", f"Not checked: {mismatch}.", env_id=env_name)
        env.reset(seed=0)
        errors = _transition_errors(dataset, env, transitions, generator)
        seeded = _seeded_replay(dataset, env, generator, alone=not errors.observations["stored"])
        return judge_alignment(errors, seeded, env_name)
    except Exception as error:  # a simulator may raise anything on data that are not its own
        return Alignment("unknown", f"Not checked: {env_name} fails on these data ({cause(error)}).", env_id=env_name)
    finally:
        if env is not None:
            env.close()


def _made(env_id: str) -> gym.Env:
    try:
        return make_env(env_id)
    except ValueError as error:
        raise InputError(str(error)) from error


def _space_mismatch(dataset: minari.MinariDataset, env: gym.Env) -> str | None:
    observed = env.env.observation_space if isinstance(env, FlatObservation) else env.observation_space
    for what, stored, own in [
        ("observation", dataset.observation_space, observed),
        ("action", dataset.action_space, env.action_space),
    ]:
        if leaves(stored, what) != leaves(own, what):
            return f"the {what} space is {_shape(stored)} in the data and {_shape(own)} in the environment"
    return None


def _shape(space: gym.Space) -> str:
    return f"of shape {space.shape}" if isinstance(space, gym.spaces.Box) else str(space)


def _transition_errors(
    dataset: minari.MinariDataset,
    env: gym.Env,
    transitions: int,
    generator: np.random.Generator,
) -> TransitionErrors:
    """About four transitions of each episode drawn: its first, its last, and others."""
    errors = TransitionErrors()
    observation = leaves(dataset.observation_space, "observation")
    chosen = _drawn([int(i) for i in dataset.episode_indices], max(1, -(-transitions // 4)), generator)
    share = -(-transitions // len(chosen))
    for episode in dataset.iterate_episodes(chosen):
        observations = observation_rows(episode, observation)
        finite = np.isfinite(observations).all() and np.isfinite(episode.actions).all()
        last = len(episode.rewards) - 1
        inner = generator.choice(last - 1, min(last - 1, max(share - 2, 0)), replace=False) + 1 if last > 1 else []
        for step in sorted({0, last, *(int(i) for i in inner)}):
            if finite:
                _add_transition(errors, env, observations, episode.actions, episode.rewards, step)
            else:
                errors.skipped_not_set += 1
    return errors


def _add_transition(
    errors: TransitionErrors,
    env: gym.Env,
    observations: NDArray[np.floating],
    actions: NDArray[Any],
    rewards: NDArray[np.floating],
    time_: int,
) -> None:
    last = len(rewards) - 1
    if is_clipped(env, observations[time_]):
        errors.skipped_clipped += 1
        return
    for name, offset in ACTIONS.items():
        if not 0 <= time_ + offset <= last:
            continue
        stepped = step_from(env, observations[time_], actions[time_ + offset])
        if stepped is None:
            errors.skipped_not_set += 1
            return
        following, reward = stepped
        error = distance(following, observations[time_ + 1])
        errors.observations[name].append(error)
        for of_reward in (-1, 0, 1):
            if 0 <= time_ + of_reward <= last:
                errors.rewards[name, of_reward].append(abs(reward - float(rewards[time_ + of_reward])))
        if offset == 0:
            if time_ == 0:
                errors.first.append(error)
            if time_ == last:
                errors.last.append(error)
            errors.observations["next observation one earlier"].append(distance(following, observations[time_]))
            if time_ < last:
                errors.observations["next observation one later"].append(distance(following, observations[time_ + 2]))


def _seeded_replay(
    dataset: minari.MinariDataset, env: gym.Env, generator: np.random.Generator, *, alone: bool
) -> SeededReplay | None:
    """Play episodes again from their recorded seeds; where that `alone` can tell, with other actions as well."""
    # Reading the seed of every one of many episodes would take longer than all else here.
    asked = _drawn([int(i) for i in dataset.episode_indices], SEEDS_READ, generator)
    seeds = reset_seeds(dataset, asked)
    if not seeds:
        return None
    observation = leaves(dataset.observation_space, "observation")
    played: list[Replayed] = []
    others: list[Replayed] = []
    repeats, steps = True, 0
    for episode in dataset.iterate_episodes(_drawn(tuple(seeds), SEEDED_EPISODES, generator)):
        if played and steps + len(episode.rewards) > SEEDED_STEPS:
            continue
        observations, actions = observation_rows(episode, observation), episode.actions
        if not (np.isfinite(observations).all() and np.isfinite(actions).all()):
            continue
        seed = seeds[int(episode.id)]
        found = replay(env, seed, observations, actions, episode.rewards)
        if alone:
            others.append(replay(env, seed, observations, np.roll(actions, -1, 0), episode.rewards))
            if not played:
                again = replay(env, seed, observations, actions, episode.rewards)
                repeats = np.array_equal(found.observations, again.observations)
        played.append(found)
        steps += len(episode.rewards)
    if not played:
        return None
    longest = max(len(found.observations) for found in played)
    by_step = np.zeros(longest)
    for found in played:
        by_step[: len(found.observations)] = np.maximum(by_step[: len(found.observations)], found.observations)
    every = np.concatenate([found.observations for found in played])
    above = np.flatnonzero(by_step > REPRODUCED)
    other_errors = [np.maximum(found.observations, found.rewards) for found in others]
    return SeededReplay(
        episodes=len(played),
        steps=steps,
        first_observation=max(found.first_observation for found in played),
        median=float(np.median(every)),
        maximum=float(every.max()),
        reward=float(max(found.rewards.max() for found in played)),
        diverged=int(above[0]) if len(above) else None,
        by_step=tuple(by_step.tolist()),
        repeats=repeats,
        # A rolled row of actions ends with the first one, which is not its last step's.
        later=max(float(errors[:-1].max(initial=0.0)) for errors in other_errors) if others else None,
        action_matters=bool(max(errors.max() for errors in other_errors) > REPRODUCED) if others else None,
    )


def _drawn(indices: Sequence[int], count: int, generator: np.random.Generator) -> list[int]:
    """Up to `count` of the episodes, the last one always among them."""
    if len(indices) <= count:
        return list(indices)
    others = generator.choice(len(indices) - 1, count - 1, replace=False)
    return sorted({indices[i] for i in others} | {indices[-1]})


def _references(dataset: minari.MinariDataset, env_id: str | None) -> dict[str, tuple[float, float] | None]:
    """The returns of a random and of an expert policy, by who says so; never to be mixed."""
    known = None if env_id is None else reference_scores(env_id)
    stored = dataset.storage.metadata
    bounds = stored.get("ref_min_score"), stored.get("ref_max_score")
    d4rl, own = (None, None) if known is None else (known.d4rl, known.flowrl)
    return {
        "dataset": None if None in bounds else (float(bounds[0]), float(bounds[1])),  # pyright: ignore[reportArgumentType]
        "D4RL": None if d4rl is None else (d4rl.random, d4rl.expert),
        "own": None if own is None else (own.random, own.expert),
    }


def start(argv: Sequence[str]) -> None:
    """Run with the arguments of a command line; exit code 1 where training would refuse the dataset."""
    if main(parse(Args, argv)).refused:
        sys.exit(1)


if __name__ == "__main__":
    run(start)
