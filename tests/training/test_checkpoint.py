"""A checkpoint comes back whole or is refused in one sentence, whatever happened to its file."""

import io
import math
import os

import numpy as np
import pytest
import torch
from same_bits import assert_same_bits

from flowrl.agents.bc import BCConfig
from flowrl.agents.sequence import SequenceConfig
from flowrl.data.samplers import WHOLE
from flowrl.errors import InputError
from flowrl.nn.normaliser import Normaliser
from flowrl.training.checkpoint import checksum, from_bytes, is_finite, restore, to_bytes
from flowrl.training.config import TrainingConfig

CPU = torch.device("cpu")
FLOW = SequenceConfig(width=8, layers=1, heads=2, context=4)
BC = BCConfig(width=8, layers=1, context=4)
TRAINING = TrainingConfig(steps=3, batch_size=4)


@pytest.fixture
def dataset(random_dataset):
    return random_dataset([9, 4, 17])


def trained(agent, dataset, seed=0, steps=TRAINING.steps):
    """A learner after a few updates."""
    torch.manual_seed(seed)
    learner = agent.build(Normaliser.of(dataset), TRAINING, CPU)
    sampler, generator = learner.sampler(dataset, 4, WHOLE), torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        learner.update(sampler.draw(generator), step)
    return learner


def checkpoint_of(learner, agent=FLOW, name="flow", **changes):
    generators = {"order": torch.get_rng_state(), "ranks": [{"torch": torch.get_rng_state()}]}
    return {
        "step": 3,
        "learner": learner.state_dict(),
        "sampler": {"rows": None},
        "generators": generators,
        "metrics": {"sums": {"loss": torch.tensor(0.5)}, "counts": {"loss": 3}},
        "config": {"agent": name, "agent_config": agent.record()},
        "fingerprint": "data",
    } | changes


def loaded(content):
    return from_bytes(bytes(content), "checkpoint.pt")


def weights(learner):
    return {name: tensor.clone() for name, tensor in learner.state_dict()["actor"].items()}


def test_it_comes_back_to_the_bit(dataset):
    checkpoint = checkpoint_of(trained(FLOW, dataset))
    assert_same_bits(loaded(to_bytes(checkpoint)), checkpoint)


def test_torch_alone_reads_it_and_finds_plain_values_only(dataset, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(to_bytes(checkpoint_of(trained(FLOW, dataset))))
    raw = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert raw["step"] == 3
    assert "model.normaliser.observation_mean" in raw["learner"]["actor"]
    assert raw["learner"]["optimiser"]["state"][0]["step"] == 3

    def check(tree):
        if isinstance(tree, dict):
            assert all(isinstance(key, str | int) for key in tree)
            tree = list(tree.values())
        if isinstance(tree, list | tuple):
            for part in tree:
                check(part)
        else:
            assert tree is None or isinstance(tree, torch.Tensor | str | int | float), tree

    check(raw)


# Damage


@pytest.fixture
def saved(dataset):
    """(checkpoint, content of its file)."""
    checkpoint = checkpoint_of(trained(FLOW, dataset))
    return checkpoint, bytes(to_bytes(checkpoint))


def refused_or_equal(content, checkpoint):
    """Whether it was refused; if not, it must be the same in all parts."""
    message = None
    try:
        back = loaded(content)
    except InputError as error:
        message = str(error)
    if message is None:
        assert_same_bits(back, checkpoint)
        return False
    assert message.startswith("checkpoint.pt is ")
    assert "\n" not in message
    assert len(message) < 300
    return True


def test_a_changed_byte_anywhere_is_noticed_or_changes_nothing(saved):
    checkpoint, content = saved
    random = np.random.default_rng(0)
    refused = 0
    for place in np.sort(random.choice(len(content), 200, replace=False)):
        damaged = bytearray(content)
        damaged[place] ^= int(random.integers(1, 256))
        refused += refused_or_equal(damaged, checkpoint)
    assert refused > 60  # much of a small file is padding and names of members


def test_a_changed_bit_of_the_pickled_structure_is_noticed_or_changes_nothing(saved):
    checkpoint, content = saved
    start = content.index(b"data.pkl")
    random = np.random.default_rng(1)
    for place in start + random.choice(4_000, 200, replace=False):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(random.integers(8))
        refused_or_equal(damaged, checkpoint)


@pytest.mark.parametrize("length", [16, 512, 4096])
def test_a_zeroed_block_anywhere_is_noticed_or_changes_nothing(saved, length):
    checkpoint, content = saved
    places = np.random.default_rng(length).choice(len(content) - length, 40, replace=False)
    for place in places:
        damaged = bytearray(content)
        damaged[place : place + length] = bytes(length)
        refused_or_equal(damaged, checkpoint)


def test_a_changed_number_is_noticed_even_if_the_archive_is_sound(saved):
    checkpoint, _ = saved
    raw = dict(checkpoint) | {"checksum": checksum(checkpoint)}
    raw["learner"]["actor"]["model.final_norm.bias"].view(-1)[0] += 1e-6
    with pytest.raises(InputError, match="its checksum does not fit its contents"):
        refused(raw)
    raw["learner"]["actor"]["model.final_norm.bias"].view(-1)[0] = checkpoint["step"]
    with pytest.raises(InputError, match="its checksum does not fit its contents"):
        refused(raw | {"step": 4})


def refused(tree):
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    return loaded(buffer.getvalue())


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(saved, share):
    _, content = saved
    assert refused_or_equal(content[: int(share * len(content))], None)


@pytest.mark.parametrize("content", [b"garbage", b"\x80\x02K\x03.", b"PK\x03\x04 no zip", b"\n\n\n"])
def test_a_file_that_is_no_checkpoint_is_refused(content):
    assert refused_or_equal(content, None)


@pytest.mark.parametrize("other", [[1, 2], {"weights": torch.zeros(2)}, torch.zeros(3), {"step": 3}, None])
def test_another_programs_file_is_refused(other):
    with pytest.raises(InputError, match="no checkpoint of flowrl"):
        refused(other)


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_a_checkpoint_that_would_run_code_is_refused(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="checkpoint.pt is "):
        refused(checkpoint_of(trained(FLOW, dataset)) | {"step": Evil()})
    assert not (tmp_path / "pwned").exists()


# Checksums and numbers


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1}, {"a": True}),
        ({"a": None}, {"a": 0}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": [[1], 2]}, {"a": [1, [2]]}),
        ({1: "x"}, {"1": "x"}),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
        (torch.zeros(1), -torch.zeros(1)),
        (torch.zeros(0, 2), torch.zeros(0, 3)),
        (torch.ones(()), torch.ones(1)),
    ],
)
def test_trees_that_differ_have_other_checksums(one, other):
    assert checksum(one) != checksum(other)


