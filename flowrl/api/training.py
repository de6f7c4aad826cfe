"""Training an agent by name."""

from pathlib import Path
from typing import Any

from flowrl.agents.loading import load_agent
from flowrl.agents.registry import find_agent
from flowrl.analysis.studies import study
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.selection import folders_of
from flowrl.errors import InputError
from flowrl.evaluation.trust import trusting
from flowrl.experiments.options import DEFAULT_DATASET, RunOptions, option_names, with_options
from flowrl.experiments.training_run import run_training
from flowrl.streams import any_encoding
from flowrl.training import distributed
from flowrl.training.device import choose_device
from flowrl.training.run_folder import RunFolder


@any_encoding()
def train(
    agent: str = "flow",
    *,
    dataset: str | TrajectoryDataset = DEFAULT_DATASET,
    run_dir: Path | str | None = None,
    **options: Any,
) -> Path:
    """Train an agent, evaluate its last checkpoint, and return the run folder; an unfinished run there is resumed.

    Args:
        agent: a name in `AGENTS`, or ``module:Name`` of your own.
        dataset: a Minari id, a dataset's folder, a mixture such as ``A:3+B:1``, or a dataset in memory, such as
            `TrajectoryDataset.from_arrays` makes.
        run_dir: the run folder; None for runs/DATASET/AGENT-seedN.
        options: any option of ``flowrl train AGENT --help`` with underscores, such as ``steps=1000, width=64, seed=1``.

    Raises:
        InputError: an option is unknown or cannot be used.
        flowrl.training.loop.Stopped: a signal ended the training early; the same call resumes it.
    """
    in_memory = dataset if isinstance(dataset, TrajectoryDataset) else None
    name = dataset if in_memory is None else in_memory.id
    changes = {"dataset": name, "run_dir": run_dir} | options
    return train_run(with_options(default_options(agent), changes), in_memory)


def default_options(agent: str) -> RunOptions:
    """What an agent's name alone stands for.

    Raises:
        InputError: there is no such agent, or it calls an option as another one is called.
    """
    preset = find_agent(agent)
    options = RunOptions(agent, preset.config, preset.training)
    names = option_names(options)
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise InputError(f"agent {agent!r} has an option {twice[0]}, and so has every training: it needs another name")
    return options


def train_run(options: RunOptions, dataset: TrajectoryDataset | None = None) -> Path:
    """Train as `options` say, and study the run if they say so; returns and errors as of `train`.

    Args:
        dataset: in memory, in place of the one that the options name.
    """
    with trusting(options.trust, *(folders_of(options.dataset) if dataset is None else ())):
        folder = run_training(options, dataset)
        if options.study and distributed.rank() == 0:
            study_run(folder, options.device)
    return folder


def study_run(run_dir: Path, device: str = "auto") -> dict[str, Any]:
    """The study of a finished run, see `flowrl.analysis.studies`.

    Raises:
        InputError: the folder holds no finished run, is damaged, or another process owns it.
    """
    run, on = RunFolder(run_dir), choose_device(device)
    return study(run, lambda: load_agent(run, on).actor, on)
