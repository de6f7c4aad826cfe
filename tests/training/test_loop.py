"""Training: repeatable to the bit, stopped and resumed to the same bits, refused where it cannot go on."""

import json
import math
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from same_bits import assert_same_bits

from flowrl.agents.bc import BCConfig
from flowrl.agents.cloning import CloningConfig, CloningLearner
from flowrl.agents.sequence import SequenceConfig
from flowrl.errors import InputError
from flowrl.evaluation.environments import make_vector_env
from flowrl.evaluation.rollout import rollout
from flowrl.nn.normaliser import Normaliser
from flowrl.training.config import TrainingConfig
from flowrl.training.device import isolated_rng
from flowrl.training.loop import Means, Stopped, train
from flowrl.training.run_folder import RunFolder

CPU = torch.device("cpu")
CONFIG = TrainingConfig(steps=12, batch_size=8, log_every=2, checkpoint_every=4)
CLONING = CloningConfig(warmup_steps=5)
FLOW = SequenceConfig(width=16, layers=1, heads=2, context=5, cloning=CLONING)
DT, BC = replace(FLOW, attention="softmax"), BCConfig(width=16, layers=1, context=5, cloning=CLONING)
CARRYING, EPISODES = replace(FLOW, carry_state=True), replace(DT, context="episode")
WITH_OPTIONS = replace(CARRYING, convolution=3, attention_options=("decay", "output_norm"), tokens="observation-action")
EVERY_AGENT = pytest.mark.parametrize(
    "agent",
    [FLOW, DT, BC, CARRYING, WITH_OPTIONS, replace(CARRYING, attention="cosformer"), EPISODES],
    ids=["flow", "dt", "bc", "carrying", "carrying-with-options", "carrying-cosformer", "episodes"],
)


def cloning(agent, **changes):
    """The agent with other settings of its cloning."""
    return replace(agent, cloning=replace(agent.cloning, **changes))


@pytest.fixture
def dataset(random_dataset):
    return random_dataset([9, 4, 17, 1, 12])


def trained(agent, dataset, folder, config=CONFIG, *, seed=0, evaluate=None, evaluate_every=0):
    """The learner after training in `folder`, which may hold a run to go on with."""
    with isolated_rng(seed, CPU):
        learner = agent.build(Normaliser.of(dataset), config, CPU)
        run = RunFolder(folder)
        folder.mkdir(exist_ok=True)
        train(learner, dataset, config, run, seed=seed, name="test", evaluate=evaluate, evaluate_every=evaluate_every)
    return learner


def weights(learner):
    return {name: tensor.clone() for name, tensor in learner.actor.state_dict().items()}


def metrics(folder):
    """The rows of metrics.jsonl without the speeds."""
    return [
        {name: value for name, value in row.items() if name not in ("steps_per_second", "cpu_seconds")}
        for row in RunFolder(folder).rows("metrics.jsonl")
    ]


@EVERY_AGENT
def test_one_seed_gives_one_run_to_the_bit(agent, dataset, tmp_path):
    one, two = (trained(agent, dataset, tmp_path / name) for name in "ab")
    other = trained(agent, dataset, tmp_path / "c", seed=1)
    assert_same_bits(weights(one), weights(two))
    assert_same_bits(RunFolder(tmp_path / "a").load(), RunFolder(tmp_path / "b").load())
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    changed = [name for name, w in weights(one).items() if not torch.equal(w, weights(other)[name])]
    assert any(name.endswith("weight") for name in changed)


class Dead(Exception):
    """Stands for a kill: nothing is saved on the way out."""


