"""Several processes train what one would: the same losses and weights, one writer, one end. The processes are real."""

import multiprocessing
import os
import signal
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import fields, replace
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from flowrl.agents.bc import BCConfig
from flowrl.agents.cloning import CloningConfig, CloningLearner
from flowrl.agents.sequence import SequenceConfig
from flowrl.attention.dropout import Dropout
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import Windows
from flowrl.errors import InputError
from flowrl.nn.normaliser import Normaliser
from flowrl.training import distributed
from flowrl.training.config import TrainingConfig
from flowrl.training.device import isolated_rng
from flowrl.training.loop import Stopped, train
from flowrl.training.run_folder import RunFolder

CPU = torch.device("cpu")
CONFIG = TrainingConfig(steps=12, batch_size=12, log_every=1, checkpoint_every=4)
CLONING = CloningConfig(warmup_steps=5)
FLOW = SequenceConfig(width=16, layers=1, heads=2, context=5, dropout=0.0, cloning=CLONING)
DT, BC = replace(FLOW, attention="softmax"), BCConfig(width=16, layers=1, context=5, dropout=0.0, cloning=CLONING)
CARRYING, EPISODES = replace(FLOW, carry_state=True), replace(FLOW, context="episode")
EVERY_AGENT = pytest.mark.parametrize(
    "agent", [FLOW, DT, BC, CARRYING, EPISODES], ids=["flow", "dt", "bc", "carrying", "episodes"]
)
LENGTHS = [9, 4, 17, 1, 12, 2, 2]  # most windows of 5 steps are padded


@pytest.fixture(scope="module")
def pool():
    """Three processes that wait for work: to start one takes seconds."""
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture
def launch(pool):
    """Calls a function in so many ranks, as torchrun would; what each returned, or the exception that ended it."""

    def start(processes, function, *arguments):
        store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        calls: list[Future] = [
            pool.submit(as_rank, rank, processes, store.port, function, arguments) for rank in range(processes)
        ]
        wait(calls)
        return [call.exception() or call.result() for call in calls]

    return start


def as_rank(rank, world, port, function, arguments):
    torch.set_num_threads(1)
    environment = {
        "TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_USE_AGENT_STORE": "True",
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world,
        "MASTER_ADDR": "localhost", "MASTER_PORT": port,
    }  # fmt: skip
    with mock.patch.dict(os.environ, {name: str(value) for name, value in environment.items()}):
        return function(*arguments)


@pytest.fixture
def arrays(random_arrays):
    return random_arrays(LENGTHS)


def dataset_of(arrays, double):
    dataset = TrajectoryDataset.from_stored_arrays(
        "random", arrays, action_low=np.array([-2.0, -1.0]), action_high=np.array([3.0, 2.0])
    )
    tensors = {field.name: getattr(dataset, field.name) for field in fields(dataset)}
    floats = {n: t.double() for n, t in tensors.items() if isinstance(t, torch.Tensor) and t.is_floating_point()}
    return replace(dataset, **floats) if double else dataset


class Dead(Exception):
    """Stands for a kill: nothing is saved on the way out."""


def die():
    raise Dead


def signal_rank(rank):
    if distributed.rank() == rank:
        signal.raise_signal(signal.SIGTERM)


def trained(arrays, agent, config, folder, double=False, at=0, happens=die):
    """Weights after training in `folder`, which may hold a run to go on with; in this call's step `at` it happens."""
    steps, original = [], CloningLearner.update

    def counted(self, batch, step):
        steps.append(step)
        if len(steps) == at:
            happens()
        return original(self, batch, step)

    folder.mkdir(exist_ok=True)
    with distributed.group(), isolated_rng(0, CPU), mock.patch.object(CloningLearner, "update", counted):
        dataset = dataset_of(arrays, double)
        learner = agent.build(Normaliser.of(dataset), config, CPU)
        if double:
            learner.actor.double()
        train(learner, dataset, config, RunFolder(folder), seed=0, name="test")
    return {name: tensor.numpy() for name, tensor in learner.actor.state_dict().items()}


