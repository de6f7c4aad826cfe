"""What D4RL's dataset names mean: files, Minari ids, environments and reference scores."""

import re
from dataclasses import dataclass

from flowrl.errors import InputError


@dataclass(frozen=True)
class Reference:
    """Mean returns of a random and of an expert policy: 0 and 100 on the normalised scale."""

    random: float
    expert: float


D4RL_REFERENCES = {
    "hopper": Reference(-20.272305, 3234.3),
    "halfcheetah": Reference(-280.178953, 12135.0),
    "walker2d": Reference(1.629008, 4592.3),
    "ant": Reference(-325.6, 3879.7),
    "antmaze": Reference(0.0, 1.0),
    "kitchen": Reference(0.0, 4.0),
    "pen": Reference(96.262799, 3076.8331017826877),
    "door": Reference(-56.512833, 2880.5693087298737),
    "hammer": Reference(-274.856578, 12794.134825156867),
    "relocate": Reference(-6.425911, 4233.877797728884),
    "maze2d-umaze-v1": Reference(23.85, 161.86),
    "maze2d-medium-v1": Reference(13.13, 277.39),
    "maze2d-large-v1": Reference(6.7, 273.99),
}
"""By D4RL's dataset name, or by its task where all datasets of a task share one (Fu et al., 2020; d4rl/infos.py)."""

D4RL_ENVIRONMENTS = {"hopper": "Hopper", "halfcheetah": "HalfCheetah", "walker2d": "Walker2d", "ant": "Ant"}
"""Of the tasks that Gymnasium has, without the version."""

_TASKS = "antmaze ant door halfcheetah hammer hopper kitchen maze2d pen relocate walker2d"
_NAME = re.compile(rf"({_TASKS.replace(' ', '|')})-([a-z0-9]+(?:-[a-z0-9]+)*)-v([0-9]+)")  # hopper-medium-replay-v2

_ANTMAZES = {
    "umaze": "u-maze_noisy_multistart_False_multigoal_False",
    "umaze-diverse": "u-maze_noisy_multistart_True_multigoal_True",
    "medium-play": "big-maze_noisy_multistart_True_multigoal_False",
    "medium-diverse": "big-maze_noisy_multistart_True_multigoal_True",
    "large-play": "hardest-maze_noisy_multistart_True_multigoal_False",
    "large-diverse": "hardest-maze_noisy_multistart_True_multigoal_True",
}
IRREGULAR_FILES = {
    **{
        f"{task}-{level}-v0": f"{task}_{level.replace('-', '_')}"
        for task in ("hopper", "halfcheetah", "walker2d", "ant")
        for level in ("random", "medium", "expert", "medium-expert")
    },
    **{f"{task}-medium-replay-v0": f"{task}_mixed" for task in ("hopper", "halfcheetah", "ant")},
    "walker2d-medium-replay-v0": "walker_mixed",
    **{f"antmaze-{maze}-v0": f"Ant_maze_{stem}_sparse" for maze, stem in _ANTMAZES.items()},
    **{f"antmaze-{maze}-v2": f"Ant_maze_{stem}_sparse_fixed" for maze, stem in _ANTMAZES.items()},
    **{f"maze2d-{maze}-v1": f"maze2d-{maze}-sparse-v1" for maze in ("umaze", "medium", "large")},
    "kitchen-complete-v0": "mini_kitchen_microwave_kettle_light_slider-v0",
    "kitchen-partial-v0": "kitchen_microwave_kettle_light_slider-v0",
    "kitchen-mixed-v0": "kitchen_microwave_kettle_bottomburner_light-v0",
    **{
        f"{task}-{level}-v0": stem.format(task)
        for task in ("pen", "door", "hammer", "relocate")
        for level, stem in [
            ("human", "{}-v0_demos_clipped"),
            ("cloned", "{}-demos-v0-bc-combined"),
            ("expert", "{}-v0_expert_clipped"),
        ]
    },
}
"""Stems of the files whose names do not follow from the dataset's (d4rl/infos.py)."""


def d4rl_name(text: str) -> str | None:
    """D4RL's name of a dataset, hopper-medium-replay-v2, from the name or from that of its file; None for another text.

    File names are hopper_medium_replay-v2.hdf5, with underscores or dashes, and the irregular ones of D4RL's server.
    """
    stem = re.sub(r"\.(hdf5|h5)$", "", text)
    for name, irregular in IRREGULAR_FILES.items():
        if stem == irregular:
            return name
    name = stem.replace("_", "-").lower()
    return name if _NAME.fullmatch(name) else None


def file_stems(name: str) -> list[str]:
    """The names, without `.hdf5`, that the file of D4RL's dataset may have."""
    rest, _, version = name.rpartition("-v")
    regular = [f"{rest.replace('-', '_')}-v{version}", name]
    return [*regular, IRREGULAR_FILES[name]] if name in IRREGULAR_FILES else regular


def minari_id(name: str) -> str:
    """The Minari id of D4RL's dataset: hopper-medium-replay-v2 is d4rl/hopper/medium-replay-v2.

    Raises:
        InputError: no D4RL name.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(f"{name!r} is no D4RL name: write TASK-LEVEL-vN, as in hopper-medium-v2, TASK one of {_TASKS}")
    return f"d4rl/{match[1]}/{match[2]}-v{match[3]}"


def d4rl_reference(name: str) -> Reference | None:
    """D4RL's reference for one of its dataset names, as hopper-medium-v2; None where it is not known."""
    match = _NAME.fullmatch(name)
    return None if match is None else D4RL_REFERENCES.get(name, D4RL_REFERENCES.get(match[1]))


def d4rl_environment(name: str) -> str | None:
    """The environment of D4RL's dataset of that name: Hopper-v4 for hopper-medium-v2; None where Gymnasium has none."""
    match = _NAME.fullmatch(name)
    return f"{D4RL_ENVIRONMENTS[match[1]]}-v4" if match and match[1] in D4RL_ENVIRONMENTS else None


def environment_reference(env_id: str) -> Reference | None:
    """D4RL's reference for a Gymnasium environment, as Hopper-v5; None where D4RL has none.

    It is the same for -v2 to -v5, though D4RL measured it on versions before -v4.
    """
    name, _, version = env_id.rpartition("-v")
    tasks = {environment: task for task, environment in D4RL_ENVIRONMENTS.items()}
    return D4RL_REFERENCES[tasks[name]] if version in ("2", "3", "4", "5") and name in tasks else None
