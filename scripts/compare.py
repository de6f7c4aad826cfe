"""Train every agent with every seed, play all on the same episodes, and report how they fare.

    flowrl compare --datasets flowrl/hopper/medium-replay-v0 \\
        --agents flow dt bc "bc-10=bc --top-fraction 0.1" --seeds 3 --out runs/compare

Every cell (dataset, agent, seed) is a run folder under --out: finished ones are reused, interrupted ones go on, and one
that fails is reported and stops no other. An agent is a name or, with options, "LABEL=NAME --option value" in one
quoted word.
"""

import re
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from flowrl.api.comparing import SAME_FOR_ALL, compare_agents
from flowrl.api.training import default_options
from flowrl.data.selection import Selection
from flowrl.data.stored_environments import read_spec
from flowrl.errors import InputError
from flowrl.evaluation.episodes import EvaluationConfig
from flowrl.evaluation.trust import trusting
from flowrl.evaluation.video import can_be_shown
from flowrl.experiments.cells import MatrixAgent
from flowrl.experiments.matrix import MatrixOptions
from flowrl.experiments.options import DEFAULT_DATASET
from flowrl.scripts import train
from flowrl.scripts.cli import command, parse, run


@dataclass(frozen=True)
class Args:
    """Train every agent with every seed, play all on the same episodes, and report how they fare."""

    datasets: tuple[str, ...] = (DEFAULT_DATASET,)
    """Minari ids, or folders of datasets; A+B is a mixture of two, as of `train`."""
    selection: Selection = Selection()
    env: str | None = None
    """Environment id that all agents are evaluated in; by default each dataset's."""
    env_kwargs: tuple[str, ...] = ()
    """Keywords for the environment's constructor, as NAME=VALUE, as of `train`."""
    agents: tuple[str, ...] = ("flow", "dt")
    """Names of agents, or "LABEL=NAME --option value ..." in one quoted word, with options of `train` that
    override those given here. Differences are taken against dt where a label is dt, else against the first."""
    seeds: int = 1
    """How many training seeds: 0, 1, ..."""
    steps: int = 5_000
    """Training steps of each."""
    batch_size: int | None = None
    """Windows in a batch; by default each agent's own."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Of the training, as of `train`: bf16 trains under bfloat16 autocast; auto: where the device is fast at it."""
    evaluation: EvaluationConfig = EvaluationConfig(targets=("r0", "r25", "r50", "r75", "p90", "best", "r125"))
    evaluate_every: int | None = None
    """Training steps between the evaluations of the learning curves; 0 for none; by default as of `train`."""
    evaluate_episodes: int = 5
    """Episodes per target in them."""
    study: bool = True
    """Also study the first seed of every agent: how its action depends on the return, what it attends to, a clip."""
    trust: bool = False
    """Run whatever code the datasets name as their environments, as of `train`."""
    matrix: MatrixOptions = MatrixOptions()


def parse_agent(text: str, common: list[str]) -> MatrixAgent:
    """Read NAME, or `LABEL=NAME --option value ...`.

    Args:
        common: the words of options that all agents share; an agent's own come after them and so override.

    Raises:
        InputError: the label or an option cannot be used.
    """
    labelled = re.match(r"([^\s=]*)=(.*)", text, re.DOTALL)
    try:
        words = shlex.split(labelled[2] if labelled else text)
    except ValueError as error:
        raise InputError(f"agent {text!r} cannot be read: {error}") from None
    if not words:
        raise InputError(f"agent {text!r} names no agent: write NAME or LABEL=NAME --option value")
    label, (name, *own) = labelled[1] if labelled else words[0].replace(":", "-"), words
    if own and not labelled:
        raise InputError(f"agent {text!r} has options and so needs a label: write LABEL={text}")
    for word in own:
        option = word.partition("=")[0].replace("_", "-")
        field = option.removeprefix("--").removeprefix("no-").replace("-", "_")
        if option.startswith("--") and field in SAME_FOR_ALL:
            raise InputError(f"agent {label}: {option} is the same for all agents and cannot be an option of one")
    try:
        return MatrixAgent(label, train.parse_args([name, *common, *own]), default_options(name))
    except InputError as error:
        raise InputError(f"agent {label}: {error}" if own else str(error)) from None


def common_words(args: Args) -> list[str]:
    """What all cells have in common, as options of `train`."""
    evaluation = args.evaluation
    options = {
        **asdict(args.selection),
        **{name: getattr(args, name) for name in ("env", "steps", "batch_size", "precision")},
        **{name: getattr(args, name) for name in ("evaluate_every", "evaluate_episodes")},
        **{name: getattr(evaluation, name) for name in ("episodes", "episode_seed", "vector")},
    }
    pairs = [("--" + name.replace("_", "-"), str(value)) for name, value in options.items() if value is not None]
    several = {"--targets": evaluation.targets, "--env-kwargs": args.env_kwargs}
    words = [word for option, values in several.items() if values for word in (option, *values)]
    flags = [f"--{name}" for name in ("study", "trust") if getattr(args, name)]
    return [*words, *(word for pair in pairs for word in pair), *flags]


def _interpreter() -> str:
    """How this very Python is typed from here, whether or not its environment is activated."""
    path, here = Path(sys.executable), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else "python"


def start(argv: list[str]) -> None:
    """Parse the command line and run."""
    args = parse(Args, argv)
    agents = [parse_agent(text, common_words(args)) for text in args.agents]
    try:
        report = compare_agents(args.datasets, agents, args.seeds, args.matrix, command())
    except KeyboardInterrupt:
        print("stopped, with the checkpoints saved; the same command goes on from them", file=sys.stderr)
        raise
    python, example, out = _interpreter(), report.comparisons[0].runs[0].path, args.matrix.out
    print("\nnext:")
    print(f"  {python} -m flowrl evaluate {example} --episodes 100 --targets best    # more episodes, other targets")
    with trusting(args.trust):
        shown = can_be_shown(read_spec(report.comparisons[0].runs[0].config["env_spec"]))
    if shown:
        print(f"  {python} -m flowrl evaluate {example} --episodes 1 --video {out / 'episode.gif'}    # watch one")
    print(f"  {python} -m tensorboard.main --logdir {out}    # the training curves")


if __name__ == "__main__":
    run(start)