def metrics(folder):
    """(rows, metrics) of metrics.jsonl without the speeds."""
    return np.array([
        [value for name, value in row.items() if name not in ("steps_per_second", "cpu_seconds")]
        for row in RunFolder(folder).rows("metrics.jsonl")
    ])  # fmt: skip


def assert_same_bits(one, two):
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        np.testing.assert_array_equal(tensor, two[name], err_msg=name)


def assert_close(one, two):
    """float64 up to the order of its sums; of a rounding in a gradient near 0 AdamW makes 1e5 (rate / eps) as much."""
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        np.testing.assert_allclose(tensor, two[name], rtol=1e-9, atol=1e-9, err_msg=name)


# The same training


@pytest.mark.slow
@EVERY_AGENT
def test_two_processes_train_as_one(launch, arrays, tmp_path, agent):
    """Dropout draws other masks in each process, so it is off; the ranks' windows hold different shares of padding."""
    batch = Windows(dataset_of(arrays, False), 12, 5).draw(torch.Generator().manual_seed(0))
    real = (~batch.is_pad).view(2, -1).sum(1)
    assert real[0] != real[1]

    alone = trained(arrays, agent, CONFIG, tmp_path / "one", True)
    first, second = launch(2, trained, arrays, agent, CONFIG, tmp_path / "two", True)
    assert_same_bits(first, second)
    assert_close(first, alone)
    assert metrics(tmp_path / "one").shape == (12, 4)  # step, loss, norm of the gradient, learning rate
    np.testing.assert_allclose(metrics(tmp_path / "two"), metrics(tmp_path / "one"), rtol=1e-9)


@pytest.mark.slow
def test_three_processes_train_as_one(launch, arrays, tmp_path):
    """In float32: predictions are float32 even of a float64 model, and unlike 1/2, 1/3 of a gradient is rounded."""
    trained(arrays, FLOW, CONFIG, tmp_path / "one")
    ranks = launch(3, trained, arrays, FLOW, CONFIG, tmp_path / "three")
    for rank in ranks:
        assert_same_bits(rank, ranks[0])
    np.testing.assert_allclose(metrics(tmp_path / "three"), metrics(tmp_path / "one"), rtol=1e-5)


@pytest.mark.slow
def test_a_run_that_died_and_goes_on_ends_in_the_same_bits(launch, arrays, tmp_path):
    agent = replace(FLOW, dropout=0.2)
    killed = launch(2, trained, arrays, agent, CONFIG, tmp_path / "a", False, 6)
    assert all(isinstance(rank, Dead) for rank in killed)
    assert RunFolder(tmp_path / "a").load()["step"] == 4
    resumed = launch(2, trained, arrays, agent, CONFIG, tmp_path / "a")
    whole = launch(2, trained, arrays, agent, CONFIG, tmp_path / "b")
    assert_same_bits(resumed[0], whole[0])
    np.testing.assert_array_equal(metrics(tmp_path / "a"), metrics(tmp_path / "b"))
    one, two = (RunFolder(tmp_path / name).load()["generators"]["ranks"] for name in "ab")
    assert len(one) == 2
    for mine, other in zip(one, two, strict=True):
        assert torch.equal(mine["torch"], other["torch"])


@pytest.mark.slow
@pytest.mark.parametrize("agent", [FLOW, CARRYING], ids=["flow", "carrying"])
def test_a_run_may_go_on_in_fewer_or_more_processes(launch, arrays, tmp_path, agent):
    whole = trained(arrays, agent, CONFIG, tmp_path / "one", True)
    launch(2, trained, arrays, agent, CONFIG, tmp_path / "many", True, 5)
    with pytest.raises(Dead):
        trained(arrays, agent, CONFIG, tmp_path / "many", True, 5)
    assert RunFolder(tmp_path / "many").load()["step"] == 8
    resumed = launch(2, trained, arrays, agent, CONFIG, tmp_path / "many", True)
    assert_close(resumed[0], whole)
    np.testing.assert_allclose(metrics(tmp_path / "many"), metrics(tmp_path / "one"), rtol=1e-9)


