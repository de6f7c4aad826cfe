"""The causal product against a loop over pairs, and the linear transformer's attention against its recurrence."""

from itertools import pairwise

import pytest
import torch

from flowrl.attention import CosformerAttention, LinearAttention, PerformerAttention
from flowrl.attention.kernel import KernelState, causal_product, causal_product_step, product_weights

B, H, F, M = 2, 3, 5, 7  # different primes: a mixed-up axis cannot go unnoticed


def inputs(tokens, *, seed=0, dtype=torch.float64, batch=B):
    """Features of queries and keys, at least 0, and values."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, H, tokens, F), (batch, H, tokens, F), (batch, H, tokens, M)]
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [q.exp().to(dtype), k.square().to(dtype), v.to(dtype)]


def start(m=M, batch=B):
    return KernelState.zeros(batch, H, F, m, torch.zeros((), dtype=torch.float64))


def literal(q, k, v):
    """Row by row and pair by pair: the mean of the values so far, weighted by agreement."""
    rows = []
    for i in range(q.shape[2]):
        weights = [(q[:, :, i] * k[:, :, j]).sum(-1, keepdim=True) for j in range(i + 1)]
        rows.append(sum(w * v[:, :, j] for j, w in enumerate(weights)) / sum(weights))
    return torch.stack(rows, 2)


def assert_close(actual, expected, tolerance=1e-11):
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-300)


def relative_error(actual, exact):
    return ((actual.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("tokens", [1, 2, 128, 129])
def test_values_and_gradients_are_those_of_the_pairs(tokens):
    ours, theirs = ([x.requires_grad_() for x in inputs(tokens)] for _ in range(2))
    actual, expected = causal_product(*ours), literal(*theirs)
    assert_close(actual, expected)
    weights = torch.randn(actual.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for g, e in zip(
        torch.autograd.grad(actual, ours, weights),
        torch.autograd.grad(expected, theirs, weights),
        strict=True,
    ):
        assert (g - e).abs().max() <= 1e-9


def test_gradcheck_of_the_output_and_the_state():
    past = causal_product_step(*inputs(5), start(), tile=2)[1]

    def product(q, k, v, *sums):
        y, after = causal_product_step(q, k, v, KernelState(*sums), tile=3)
        return y, *after

    x = [t[:, :1].detach().requires_grad_() for t in (*inputs(7, seed=2), *past)]
    assert torch.autograd.gradcheck(product, x)


@pytest.mark.parametrize("tile", [1, 2, 3, 64, 1000])
def test_the_tile_changes_nothing(tile):
    x = inputs(130)
    y, state = causal_product_step(*x, start(), tile=tile)
    whole, of_whole = causal_product_step(*x, start(), tile=130)
    assert_close(causal_product(*x), whole)
    assert_close(y, whole)
    for actual, expected in zip(state, of_whole, strict=True):
        assert_close(actual, expected)


def test_the_state_holds_the_sums_it_names_and_resumes_anywhere():
    q, k, v = inputs(150)
    state, parts = start(), []
    for first, end in pairwise([0, 1, 64, 70, 149, 150]):
        part, state = causal_product_step(*(x[:, :, first:end] for x in (q, k, v)), state)
        parts.append(part)
    assert_close(torch.cat(parts, 2), literal(q, k, v))
    assert_close(state.memory, k.mT @ v)
    assert_close(state.total, k.sum(2))
    assert sum(x[0, 0].numel() for x in state) == F * M + F


def test_what_agrees_with_nothing_gives_zero_and_finite_gradients():
    q, k, v = (x.float() for x in inputs(70))
    k[:, :, :66] = 0
    x = [t.requires_grad_() for t in (q, k, v)]
    y = causal_product(*x)
    assert (y[:, :, :66] == 0).all()
    assert (y[:, :, 66:] != 0).any()
    weights = product_weights(q, k, slice(None))
    assert (weights[:, :, :66] == 0).all()
    torch.testing.assert_close(weights[:, :, 66:].sum(-1), torch.ones(B, H, 4))
    for gradient in torch.autograd.grad(y.square().sum(), x):
        assert gradient.isfinite().all()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-7)])
def test_twenty_thousand_tokens_stay_finite_and_near_float64(dtype, bound):
    x = [t.requires_grad_() for t in inputs(20_000, batch=1, dtype=dtype)]
    exact = causal_product(*(t.detach().double() for t in x))
    q, k, v = x
    y = causal_product(q.float(), k.float(), v)  # features come in at least float32
    assert y.dtype == dtype
    assert relative_error(y, exact) < bound
    for gradient in torch.autograd.grad(y.float().sum(), x):
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (LinearAttention, {}),
        (PerformerAttention, {"features": 11}),
        (CosformerAttention, {}),
        (CosformerAttention, {"length": 20_000}),
    ],
)
def test_an_attention_over_twenty_thousand_tokens_stays_finite_and_near_float64(rule, options):
    torch.manual_seed(0)
    attention = rule(10, 2, **options)
    x = torch.randn(1, 20_000, 10, requires_grad=True)
    y = attention(x)
    y.square().sum().backward()
    assert x.grad.isfinite().all()
    exact = attention.double()(x.detach().double())
    assert relative_error(y, exact) < 1e-5


def test_linear_attention_is_the_recurrence_of_its_paper():
    torch.manual_seed(0)
    module, x = LinearAttention(15, 3).double(), torch.randn(2, 11, 15, dtype=torch.float64)
    q, k, v = (part.unflatten(-1, (3, 5)) for part in module.project_in(x).split(15, -1))
    s, z, rows = 0, 0, []
    for t in range(11):
        query, key = (torch.nn.functional.elu(part[:, t]) + 1 for part in (q, k))
        s, z = s + key[..., :, None] * v[:, t, :, None, :], z + key
        rows.append((query[..., None] * s).sum(-2) / (query * z).sum(-1, keepdim=True))
    expected = module.project_out(torch.stack(rows, 1).flatten(-2))
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(module.weights(x).sum(-1), torch.ones(2, 3, 11, dtype=torch.float64))


@pytest.mark.parametrize("value", [-30.0, 60.0])
def test_linear_attention_weighs_where_elu_plus_one_is_zero_in_float32(value):
    attention = LinearAttention(4, 2)
    q = torch.full((1, 2, 5, 2), value, requires_grad=True)
    k = torch.full((1, 2, 5, 2), -30.0, requires_grad=True)
    torch.testing.assert_close(attention.mix_weights(q, k, slice(None))[..., -1, :], torch.full((1, 2, 5), 0.2))
    y = attention.mix(q, k, torch.randn(1, 2, 5, 2, generator=torch.Generator().manual_seed(0)), None)
    for gradient in torch.autograd.grad(y.square().sum(), [q, k]):
        assert gradient.isfinite().all()
