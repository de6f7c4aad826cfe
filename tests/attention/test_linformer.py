"""Linformer made causal: softmax over the tokens of the own block so far and over summaries of finished blocks."""

import math

import pytest
import torch

from flowrl.attention import LinformerAttention, SoftmaxAttention

WIDTH, HEADS = 15, 3


def build(**options):
    torch.manual_seed(0)
    return LinformerAttention(WIDTH, HEADS, **options).double()


def sequence(tokens):
    return torch.randn(2, tokens, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def literal(module, x):
    """Head by head and token by token."""
    size, c = WIDTH // HEADS, module.block
    q, k, v = module.project_in(x).split(WIDTH, dim=-1)
    of_k, of_v = module.summarise_k.softmax(-1), module.summarise_v.softmax(-1)
    rows = []
    for i in range(x.shape[1]):
        start = i // c * c
        heads = []
        for head in range(HEADS):
            at = slice(head * size, (head + 1) * size)
            keys, values = [], []
            for block in range(i // c):
                for s in range(module.rank):
                    keys.append(sum(of_k[s, t] * k[:, block * c + t, at] for t in range(c)))
                    values.append(sum(of_v[s, t] * v[:, block * c + t, at] for t in range(c)))
            for t in range(start, i + 1):
                keys.append(k[:, t, at])
                values.append(v[:, t, at])
            scores = torch.stack([(q[:, i, at] * key).sum(-1) / math.sqrt(size) for key in keys], -1)
            heads.append((scores.softmax(-1)[..., None] * torch.stack(values, 1)).sum(1))
        rows.append(torch.cat(heads, -1))
    return module.project_out(torch.stack(rows, 1))


@pytest.mark.parametrize("options", [{}, {"block": 5, "rank": 2}, {"block": 3, "rank": 3}, {"block": 1, "rank": 1}])
def test_values_and_gradients_are_those_of_the_equations(options):
    module, x = build(**options), sequence(23)
    parameters = list(module.parameters())
    actual, expected = module(x), literal(module, x)
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)
    weights = torch.randn(actual.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = (torch.autograd.grad(y, parameters, weights) for y in (actual, expected))
    for g, e in zip(*gradients, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-10)


def test_within_a_block_it_is_softmax_attention():
    module, x = build(block=11), sequence(11)
    softmax = SoftmaxAttention(WIDTH, HEADS).double()
    softmax.load_state_dict({name: w for name, w in module.state_dict().items() if name.startswith("project")})
    torch.testing.assert_close(module(x), softmax(x), rtol=1e-12, atol=1e-13)
    y = module(x).sum() + 0 * sum(p.sum() for p in module.parameters())
    y.backward()
    # Summaries that nobody reads get a gradient of zero, not none: several processes wait for every one.
    assert module.summarise_k.grad is not None


@pytest.mark.parametrize(("tokens", "summaries", "current"), [(4, 0, 4), (5, 2, 0), (6, 2, 1), (23, 8, 3)])
def test_the_state_holds_summaries_and_the_current_block(tokens, summaries, current):
    module = build(block=5, rank=2)
    _, state = module.step(sequence(tokens), module.initial_state(2))
    assert state.summary_k.shape == state.summary_v.shape == (2, HEADS, summaries, 5)
    assert state.k.shape == state.v.shape == (2, HEADS, current, 5)


def test_the_first_summaries_differ():
    rows = build().summarise_v.softmax(-1)
    assert (rows[0] - rows[1]).abs().max() > 0.01


def test_dropout_acts_in_training_alone():
    module, x = build(), sequence(40)
    module.dropout.p = 0.5
    assert not torch.equal(module.train()(x), module(x))
    assert torch.equal(module.eval()(x), build()(x))


def test_the_weights_of_a_query_sum_to_one():
    torch.testing.assert_close(build().weights(sequence(41)).sum(-1), torch.ones(2, HEADS, 41, dtype=torch.float64))


@pytest.mark.parametrize(("block", "rank"), [(4, 5), (4, 0), (0, 0)])
def test_a_rank_that_cannot_be_is_refused(block, rank):
    with pytest.raises(ValueError, match=f"rank is {rank} and block is {block}"):
        LinformerAttention(WIDTH, HEADS, block=block, rank=rank)
