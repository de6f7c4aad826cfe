"""List what there is: datasets, agents, attentions or environments, a table each.

flowrl list datasets
flowrl list agents
flowrl list attentions
flowrl list envs
"""

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import gymnasium as gym
import tyro

from flowrl.agents import AGENTS
from flowrl.attention import ATTENTION
from flowrl.data.minari_store import local_ids
from flowrl.envs.mixtures import dataset_ids, mixture
from flowrl.evaluation.reference_scores import reference_scores
from flowrl.scripts.cli import parse, run, typed
from flowrl.text import DASH, number, table

MUJOCO = "gymnasium.envs.mujoco"


@dataclass(frozen=True)
class Args:
    """List what there is: datasets, agents, attentions or environments."""

    what: Annotated[Literal["datasets", "agents", "attentions", "envs"], tyro.conf.Positional]
    """datasets: ours and those on this machine; agents: for `train`; attentions: for its option --attention; envs: with
    the returns that scores are normalised by."""


def datasets() -> list[list[str]]:
    """Ours, whether they are collected or not, and the others on this machine."""
    ours, here = dataset_ids(), local_ids()
    rows = [["dataset", "steps", "on this machine", "what it is"]]
    for name in ours:
        recipe = mixture(name)
        rows.append([name, f"{recipe.steps:,}", "yes" if name in here else "no", recipe.description])
    return rows + [[name, DASH, "yes", ""] for name in here if name not in ours]


def agents() -> list[list[str]]:
    """Every agent that has a name."""
    return [["agent", "what it is"], *([name, preset.description] for name, preset in AGENTS.items())]


def attentions() -> list[list[str]]:
    """Every attention: the state it acts by, the words of --attention-options, and what its file says it is."""
    rows = [["attention", "state", "options", "what it is"]]
    for name, rule in ATTENTION.items():
        state = "none: window rollout alone" if rule.why_no_step else "constant" if rule.constant_state else "grows"
        parameters = inspect.signature(rule).parameters.values()
        options = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
        words = (option if value is None else f"{option}={str(value).lower()}" for option, value in options.items())
        about = (sys.modules[rule.__module__].__doc__ or "").partition(":")[0].splitlines()[0]
        rows.append([name, state, " ".join(words) or "none", about.rstrip(".")])
    return rows


def envs() -> list[list[str]]:
    """Ours, and Gymnasium's MuJoCo environments."""
    rows = [["environment", "flowrl references (random, expert)", "D4RL references (random, expert)"]]
    specs = gym.registry.values()
    ours = [spec.id for spec in specs if spec.id.startswith("flowrl/")]
    mujoco = [spec.id for spec in specs if str(spec.entry_point).startswith(MUJOCO) and spec.id.endswith("-v5")]
    for env_id in (*sorted(ours), *sorted(mujoco)):
        known = reference_scores(env_id)
        pairs = (known.flowrl, known.d4rl)
        rows.append([env_id, *(DASH if r is None else f"{number(r.random)}, {number(r.expert)}" for r in pairs)])
    return rows


NEXT = {
    "datasets": ("collect", "DATASET", "makes one of ours; Minari's are downloaded when a training names them"),
    "agents": ("train", "AGENT --help", "lists the options of one"),
    "attentions": ("train", "flow --attention NAME", "trains with one"),
    "envs": ("evaluate", "RUN_DIR --env ID", "plays an agent in one; any Gymnasium id with Box spaces will do"),
}


def main(args: Args) -> None:
    """Print the table, and what can be done with its rows."""
    tables = {"datasets": datasets, "agents": agents, "attentions": attentions, "envs": envs}
    print(table(tables[args.what]()))
    command, words, does = NEXT[args.what]
    print(f"\n{typed(command)} {words}    # {does}")


def start(argv: Sequence[str]) -> None:
    """Run with the arguments of a command line."""
    main(parse(Args, argv))


if __name__ == "__main__":
    run(start)
