"""Softmax attention is the textbook's, its cache holds what was seen, and its dropout acts on weights."""

import math

import pytest
import torch

from flowrl.attention import SoftmaxAttention

WIDTH, HEADS = 15, 3


def attention(**options):
    torch.manual_seed(0)
    return SoftmaxAttention(WIDTH, HEADS, **options).double()


def literal(module, x):
    """Head by head and token by token."""
    size = WIDTH // HEADS
    q, k, v = module.project_in(x).split(WIDTH, dim=-1)
    rows = []
    for t in range(x.shape[1]):
        heads = []
        for head in range(HEADS):
            at = slice(head * size, (head + 1) * size)
            scores = (q[:, t : t + 1, at] * k[:, : t + 1, at]).sum(-1) / math.sqrt(size)
            heads.append((scores.softmax(-1)[..., None] * v[:, : t + 1, at]).sum(1))
        rows.append(torch.cat(heads, -1))
    return module.project_out(torch.stack(rows, 1))


def test_it_is_softmax_over_the_past():
    module, x = attention(), torch.randn(2, 11, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(module(x), literal(module, x), rtol=1e-12, atol=1e-13)


def test_the_cache_grows_by_what_was_seen_and_is_not_changed():
    module, x = attention(), torch.randn(2, 7, WIDTH, dtype=torch.float64)
    state = module.initial_state(2)
    assert state.k.shape == state.v.shape == (2, HEADS, 0, WIDTH // HEADS)
    _, state = module.step(x[:, :4], state)
    _, after = module.step(x[:, 4:], state)
    assert state.k.shape[2] == 4
    assert after.k.shape[2] == after.v.shape[2] == 7
    assert torch.equal(after.k[:, :, :4], state.k)


def test_the_step_works_under_autocast():
    module = SoftmaxAttention(WIDTH, HEADS)
    x = torch.randn(2, 5, WIDTH)
    exact = module(x)
    state, parts = module.initial_state(2), []
    with torch.autocast("cpu", torch.bfloat16):
        for t in range(5):
            y, state = module.step(x[:, t : t + 1], state)
            parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1).float(), exact, rtol=0.05, atol=0.02)


def test_an_all_padded_past_stays_finite():
    module, x = attention(), torch.randn(2, 4, WIDTH, dtype=torch.float64, requires_grad=True)
    y = module(x, torch.tensor([[True] * 4, [True, True, True, False]]))
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("padded", [False, True])
def test_dropout_acts_in_training_alone(padded):
    module, x = attention(dropout=0.5), torch.randn(2, 8, WIDTH, dtype=torch.float64)
    is_pad = torch.zeros(2, 8, dtype=torch.bool) if padded else None
    module.train()
    assert not torch.equal(module(x, is_pad), module(x, is_pad))
    module.eval()
    assert torch.equal(module(x, is_pad), module(x, is_pad))
    torch.testing.assert_close(module(x, is_pad), literal(module, x), rtol=1e-12, atol=1e-13)


def test_the_weights_of_a_query_sum_to_one():
    x = torch.randn(2, 11, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(attention().weights(x).sum(-1), torch.ones(2, HEADS, 11, dtype=torch.float64))
