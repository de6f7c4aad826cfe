"""The bench: its rivals compute what ours does, its figures are what they say, and every section runs."""

import json
import math
import mmap
import sys
from dataclasses import replace
from typing import get_args

import gymnasium as gym
import numpy as np
import pytest
import torch

from flowrl.agents import AGENTS, SequenceAgent
from flowrl.attention.flow import flow_attention
from flowrl.data.minari_store import open_dataset
from flowrl.data.samplers import sample_windows, windows_at
from flowrl.data.stored_arrays import read_arrays
from flowrl.evaluation.environments import make_env, make_vector_env
from flowrl.evaluation.rollout import rollout
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.trajectory import Block, ModelConfig, tensors_of
from flowrl.scripts import bench, cli
from flowrl.scripts.benchmarks import loading, measure
from flowrl.scripts.benchmarks.acting import Player
from flowrl.scripts.benchmarks.attention import inputs, recomputed, saved_tensors, softmax
from flowrl.scripts.benchmarks.baselines import (
    TextbookBlock,
    TextbookDecisionTransformer,
    WindowDataset,
    play_one_at_a_time,
    running_sum_attention,
    windows,
)
from flowrl.scripts.benchmarks.loading import peak_memory, read_raw, tensor_bytes
from flowrl.scripts.benchmarks.measure import Contender, Row, Sample, alternate, quantity, storage_bytes, table
from flowrl.scripts.benchmarks.numerics import relative_error
from flowrl.scripts.benchmarks.setting import Setting, Sizes

CPU = torch.device("cpu")
TINY = Sizes(
    width=8,
    layers=1,
    heads=(2,),
    batch=3,
    context=5,
    copied=1_000,
    core_shapes=((2, 1, 7, 3), (2, 2, 5, 3)),
    long=(11, 300),
    tokens=22,
    long_context=7,
    environments=3,
    widths=(8,),
    late=12,
    episodes=1,
    horizon=7,
    stored_episodes=2,
    accurate=(60, 70),
    longest=80,
    carried=70,
)


# The rivals


@pytest.mark.parametrize("scale", [1.0, 25.0], ids=["free", "clamped"])
def test_the_running_sums_are_flow_attention(scale):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        (scale * torch.randn(2, 3, 131, size, generator=generator, dtype=torch.float64)).requires_grad_()
        for size in (5, 5, 7)
    )
    found, expected = running_sum_attention(q, k, v), flow_attention(q, k, v)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10 * float(expected.detach().abs().max()))
    weights = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    pairs = zip(
        torch.autograd.grad(found, (q, k, v), weights), torch.autograd.grad(expected, (q, k, v), weights), strict=True
    )
    for mine, theirs in pairs:
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max()))


def test_a_textbook_block_is_ours_of_softmax():
    config = ModelConfig(attention="softmax", width=12, heads=3, context=5)
    textbook, block = TextbookBlock(12, 3, 0.1).eval(), Block(config).eval()
    names = {"attention.in_proj_": "attention.project_in.", "attention.out_proj.": "attention.project_out."}
    weights = {}
    for name, weight in textbook.state_dict().items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        weights[name] = weight + 0.1 * torch.randn(weight.shape)  # biases and norms are constants at first
    block.load_state_dict(weights)
    textbook.load_state_dict(dict(zip(textbook.state_dict(), weights.values(), strict=True)))
    tokens = torch.randn(2, 15, 12)
    assert torch.allclose(textbook(tokens, torch.ones(15, 15).triu(1).bool()), block(tokens), atol=1e-5)


def test_a_textbook_decision_transformer_has_as_many_block_parameters_as_dt():
    config = replace(AGENTS["dt"].config, width=24, heads=3, layers=2)
    ours = SequenceAgent(config, Normaliser(11, 3)).model.blocks
    theirs = TextbookDecisionTransformer(config, 11, 3, 1_000).blocks
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())


