"""Which task of the papers' tables a dataset is, for settings that the papers have for every task."""

import re

_TASK = re.compile(r"(?:^|/)(hopper|walker2d|halfcheetah)[-/](medium-replay|medium-expert|medium)-v\d+$")


def paper_task(dataset: str) -> str | None:
    """The task of a dataset's id, such as ``hopper-medium-replay``; None where the papers have none of that kind.

    Our own datasets count as D4RL's of the same name. Those of ``mujoco/`` do not: they were made in another way.
    A mixture is none of these tasks.
    """
    found = None if dataset.startswith("mujoco/") or "+" in dataset else _TASK.search(dataset)
    return "-".join(found.groups()) if found else None
