"""cosFormer's weights are the cosine's, up to its constant and past it, and know nothing of how many tokens follow."""

import math

import pytest
import torch

from flowrl.attention import CosformerAttention

WIDTH, HEADS = 15, 3


def build(**options):
    torch.manual_seed(0)
    return CosformerAttention(WIDTH, HEADS, **options).double()


def sequence(tokens):
    return torch.randn(2, tokens, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def literal(module, x):
    """Equation 10 of the paper head by head and pair by pair; a token past the constant stands where the last does."""
    size = WIDTH // HEADS
    q, k, v = module.project_in(x).split(WIDTH, dim=-1)

    def place(t):
        return min(t + 1, module.length)

    rows = []
    for i in range(x.shape[1]):
        heads = []
        for head in range(HEADS):
            at = slice(head * size, (head + 1) * size)
            weights = [
                (q[:, i, at].relu() * k[:, j, at].relu()).sum(-1, keepdim=True)
                * math.cos(math.pi / 2 * (place(i) - place(j)) / module.length)
                for j in range(i + 1)
            ]
            values = sum(weight * v[:, j, at] for j, weight in enumerate(weights))
            heads.append(values / sum(weights).clamp(min=1e-6))
        rows.append(torch.cat(heads, -1))
    return module.project_out(torch.stack(rows, 1))


@pytest.mark.parametrize("length", [1, 7, 11, 60])
def test_values_and_gradients_are_those_of_the_paper(length):
    module = build(length=length)
    x, y = (sequence(11).requires_grad_() for _ in range(2))
    actual, expected = module(x), literal(module, y)
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)
    weights = torch.randn(actual.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (g,), (e,) = torch.autograd.grad(actual, x, weights), torch.autograd.grad(expected, y, weights)
    torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-11)


def test_a_weight_falls_as_the_cosine_to_the_constant_and_past_it_distance_counts_no_more():
    module = build(length=10)
    ones = torch.ones(1, 1, 25, 3, dtype=torch.float64)
    row = module.mix_weights(ones, ones, torch.tensor([9]))[0, 0, 0]
    reference = torch.tensor([math.cos(math.pi / 20 * (9 - j)) for j in range(10)], dtype=torch.float64)
    torch.testing.assert_close(row[:10] / row[9], reference)
    late = module.mix_weights(ones, ones, torch.tensor([24]))[0, 0, 0]
    torch.testing.assert_close(late[9:], late[9].expand(16))
    torch.testing.assert_close(late[:10] / late[9], reference)
    assert (late > 0).all()


def test_the_constant_is_no_ones_but_the_models():
    x = sequence(50)
    assert (build(length=20)(x) - build(length=40)(x)).abs().max() > 1e-3
    assert build(length=20)(x)[:, :20].sub(build(length=20)(x[:, :20])).abs().max() < 1e-12


def test_the_step_knows_its_place():
    module, x = build(length=6), sequence(14)
    _, state = module.step(x[:, :5], module.initial_state(2))
    assert state.n.tolist() == [[5], [5]]
    y, state = module.step(x[:, 5:], state)
    assert state.n.tolist() == [[14], [14]]
    torch.testing.assert_close(y, literal(module, x)[:, 5:], rtol=1e-11, atol=1e-12)
    assert sum(part[0, 0].numel() for part in state[1:]) == 2 * 5 * 5 + 2 * 5


def test_a_query_that_agrees_with_no_key_gives_zero():
    module = build()
    q, k, v = (torch.randn(1, 3, 8, 5, requires_grad=True) for _ in range(3))
    y = module.mix(q, -k.abs(), v, None)
    assert (y == 0).all()
    for gradient in torch.autograd.grad(y.sum(), [q, k, v], allow_unused=True):
        assert gradient.isfinite().all()


def test_a_constant_below_one_is_refused():
    with pytest.raises(ValueError, match="length is 0: it must be at least 1"):
        CosformerAttention(WIDTH, HEADS, length=0)


@pytest.mark.parametrize(("tokens", "options"), [(61, {}), (None, {}), (None, {"length": 9_000}), (8, {"length": 7})])
def test_more_tokens_than_its_length_are_cautioned_against(tokens, options):
    (caution,) = CosformerAttention.cautions(tokens, **options)
    assert f"{options.get('length', 60):,}" in caution
    assert "--" not in caution, "a library names no option of a command line"


@pytest.mark.parametrize(("tokens", "options"), [(60, {}), (1, {}), (61, {"length": 61})])
def test_as_many_tokens_as_its_length_are_no_reason_for_a_caution(tokens, options):
    assert CosformerAttention.cautions(tokens, **options) == []