def test_a_textbook_decision_transformer_is_causal():
    model = TextbookDecisionTransformer(ModelConfig(width=12, heads=3, context=7), 5, 2, 100).eval()
    returns, observations, actions = torch.randn(2, 7), torch.randn(2, 7, 5), torch.randn(2, 7, 2)
    timesteps = torch.arange(7).expand(2, 7)
    before = model(returns, observations, actions, timesteps)
    assert before.shape == (2, 7, 2)
    later = [x.clone() for x in (returns, observations, actions)]
    later[0][:, 4:] += 1
    later[1][:, 4:] += 1
    later[2][:, 3:] += 1  # a step's own action too
    after = model(*later, timesteps)
    assert torch.allclose(after[:, :4], before[:, :4], atol=1e-6)
    assert (after[:, 4:] - before[:, 4:]).abs().amin() > 1e-5
    observations[:, 3] += 1
    assert (model(returns, observations, actions, timesteps)[:, 3] - before[:, 3]).abs().amin() > 1e-5


def test_textbook_windows_are_ours(random_dataset):
    data = random_dataset([7, 1, 4])
    items, ours = WindowDataset(data, 5), windows_at(data, torch.arange(data.steps), 5)
    assert len(items) == data.steps
    returns_to_go, observations, actions, timesteps, is_real = (
        torch.stack([torch.as_tensor(items[i][part]) for i in range(len(items))]) for part in range(5)
    )
    assert torch.equal(is_real, ~ours.is_pad)
    assert torch.equal(actions, ours.actions)
    assert torch.equal(timesteps, ours.timesteps)
    assert torch.allclose(returns_to_go, ours.returns_to_go / 1_000)
    seen = (ours.observations - data.observations.mean(0)) / data.observations.std(0, correction=0)
    assert torch.allclose(observations, seen.masked_fill(ours.is_pad[..., None], 0), atol=1e-5)


def test_textbook_batches_never_end(random_dataset):
    batches = windows(random_dataset([7, 1, 4]), 5, 8)
    assert [[len(part) for part in next(batches)] for _ in range(3)] == [[8] * 5] * 3


@pytest.mark.parametrize("name", ["flow", "dt"])
def test_one_episode_at_a_time_is_the_vector_rollout(name, reach):
    torch.manual_seed(0)
    agent = replace(AGENTS[name].config, width=16, heads=2, layers=2, context=4).build(Normaliser.of(reach))
    optimiser, generator = torch.optim.AdamW(agent.parameters(), 3e-3), torch.Generator().manual_seed(0)
    for _ in range(80):  # else it would drive out of the arena at once, whatever it is asked for
        optimiser.zero_grad()
        agent.loss(sample_windows(reach, 16, 4, generator)).backward()
        optimiser.step()
    agent.eval()
    targets, seeds = [2.0, 14.0], [3, 5, 7]
    alone = play_one_at_a_time(agent, make_env("flowrl/Reach-v0"), targets, seeds, CPU)
    together = rollout(agent, make_vector_env("flowrl/Reach-v0", 6), targets, seeds)
    assert [length for _, length in alone] == [result.length for result in together]
    assert [achieved for achieved, _ in alone] == pytest.approx([result.achieved for result in together], rel=1e-4)
    assert max(achieved for achieved, _ in alone[:3]) < min(achieved for achieved, _ in alone[3:]), "the target matters"
    assert max(length for _, length in alone) > agent.context


# What is measured


def test_contenders_take_turns(monkeypatch):
    calls, now = [], [0.0]

    def take(name, seconds):
        def run():
            calls.append(name)
            now[0] += seconds

        return run

    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    contenders = [
        Contender("slow", take("slow", 1.0), units=4),
        Contender("prepared", take("prepared", 0.001), prepare=take("prepare", 5.0)),
        Contender("long", take("long", 9.0), warm_up=take("short", 0.1)),
    ]
    samples = alternate(contenders, 2, CPU)
    turn = ["slow", "prepare", "prepared", "long"]
    assert calls == ["slow", "prepare", "prepared", "short", *turn, *turn]
    assert [sample.name for sample in samples] == ["slow", "prepared", "long"]
    assert [sample.median for sample in samples] == pytest.approx([0.25, 0.001, 9.0])


