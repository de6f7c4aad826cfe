"""Training: repeatable to the bit, stopped and resumed to the same bits, refused where it cannot go on."""

import json
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from flowrl.agents import BCConfig, SequenceConfig
from flowrl.data.samplers import windows_at
from flowrl.errors import InputError
from flowrl.evaluation.rollout import rollout
from flowrl.nn.normaliser import Normaliser
from flowrl.training import loop as training
from flowrl.training.loop import Stopped, TrainingConfig, isolated_rng, train
from flowrl.training.run_folder import RunFolder

CPU = torch.device("cpu")
CONFIG = TrainingConfig(steps=12, batch_size=8, warmup_steps=5, log_every=2, checkpoint_every=4)
FLOW = SequenceConfig(width=16, layers=1, heads=2, context=5)
DT, BC = replace(FLOW, attention="softmax"), BCConfig(width=16, layers=1, context=5)
CARRYING, EPISODES = replace(FLOW, carry_state=True), replace(DT, context="episode")
WITH_OPTIONS = replace(CARRYING, convolution=3, attention_options=("decay", "output_norm"), tokens="observation-action")
EVERY_AGENT = pytest.mark.parametrize(
    "agent",
    [FLOW, DT, BC, CARRYING, WITH_OPTIONS, replace(CARRYING, attention="cosformer"), EPISODES],
    ids=["flow", "dt", "bc", "carrying", "carrying-with-options", "carrying-cosformer", "episodes"],
)


@pytest.fixture
def dataset(random_dataset):
    return random_dataset([9, 4, 17, 1, 12])


def nothing(step, tracker):
    pass


def trained(agent, dataset, folder, config=CONFIG, *, seed=0, evaluate=nothing, evaluate_every=0):
    """The agent after training in `folder`, which may hold a run to go on with."""
    with isolated_rng(seed, CPU):
        made = agent.build(Normaliser.of(dataset))
        run = RunFolder(folder)
        folder.mkdir(exist_ok=True)
        train(made, dataset, config, run, seed=seed, name="test", evaluate=evaluate, evaluate_every=evaluate_every)
    return made


def weights(agent):
    return {name: tensor.clone() for name, tensor in agent.state_dict().items()}


