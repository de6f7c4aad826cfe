"""D4RL files to test with, and a slow reader of them: an oracle, row by row."""

from dataclasses import dataclass

import h5py
import numpy as np
from hypothesis import strategies as st

ID = "d4rl/test/some-v0"


def arrays(steps=12, terminals=(3,), timeouts=(8,), following=True, dtype=np.float32):
    """A file's arrays: row t has the observation (t, -t, t / 2), the action (t / 100, -t / 100) and the reward
    t + 0.25; what follows the last row of an episode is (1000 + t, 0, 0)."""
    t = np.arange(steps, dtype=dtype)
    observations = np.stack([t, -t, t / 2], 1)
    after = np.stack([t + 1, -t - 1, (t + 1) / 2], 1)
    ends = sorted({*terminals, *(timeouts or ()), steps - 1})
    after[ends] = np.stack([1000 + t[ends], 0 * t[ends], 0 * t[ends]], 1)
    content = {
        "observations": observations,
        "actions": np.stack([t / 100, -t / 100], 1),
        "rewards": t + dtype(0.25),
        "terminals": np.isin(np.arange(steps), terminals),
    }
    if timeouts is not None:
        content["timeouts"] = np.isin(np.arange(steps), timeouts)
    if following:
        content["next_observations"] = after
    return content


def save(path, content, **keywords):
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            file.create_dataset(name, data=value, **keywords)
    return path


@dataclass
class Row:
    """One line of the oracle's episodes."""

    observation: list
    action: list
    reward: float
    terminal: bool
    timeout: bool


def read_slowly(content, horizon):
    """Episodes as lists of rows with the observation after each, row by row; and the steps dropped."""
    episodes, rows = [], []
    for t in range(len(content["rewards"])):
        terminal = bool(content["terminals"][t])
        timeout = bool(content["timeouts"][t]) if "timeouts" in content else len(rows) + 1 == horizon
        rows.append(
            Row(content["observations"][t].tolist(), content["actions"][t].tolist(), float(content["rewards"][t]),
                terminal, timeout)
        )  # fmt: skip
        if terminal or timeout:
            final = content["next_observations"] if "next_observations" in content else content["observations"]
            episodes.append((rows, final[t].tolist()))
            rows = []
    return episodes, len(rows)


@st.composite
def files(draw):
    """Arrays of a file with random flags; no two observations are equal."""
    steps = draw(st.integers(1, 40))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    often = draw(st.sampled_from([0.05, 0.3, 0.9]))
    content = {
        "observations": generator.normal(size=(steps, 3)).astype(dtype),
        "actions": generator.uniform(-1, 1, size=(steps, 2)).astype(dtype),
        "rewards": generator.normal(size=steps).astype(dtype),
        "terminals": generator.random(steps) < often,
    }
    horizon = draw(st.integers(1, 12))
    if draw(st.booleans()):
        content["timeouts"] = generator.random(steps) < often
    if draw(st.booleans()):
        after = np.concatenate([content["observations"][1:], generator.normal(size=(1, 3))]).astype(dtype)
        ends = np.concatenate([[len(rows) for rows, _ in read_slowly(content, horizon)[0]]]).cumsum().astype(int) - 1
        after[ends] = generator.normal(size=(len(ends), 3))
        content["next_observations"] = after
    return content, horizon