def test_a_short_call_is_repeated_within_a_timing(monkeypatch):
    calls, now = [], [0.0]

    def run():
        calls.append(1)
        now[0] += 0.001

    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    (sample,) = alternate([Contender("short", run)], 3, CPU)
    assert sample.values == pytest.approx([0.001] * 3)
    assert len(calls) >= 3 * measure.SHORTEST / 0.001


def test_a_ratio_is_that_of_the_medians_and_has_two_senses():
    ours, other = Sample("a", "s", (1.0, 2.0, 9.0)), Sample("b", "s", (3.0, 3.0, 30.0))
    slower = Row("x", other, ours, "at most", 1.5)
    assert (slower.ratio, slower.met) == (1.5, True)
    assert not replace(slower, bound=1.4).met
    faster = measure.faster("x", ours, other, 1.5)
    assert (faster.ratio, faster.met) == (1.5, True)
    assert not replace(faster, bound=1.6).met
    assert measure.faster("x", ours, other).met is None
    assert Row("x", ours).ratio is None
    assert ours.quartiles == (1.5, 5.5)
    assert faster.cells()[1:] == ["a", "2 [1.5, 5.5] s", "b", "3 [3, 16.5] s", "1.5× faster", "≥ 1.5", "met"]
    assert len({len(line.rstrip()) for line in table([slower, faster]).splitlines()}) > 1


def test_what_is_not_finite_misses_its_target_and_is_null():
    row = Row("x", Sample("a", "error", (math.nan,)), Sample("b", "error", (1.0,)), bound=3.0)
    assert row.met is False
    assert json.loads(json.dumps(row.record(), allow_nan=False))["ratio"] is None
    assert "nan" in " ".join(row.cells())


def test_quantities_have_three_digits():
    assert quantity(0.01234, "s") == "12.3 ms"
    assert quantity(2.5e-5, "s") == "25 µs"
    assert quantity(80_100_000, "B") == "80.1 MB"
    assert quantity(1234.0, "s") == "1,234 s"
    assert quantity(1.234e-7, "error") == "1.23e-07"
    assert quantity(112.4, "GFLOP/s") == "112 GFLOP/s"


def test_saved_tensors_are_those_of_autograd_and_a_part_keeps_the_whole():
    qkv = inputs((2, 3, 5, 7), CPU)
    each = 2 * 3 * 5 * 7 * 4

    def saved(attention):
        return storage_bytes(saved_tensors(attention, qkv))

    assert saved(lambda q, k, v: q + k + v) == 0
    assert saved(lambda q, k, v: q * k + v) == 2 * each  # q and k
    assert saved(lambda q, k, v: q * k * v) == 4 * each  # v and q·k too
    assert saved(lambda q, k, v: (q * k)[:, :1] * v[:, :1]) == 4 * each
    assert saved(recomputed) == 3 * each
    assert saved(softmax) > 3 * each


def test_recomputing_changes_nothing():
    qkv = inputs((2, 3, 5, 7), CPU)
    for found, expected in zip(
        torch.autograd.grad(recomputed(*qkv).sum(), qkv),
        torch.autograd.grad(flow_attention(*qkv).sum(), qkv),
        strict=True,
    ):
        assert torch.equal(found, expected)


def test_an_error_is_relative_and_of_the_last_tokens_of_each_sequence():
    expected = torch.full((2, 1, 100, 3), 2.0)
    found = expected.clone()
    found[..., :40, :] = 99.0
    assert relative_error(found, expected).tolist() == [0.0, 0.0]
    found[1, :, 40:] += 0.5
    assert relative_error(found, expected).tolist() == pytest.approx([0.0, 0.25])


