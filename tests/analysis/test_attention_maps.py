"""The maps are those of what each layer reads, and the summary of a row is what it is said to be."""

import math

import pytest
import torch

from flowrl.analysis.attention_maps import attention_maps, summarise
from flowrl.attention import ATTENTION
from flowrl.nn.model_config import ModelConfig
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.trajectory import TrajectoryModel

STEPS = 7


@pytest.fixture
def windows():
    generator = torch.Generator().manual_seed(0)
    returns_to_go, observations, actions = (
        torch.randn(shape, generator=generator) for shape in ((2, STEPS), (2, STEPS, 3), (2, STEPS, 2))
    )
    return returns_to_go, observations, actions, torch.arange(STEPS)[None]


@pytest.fixture
def model(request, random_dataset):
    torch.manual_seed(0)
    config = ModelConfig(request.param, width=12, layers=2, heads=3, context=STEPS, dropout=0.3)
    model = TrajectoryModel(config, Normaliser.of(random_dataset([9, 5])))
    for parameter in model.blocks.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


every_model = pytest.mark.parametrize("model", ATTENTION, indirect=True)


@every_model
def test_every_layer_is_looked_at_with_what_it_reads(model, windows):
    maps = attention_maps(model, *windows)
    tokens = model._embed(*windows)
    for layer, block in zip(maps, model.blocks, strict=True):
        read = block.attention_norm(tokens)
        torch.testing.assert_close(layer.weights, block.attention.weights(read))
        assert layer.weights.shape == (2, 3, 3 * STEPS, 3 * STEPS)
        if model.config.attention == "flow":
            for flow, expected in zip(layer.flows, block.attention.flows(read), strict=True):
                torch.testing.assert_close(flow, expected)
        else:
            assert layer.flows is None
        tokens = block(tokens)


@every_model
def test_some_tokens_are_looked_at_as_in_the_whole(model, windows):
    at = torch.tensor([1, 16, 4])
    for some, whole in zip(attention_maps(model, *windows, at), attention_maps(model, *windows), strict=True):
        torch.testing.assert_close(some.weights, whole.weights[:, :, at])


@every_model
def test_the_model_is_left_as_it_was(model, windows):
    attention_maps(model, *windows)
    with pytest.raises(RuntimeError, match="size of tensor"):
        attention_maps(model, windows[0], windows[1][..., :2], *windows[2:])
    assert not any(block.attention._forward_pre_hooks for block in model.blocks)


@pytest.mark.parametrize("scale", [1.0, 0.3, 1e-20])
def test_even_weights_look_at_all_tokens(scale):
    summary = summarise(torch.full((2, 6), scale), 3)
    assert summary.attended.tolist() == pytest.approx([6, 6])
    assert summary.share.flatten().tolist() == pytest.approx([1 / 3] * 6)
    assert summary.gain.tolist() == pytest.approx([6 * scale] * 2)


def test_summaries_of_rows_computed_by_hand():
    rows = torch.tensor([[0, 2.0, 0, 0, 0, 0], [1, 1, 0, 2, 0, 0], [0, 0, 0, 0, 0, 0]])
    summary = summarise(rows, 3)
    # Entropy of (1/4, 1/4, 1/2): 2 · 1/4 · ln 4 + 1/2 · ln 2 = 1.5 ln 2.
    assert summary.attended.tolist() == pytest.approx([1, math.exp(1.5 * math.log(2)), 1])
    assert summary.share.tolist() == [[0, 1, 0], [0.75, 0.25, 0], [0, 0, 0]]
    assert summary.gain.tolist() == [2, 4, 0]
