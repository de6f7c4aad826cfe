"""What every test stands on: an own Minari root, one CPU thread, no network; tiny datasets and runs."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import flowrl
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.minari_store import DatasetDescription, Episode, write_dataset
from flowrl.data.stored_arrays import StoredArrays
from flowrl.scripts import collect

torch.set_num_threads(1)

REACH = "flowrl/reach/mixed-v0"
TINY = {
    **{"dataset": REACH, "steps": 20, "width": 16, "layers": 1, "context": 5, "batch_size": 8, "episodes": 3},
    **{"log_every": 5, "checkpoint_every": 10, "warmup_steps": 5, "device": "cpu"},
}


@pytest.fixture(autouse=True)
def minari_root(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Minari root of the test's own; downloads fail at once."""
    root = tmp_path_factory.mktemp("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return root


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The option `threads` sets torch's threads for the whole process: set them back."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def registered_environments() -> Iterator[None]:
    """What is registered of ours is the same for the next test: `gym.spec` gives the registered object, not a copy."""
    specs = {name: spec for name, spec in gym.registry.items() if name.startswith("flowrl/")}
    before = {name: repr(spec) for name, spec in specs.items()}
    yield
    assert {name: repr(spec) for name, spec in specs.items()} == before


@pytest.fixture(scope="session")
def reach_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Minari root that holds `flowrl/reach/mixed-v0`, some 400 steps of it."""
    root = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        collect.main(collect.Args(REACH, steps=400))
    return root


@pytest.fixture
def reach_dataset(reach_template: Path, minari_root: Path) -> str:
    """The id of `flowrl/reach/mixed-v0`, which is in the test's own root."""
    shutil.copytree(reach_template, minari_root, dirs_exist_ok=True)
    return REACH


@pytest.fixture
def reach(reach_dataset: str) -> TrajectoryDataset:
    """The same, loaded."""
    return TrajectoryDataset.from_minari(reach_dataset)


def tiny_options(agent: str) -> dict[str, Any]:
    """The options of a tiny run."""
    return TINY if agent == "bc" else TINY | {"heads": 2}


def tiny_train(agent: str, run_dir: Path, **options: Any) -> Path:
    """A tiny run; `options` override."""
    return flowrl.train(agent, run_dir=run_dir, **(tiny_options(agent) | options))


@pytest.fixture(name="tiny_train")
def tiny_train_fixture() -> Callable[..., Path]:
    """`tiny_train` of this file."""
    return tiny_train


def tiny_argv(agent: str, run_dir: Path, *options: str) -> list[str]:
    """The command line of a tiny run; `options` come last and so override."""
    pairs = [("--" + name.replace("_", "-"), str(value)) for name, value in tiny_options(agent).items()]
    return [agent, *(word for pair in pairs for word in pair), "--run-dir", str(run_dir), *options]


@pytest.fixture(name="tiny_argv")
def tiny_argv_fixture() -> Callable[..., list[str]]:
    """`tiny_argv` of this file."""
    return tiny_argv


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory, reach_template: Path) -> Path:
    """A folder with the finished tiny runs `flow`, `dt` and `bc`."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(reach_template))
        for agent in ("flow", "dt", "bc"):
            tiny_train(agent, folder / agent)
    return folder


@pytest.fixture(params=["flow", "dt", "bc"])
def any_tiny_run(request: pytest.FixtureRequest, tiny_runs: Path, tmp_path: Path) -> Path:
    """A copy of a finished tiny run of every agent."""
    return shutil.copytree(tiny_runs / request.param, tmp_path / request.param)


@pytest.fixture
def tiny_run(tiny_runs: Path, tmp_path: Path) -> Path:
    """A copy of a finished tiny run of `flow`."""
    return shutil.copytree(tiny_runs / "flow", tmp_path / "flow")


def random_arrays(
    lengths: Sequence[int], observation_size: int = 3, action_size: int = 2, seed: int = 0
) -> StoredArrays:
    """Episodes of these lengths; rewards are quarters, so that sums of them are exact in float32."""
    generator = np.random.default_rng(seed)
    steps, episodes = sum(lengths), len(lengths)
    return StoredArrays(
        generator.normal(size=(steps + episodes, observation_size)).astype(np.float32),
        generator.uniform(-1, 1, size=(steps, action_size)).astype(np.float32),
        (generator.integers(-8, 9, size=steps) / 4).astype(np.float32),
        generator.random(steps) < 0.1,
        np.zeros(steps, bool),
        np.array(lengths, np.int64),
    )


@pytest.fixture(name="random_arrays")
def random_arrays_fixture() -> Callable[..., StoredArrays]:
    """`random_arrays` of this file."""
    return random_arrays


@pytest.fixture
def random_dataset() -> Callable[..., TrajectoryDataset]:
    """Makes a dataset of random episodes whose actions lie in Reach's bounds, which are off centre."""

    def make(lengths: Sequence[int], observation_size: int = 3, seed: int = 0) -> TrajectoryDataset:
        return TrajectoryDataset.from_stored_arrays(
            "random",
            random_arrays(lengths, observation_size, 2, seed),
            action_low=np.array([-2.0, -1.0]),
            action_high=np.array([3.0, 2.0]),
        )

    return make