def assert_same_bits(one, two, path=""):
    assert type(one) is type(two), path
    if isinstance(one, dict):
        assert one.keys() == two.keys(), path
        for key in one:
            assert_same_bits(one[key], two[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), path
        for index, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_same_bits(a, b, f"{path}[{index}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two), path
    else:
        assert one == two, path


def figures(folder):
    """The rows of metrics.jsonl without the speeds."""
    return [
        {name: value for name, value in row.items() if name != "steps_per_second"}
        for row in RunFolder(folder).rows("metrics.jsonl")
    ]


@EVERY_AGENT
def test_one_seed_gives_one_run_to_the_bit(agent, dataset, tmp_path):
    one, two = (trained(agent, dataset, tmp_path / name) for name in "ab")
    other = trained(agent, dataset, tmp_path / "c", seed=1)
    assert_same_bits(weights(one), weights(two))
    assert_same_bits(RunFolder(tmp_path / "a").load(), RunFolder(tmp_path / "b").load())
    assert figures(tmp_path / "a") == figures(tmp_path / "b")
    changed = [name for name, w in weights(one).items() if not torch.equal(w, weights(other)[name])]
    assert any(name.endswith("weight") for name in changed)


class Dead(Exception):
    """Stands for a kill: nothing is saved on the way out."""


def test_figures_after_a_resume_are_those_of_an_uninterrupted_run(dataset, tmp_path):
    """Also where a checkpoint stands between two rows of figures."""

    def die(step, tracker):
        if step == 8:
            raise Dead

    config = replace(CONFIG, log_every=5, checkpoint_every=2)
    with pytest.raises(Dead):
        trained(FLOW, dataset, tmp_path / "a", config, evaluate=die, evaluate_every=1)
    trained(FLOW, dataset, tmp_path / "a", config)
    trained(FLOW, dataset, tmp_path / "b", config)
    assert [row["step"] for row in figures(tmp_path / "a")] == [5, 10, 12]
    assert figures(tmp_path / "a") == figures(tmp_path / "b")


@pytest.mark.parametrize(("units", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_is_bf16_where_the_processor_has_units_for_it(monkeypatch, units, chosen):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: units)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert training.choose_precision("auto", CPU) == chosen
    assert training.choose_precision("fp32", CPU) == "fp32"
    assert training.choose_precision("bf16", CPU) == "bf16"


@EVERY_AGENT
@pytest.mark.parametrize("dies_at", [1, 4, 5, 8, 11])
def test_a_run_that_died_and_goes_on_ends_in_the_same_bits(agent, dataset, tmp_path, dies_at, capsys):
    def die(step, tracker):
        if step == dies_at:
            raise Dead

    with pytest.raises(Dead):
        trained(agent, dataset, tmp_path / "a", evaluate=die, evaluate_every=1)
    saved = (dies_at - 1) // 4 * 4
    assert (RunFolder(tmp_path / "a").load() or {"step": 0})["step"] == saved
    resumed = trained(agent, dataset, tmp_path / "a")
    assert (f"goes on from step {saved}" in capsys.readouterr().out) == (saved > 0)
    whole = trained(agent, dataset, tmp_path / "b")
    assert_same_bits(weights(resumed), weights(whole))
    assert_same_bits(RunFolder(tmp_path / "a").load(), RunFolder(tmp_path / "b").load())
    # Every step once, with the same loss, norm and learning rate.
    assert figures(tmp_path / "a") == figures(tmp_path / "b")
    assert [row["step"] for row in figures(tmp_path / "a")] == [2, 4, 6, 8, 10, 12]


def test_a_run_that_died_twice_ends_in_the_same_bits(dataset, tmp_path):
    for last in (6, 10):

        def die(step, tracker, last=last):
            if step == last:
                raise Dead

        with pytest.raises(Dead):
            trained(FLOW, dataset, tmp_path / "a", evaluate=die, evaluate_every=1)
    assert_same_bits(
        weights(trained(FLOW, dataset, tmp_path / "a")), weights(trained(FLOW, dataset, tmp_path / "b"))
    )  # fmt: skip


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_and_the_run_goes_on_to_the_same_bits(dataset, tmp_path, signum):
    def stop(step, tracker):
        if step == 7:
            signal.raise_signal(signum)

    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Stopped, match=f"stopped by {signum.name} after step 7") as caught:
        trained(FLOW, dataset, tmp_path / "a", evaluate=stop, evaluate_every=1)
    assert (caught.value.signum, caught.value.step) == (signum, 7)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert RunFolder(tmp_path / "a").load()["step"] == 7
    assert_same_bits(
        weights(trained(FLOW, dataset, tmp_path / "a")), weights(trained(FLOW, dataset, tmp_path / "b"))
    )  # fmt: skip


def test_a_second_interrupt_acts_at_once(dataset, tmp_path):
    def stop(step, tracker):
        signal.raise_signal(signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # handlers run a little later
            time.sleep(0.001)
        signal.raise_signal(signal.SIGINT)
        time.sleep(1)

    # Not the one found here: a shell's background job ignores interrupts.
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            trained(FLOW, dataset, tmp_path, evaluate=stop, evaluate_every=1)
    finally:
        signal.signal(signal.SIGINT, found)
    assert RunFolder(tmp_path).load() is None


def test_a_signal_in_the_last_step_is_not_swallowed(dataset, tmp_path, monkeypatch):
    original = training.sample_windows
    drawn = []

    def signalled(*arguments, **keywords):
        drawn.append(1)
        if len(drawn) == CONFIG.steps:
            signal.raise_signal(signal.SIGTERM)
        return original(*arguments, **keywords)

    monkeypatch.setattr(training, "sample_windows", signalled)
    with pytest.raises(Stopped):
        trained(FLOW, dataset, tmp_path)
    assert RunFolder(tmp_path).load()["step"] == CONFIG.steps


def test_evaluations_while_training_change_nothing(dataset, tmp_path):
    from flowrl.evaluation.environments import make_vector_env

    modes = []

    def evaluate(step, tracker):
        agent = holder[0]
        envs = make_vector_env("flowrl/Reach-v0", 2)
        rollout(agent, envs, [1.0], [0, 1])
        envs.close()
        modes.append({module.training for module in agent.modules()})
        tracker.record(step, {"return/target_1": 1.0}, "evaluation")

    holder = []
    original = SequenceConfig.build

    def build(self, normaliser):
        holder[:] = [original(self, normaliser)]
        return holder[0]

    agent = replace(FLOW, dropout=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SequenceConfig, "build", build)
        watched = trained(agent, dataset, tmp_path / "a", evaluate=evaluate, evaluate_every=3)
    alone = trained(agent, dataset, tmp_path / "b")
    # Not after the last step: the final evaluation is the caller's.
    assert modes == [{True}] * 3
    assert_same_bits(weights(watched), weights(alone))


def test_the_callers_randomness_is_not_touched(dataset, tmp_path):
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    trained(replace(FLOW, dropout=0.5), dataset, tmp_path)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


def test_a_checkpoint_holds_everything_and_plain_values_only(dataset, tmp_path):
    trained(FLOW, dataset, tmp_path)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert {"step", "agent", "optimiser", "schedule", "generators", "fingerprint"} <= checkpoint.keys()
    assert checkpoint["step"] == 12
    assert checkpoint["fingerprint"] == dataset.fingerprint
    assert "model.normaliser.observation_mean" in checkpoint["agent"]
    assert checkpoint["optimiser"]["state"][0]["step"] == 12


@pytest.mark.parametrize(
    ("schedule", "after"), [("constant", [1.0] * 7), ("linear", [1.0, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7])]
)
def test_the_learning_rate_rises_and_then_stays_or_falls(dataset, tmp_path, schedule, after):
    config = replace(CONFIG, log_every=1, learning_rate=1.0, clip_norm=1e-9, schedule=schedule)
    trained(FLOW, dataset, tmp_path, config)
    rates = [row["train/learning_rate"] for row in figures(tmp_path)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, *after])


def test_the_learning_rate_told_after_a_resume_is_the_one_used(dataset, tmp_path):
    def die(step, tracker):
        if step == 6:
            raise Dead

    config = replace(CONFIG, log_every=1, warmup_steps=100)
    with pytest.raises(Dead):
        trained(FLOW, dataset, tmp_path / "a", config, evaluate=die, evaluate_every=1)
    trained(FLOW, dataset, tmp_path / "a", config)
    trained(FLOW, dataset, tmp_path / "b", config)
    assert figures(tmp_path / "a") == figures(tmp_path / "b")


def test_the_gradient_is_clipped(dataset, tmp_path):
    agent = FLOW.build(Normaliser.of(dataset))
    start = weights(agent)

    def step_of(clip_norm, folder):
        agent.load_state_dict(start)
        config = replace(CONFIG, steps=1, clip_norm=clip_norm, warmup_steps=0, weight_decay=0.0)
        folder.mkdir()
        with isolated_rng(0, CPU):
            train(agent, dataset, config, RunFolder(folder), seed=0, name="x", evaluate=nothing)
        return sum(float(p.grad.square().sum()) for p in agent.parameters()) ** 0.5

    assert step_of(1e-3, tmp_path / "a") == pytest.approx(1e-3, rel=1e-3)
    norm = step_of(1e9, tmp_path / "b")
    assert norm > 0.01
    # What is logged is the norm before clipping.
    assert figures(tmp_path / "a")[0]["train/gradient_norm"] == pytest.approx(norm, rel=1e-5)


def test_the_logged_loss_is_the_mean_since_the_last_row(dataset, tmp_path):
    trained(FLOW, dataset, tmp_path / "a", replace(CONFIG, log_every=1))
    trained(FLOW, dataset, tmp_path / "b", replace(CONFIG, log_every=4))
    each = [row["train/loss"] for row in figures(tmp_path / "a")]
    means = [row["train/loss"] for row in figures(tmp_path / "b")]
    np.testing.assert_allclose(means, np.reshape(each, (3, 4)).mean(1), rtol=1e-6)


@EVERY_AGENT
@torch.no_grad()
def test_the_loss_is_over_real_steps_alone(agent, dataset):
    """By hand: the mean of squared errors, each action scaled by its bounds; padding neither adds nor divides."""
    made = agent.build(Normaliser.of(dataset)).eval()
    batch = windows_at(dataset, torch.tensor([7, 13, 29, 30]), 5)
    assert 0 < int(batch.is_pad.sum()) < batch.is_pad.numel()
    if agent is FLOW or isinstance(agent, SequenceConfig):
        predicted = made.model(batch.returns_to_go, batch.observations, batch.actions, batch.timesteps)
    else:
        predicted = made.act(None, batch.observations.flatten(0, 1), None)[1].view(4, 5, 2)
    errors = []
    for window in range(4):
        for step in range(5):
            if not batch.is_pad[window, step]:
                half_range = torch.tensor([2.5, 1.5])
                errors += ((predicted - batch.actions)[window, step] / half_range).square().tolist()
    assert float(made.loss(batch)) == pytest.approx(np.mean(errors), rel=1e-5)
    garbage = batch._replace(actions=batch.actions.masked_fill(batch.is_pad[..., None], 1e3))
    assert float(made.loss(garbage)) == pytest.approx(float(made.loss(batch)), rel=1e-6)


@EVERY_AGENT
def test_the_loss_goes_down_on_reach(agent, reach, tmp_path):
    config = replace(CONFIG, steps=150, batch_size=32, warmup_steps=10, log_every=25, learning_rate=3e-3)
    trained(replace(agent, dropout=0.0), reach, tmp_path, config)
    losses = [row["train/loss"] for row in figures(tmp_path)]
    assert losses[-1] < 0.75 * losses[0]


@EVERY_AGENT
def test_bfloat16_trains_near_float32(agent, dataset, tmp_path):
    for name, precision in (("a", "fp32"), ("b", "bf16")):
        trained(agent, dataset, tmp_path / name, replace(CONFIG, precision=precision, log_every=1))
    exact, rounded = ([row["train/loss"] for row in figures(tmp_path / name)] for name in "ab")
    assert exact != rounded
    # Eight bits of mantissa in the products of a dozen steps.
    np.testing.assert_allclose(rounded, exact, rtol=0.05)
    checkpoint = RunFolder(tmp_path / "b").load()
    assert {tensor.dtype for tensor in checkpoint["agent"].values()} == {torch.float32}


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # the compiler does so
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_training_is_near_plain_training(dataset, tmp_path):
    for name, compiled in (("a", False), ("b", True)):
        agent = replace(FLOW, dropout=0.0)
        trained(agent, dataset, tmp_path / name, replace(CONFIG, compile=compiled, log_every=1))
    plain, compiled = ([row["train/loss"] for row in figures(tmp_path / name)] for name in "ab")
    np.testing.assert_allclose(compiled, plain, rtol=1e-3)
    names = [set(RunFolder(tmp_path / name).load()["agent"]) for name in "ab"]
    assert names[0] == names[1]


# Refusals


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_checkpoint(dataset, tmp_path):
    config = replace(CONFIG, checkpoint_every=1, log_every=6, learning_rate=1e30, warmup_steps=0)
    with pytest.raises(InputError, match=r"training diverged by step \d+ .*--learning-rate"):
        trained(FLOW, dataset, tmp_path, config)
    checkpoint = RunFolder(tmp_path).load()
    assert checkpoint is None or all(tensor.isfinite().all() for tensor in checkpoint["agent"].values())


def test_changed_data_are_refused(dataset, random_dataset, tmp_path):
    trained(FLOW, dataset, tmp_path)
    with pytest.raises(InputError, match="the data of random have changed since run folder"):
        trained(FLOW, random_dataset([9, 4, 17, 1, 12], seed=1), tmp_path)


@pytest.mark.parametrize(
    "other",
    [replace(FLOW, width=8), replace(FLOW, layers=2), BCConfig(width=16, layers=1, context=5)],
    ids=["width", "layers", "bc"],
)
def test_a_checkpoint_of_another_architecture_is_refused(dataset, tmp_path, other):
    trained(FLOW, dataset, tmp_path)
    with pytest.raises(InputError, match=r"of another architecture: [\w.]+ is "):
        trained(other, dataset, tmp_path)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_checkpoint_is_refused(dataset, tmp_path, share):
    trained(FLOW, dataset, tmp_path)
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(InputError, match="checkpoint.pt is "):
        trained(FLOW, dataset, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"log_every": 0}, "log_every is 0"),
        ({"checkpoint_every": -1}, "checkpoint_every is -1"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"weight_decay": float("nan")}, "weight_decay is nan"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"precision": "fp16"}, "precision is 'fp16': known are auto, fp32, bf16"),
        ({"schedule": "cosine"}, "schedule is 'cosine': known are constant, linear"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**options)


def test_stopped_survives_the_way_back_from_a_worker():
    import pickle

    stopped = pickle.loads(pickle.dumps(Stopped(signal.SIGTERM, 1200)))
    assert str(stopped) == "stopped by SIGTERM after step 1,200"
    assert json.loads(json.dumps([stopped.signum, stopped.step])) == [15, 1200]


@pytest.mark.parametrize("agent", [CARRYING, EPISODES], ids=["carrying", "episodes"])
@pytest.mark.parametrize("setting", [{"compile": True}, {"windows": "full"}])
def test_what_is_of_windows_alone_is_refused_without_them(agent, setting, dataset, tmp_path):
    (name, value), what = *setting.items(), "a carried state" if agent is CARRYING else "whole episodes"
    with pytest.raises(InputError, match=f"{name} is {value!r} with {what}"):
        trained(agent, dataset, tmp_path / "run", replace(CONFIG, **setting))