@pytest.mark.parametrize("name", ["flow", "dt"])
def test_a_remembered_history_is_as_long_as_one_that_was_acted(name):
    setting = Setting(CPU, 1, TINY)
    players = [Player(setting.agent(setting.config(name, heads=2, rollout="recurrent")), 3) for _ in range(2)]
    players[0].begin(12)
    players[1].remember(12)
    for player in players:
        player.act(1)
    acted, remembered = (player.carry for player in players)
    assert remembered.timestep == acted.timestep == 13
    assert players[0].bytes() == players[1].bytes()
    for mine, theirs in zip(remembered.state, acted.state, strict=True):
        assert [part.shape for part in tensors_of(mine)] == [part.shape for part in tensors_of(theirs)]


def test_raw_reading_reads_everything(reach_dataset, reach):
    stored = open_dataset(reach_dataset)
    raw, arrays = read_raw(stored.storage.data_path.parent), read_arrays(stored)
    for name, values in raw.items():
        assert np.array_equal(values.astype(np.float32), getattr(arrays, name).astype(np.float32))
    steps = reach.steps * (3 + 2 + 1 + 1) * 4 + reach.steps * 2 * 8
    assert steps < tensor_bytes(reach) < steps + 10_000


@pytest.mark.skipif(not loading.STATUS.exists(), reason="needs Linux's /proc")
def test_peak_memory_sees_what_is_freed_again():
    def read():  # twice 40 MB from the system itself: malloc may keep what other tests have freed, and give it again
        for pages in [mmap.mmap(-1, 40_000_000) for _ in range(2)]:
            np.frombuffer(pages, np.uint8)[::4096] = 1

    assert 78e6 < peak_memory(read) < 90e6  # the kernel counts pages in batches


# The sections


@pytest.fixture
def tiny(monkeypatch):
    """`--quick` in tiny sizes, and no timing repeated."""
    monkeypatch.setattr(bench, "QUICK", TINY)
    monkeypatch.setattr(measure, "SHORTEST", 1e-9)


def run_section(name, tmp_path, capsys, **options):
    path = tmp_path / "bench.json"
    rows = bench.main(bench.Args(sections=(name,), quick=True, repetitions=2, json=path, **options))
    said = capsys.readouterr().out
    document = json.loads(path.read_text())
    assert [file.name for file in tmp_path.iterdir()] == ["bench.json"]
    assert document["rows"] == rows
    assert document["header"]["repetitions"] == 2
    assert document["header"]["quick"]
    assert f"\n{name}: " in said
    assert "quick: smaller sizes" in said
    for row in rows:
        assert row["what"] in said
        for sample in (row["ours"], row["other"]):
            if sample is not None:
                assert all(value > 0 and math.isfinite(value) for value in sample["values"])
                low, high = sample["quartiles"]
                assert low <= sample["median"] <= high
        assert row["other"] is None or row["ratio"] > 0
        assert (row["met"] is None) == (row["target"] is None)
    return rows


ROWS = {
    "machine": 12,
    "core": 8,
    "layers": 8 + 8 + 7,  # every attention but softmax, and two options of flow; reformer has no step
    "memory": 10,
    "step": 5,
    "sampling": 3,
    "context": 2,
    "memory-training": 5,
    "rollout": 3,
    "cache": 2,
}


