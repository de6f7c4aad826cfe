"""Train an agent on a Minari dataset; the same command resumes a stopped run.

flowrl train flow --dataset flowrl/hopper/medium-replay-v0 --steps 10000
torchrun --nproc-per-node 2 -m flowrl train flow ...    # in two processes, with the same batches
"""

from dataclasses import dataclass, fields
from typing import Annotated

import tyro

from flowrl.agents import AGENTS
from flowrl.api.training import default_options, train_run
from flowrl.errors import InputError
from flowrl.experiments.options import C, RunOptions
from flowrl.scripts.cli import examples, parse, program, run


@dataclass(frozen=True)
class Args(RunOptions[C]):
    __doc__ = RunOptions.__doc__

    agent: Annotated[str, tyro.conf.Suppress]


def parse_args(argv: list[str]) -> RunOptions:
    """AGENT and its options; the agent's preset gives the defaults.

    Raises:
        InputError: the agent or an option is unknown.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{(__doc__ or '').splitlines()[0]}\n")
        print(f"agents (`{program()} AGENT --help` lists the options of one):")
        print("\n".join(f"  {name:<11} {preset.description}" for name, preset in AGENTS.items()))
        print("  module:Name an agent of yours")
        print(f"\n{examples(__doc__)}")
        raise SystemExit(0 if argv else 2)
    name, *words = argv
    if name.startswith("-"):
        raise InputError(f"the agent's name comes first, not {name}: known are {', '.join(AGENTS)}")
    default = default_options(name)
    default = Args(default.agent, default.config, default.training)
    args = parse(Args[type(default.config)], words, default, after=name)  # pyright: ignore[reportInvalidTypeArguments]
    return RunOptions(**{field.name: getattr(args, field.name) for field in fields(args)})


def start(argv: list[str]) -> None:
    """Parse the command line and run."""
    train_run(parse_args(argv))


if __name__ == "__main__":
    run(start, parallel=True)
