"""What a dataset holds and says about itself, compared with the environment to play in, before anything is trained."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.declared import Options
from flowrl.data.minari_store import open_dataset
from flowrl.data.reading import read_arrays
from flowrl.errors import InputError
from flowrl.evaluation.action_bounds import settle_bounds
from flowrl.evaluation.as_recorded import ResetOptions, with_reset_options
from flowrl.evaluation.environment_choice import choose_environment
from flowrl.evaluation.environments import make_env
from flowrl.evaluation.finding import Finding
from flowrl.evaluation.recorded import Recorded
from flowrl.evaluation.running_statistics import layers, settle_running

__all__ = ["Agreement", "Finding", "agree", "cautions_of", "check_spaces", "outside_bounds"]


MOST_SHOWN = 120  # characters of reset options in a sentence


@dataclass(frozen=True)
class Agreement:
    """How a dataset and an environment agree."""

    env: EnvSpec | None
    """The environment to play in, with the wrappers that play it as the data were recorded."""
    findings: tuple[Finding, ...]

    def check(self) -> None:
        """Raise InputError at the first finding that is certain to be wrong."""
        for finding in self.findings:
            if finding.kind == "wrong":
                raise InputError(finding.sentence)

    @property
    def warnings(self) -> list[str]:
        """What is allowed and probably not meant, a sentence each."""
        return [finding.sentence for finding in self.findings if finding.kind == "doubtful"]

    @property
    def notes(self) -> list[str]:
        """What is done as the dataset's maker meant it, a sentence each."""
        return [finding.sentence for finding in self.findings if finding.kind == "settled"]


def agree(
    env: EnvSpec | None, recorded: Recorded, *, chosen: bool, dataset: TrajectoryDataset | None = None
) -> Agreement:
    """Compare a dataset with the environment to play in; nothing is stepped unless their action bounds differ.

    Args:
        env: as `choose_environment` gives it, or as a run folder keeps it; None where nothing is played.
        chosen: a person chose it, so it is not held against it that it is another than the dataset's.
        dataset: with which differing bounds of actions are tried out; None leaves that out.

    Raises:
        InputError: the environment cannot be made here.
    """
    findings = [*_of_itself(recorded)]
    if env is None:
        return Agreement(None, tuple(findings))
    if not chosen and recorded.evaluation_differs:
        findings.append(
            Finding(
                "settled",
                f"{recorded.dataset} names an evaluation environment (eval_env) and it is played:"
                f" {recorded.evaluation_differs}",
            )
        )
    playing, given = _made(env), env
    env, found = settle_running(env, playing, recorded.dataset, recorded.running, chosen=chosen)
    findings += found
    env, found = _with_options(env, recorded, chosen=chosen)
    findings += found
    if env is not given:
        playing = _made(env)
    if (other := _other_spaces(playing, env, recorded)) is not None:
        return Agreement(env, (*findings, Finding("wrong", other)))
    findings += _limit(playing, env, recorded)
    if dataset is None and not chosen:  # a run's own environment: whether to scale was settled as it was trained
        return Agreement(env, tuple(findings))
    env, found = settle_bounds(env, playing.action_space, recorded, dataset)
    return Agreement(env, (*findings, *found))


def cautions_of(dataset: str) -> list[str]:
    """What is to be said of a dataset that was just written, a sentence each; no cache is left beside it.

    Args:
        dataset: its id or folder.
    """
    try:
        stored = open_dataset(dataset)
        loaded = TrajectoryDataset.from_stored(stored, read_arrays(stored, cache=False))
        recorded = Recorded.of(loaded)
        if loaded.evaluation_env is None:
            return [finding.sentence for finding in _of_itself(recorded)]
        env = choose_environment(None, loaded.evaluation_env, dataset)
        agreement = agree(env, recorded, chosen=False, dataset=loaded)
    except InputError as error:
        return [f"training would refuse {dataset}: {error}"]
    return [finding.sentence for finding in agreement.findings]