def numbered_episode(number: int, length: int, *, terminated: bool = True) -> Episode:
    """Every number names its episode and step: observation 100·e + t, action that + 0.5, reward that + 0.25."""
    steps = 100.0 * number + np.arange(length + 1)
    last = np.arange(length) == length - 1
    return Episode(
        observations=np.stack([steps, -steps, 2 * steps], 1),
        actions=np.stack([steps[:-1] + 0.5, -steps[:-1] - 0.5], 1).astype(np.float32),
        rewards=steps[:-1] + 0.25,
        terminations=last & terminated,
        truncations=last & (not terminated),
        seed=number,
    )


@pytest.fixture(name="numbered_episode")
def numbered_episode_fixture() -> Callable[..., Episode]:
    """`numbered_episode` of this file."""
    return numbered_episode


@pytest.fixture
def write() -> Callable[..., Path]:
    """Writes episodes with observations (3,) and actions (2,) as the Minari dataset of an id."""

    def write_reach(dataset_id: str, episodes: Sequence[Episode], *, force: bool = False, **changes) -> Path:
        about = DatasetDescription(
            observation_space=gym.spaces.Box(-np.inf, np.inf, (3,), np.float64),
            action_space=gym.spaces.Box(-np.inf, np.inf, (2,), np.float32),
            algorithm="none",
            description="of a test",
            env_spec=gym.spec("flowrl/Reach-v0"),
        )
        return write_dataset(dataset_id, episodes, replace(about, **changes), force=force)

    return write_reach


@pytest.fixture
def pendulum_run(write, tiny_train, tmp_path):
    """A run on MuJoCo's inverted pendulum, whose episodes are short under a bad policy."""
    generator = np.random.default_rng(0)
    episodes = [
        Episode(
            generator.normal(size=(9, 4)), generator.uniform(-3, 3, (8, 1)).astype(np.float32), np.ones(8),
            np.arange(8) == 7, np.zeros(8, bool), seed=0,
        )
        for _ in range(3)
    ]  # fmt: skip
    write(
        "test/pendulum-v0",
        episodes,
        env_spec=gym.spec("InvertedPendulum-v5"),
        observation_space=gym.spaces.Box(-np.inf, np.inf, (4,)),
        action_space=gym.spaces.Box(-3, 3, (1,), np.float32),
    )
    return tiny_train("bc", tmp_path / "pendulum", dataset="test/pendulum-v0", steps=2, episodes=1)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def assert_same_run(one: Path, two: Path) -> None:
    """The same bits in weights, optimiser and generators; the same rows but for what depends on the machine."""

    def compare(x: Any, y: Any, path: str) -> None:
        if isinstance(x, dict):
            assert x.keys() == y.keys(), path
            for key in x:
                compare(x[key], y[key], f"{path}.{key}")
        elif isinstance(x, list | tuple):
            assert len(x) == len(y), path
            for index, (left, right) in enumerate(zip(x, y, strict=True)):
                compare(left, right, f"{path}[{index}]")
        else:
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, path

    checkpoints = [torch.load(run / "checkpoint.pt", weights_only=True) for run in (one, two)]
    compare(*checkpoints, "checkpoint")
    assert read_rows(one / "evaluations.jsonl") == read_rows(two / "evaluations.jsonl")
    of_the_machine = {"steps_per_second", "cpu_seconds", "eval/seconds", "memory/peak_bytes"}
    metrics = [
        [{k: v for k, v in row.items() if k not in of_the_machine} for row in read_rows(run / "metrics.jsonl")]
        for run in (one, two)
    ]
    assert metrics[0] == metrics[1]


@pytest.fixture(name="assert_same_run")
def assert_same_run_fixture() -> Callable[[Path, Path], None]:
    """`assert_same_run` of this file."""
    return assert_same_run