def dropped(arrays, agent, folder):
    """What this rank's dropout let through in two steps."""
    passed = []
    hook = nn.modules.module.register_module_forward_hook(
        lambda module, arguments, output: (
            passed.append(output.numpy(force=True)) if type(module) in (nn.Dropout, Dropout) else None
        )
    )
    with hook:
        trained(arrays, agent, replace(CONFIG, steps=2), folder)
    return passed


@pytest.mark.slow
@pytest.mark.parametrize("agent", [BC, FLOW], ids=["bc", "flow"])
def test_each_process_drops_other_features(agent, launch, random_arrays, tmp_path):
    """All windows of a dataset of one step are the same: only the masks can differ."""
    one_step = random_arrays([1])
    for dropout, same in ((0.0, True), (0.5, False)):
        one, two = launch(2, dropped, one_step, replace(agent, dropout=dropout), tmp_path / str(dropout))
        assert one
        assert {np.array_equal(a, b) for a, b in zip(one, two, strict=True)} == {same}


@pytest.mark.slow
def test_bfloat16_trains_as_in_one_process(launch, arrays, tmp_path):
    config = replace(CONFIG, precision="bf16")
    trained(arrays, FLOW, config, tmp_path / "one")
    launch(2, trained, arrays, FLOW, config, tmp_path / "two")
    # As between bfloat16 and float32 in one process: eight bits of mantissa in the products of a dozen steps.
    np.testing.assert_allclose(metrics(tmp_path / "two")[:, 1], metrics(tmp_path / "one")[:, 1], rtol=0.05)


@pytest.mark.slow
def test_compiled_it_trains_as_in_one_process(launch, arrays, tmp_path):
    trained(arrays, BC, CONFIG, tmp_path / "one")
    compiled = replace(BC, cloning=replace(CLONING, compile=True))
    launch(2, trained, arrays, compiled, CONFIG, tmp_path / "two")
    np.testing.assert_allclose(metrics(tmp_path / "two")[:, 1], metrics(tmp_path / "one")[:, 1], rtol=1e-3)
    names = [set(RunFolder(tmp_path / name).load()["learner"]["actor"]) for name in ("one", "two")]
    assert names[0] == names[1]


# One writer, one end


def trained_in_own_folder(arrays, agent, config, folder):
    return trained(arrays, agent, config, folder / str(distributed.rank()))


@pytest.mark.slow
def test_rank_0_alone_writes(launch, arrays, tmp_path):
    launch(2, trained_in_own_folder, arrays, FLOW, CONFIG, tmp_path)
    assert {"checkpoint.pt", "metrics.jsonl"} <= {path.name for path in (tmp_path / "0").iterdir()}
    assert not list((tmp_path / "1").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [0, 1])
def test_a_signal_to_one_stops_all_after_the_same_step(launch, arrays, tmp_path, signalled):
    agent = replace(FLOW, dropout=0.2)
    stopped = launch(2, trained, arrays, agent, CONFIG, tmp_path / "a", False, 7, partial(signal_rank, signalled))
    assert all(isinstance(rank, Stopped) for rank in stopped)
    assert [(rank.signum, rank.step) for rank in stopped] == [(signal.SIGTERM, 7)] * 2
    assert RunFolder(tmp_path / "a").load()["step"] == 7
    resumed = launch(2, trained, arrays, agent, CONFIG, tmp_path / "a")
    whole = launch(2, trained, arrays, agent, CONFIG, tmp_path / "b")
    assert_same_bits(resumed[0], whole[0])
    np.testing.assert_array_equal(metrics(tmp_path / "a"), metrics(tmp_path / "b"))


def trained_on_a_full_disk(arrays, folder):
    with mock.patch.object(RunFolder, "save", side_effect=OSError(28, "No space left on device")):
        return trained(arrays, FLOW, CONFIG, folder)


