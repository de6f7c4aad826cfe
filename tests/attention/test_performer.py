"""The Performer's features are the paper's, come near softmax attention, and are redrawn alike however a run goes."""

import math
from itertools import pairwise

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from flowrl.attention import PerformerAttention, SoftmaxAttention

WIDTH, HEADS = 15, 3


def build(width=WIDTH, heads=HEADS, **options):
    torch.manual_seed(0)
    return PerformerAttention(width, heads, **options).double()


def sequence(tokens, width=WIDTH, seed=1):
    return torch.randn(2, tokens, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def literal(module, x):
    """Lemma 1 of the paper head by head, feature by feature and token by token."""
    size = module.width // module.heads
    q, k, v = module.project_in(x).split(module.width, dim=-1)

    def features(part, t, head):
        scaled = part[:, t, head * size : (head + 1) * size] / size**0.25
        directions = module.directions[head].unbind(0)
        return [
            ((scaled * w).sum(-1) - scaled.square().sum(-1) / 2).exp() / math.sqrt(len(directions)) for w in directions
        ]

    rows = []
    for i in range(x.shape[1]):
        heads = []
        for head in range(module.heads):
            query = features(q, i, head)
            weights = [sum(a * b for a, b in zip(query, features(k, j, head), strict=True)) for j in range(i + 1)]
            values = [v[:, j, head * size : (head + 1) * size] for j in range(i + 1)]
            heads.append(
                sum(w[:, None] * value for w, value in zip(weights, values, strict=True)) / sum(weights)[:, None]
            )
        rows.append(torch.cat(heads, -1))
    return module.project_out(torch.stack(rows, 1))


@pytest.mark.parametrize("features", [1, 4, 13])
def test_values_and_gradients_are_those_of_the_paper(features):
    module = build(features=features)
    x, y = (sequence(9).requires_grad_() for _ in range(2))
    actual, expected = module(x), literal(module, y)
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)
    weights = torch.randn(actual.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (g,), (e,) = torch.autograd.grad(actual, x, weights), torch.autograd.grad(expected, y, weights)
    torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-11)


def test_directions_are_orthogonal_in_blocks_normal_in_length_and_others_in_every_head():
    directions = build(64, 4, features=40).directions
    assert directions.shape == (4, 40, 16)
    for head in directions:
        for block in head.split(16):
            lengths = block.norm(dim=-1)
            torch.testing.assert_close(block @ block.mT, torch.diag(lengths.square()), rtol=0, atol=1e-5)
    # A length has mean sqrt(16 - 1/2) and standard deviation 0.7; the mean over 160 has 0.06.
    assert directions.norm(dim=-1).mean() == pytest.approx(math.sqrt(15.5), abs=0.25)
    assert (directions[0] - directions[1]).abs().max() > 0.1


def test_by_default_there_are_d_ln_d_features():
    assert build(64, 2).directions.shape == (2, 111, 32)
    assert build(3, 3).directions.shape == (3, 1, 1)


def test_with_more_features_it_comes_nearer_to_softmax_attention():
    torch.manual_seed(0)
    softmax = SoftmaxAttention(64, 4).double()
    x = sequence(50, 64)

    def error(features):
        attention = build(64, 4, features=features)
        attention.load_state_dict(softmax.state_dict(), strict=False)
        return (attention.weights(x) - softmax.weights(x)).norm().item() / softmax.weights(x).norm().item()

    # The error of a mean of independent terms falls with the root of their number: 64 times as many, an eighth.
    few, many = error(64), error(4096)
    assert many < 0.1
    assert many < 0.25 * few


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("width", [16, 128])
def test_large_keys_and_queries_stay_finite_in_float32(width, scale):
    attention = PerformerAttention(width, 1)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, 300, width, generator=generator) for _ in range(3))
    # Keys that point where a feature is largest: exp(w·k - |k|²/2) at its bound exp(|w|²/2).
    k[:, :, :100] = attention.directions[:, :1] * width**0.25
    x = [(scale * q).requires_grad_(), (k if scale == 1 else scale * k).requires_grad_(), v.requires_grad_()]
    y = attention.mix(*x, None)
    assert y.isfinite().all()
    for gradient in torch.autograd.grad(y.square().sum(), x):
        assert gradient.isfinite().all()


def test_a_late_key_however_large_changes_no_earlier_output_by_a_bit():
    attention, x = build().float(), sequence(40).float()
    other = x.clone()
    other[:, 30:] *= 1e3
    assert torch.equal(attention(x)[:, :30], attention(other)[:, :30])