def test_equal_trees_have_one_checksum_however_they_lie_in_memory():
    table = torch.arange(6.0).view(2, 3)
    assert checksum({"a": table.T}) == checksum({"a": table.T.contiguous()})
    assert checksum([table.bfloat16(), torch.tensor([True, False])]) == checksum([table.bfloat16(), table[0, :2] == 0])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_tensor_that_is_not_finite_is_noticed_at_any_depth(value):
    # A plain number may be infinite: a gradient that is not clipped, a best value before the first.
    assert is_finite({"a": [value, torch.ones(2), {"b": (None, "nan", torch.tensor([3]))}]})
    for tree in (
        torch.tensor([0.0, value]),
        [[torch.tensor(value, dtype=torch.bfloat16)]],
        {"a": ({"b": torch.tensor(value)},)},
    ):
        assert not is_finite({"tree": tree})


# Restoring


@pytest.mark.parametrize("agent", [FLOW, BC], ids=["flow", "bc"])
def test_a_restored_learner_goes_on_to_the_same_bits(agent, dataset):
    one = trained(agent, dataset)
    other = agent.build(Normaliser.of(dataset), TRAINING, CPU)
    checkpoint = loaded(to_bytes(checkpoint_of(one, agent)))
    restore(other, checkpoint, checkpoint["config"], "run", "data")
    assert_same_bits(other.state_dict(), one.state_dict())
    for learner in (one, other):
        torch.manual_seed(9)
        sampler, generator = learner.sampler(dataset, 4, WHOLE), torch.Generator().manual_seed(9)
        learner.update(sampler.draw(generator), 4)
    assert_same_bits(other.state_dict(), one.state_dict())


OTHERS = [
    (SequenceConfig(width=16, layers=1, heads=2, context=4), "flow"),
    (SequenceConfig(width=8, layers=2, heads=2, context=4), "flow"),
    (SequenceConfig(width=8, layers=1, heads=2, context=4, convolution=2), "flow"),
    (BC, "bc"),
]


@pytest.mark.parametrize(("agent", "name"), OTHERS, ids=["width", "layers", "convolution", "bc"])
def test_another_agents_checkpoint_is_refused_in_one_sentence(agent, name, dataset):
    """By its configuration, and where that was edited by its tensors; either way round."""
    mine, its = trained(FLOW, dataset), trained(agent, dataset)
    for learner, config, other, other_config in (
        (mine, FLOW, its, (agent, name)),
        (its, agent, mine, (FLOW, "flow")),
    ):
        before = weights(learner)
        checkpoint = checkpoint_of(other, *other_config)
        own = {"agent": "own", "agent_config": config.record()}
        with pytest.raises(InputError, match=r"of another agent: its agent is \w+, not own") as caught:
            restore(learner, checkpoint, own, "run")
        assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match=r"of another architecture: actor\.[\w.]+ is ") as caught:
            restore(learner, checkpoint, checkpoint["config"], "run")
        assert "\n" not in str(caught.value)
        assert_same_bits(weights(learner), before)


@pytest.mark.parametrize("field", ["agent_config", "observation_columns", "discrete_start"])
def test_a_checkpoint_of_the_same_shapes_is_refused_by_its_configuration(field, dataset):
    learner = trained(FLOW, dataset)
    checkpoint = checkpoint_of(learner)
    with pytest.raises(InputError, match=f"of another agent: its {field} is "):
        restore(learner, checkpoint, checkpoint["config"] | {field: [1]}, "run")


def test_other_data_are_refused_for_training_and_not_for_playing(dataset):
    learner = trained(FLOW, dataset)
    checkpoint = checkpoint_of(learner)
    with pytest.raises(InputError, match="^the data have changed since run folder/run began$"):
        restore(learner, checkpoint, checkpoint["config"], "folder/run", "others")
    restore(learner, checkpoint, checkpoint["config"], "folder/run")
