"""Wrappers with statistics that they gather while they are used: a dataset does not keep them, and a copy has none."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from flowrl.evaluation.environments import make_env
from flowrl.evaluation.finding import Finding

__all__ = ["Running", "layers", "named_running", "running_wrappers", "settle_running"]

_NAME = re.compile(r"vec_?normali[sz]e|normali[sz]e[ds]?_?(vec)?_?(obs|state|rew|return)|running", re.IGNORECASE)


class Running(NamedTuple):
    """A wrapper with running statistics."""

    name: str
    of: Literal["observation", "reward"]
    """What it changes; the observation as well as the reward count as the observation."""
    certain: bool
    """The statistics were seen, not only a name that says so."""


def settle_running(
    env: EnvSpec, playing: gym.Env, dataset: str, recorded: Sequence[str], *, chosen: bool
) -> tuple[EnvSpec, list[Finding]]:
    """The environment without wrappers that scale rewards by running statistics, and what is to be said of them.

    Those that change observations are refused: an agent would see others than those it was trained on. A wrapper
    that a person chose, or that has no more than the name, stays.

    Args:
        playing: the environment, made.
        dataset: its id.
        recorded: the names of such wrappers that the data were recorded through.
        chosen: a person chose the environment.
    """
    running, findings = running_wrappers(playing), []
    for name in sorted({*recorded} - {one.name for one in running}):
        findings.append(
            Finding(
                "doubtful",
                f"{dataset} was recorded through {name}, whose running statistics it does not keep, and {env.id} is"
                " played without: returns and observations may be of another scale than in the data",
            )
        )
    for one in running:
        known = f"{env.id} has the wrapper {one.name}, whose running statistics {dataset} does not keep"
        if one.of == "observation" and one.certain and not chosen:
            advice = "choose an environment (env) that observes what the data hold"
            findings.append(Finding("wrong", f"{known}: agents would see another scale than in the data; {advice}"))
            continue
        done = f"a fresh copy gives {one.of}s of another scale than in the data"
        if one.of == "reward" and one.certain and not chosen and (without := _without(env, one.name)) is not None:
            env, done = without, "it is played without, and returns are of another scale than in the data"
        findings.append(Finding("doubtful", f"{known}: {done}"))
    return env, findings


def _without(env: EnvSpec, name: str) -> EnvSpec | None:
    """The environment without a wrapper; None where the environment wraps itself in it."""
    kept = tuple(each for each in env.additional_wrappers if each.name != name)
    without = replace(env, additional_wrappers=kept)
    made = make_env(without)
    made.close()
    return None if any(type(layer).__name__ == name for layer in layers(made)) else without


def running_wrappers(env: gym.Env) -> list[Running]:
    """Those around an environment, the outermost first."""
    found = []
    for layer in layers(env):
        name = type(layer).__name__
        if statistics := [attribute for attribute, value in vars(layer).items() if _are_running(value)]:
            found.append(Running(name, _changed(layer, " ".join(statistics)), True))
        elif _NAME.search(name):
            found.append(Running(name, _changed(layer, name), False))
    return found


def named_running(spec: EnvSpec) -> Iterator[str]:
    """The names of those in a specification, without making it."""
    return (wrapper.name for wrapper in spec.additional_wrappers if _NAME.search(wrapper.name))


def layers(env: gym.Env) -> Iterator[gym.Wrapper]:
    """The wrappers around an environment, the outermost first."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env


def _are_running(value: Any) -> bool:
    """As Gymnasium's and Stable-Baselines3's `RunningMeanStd`: a mean and a variance that are no methods."""
    try:
        mean, variance, update = (getattr(value, name, None) for name in ("mean", "var", "update"))
    except Exception:  # a property of a foreign class may raise anything
        return False
    return callable(update) and not any(part is None or callable(part) for part in (mean, variance))


def _changed(layer: gym.Wrapper, words: str) -> Literal["observation", "reward"]:
    if isinstance(layer, gym.RewardWrapper):
        return "reward"
    if isinstance(layer, gym.ObservationWrapper) or re.search(r"obs|state", words, re.IGNORECASE):
        return "observation"
    return "reward" if re.search(r"rew|ret", words, re.IGNORECASE) else "observation"