def trained(module, steps, optimiser):
    """The directions that each of the training steps used."""
    used = []
    for step in steps:
        module.prepare_step(step)
        optimiser.zero_grad()
        y = module(sequence(6))
        used.append(module.directions.clone())
        y.square().mean().backward()
        optimiser.step()
        with torch.no_grad():  # an evaluation in between counts for nothing
            module.eval()(sequence(3))
            module.train()
    return used


def optimiser_of(module):
    return torch.optim.AdamW(module.parameters(), 1e-2, fused=True)  # as flowrl.training has it


def test_features_are_redrawn_every_so_many_training_steps_and_never_by_default():
    module = build(redraw_every=3)
    used = trained(module, range(1, 9), optimiser_of(module))
    changed = [not torch.equal(a, b) for a, b in pairwise(used)]
    assert changed == [False, False, True, False, False, True, False]
    module = build(redraw_every=4)
    used = trained(module, range(1, 9), optimiser_of(module))
    assert torch.equal(module.directions, used[-1]), "what was trained is what is evaluated"
    module = build()
    used = trained(module, range(1, 6), optimiser_of(module))
    assert all(torch.equal(directions, module.directions) for directions in used)


def test_the_features_depend_on_the_seed_and_the_step_alone():
    whole = build(redraw_every=3)
    used = trained(whole, range(1, 9), optimiser_of(whole))
    for step in (8, 5, 1, 4):
        module = build(redraw_every=3)
        module.prepare_step(step)
        assert torch.equal(module.directions, used[step - 1])
        module.prepare_step(1)
        assert torch.equal(module.directions, used[0])


@pytest.mark.parametrize("stopped", [1, 2, 3, 4])
def test_a_resumed_training_redraws_as_an_uninterrupted_one(stopped):
    whole = build(redraw_every=2)
    expected = trained(whole, range(1, 8), optimiser_of(whole))
    first = build(redraw_every=2)
    optimiser = optimiser_of(first)
    used = trained(first, range(1, stopped + 1), optimiser)
    torch.manual_seed(9)
    second = PerformerAttention(WIDTH, HEADS, redraw_every=2).double()
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.directions, used[-1]), "what was trained is what is evaluated"
    resumed = optimiser_of(second)
    resumed.load_state_dict(optimiser.state_dict())
    used += trained(second, range(stopped + 1, 8), resumed)
    assert all(torch.equal(a, b) for a, b in zip(used, expected, strict=True))
    assert all(
        torch.equal(a, b) for a, b in zip(second.state_dict().values(), whole.state_dict().values(), strict=True)
    )


def test_weights_of_earlier_versions_which_counted_their_steps_are_loaded():
    module, other = build(redraw_every=2), PerformerAttention(WIDTH, HEADS, redraw_every=2).double()
    state = module.state_dict() | {"training_steps": torch.tensor(5)}
    other.load_state_dict(state)
    assert torch.equal(other.directions, module.directions)
    assert "training_steps" in state, "the caller's own dictionary stays as it was"
    nested, outer = torch.nn.Sequential(build()), torch.nn.Sequential(PerformerAttention(WIDTH, HEADS).double())
    outer.load_state_dict(nested.state_dict() | {"0.training_steps": torch.tensor(5)})
    assert torch.equal(outer[0].directions, nested[0].directions)


def test_recomputing_a_block_draws_nothing():
    def gradients(recompute):
        module = build(redraw_every=1)
        optimiser = optimiser_of(module)
        for step in (1, 2, 3):
            module.prepare_step(step)
            optimiser.zero_grad()
            x = sequence(6).requires_grad_()
            (checkpoint(module, x, use_reentrant=False) if recompute else module(x)).square().sum().backward()
            optimiser.step()
        return [p.grad for p in module.parameters()] + [module.directions]

    assert all(torch.equal(a, b) for a, b in zip(gradients(False), gradients(True), strict=True))


def test_weights_of_another_number_of_features_are_refused():
    with pytest.raises(RuntimeError, match="size mismatch for directions"):
        build(features=9).load_state_dict(build(features=8).state_dict())


@pytest.mark.parametrize(
    ("options", "message"), [({"features": 0}, "features is 0"), ({"redraw_every": -1}, "redraw_every is -1")]
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PerformerAttention(WIDTH, HEADS, **options)
