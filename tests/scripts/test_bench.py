"""The bench: what flowrl is compared with computes the same, and every section measures."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from flowrl.attention.flow import flow_attention
from flowrl.data.minari_store import open_dataset
from flowrl.data.reading import read_arrays
from flowrl.data.samplers import windows_at
from flowrl.nn.block import Block
from flowrl.nn.state import tensors_of
from flowrl.scripts import bench
from flowrl.scripts.benchmarks import data, timing
from flowrl.scripts.benchmarks.agents import history, preset, random_actor
from flowrl.scripts.benchmarks.attention import forward_backward, inputs
from flowrl.scripts.benchmarks.textbook import TextbookTransformer, WindowDataset, textbook_flow

CPU = torch.device("cpu")


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize("scale", [1.0, 25.0], ids=["free", "clamped"])
def test_textbook_flow_and_its_gradients_are_the_kernels(scale, dtype, error):
    qkv, weights = inputs((2, 3, 131, 7), CPU, dtype)
    qkv = [(scale * x).detach().requires_grad_() for x in qkv]
    textbook, kernel = (forward_backward(rule, qkv, weights) for rule in (textbook_flow, flow_attention))
    for ours, theirs in zip(map(torch.detach, kernel), textbook, strict=True):
        assert torch.allclose(theirs, ours, rtol=error, atol=error * float(ours.abs().max()))


def test_the_textbook_transformer_is_dt_in_its_blocks_and_in_its_size():
    config = preset("dt", width=12, heads=3, layers=2, context=5)
    textbook, model = (
        TextbookTransformer(config, 11, 3, 50).eval(),
        random_actor("dt", CPU, width=12, heads=3, layers=2),
    )
    theirs, ours = textbook.blocks[0], Block(config).eval()
    names = {"self_attn.in_proj_": "attention.project_in.", "self_attn.out_proj.": "attention.project_out."}
    names |= {"norm1": "attention_norm", "norm2": "mlp_norm", "linear1": "mlp.0", "linear2": "mlp.2"}
    weights = {name: weight + 0.1 * torch.randn(weight.shape) for name, weight in theirs.state_dict().items()}
    theirs.load_state_dict(weights)
    for old, new in names.items():
        weights = {name.replace(old, new): weight for name, weight in weights.items()}
    ours.load_state_dict(weights)
    tokens = torch.randn(2, 15, 12)
    assert torch.allclose(theirs(tokens, textbook.hidden, is_causal=True), ours(tokens), atol=1e-5)
    sizes = [sum(x.numel() for x in blocks.parameters()) for blocks in (textbook.blocks, model.model.blocks)]
    assert sizes[0] == sizes[1]


def test_the_textbook_transformer_sees_the_past_alone():
    model = TextbookTransformer(preset("dt", width=12, heads=3, layers=2, context=5), 11, 3, 50).eval()
    returns, observations, actions = torch.randn(2, 5), torch.randn(2, 5, 11), torch.randn(2, 5, 3)
    timesteps = torch.arange(5).expand(2, 5)
    before = model(returns, observations, actions, timesteps)
    observations[:, 3] += 1
    actions[:, 3] += 1
    after = model(returns, observations, actions, timesteps)
    assert torch.allclose(after[:, :3], before[:, :3], atol=1e-6)
    assert (after[:, 3:] - before[:, 3:]).abs().amin() > 1e-6
    actions[:, 4] += 1  # a step's own action
    assert torch.allclose(model(returns, observations, actions, timesteps), after, atol=1e-6)


def test_textbook_windows_are_ours(random_dataset):
    dataset = random_dataset([7, 1, 4])
    items, ours = WindowDataset(dataset, 5), windows_at(dataset, torch.arange(dataset.steps), 5)
    returns_to_go, observations, actions, timesteps, is_real = (
        torch.stack([torch.as_tensor(items[i][part]) for i in range(len(items))]) for part in range(5)
    )
    assert torch.equal(is_real, ~ours.is_pad)
    assert torch.equal(actions, ours.actions)
    assert torch.equal(timesteps, ours.timesteps)
    assert torch.allclose(returns_to_go, ours.returns_to_go / 1_000)
    scaled = (ours.observations - dataset.observations.mean(0)) / dataset.observations.std(0, correction=0)
    assert torch.allclose(observations, scaled.masked_fill(ours.is_pad[..., None], 0), atol=1e-5)


def test_h5py_reads_what_is_loaded(reach_dataset):
    stored = open_dataset(reach_dataset)
    arrays = read_arrays(stored)
    for name, values in data.read_arrays(stored.storage.data_path.parent).items():
        assert np.array_equal(values.astype(np.float32), getattr(arrays, name).astype(np.float32))


@pytest.mark.parametrize("name", ["flow", "dt"])
def test_a_history_is_as_long_as_one_that_was_acted(name):
    actor = random_actor(name, CPU, width=8, heads=2, layers=1, rollout="recurrent")
    carry, acted = history(actor, 3, 12, CPU), actor.initial(torch.zeros(3))
    with torch.inference_mode():
        for _ in range(12):
            acted, _ = actor.act(acted, torch.randn(3, 11), torch.rand(3))
    assert carry.timestep == acted.timestep == 12
    assert [x.shape for x in tensors_of(carry)] == [x.shape for x in tensors_of(acted)]


def test_calls_are_timed_in_turn_and_short_ones_repeated(monkeypatch):
    calls, now = [], [0.0]

    def call(name, seconds):
        calls.append(name)
        now[0] += seconds

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    seconds = timing.alternate({"a": lambda: call("a", 0.25), "b": lambda: call("b", 0.5)}, 2)
    assert calls == ["a", "b"] * 3
    assert seconds == {"a": [0.25, 0.25], "b": [0.5, 0.5]}
    assert timing.alternate({"a": lambda: call("a", 0.25), "long": lambda: call("long", 3.0)}, 4)["a"] == [0.25]
    first, second = timing.compared("x", {"a": [1.0, 2.0, 9.0], "b": [3.0, 3.0, 30.0]})
    assert (first["ratio"], second["ratio"], first["low"], first["high"]) == (1.0, 1.5, 1.5, 5.5)
    monkeypatch.setattr(timing.time, "process_time", lambda: 3 * now[0])
    assert timing.alternate({"a": lambda: call("a", 0.25)}, 2, cpu=True) == {"a": [0.75, 0.75]}
    calls.clear()
    assert timing.alternate({"c": lambda: call("c", 0.001)}, 3)["c"] == pytest.approx([0.001] * 3)
    assert len(calls) >= 3 * timing.SHORTEST / 0.001


def test_a_contender_without_values_has_its_reason_in_the_table():
    rows = [*timing.compared("x", {"a": [2.0], "b": [4.0]}, "/s"), timing.untimed("x", "c", "no compiler")]
    first, second, third = timing.rows_table(rows).splitlines()[-3:]
    assert first.split() == ["x", "a", "2", "/s", "[2,", "2]", "1"]
    assert second.split() == ["b", "4", "/s", "[4,", "4]", "2"]
    assert "no compiler" in third


def test_the_gpu_is_measured_only_if_it_is_named(monkeypatch):
    measured = []
    for name in bench.SECTIONS:
        monkeypatch.setitem(bench.SECTIONS, name, lambda device, *_, name=name: measured.append((name, device)) or [])
    monkeypatch.setattr(bench, "choose_device", lambda name: torch.device("meta" if name == "auto" else name))
    bench.main(bench.Args())
    assert [device.type for _, device in measured] == ["cpu"] * (len(bench.SECTIONS) - 1)
    measured.clear()
    bench.main(bench.Args(sections=("gpu",)))
    assert [(name, device.type) for name, device in measured] == [("gpu", "meta")]


@pytest.mark.parametrize("name", bench.SECTIONS)
def test_a_section(name, tmp_path, minari_root, monkeypatch):
    if name == "gpu":
        monkeypatch.setattr(torch, "compile", lambda loss: loss)  # a compilation takes half a minute
    out = tmp_path / "bench.json"
    rows = bench.main(bench.Args(sections=(name,), quick=True, repetitions=2, out=out, device="cpu"))
    assert json.loads(out.read_text())["rows"] == rows
    assert len(rows) > 1
    for row in rows:
        assert row["section"] == name
        if "CUDA graph" in row["name"]:
            assert row["note"] == "a CUDA graph needs a GPU"
            continue
        assert all(row[key] > 0 and math.isfinite(row[key]) for key in ("median", "ratio"))
        assert row["low"] <= row["median"] <= row["high"]
        if name == "exactness":
            assert row["median"] < (1e-6 if "fp32" in row["what"] else 2**-7)
    assert not list(minari_root.iterdir())


@pytest.mark.parametrize(
    "mistake", [{"sections": ("cores",)}, {"repetitions": 0}, {"threads": 0}, {"device": "tpu"}, {"out": "nowhere/x"}]
)
def test_a_mistake_is_refused_before_anything_is_measured(mistake, tmp_path, monkeypatch):
    monkeypatch.setitem(bench.SECTIONS, "core", lambda *_: pytest.fail("it measures"))
    if "out" in mistake:
        mistake = {"out": tmp_path / mistake["out"]}
    with pytest.raises(bench.InputError):
        bench.main(replace(bench.Args(sections=("core",), quick=True), **mistake))
