"""Loading a Minari dataset into tensors, against reading its arrays with h5py."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from functools import partial
from pathlib import Path
from unittest.mock import patch

import gymnasium as gym
import h5py
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.minari_store import DatasetDescription, write_dataset
from flowrl.data.stored_arrays import CACHE_NAME
from flowrl.scripts.benchmarks import synthetic
from flowrl.scripts.benchmarks.measure import Contender, Row, Sample, alternate, storage_bytes
from flowrl.scripts.benchmarks.setting import Setting

ARRAYS = ("observations", "actions", "rewards", "terminations", "truncations")
STATUS = Path("/proc/self/status")


def loading(setting: Setting) -> Iterator[Row]:
    """Time and peak memory, without the cache beside the file (and making it) and with it; files in the page cache."""
    episodes = setting.sizes.stored_episodes
    with tempfile.TemporaryDirectory() as root:
        path = _write(root, episodes)
        no_cache = partial((path / "data" / CACHE_NAME).unlink, missing_ok=True)
        load, raw = partial(TrajectoryDataset.from_minari, str(path)), partial(read_raw, path)
        contenders = [
            Contender("first load", load, prepare=no_cache),
            Contender("later load", load),
            Contender("h5py", raw),
        ]
        *ours, other = alternate(contenders, setting.few, setting.device)
        what = f"{episodes:,} episodes of {synthetic.LENGTH:,} steps"
        for sample in ours:
            yield Row(f"{what}: time", sample, other, bound=1.5)
        if setting.sizes.peak_memory and STATUS.exists():
            data = Sample("tensors", "B", (tensor_bytes(load()),))
            no_cache()
            for name, read, bound in (("first load", load, 2.0), ("later load", load, 2.0), ("h5py", raw, None)):
                peak = Sample(name, "B", (_in_a_process_of_its_own(read),))
                yield Row(f"{what}: peak memory", peak, data, bound=bound, words="× the data")


def read_raw(path: Path) -> dict[str, NDArray]:
    """Every array of every episode by h5py, then end to end, by h5py's plain interface."""
    parts: dict[str, list[NDArray]] = {name: [] for name in ARRAYS}
    with h5py.File(path / "data" / "main_data.hdf5") as file:
        for index in range(len(file)):
            for name in ARRAYS:
                dataset = file[f"episode_{index}/{name}"]
                assert isinstance(dataset, h5py.Dataset)
                parts[name].append(dataset[()])
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def tensor_bytes(dataset: TrajectoryDataset) -> int:
    """The memory of a dataset's tensors."""
    values = (getattr(dataset, field.name) for field in fields(dataset))
    return storage_bytes([value for value in values if isinstance(value, Tensor)])


def peak_memory(read: Callable[[], object]) -> int:
    """How many bytes of memory `read` needs at most, beyond what this process had before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _status("VmRSS")
    kept = read()
    peak = _status("VmHWM")
    del kept
    return peak - before


def _status(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _in_a_process_of_its_own(read: Callable[[], object]) -> int:
    # Spawned: a fork would find freed memory to use again, and count shared pages as new ones once it touches them.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_memory, read).result()


def _write(root: str, episodes: int) -> Path:
    with patch.dict(os.environ, MINARI_DATASETS_PATH=root):
        return write_dataset(
            "bench/synthetic-v0",
            synthetic.stored_episodes(episodes),
            DatasetDescription(
                env_spec=gym.spec("Hopper-v5"),
                observation_space=synthetic.OBSERVATIONS,
                action_space=synthetic.ACTIONS,
                algorithm="none",
                description="random numbers in Hopper's shapes",
            ),
        )
