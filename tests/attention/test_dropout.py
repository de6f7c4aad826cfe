"""Dropout: how much is dropped, that the mean stays, and that what is dropped gets no gradient."""

import math

import pytest
import torch

from flowrl.attention.dropout import Dropout

SHAPE = (401, 503)  # no multiple of the four elements that share a draw


def dropped(p, x, *args, seed=0):
    layer = Dropout(p)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return layer(x, *args)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_elements_are_dropped_with_probability_p_and_the_rest_is_scaled(p, dtype):
    y = dropped(p, torch.ones(SHAPE, dtype=dtype))
    share = (y == 0).double().mean().item()
    assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / y.numel()) + 2**-17
    kept = y[y != 0]
    assert torch.equal(kept, torch.full_like(kept, 65536 / (65536 - round(p * 65536))))


def test_draws_of_neighbours_are_independent():
    zero = dropped(0.3, torch.ones(SHAPE)).flatten() == 0
    for apart in (1, 2, 3, 4, 503):
        both = (zero[:-apart] & zero[apart:]).double().mean().item()
        assert abs(both - 0.09) < 5 * math.sqrt(0.09 * 0.91 / zero.numel())


def test_the_smallest_probability_that_is_not_rounded_to_zero_drops_about_one_in_65536():
    y = dropped(2**-16, torch.ones(2**21))
    assert 5 <= (y == 0).sum().item() <= 80  # 32 are expected


def test_a_residual_is_added_to_what_is_left():
    x, residual = torch.randn(7, 11), torch.randn(7, 11)
    assert torch.equal(dropped(0.4, x, residual), torch.addcmul(residual, x, dropped(0.4, torch.ones_like(x))))


def test_gradients_are_scaled_as_the_values_are():
    x, residual = (torch.randn(7, 11, requires_grad=True) for _ in range(2))
    factors = dropped(0.4, torch.ones(7, 11))
    weights = torch.randn(7, 11)
    (dropped(0.4, x, residual) * weights).sum().backward()
    assert torch.equal(x.grad, weights * factors)
    assert torch.equal(residual.grad, weights)


def test_the_generator_decides_and_every_call_draws_anew():
    x = torch.ones(SHAPE)
    assert torch.equal(dropped(0.1, x, seed=3), dropped(0.1, x, seed=3))
    assert not torch.equal(dropped(0.1, x, seed=3), dropped(0.1, x, seed=4))
    layer = Dropout(0.1)
    assert not torch.equal(layer(x), layer(x))


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.3, False)])
def test_without_dropout_nothing_changes_and_nothing_is_drawn(p, training):
    layer, x, residual = Dropout(p).train(training), torch.randn(3, 5), torch.randn(3, 5)
    before = torch.get_rng_state()
    assert torch.equal(layer(x), x)
    assert torch.equal(layer(x, residual), residual + x)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("p", [-0.1, 1.0, math.nan])
def test_other_probabilities_are_refused(p):
    with pytest.raises(ValueError, match="p is .*: it must be at least 0 and below 1"):
        Dropout(p)
