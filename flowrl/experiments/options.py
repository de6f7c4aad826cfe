"""Everything that decides a training run, as one frozen dataclass, and as the words of a command line."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from flowrl.data.selection import Selection, folder_name
from flowrl.errors import InputError
from flowrl.evaluation.episodes import EvaluationConfig
from flowrl.experiments.option_values import value_for
from flowrl.training.config import AgentConfig, TrainingConfig
from flowrl.training.run_folder import NO_ENVIRONMENT

DEFAULT_DATASET = "flowrl/hopper/medium-replay-v0"

C = TypeVar("C", bound=AgentConfig)


@dataclass(frozen=True)
class RunOptions(Generic[C]):
    """Train an agent on a Minari dataset; the same command resumes a stopped run."""

    agent: str
    """Name of the agent."""
    config: C
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    dataset: str = DEFAULT_DATASET
    """Minari id (downloaded if it is not here), a dataset's folder, or D4RL's name of a dataset whose file is in
    $D4RL_DATASET_DIR. A+B mixes two datasets, A:3+B:1 in these shares."""
    selection: Selection = Selection()
    env: str | None = None
    """Environment id to evaluate in; by default the dataset's. none: train without an environment and play nothing."""
    env_kwargs: tuple[str, ...] = ()
    """Keywords for the environment's constructor, as NAME=VALUE: length=300. They add to the dataset's or replace them.
    The reference scores stay the same."""
    evaluate_every: int | None = None
    """Training steps between evaluations; 0 for only one, at the end; by default a tenth of all, and at least 1,000."""
    evaluate_episodes: int = 5
    """Episodes per target in the evaluations before the last."""
    seed: int = 0
    """Seed of the initial weights, dropout and the order of the data."""
    run_dir: Path | None = None
    """The run folder; by default runs/DATASET/AGENT-seedN. An unfinished run there is resumed."""
    device: str = "auto"
    """cpu, cuda, or auto for a GPU if there is one."""
    threads: int = 0
    """CPU threads of each process; 0 for torch's choice."""
    study: bool = False
    """Also study the finished run: how its action depends on the target return, what it attends to, and a clip."""
    trust: bool = False
    """Run whatever code the dataset names as its environment, also what neither Gymnasium nor your own modules have."""

    @property
    def folder(self) -> Path:
        """The run folder: the one given, or runs/DATASET/AGENT-seedN."""
        return self.run_dir or Path("runs") / folder_name(self.dataset) / f"{folder_name(self.agent)}-seed{self.seed}"

    @property
    def name(self) -> str:
        """What the run is called on the console."""
        return f"{self.agent} seed {self.seed}"

    @property
    def steps_between_evaluations(self) -> int:
        """`evaluate_every`, after its default; 0 for no evaluation before the last."""
        return max(1_000, self.training.steps // 10) if self.evaluate_every is None else self.evaluate_every

    def check(self) -> None:
        """Raise InputError where a number is out of range, or without an environment something would be played."""
        for name, least in (("evaluate_every", 0), ("evaluate_episodes", 1), ("seed", 0), ("threads", 0)):
            if (value := getattr(self, name)) is not None and not least <= value < 2**31:
                raise InputError(f"{name} is {value}: it must be at least {least} and below 2^31")
        if self.env == NO_ENVIRONMENT:
            for name, given in (("env_kwargs", self.env_kwargs), ("study", self.study)):
                if given:
                    raise InputError(f"{name} needs an environment, and env {NO_ENVIRONMENT} leaves it out: choose one")


def with_options(options: Any, changes: dict[str, Any]) -> Any:
    """A nested dataclass with some fields replaced, whose names are flat: ``steps`` stands for ``training.steps``.

    Values are checked and converted by `value_for`.

    Raises:
        InputError: there is no field of that name, or a value is refused.
    """
    known = option_names(options)
    for name in changes:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise InputError(f"unknown option {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
    try:
        return _replaced(options, changes)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error


def _replaced(options: Any, changes: dict[str, Any]) -> Any:
    new, hints = {}, get_type_hints(type(options))
    for name, value in _values(options):
        if is_dataclass(value):
            if (replaced := _replaced(value, changes)) != value:
                new[name] = replaced
        elif name in changes:
            new[name] = value_for(name, hints[name], changes[name])
    return replace(options, **new) if new else options


def option_names(options: Any) -> list[str]:
    """The flat names of all fields that are no dataclasses themselves."""
    return [
        each for name, value in _values(options) for each in (option_names(value) if is_dataclass(value) else [name])
    ]


def _values(options: Any) -> Iterator[tuple[str, Any]]:
    for entry in fields(options):
        yield entry.name, getattr(options, entry.name)


def words_of(options: RunOptions, default: RunOptions) -> list[str]:
    """The words after ``train`` on a command line that give these options, beside the agent's defaults.

    Args:
        default: what the agent's name alone stands for.
    """
    return [options.agent, *_changed_words(options, default)]


def _changed_words(options: Any, default: Any) -> Iterator[str]:
    for (name, value), (_, usual) in zip(_values(options), _values(default), strict=True):
        flag = "--" + name.replace("_", "-")
        if name == "agent" or value == usual:
            continue
        if is_dataclass(value):
            yield from _changed_words(value, usual)
        elif isinstance(value, bool):
            yield flag if value else flag.replace("--", "--no-", 1)
        elif isinstance(value, tuple):
            yield from (flag, *map(str, value))
        elif (word := str(value)).startswith("-"):  # alone it would be an option
            yield f"{flag}={word}"
        else:
            yield from (flag, word)
