"""What every attention owes its callers, whatever its rule."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrl.attention import ATTENTION

WIDTH, HEADS, BATCH = 15, 3, 2
every_attention = pytest.mark.parametrize("name", ATTENTION)


def made(name, dropout=0.0):
    torch.manual_seed(0)
    return ATTENTION[name](WIDTH, HEADS, dropout=dropout).double()


def sequence(tokens, seed=1):
    return torch.randn(BATCH, tokens, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_the_registry_names_flow_and_softmax():
    assert {"flow", "softmax"} <= set(ATTENTION)


@every_attention
@pytest.mark.parametrize("tokens", [1, 2, 50, 64, 65, 127, 128, 129, 149])
def test_a_prefix_is_what_it_is_whatever_follows(name, tokens):
    attention, x = made(name), sequence(150)
    assert_equal(attention(x[:, :tokens]), attention(x)[:, :tokens])


@every_attention
def test_a_token_reaches_itself_and_later_ones_alone(name):
    attention, x = made(name), sequence(140).requires_grad_()
    for t in (0, 63, 64, 130):
        (gradient,) = torch.autograd.grad(attention(x)[:, t].sum(), x)
        touched = gradient.abs().sum(dim=(0, 2))
        # Masked products leave exact zeros.
        assert (touched[t + 1 :] == 0).all()
        assert (touched[: t + 1] > 0).all()


@every_attention
@settings(deadline=None, max_examples=25)
@given(tokens=st.integers(1, 140), cuts=st.lists(st.integers(1, 139), max_size=5))
def test_steps_of_any_size_equal_the_whole(name, tokens, cuts):
    attention, x = made(name), sequence(tokens)
    state, parts = attention.initial_state(BATCH), []
    for start, end in pairwise(sorted({0, tokens, *(cut for cut in cuts if cut < tokens)})):
        y, state = attention.step(x[:, start:end], state)
        parts.append(y)
    assert_equal(torch.cat(parts, 1), attention(x))


@every_attention
def test_one_token_at_a_time_equals_the_whole(name):
    attention, x = made(name), sequence(135)
    state, parts = attention.initial_state(BATCH), []
    for t in range(135):
        y, state = attention.step(x[:, t : t + 1], state)
        parts.append(y)
    assert_equal(torch.cat(parts, 1), attention(x))


@every_attention
@pytest.mark.parametrize("tokens", [20, 140])
def test_padding_anywhere_equals_dropping(name, tokens):
    attention, x = made(name), sequence(tokens)
    left, right = torch.zeros(BATCH, tokens, dtype=torch.bool), torch.zeros(BATCH, tokens, dtype=torch.bool)
    left[0, :7] = left[1, :-1] = right[0, -7:] = right[1, 3:] = True
    holes = torch.rand(BATCH, tokens, generator=torch.Generator().manual_seed(3)) < 0.4
    for is_pad in (left, right, holes, torch.zeros_like(left)):
        y = attention(x, is_pad)
        assert y.isfinite().all()
        for row in range(BATCH):
            real = ~is_pad[row]
            assert_equal(y[row : row + 1, real], attention(x[row : row + 1, real]))


@every_attention
def test_right_padding_needs_no_mask(name):
    attention, x = made(name), sequence(20)
    is_pad = torch.arange(20) >= torch.tensor([[13], [20]])
    assert_equal(attention(x)[0, :13], attention(x, is_pad)[0, :13])


@every_attention
def test_every_parameter_gets_a_gradient(name):
    attention = made(name)
    attention(sequence(9)).square().sum().backward()
    for parameter_name, parameter in attention.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 1e-9, parameter_name


@every_attention
def test_outside_training_nothing_is_random(name):
    attention, x = made(name, dropout=0.5).eval(), sequence(12)
    assert torch.equal(attention(x), attention(x))
    assert_equal(attention(x), made(name)(x))
    y, _ = attention.step(x, attention.initial_state(BATCH))
    assert_equal(y, attention(x))


@every_attention
def test_rows_of_a_batch_do_not_meet(name):
    attention, x = made(name), sequence(30)
    assert_equal(attention(x)[1:], attention(x[1:]))


@every_attention
@pytest.mark.parametrize(("width", "heads"), [(16, 3), (0, 1), (8, 0), (-4, 2), (4, 8)])
def test_a_width_that_heads_do_not_divide_is_refused(name, width, heads):
    with pytest.raises(ValueError, match=f"width is {width} and heads is {heads}"):
        ATTENTION[name](width, heads)


@every_attention
def test_gradients_flow_through_steps_too(name):
    attention, x = made(name), sequence(6).requires_grad_()
    y, _ = attention.step(x, attention.initial_state(BATCH))
    (stepped,) = torch.autograd.grad(y.square().sum(), x)
    (whole,) = torch.autograd.grad(attention(x).square().sum(), x)
    assert_equal(stepped, whole)


@every_attention
def test_state_dicts_of_the_registry_agree_so_that_agents_differ_in_the_rule_alone(name):
    assert {n: p.shape for n, p in made(name).named_parameters()} == {
        n: p.shape for n, p in made("softmax").named_parameters()
    }


@every_attention
@pytest.mark.parametrize("at", [slice(-1, None), slice(1, None, 3)])
def test_the_output_of_some_tokens_is_theirs_in_the_whole(name, at):
    attention, x = made(name), sequence(7)
    assert_equal(attention(x, None, at), attention(x)[:, at])
    y, state = attention.step(x, attention.initial_state(BATCH), at)
    whole, of_whole = attention.step(x, attention.initial_state(BATCH))
    assert_equal(y, whole[:, at])
    assert all(torch.equal(one, two) for one, two in zip(state, of_whole, strict=True))


@every_attention
@pytest.mark.parametrize("tokens", [1, 2, 64, 131])
def test_the_weights_are_what_the_values_are_multiplied_by(name, tokens):
    attention, x = made(name, dropout=0.5).eval(), sequence(tokens)
    weights = attention.weights(x)
    assert weights.shape == (BATCH, HEADS, tokens, tokens)
    assert (weights >= 0).all()
    assert (weights.triu(1) == 0).all()
    v = attention.project_in(x)[..., -WIDTH:].unflatten(-1, (HEADS, -1)).transpose(1, 2)
    merged = (weights @ v).transpose(1, 2).flatten(-2)
    assert_equal(attention.project_out(merged), attention(x))


@every_attention
@pytest.mark.parametrize("at", [slice(-1, None), slice(1, None, 3), torch.tensor([4, 0, 6])])
def test_the_weights_of_some_tokens_are_theirs_in_the_whole(name, at):
    attention, x = made(name), sequence(7)
    assert_equal(attention.weights(x, at), attention.weights(x)[:, :, at])
