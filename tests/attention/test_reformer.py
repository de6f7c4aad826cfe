"""The Reformer's attention is softmax over the earlier tokens of a bucket in any round, and over itself only alone."""

import math

import pytest
import torch

from flowrl.attention import ReformerAttention

WIDTH, HEADS = 15, 3


def build(**options):
    torch.manual_seed(0)
    return ReformerAttention(WIDTH, HEADS, **options).double()


def sequence(tokens, seed=1):
    return torch.randn(2, tokens, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def literal(module, x):
    """Section 2 of the paper, round by round; a pair that shares N rounds counts 1/N in each."""
    size = WIDTH // HEADS
    q, v = module.project_in(x).split(WIDTH, dim=-1)
    rounds = module.rotations.shape[1]
    out = []
    for row in range(len(x)):
        tokens = []
        for i in range(x.shape[1]):
            heads = []
            for head in range(HEADS):
                at = slice(head * size, (head + 1) * size)

                def buckets(t, row=row, head=head, at=at):
                    rotated = [q[row, t, at] @ module.rotations[head, r] for r in range(rounds)]
                    return [int(torch.cat([y, -y]).argmax()) for y in rotated]

                own = buckets(i)
                met = {j: sum(a == b for a, b in zip(own, buckets(j), strict=True)) for j in range(i)}
                met = {j: n for j, n in met.items() if n} or {i: rounds}
                scores = {j: (q[row, i, at] @ q[row, j, at]) / q[row, j, at].norm() / math.sqrt(size) for j in met}
                total, summed = 0, 0
                for r in range(rounds):
                    for j, n in met.items():
                        if j == i or own[r] == buckets(j)[r]:
                            total = total + scores[j].exp() / n
                            summed = summed + scores[j].exp() / n * v[row, j, at]
                heads.append(summed / total)
            tokens.append(torch.cat(heads))
        out.append(torch.stack(tokens))
    return module.project_out(torch.stack(out))


@pytest.mark.parametrize("options", [{}, {"rounds": 1, "buckets": 6}, {"rounds": 3, "buckets": 2}])
def test_values_and_gradients_are_those_of_the_paper(options):
    module = build(**options)
    x, y = (sequence(10).requires_grad_() for _ in range(2))
    actual, expected = module(x), literal(module, y)
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)
    weights = torch.randn(actual.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (g,), (e,) = torch.autograd.grad(actual, x, weights), torch.autograd.grad(expected, y, weights)
    torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-11)


def test_more_rounds_see_more_and_more_buckets_less():
    x = sequence(60)

    def seen(**options):
        return int((build(**options).weights(x) > 0).sum())

    assert seen(rounds=1) < seen(rounds=2) < seen(rounds=8)
    assert seen(buckets=32) < seen(buckets=8) < seen(buckets=2)


def test_a_token_sees_itself_only_where_it_has_nothing_else():
    weights = build(rounds=1, buckets=8).weights(sequence(60))
    on_itself = weights.diagonal(dim1=-2, dim2=-1)
    others = weights.tril(-1).sum(-1)
    assert ((on_itself == 1) | (on_itself == 0)).all()
    torch.testing.assert_close(others, 1 - on_itself)
    assert (on_itself[..., 0] == 1).all()
    assert (on_itself == 0).any()
    assert (on_itself[..., 1:] == 1).any()


def test_rotations_never_change():
    module = build()
    before = module.rotations.clone()
    module.train()(sequence(5)).sum().backward()
    assert torch.equal(module.rotations, before)
    assert "rotations" in module.state_dict()


@pytest.mark.parametrize("padded", [False, True])
def test_dropout_acts_in_training_alone(padded):
    module, x = build(), sequence(30)
    module.dropout.p = 0.5
    is_pad = torch.zeros(2, 30, dtype=torch.bool) if padded else None
    assert not torch.equal(module.train()(x, is_pad), module(x, is_pad))
    assert torch.equal(module.eval()(x, is_pad), build()(x, is_pad))


def test_queries_of_zero_stay_finite():
    q, v = torch.zeros(1, 3, 9, 5, requires_grad=True), torch.randn(1, 3, 9, 5)
    y = build().float().mix(q, q, v, None)
    (gradient,) = torch.autograd.grad(y.sum(), q)
    assert y.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds is 0"),
        ({"rounds": 2_000_000_000}, "rounds is 2000000000: it must be at least 1 and at most 1,024"),
        ({"buckets": 2_000_000_000}, "buckets is 2000000000: it must be even, at least 2 and at most 1,024"),
        ({"buckets": 3}, "buckets is 3: it must be even"),
        ({"buckets": 0}, "buckets is 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ReformerAttention(WIDTH, HEADS, **options)