@pytest.mark.slow
def test_what_fails_on_rank_0_ends_all(launch, arrays, tmp_path):
    one, two = launch(2, trained_on_a_full_disk, arrays, tmp_path / "full")
    assert isinstance(one, OSError)
    assert isinstance(two, InputError)
    assert "No space left on device" in str(two)
    wild = replace(FLOW, cloning=CloningConfig(learning_rate=1e30, warmup_steps=0))
    one, two = launch(2, trained, arrays, wild, CONFIG, tmp_path / "wild")
    assert str(one).startswith("training diverged by step")
    assert str(one) == str(two)


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_equally_is_refused(launch, arrays, tmp_path):
    refused = launch(3, trained, arrays, FLOW, replace(CONFIG, batch_size=8), tmp_path / "run")
    for error in refused:
        assert isinstance(error, InputError)
        assert str(error) == "batch_size is 8: it must be divisible by the number of processes, 3"
    assert not list((tmp_path / "run").iterdir())


def exchanged(path, failing):
    """Rank 0 makes a file; the others read it, whatever time it took."""

    def look():
        if distributed.rank() == 0:
            path.write_text("rank 0")
        if distributed.rank() == failing:
            raise InputError(f"rank {failing} cannot")
        return path.read_text(), distributed.rank()

    with distributed.group():
        content = distributed.rank_zero_first(look)
        from_zero = distributed.from_rank_zero(distributed.rank)
        everyone = distributed.gather(distributed.rank())
        mean = distributed.mean(torch.tensor(float(distributed.rank())))
        return content, from_zero, everyone, float(mean), distributed.largest(10 * distributed.rank())


@pytest.mark.slow
def test_what_ranks_exchange(launch, tmp_path):
    values = launch(3, exchanged, tmp_path / "file", None)
    assert values == [(("rank 0", rank), 0, [0, 1, 2], 1.0, 20) for rank in range(3)]
    for failing in (0, 1):
        failed = launch(3, exchanged, tmp_path / f"file{failing}", failing)
        assert [(type(error), str(error)) for error in failed] == [(InputError, f"rank {failing} cannot")] * 3


def gradients_of_shares(counts):
    """Gradients of a mean over all ranks' items, of which this rank has `counts[rank]`."""
    with distributed.group():
        rank = distributed.rank()
        items = torch.arange(9.0)[sum(counts[:rank]) : sum(counts[: rank + 1])]
        layer, unused = nn.Linear(1, 2), nn.Linear(1, 1)
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
        loss = layer(items[:, None]).square().mean()
        distributed.part_of_mean(loss, torch.tensor(len(items))).backward()
        distributed.average_gradients([*layer.parameters(), *unused.parameters()])
        assert unused.weight.grad is None
        return [parameter.grad.flatten().tolist() for parameter in layer.parameters()]


@pytest.mark.slow
def test_averaged_gradients_are_those_of_all_items_in_one_process(launch):
    alone = gradients_of_shares([9])
    for rank in launch(3, gradients_of_shares, [1, 6, 2]):
        for mine, expected in zip(rank, alone, strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-6)


# Without torchrun, or with GPUs


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")  # as cluster managers set it for processes that know nothing of each other
    monkeypatch.setenv("RANK", "3")
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    layer = nn.Linear(1, 1)
    layer(torch.ones(1)).backward()
    with distributed.group():
        assert not dist.is_initialized()
        distributed.average_gradients(layer.parameters())
    assert layer.weight.grad.tolist() == [[1.0]]
    assert distributed.local_device(torch.device("cuda")) == torch.device("cuda")


def test_every_process_has_a_gpu_of_its_own(monkeypatch):
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", 8), ("LOCAL_WORLD_SIZE", 4), ("LOCAL_RANK", 2)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert distributed.local_device(torch.device("cuda")) == torch.device("cuda", 2)
    assert distributed.local_device(CPU) == CPU
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="4 processes on a machine with 2 GPUs"):
        distributed.local_device(torch.device("cuda"))