@pytest.mark.parametrize("name", [*ROWS, "numerics"])
@pytest.mark.usefixtures("tiny")
def test_a_section(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("flowrl.scripts.benchmarks.setting.choose_precision", lambda name, device: "bf16")
    rows = run_section(name, tmp_path, capsys)
    assert len(rows) == ROWS.get(name, 9)
    assert {row["threads"] for row in rows} == {1}


@pytest.mark.usefixtures("tiny")
def test_where_bf16_is_slow_it_is_not_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("flowrl.scripts.benchmarks.setting.choose_precision", lambda name, device: "fp32")
    assert len(bench.main(bench.Args(sections=("step",), quick=True, repetitions=1))) == 2
    assert "bf16 is not measured" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_whole_evaluations(tmp_path, capsys):
    rows = run_section("evaluation", tmp_path, capsys)
    assert [row["ours"]["name"] for row in rows] == ["flow recurrent", "flow window", "dt window"]
    assert [row["target"] for row in rows] == [10, None, None]


@pytest.mark.usefixtures("tiny")
def test_loading_times(tmp_path, capsys, monkeypatch, minari_root):
    monkeypatch.setattr(loading, "STATUS", tmp_path / "nothing")
    rows = run_section("loading", tmp_path, capsys)
    assert [row["ours"]["name"] for row in rows] == ["first load", "later load"]
    assert not list(minari_root.iterdir()), "what is measured is written elsewhere"


@pytest.mark.slow
@pytest.mark.skipif(not loading.STATUS.exists(), reason="needs Linux's /proc")
@pytest.mark.usefixtures("tiny")
def test_loading_memory(tmp_path, capsys):
    rows = run_section("loading", tmp_path, capsys)
    assert [row["ours"]["name"] for row in rows[2:]] == ["first load", "later load", "h5py"]
    assert {row["other"]["name"] for row in rows[2:]} == {"tensors"}


@pytest.mark.usefixtures("tiny")
def test_every_number_of_threads_has_rows(tmp_path, capsys):
    rows = bench.main(bench.Args(sections=("cache", "memory"), quick=True, repetitions=1, threads=(2, 1, 2)))
    assert [row["threads"] for row in rows if row["section"] == "cache"] == [2, 2, 1, 1]
    assert {row["threads"] for row in rows if row["section"] == "memory"} == {2}, "threads do not matter to it"
    assert torch.get_num_threads() == 1
    said = capsys.readouterr().out
    assert "2 threads" in said
    assert "1 thread (" in said


def test_every_section_has_a_name():
    assert set(get_args(bench.Name)) == set(bench.SECTIONS)
    assert bench.Args().sections == get_args(bench.Name)


def test_the_full_sizes_are_those_of_the_targets():
    full = Sizes()
    assert (full.width, full.layers, full.batch, full.context) == (128, 3, 64, 20)
    assert full.core_shapes == ((64, 1, 60, 128), (64, 4, 60, 64))
    assert (full.long, full.long_context, full.environments, full.late) == ((300, 900, 3_000, 8_192), 1_000, 64, 1_000)
    assert (full.episodes, full.stored_episodes) == (100, 1_000)
    assert gym.spec("Hopper-v5").max_episode_steps == 1_000


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--sections", "cores"], "sections"),
        (["--sections"], "sections"),
        (["--section", "core"], "did you mean --sections"),
        (["--repetitions", "0"], "repetitions is 0: it must be at least 1"),
        (["--repetitions", "-3"], "repetitions is -3"),
        (["--repetitions", "few"], "repetitions"),
        (["--threads", "0"], "threads is 0: it must be at least 1"),
        (["--threads", "1", "-1"], "threads"),
        (["--json", "{tmp}/nowhere/x.json"], "there is no folder {tmp}/nowhere"),
        (["--json", "{tmp}"], "no file can be written there"),
        (["--device", "tpu"], "device 'tpu' cannot be used here"),
        (["core"], "unexpected argument 'core'"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_measured(argv, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scripts/bench.py", *(word.format(tmp=tmp_path) for word in argv)])
    with pytest.raises(SystemExit) as ended:
        cli.run(bench.start)
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert sentence.format(tmp=tmp_path) in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert not list(tmp_path.iterdir())


def test_help_lists_every_option(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scripts/bench.py"])
    with pytest.raises(SystemExit) as ended:
        bench.start(["--help"])
    assert ended.value.code in (0, None)
    said = capsys.readouterr().out
    for word in ("--sections", "--quick", "--threads", "--repetitions", "--json", "--device", "numerics"):
        assert word in said