def test_metrics_after_a_resume_are_those_of_an_uninterrupted_run(dataset, tmp_path):
    """Also where a checkpoint lies between two rows of metrics."""

    def die(step, tracker):
        if step == 8:
            raise Dead

    config = replace(CONFIG, log_every=5, checkpoint_every=2)
    with pytest.raises(Dead):
        trained(FLOW, dataset, tmp_path / "a", config, evaluate=die, evaluate_every=1)
    trained(FLOW, dataset, tmp_path / "a", config)
    trained(FLOW, dataset, tmp_path / "b", config)
    assert [row["step"] for row in metrics(tmp_path / "a")] == [5, 10, 12]
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


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
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    assert [row["step"] for row in metrics(tmp_path / "a")] == [2, 4, 6, 8, 10, 12]


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

    # Not the present one: a shell's background job ignores interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            trained(FLOW, dataset, tmp_path, evaluate=stop, evaluate_every=1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert RunFolder(tmp_path).load() is None


def test_a_signal_in_the_last_step_is_not_swallowed(dataset, tmp_path, monkeypatch):
    original = CloningLearner.update

    def signalled(self, batch, step):
        if step == CONFIG.steps:
            signal.raise_signal(signal.SIGTERM)
        return original(self, batch, step)

    monkeypatch.setattr(CloningLearner, "update", signalled)
    with pytest.raises(Stopped):
        trained(FLOW, dataset, tmp_path)
    assert RunFolder(tmp_path).load()["step"] == CONFIG.steps


def test_evaluations_while_training_change_nothing(dataset, tmp_path):
    modes, learners = [], []

    def evaluate(step, tracker):
        actor = learners[0].actor
        envs = make_vector_env("flowrl/Reach-v0", 2)
        rollout(actor, envs, [1.0], [0, 1])
        envs.close()
        modes.append({module.training for module in actor.modules()})
        tracker.record(step, {"eval/return@best": 1.0}, "evaluation")

    class Watched(SequenceConfig):
        def build(self, *arguments):
            learners.append(super().build(*arguments))
            return learners[0]

    options = {"width": 16, "layers": 1, "heads": 2, "context": 5, "cloning": CLONING, "dropout": 0.5}
    watched = trained(Watched(**options), dataset, tmp_path / "a", evaluate=evaluate, evaluate_every=3)
    alone = trained(SequenceConfig(**options), dataset, tmp_path / "b")
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


def test_the_learning_rate_after_a_resume_is_that_of_an_uninterrupted_run(dataset, tmp_path):
    def die(step, tracker):
        if step == 6:
            raise Dead

    agent, config = cloning(FLOW, warmup_steps=100), replace(CONFIG, log_every=1)
    with pytest.raises(Dead):
        trained(agent, dataset, tmp_path / "a", config, evaluate=die, evaluate_every=1)
    trained(agent, dataset, tmp_path / "a", config)
    trained(agent, dataset, tmp_path / "b", config)
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


def test_the_logged_loss_is_the_mean_since_the_last_row(dataset, tmp_path):
    trained(FLOW, dataset, tmp_path / "a", replace(CONFIG, log_every=1))
    trained(FLOW, dataset, tmp_path / "b", replace(CONFIG, log_every=4))
    each = [row["train/loss"] for row in metrics(tmp_path / "a")]
    means = [row["train/loss"] for row in metrics(tmp_path / "b")]
    np.testing.assert_allclose(means, np.reshape(each, (3, 4)).mean(1), rtol=1e-6)


def test_a_metric_is_averaged_over_the_steps_that_returned_it():
    means = Means()
    for step in range(6):
        rare = {"actor_loss": torch.tensor(10.0 * step)} if step % 3 == 0 else {}
        means.add({"loss": torch.tensor(float(step))} | rare)
    assert means.means() == {"loss": 2.5, "actor_loss": 15.0}
    resumed = Means()
    resumed.load_state_dict(means.state_dict())
    for one in (means, resumed):
        one.add({"loss": torch.tensor(9.5)})
        assert one.means() == {"loss": 3.5, "actor_loss": 15.0}