def check_spaces(env: EnvSpec, observation_size: int, action_size: int, discrete_start: int | None) -> None:
    """Raise InputError where an environment's spaces are not those of the data; arguments as of `Recorded`."""
    playing = _made(env)
    other = _other_spaces(playing, env, Recorded("", observation_size, action_size, discrete_start))
    if other is not None:
        raise InputError(other)


def _made(env: EnvSpec) -> gym.Env:
    """The environment, closed."""
    made = make_env(env)
    made.close()
    return made


def _other_spaces(playing: gym.Env, env: EnvSpec, recorded: Recorded) -> str | None:
    """How the spaces differ in shape; dtypes and the bounds of observations may."""
    observation, action = playing.observation_space, playing.action_space
    if observation.shape != (recorded.observation_size,):
        return (
            f"the observation of {env.id} has shape {observation.shape}: the data have {(recorded.observation_size,)}"
        )
    size, start = recorded.action_size, recorded.discrete_start
    if start is None:
        expected, same = f"({size},)", isinstance(action, gym.spaces.Box) and action.shape == (size,)
    else:
        expected = f"Discrete({size}, start={start})"
        same = isinstance(action, gym.spaces.Discrete) and (int(action.n), int(action.start)) == (size, start)
    if same:
        return None
    actual = f"has shape {action.shape}" if isinstance(action, gym.spaces.Box) else f"is {action}"
    return f"the action of {env.id} {actual}: the data have {expected}"


def _of_itself(recorded: Recorded) -> Iterator[Finding]:
    """Where a dataset contradicts itself."""
    yield from (Finding("doubtful", sentence) for sentence in recorded.doubts)
    if (outside := outside_bounds(recorded)) is not None:
        yield outside


def outside_bounds(recorded: Recorded) -> Finding | None:
    """What is said of numbers in the actions outside of their own bounds; None where there are none."""
    if not recorded.outside:
        return None
    return Finding(
        "doubtful",
        f"{recorded.outside:,} numbers in the actions of {recorded.dataset} lie outside of its bounds,"
        f" {recorded.action_bounds}: they reach from {recorded.actions}, and what agents do is kept within",
    )


def _with_options(env: EnvSpec, recorded: Recorded, *, chosen: bool) -> tuple[EnvSpec, list[Finding]]:
    """The environment, reset as the data were recorded, if it is the one that they were recorded in."""
    options = recorded.reset_options
    if not options:
        return env, []
    shown = f"reset options {_shown(options)}"
    other = recorded.env_id is not None and env.id != recorded.env_id
    if other or (recorded.evaluation_differs and not chosen):
        sentence = f"{recorded.dataset} was recorded with {shown}, and {env.id} is reset without, as it is another task"
        return env, [Finding("doubtful", sentence)]
    if all(wrapper.name != ResetOptions.__name__ for wrapper in env.additional_wrappers):
        env = with_reset_options(env, options)
    sentence = f"{recorded.dataset} was recorded with {shown}: episodes are played with them"
    return env, [Finding("settled", sentence + (", each with one of them in turn" if len(options) > 1 else ""))]


def _shown(options: Sequence[Options]) -> str:
    """Some options, shortened."""
    words = "; ".join(", ".join(f"{name}={value}" for name, value in each.items()) or "none" for each in options[:3])
    if len(words) > MOST_SHOWN:
        words = words[:MOST_SHOWN] + "..."
    return words + (f" and {len(options) - 3} more" if len(options) > 3 else "")


def _limit(playing: gym.Env, env: EnvSpec, recorded: Recorded) -> Iterator[Finding]:
    """An environment that ends earlier than episodes of the data did."""
    limits = [
        limit
        for layer in (playing.unwrapped, *layers(playing))
        for name in ("max_episode_steps", "_max_episode_steps")
        if isinstance(limit := vars(layer).get(name), int) and limit > 0
    ]
    if recorded.longest is not None and limits and min(limits) < recorded.longest:
        yield Finding(
            "doubtful",
            f"episodes of {recorded.dataset} have up to {recorded.longest:,} steps, and the time limit of {env.id} is"
            f" {min(limits):,} (max_episode_steps): returns of longer episodes cannot be reached",
        )
