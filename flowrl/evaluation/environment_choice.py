"""Which environment a run is played in: the dataset's or another, with other keywords, and compared with the data."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from flowrl.errors import InputError, cause
from flowrl.evaluation.environments import make_env
from flowrl.evaluation.trust import NotTrusted, vouch

_WORDS = {"true": True, "false": False, "none": None, "null": None}


def choose_environment(
    env_id: str | None, dataset_env: EnvSpec | None, dataset_id: str, env_kwargs: Sequence[str] | Mapping[str, Any] = ()
) -> EnvSpec:
    """The specification of the environment to play in, as JSON can hold it.

    Args:
        env_id: an environment's id; None for that of the dataset.
        dataset_env: the dataset's environment, if it names one.
        env_kwargs: keywords for the environment's constructor, beside or instead of its present ones, as a mapping or
            as words, see `read_keywords`. With any, one step is tried, since some environments notice only then what
            they cannot use.

    Raises:
        InputError: there is no environment, or it is unknown, cannot be made here, or refuses a keyword.
    """
    env = env_id or dataset_env
    if env is None:
        raise InputError(f"dataset {dataset_id} names no environment: choose one (env)")
    keywords = dict(env_kwargs) if isinstance(env_kwargs, Mapping) else read_keywords(env_kwargs)
    try:
        spec = _with_keywords(env, keywords) if keywords else _spec_of(make_env(env))
    except ValueError as error:
        raise InputError(str(error)) from error
    try:
        spec.to_json()
    except (ValueError, TypeError) as error:
        raise InputError(f"environment {spec.id} cannot be kept with the run: {cause(error)}") from error
    if env_id is not None:
        vouch(spec)
    return spec


def read_keywords(words: Sequence[str]) -> dict[str, Any]:
    """Keywords from NAME=VALUE words. A value is a Python literal, or true, false, none or null in any case, or a name.

    Raises:
        InputError: a word has another form, its value does not fit into JSON, its name is given twice, or it is not for
            the user to choose.
    """
    keywords: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"env_kwargs {word}: it must be NAME=VALUE, as in length=300")
        if name in keywords:
            raise InputError(f"env_kwargs {word}: {name} is given twice")
        if name == "render_mode":
            raise InputError(f"env_kwargs {word}: render_mode cannot be chosen here")
        try:
            # Through JSON, as it will be read back: a tuple is a list.
            value = _WORDS[text.casefold()] if text.casefold() in _WORDS else ast.literal_eval(text)
            keywords[name] = json.loads(json.dumps(value, allow_nan=False))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            if not re.fullmatch(r"[A-Za-z_./~][\w./:~-]*", text) or text.casefold() in ("nan", "inf", "infinity"):
                raise InputError(
                    f"env_kwargs {word}: {text!r} is no value; write a finite number, True, False, None, a name, or a"
                    " list of these"
                ) from None
            keywords[name] = text
    return keywords


def _with_keywords(env: str | EnvSpec, keywords: dict[str, Any]) -> EnvSpec:
    """The spec of `env` with these keywords, after one step of it."""
    if isinstance(env, str):
        env = gym.registry.get(env) or _spec_of(make_env(env))
    words = " ".join(f"{name}={value}" for name, value in keywords.items())
    try:
        changed = make_env(replace(env, kwargs={**env.kwargs, **keywords}))
        try:
            changed.reset(seed=0)
            changed.action_space.seed(0)
            changed.step(changed.action_space.sample())
            return _spec_of(changed)
        finally:
            changed.close()
    except NotTrusted:
        raise
    except Exception as error:  # an environment's own code may raise anything
        its_own = error.__cause__ or error  # a message that names the environment once more says no more
        raise InputError(f"env_kwargs {words}: {env.id} does not accept them: {cause(its_own)}") from error


def _spec_of(env: gym.Env) -> EnvSpec:
    """The spec of an environment, which is closed."""
    env.close()
    spec = env.spec
    assert spec is not None
    name = getattr(spec.entry_point, "__qualname__", "")
    if name.isidentifier():  # a run keeps the spec as JSON, which holds the name of a class and not the class
        spec = replace(spec, entry_point=f"{spec.entry_point.__module__}:{name}")
    return spec