@EVERY_AGENT
def test_the_loss_goes_down_on_reach(agent, reach, tmp_path):
    agent = cloning(replace(agent, dropout=0.0), warmup_steps=10, learning_rate=3e-3)
    trained(agent, reach, tmp_path, replace(CONFIG, steps=150, batch_size=32, log_every=25))
    losses = [row["train/loss"] for row in metrics(tmp_path)]
    assert losses[-1] < 0.75 * losses[0]


@EVERY_AGENT
def test_bfloat16_trains_near_float32(agent, dataset, tmp_path):
    for name, precision in (("a", "fp32"), ("b", "bf16")):
        trained(agent, dataset, tmp_path / name, replace(CONFIG, precision=precision, log_every=1))
    exact, rounded = ([row["train/loss"] for row in metrics(tmp_path / name)] for name in "ab")
    assert exact != rounded
    # Eight bits of mantissa in the products of a dozen steps.
    np.testing.assert_allclose(rounded, exact, rtol=0.05)
    checkpoint = RunFolder(tmp_path / "b").load()
    assert {tensor.dtype for tensor in checkpoint["learner"]["actor"].values()} == {torch.float32}


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # the compiler does so
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_training_is_near_plain_training(dataset, tmp_path):
    for name, compiled in (("a", False), ("b", True)):
        agent = cloning(replace(FLOW, dropout=0.0), compile=compiled)
        trained(agent, dataset, tmp_path / name, replace(CONFIG, log_every=1))
    plain, compiled = ([row["train/loss"] for row in metrics(tmp_path / name)] for name in "ab")
    np.testing.assert_allclose(compiled, plain, rtol=1e-3)
    names = [set(RunFolder(tmp_path / name).load()["learner"]["actor"]) for name in "ab"]
    assert names[0] == names[1]


# Refusals


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_checkpoint(dataset, tmp_path):
    config = replace(CONFIG, checkpoint_every=1, log_every=6)
    with pytest.raises(InputError, match=r"training diverged by step \d+ .*learning rate"):
        trained(cloning(FLOW, learning_rate=1e30, warmup_steps=0), dataset, tmp_path, config)
    checkpoint = RunFolder(tmp_path).load()
    assert checkpoint is None or all(tensor.isfinite().all() for tensor in checkpoint["learner"]["actor"].values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["actor", "optimiser"])
def test_a_state_that_is_not_finite_is_not_saved(dataset, tmp_path, monkeypatch, value, where):
    """Also where all metrics of the step are finite."""
    original = CloningLearner.update

    def spoil(self, batch, step):
        returned = original(self, batch, step)
        if step == 8:
            parameter = self.parameters[0]
            tensor = parameter.data if where == "actor" else self.optimiser.state[parameter]["exp_avg"]
            tensor.view(-1)[0] = value
        return returned

    monkeypatch.setattr(CloningLearner, "update", spoil)
    with pytest.raises(InputError, match="training diverged by step 8"):
        trained(FLOW, dataset, tmp_path)
    assert RunFolder(tmp_path).load()["step"] == 4


def test_changed_data_are_refused(dataset, random_dataset, tmp_path):
    trained(FLOW, dataset, tmp_path)
    with pytest.raises(InputError, match=r"the data have changed since run .* began"):
        trained(FLOW, random_dataset([9, 4, 17, 1, 12], seed=1), tmp_path)


@pytest.mark.parametrize(
    "other",
    [replace(FLOW, width=8), replace(FLOW, layers=2), replace(FLOW, layers=2, width=8), BC],
    ids=["width", "layers", "both", "bc"],
)
def test_a_checkpoint_of_another_architecture_is_refused(dataset, tmp_path, other):
    trained(FLOW, dataset, tmp_path)
    with pytest.raises(InputError, match=r"of another architecture: [\w.]+ is "):
        trained(other, dataset, tmp_path)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_checkpoints_are_refused(dataset, tmp_path, share):
    trained(FLOW, dataset, tmp_path)
    for file in tmp_path.glob("checkpoint*.pt"):
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
        ({"precision": "fp16"}, "precision is 'fp16': known are auto, fp32, bf16"),
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
