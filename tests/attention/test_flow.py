"""Flow-Attention against its oracle, in value, gradient, padding and recurrence."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from flowrl.attention.flow import (
    MOST_CLIP,
    FlowAttention,
    FlowState,
    flow_attention,
    flow_attention_step,
    flow_quantities,
)
from flowrl.attention.flow_oracle import flow_oracle

B, H, D, M = 2, 3, 5, 7  # different primes: a mixed-up axis cannot go unnoticed
LENGTHS = [1, 2, 63, 64, 65, 127, 128, 129, 150]


def oracle(q, k, v, **options):
    """`flow_oracle` of queries and keys before the sigmoid."""
    return flow_oracle(q.sigmoid(), k.sigmoid(), v, **options)


def inputs(tokens, *, scale=1.0, seed=0, dtype=torch.float64, batch=B):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, H, tokens, D), (batch, H, tokens, D), (batch, H, tokens, M)]
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [(scale * q).to(dtype), (scale * k).to(dtype), v.to(dtype)]


def assert_close(actual, expected, tolerance=1e-11):
    """Within `tolerance` of the largest magnitude: float64 leaves 1e-15 a sum and a few hundred terms."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-300)


@pytest.mark.parametrize("scale", [1.0, 25.0], ids=["free", "clamped"])
@pytest.mark.parametrize("tokens", LENGTHS)
def test_values_and_gradients_are_those_of_the_equations(tokens, scale):
    ours, theirs = (
        [x.requires_grad_() for x in inputs(tokens, scale=scale)],
        [x.requires_grad_() for x in inputs(tokens, scale=scale)],
    )
    expected, flows = oracle(*theirs)
    if tokens > 2:
        clamped = bool((flows.conserved_outgoing.abs() > 10).any())
        assert clamped == (scale > 1), "the clamp should be active in one of the two"
    actual = flow_attention(*ours)
    assert_close(actual, expected)
    weights = torch.randn(actual.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for name, g, e in zip(
        "qkv", torch.autograd.grad(actual, ours, weights), torch.autograd.grad(expected, theirs, weights), strict=True
    ):
        assert e.abs().max() > 0, name
        assert_close(g, e, 1e-9)


def test_the_oracle_is_causal():
    """No output and no flow of the first tokens depends on later ones."""
    q, k, v = (x.requires_grad_() for x in inputs(9))
    y, flows = oracle(q, k, v)
    for x in (y[:, :, :6], *(flow[:, :, :6] for flow in flows)):
        for gradient in torch.autograd.grad(x.sum(), [q, k, v], retain_graph=True, allow_unused=True):
            assert gradient is None or (gradient[:, :, 6:] == 0).all()


def test_of_one_token_the_oracle_is_what_one_works_out_by_hand():
    """Without ε: I = O = q·k, so Î = 1, C = 1 and y = sigmoid(1) v."""
    y, flows = oracle(*inputs(1), eps=0.0)
    assert_close(flows.incoming, flows.outgoing)
    assert_close(y, inputs(1)[2] / (1 + math.exp(-1)))


def test_clip_and_eps_are_used():
    x = inputs(40)
    for options in ({"clip": 0.3}, {"eps": 1e-2}, {"clip": 0.5, "eps": 0.1}):
        assert_close(flow_attention(*x, **options), oracle(*x, **options)[0])
        assert_close(flow_attention_step(*x, None, tile=7, **options)[0], oracle(*x, **options)[0])
        assert (flow_attention(*x, **options) - flow_attention(*x)).abs().max() > 1e-4


def test_gradcheck_of_one_tile_and_of_a_row_of_them():
    x = [t[:, :1, :, :3].clone().requires_grad_() for t in inputs(5)]
    assert torch.autograd.gradcheck(flow_attention, x)
    assert torch.autograd.gradcheck(lambda *qkv: flow_attention_step(*qkv, None, tile=2)[0], x)
    is_pad = torch.tensor([[True, False, True, False, False], [False, False, False, True, True]])
    assert torch.autograd.gradcheck(lambda *qkv: flow_attention(*qkv, is_pad=is_pad), x)
    # Other feature maps than the sigmoid are not 0 where a flow is: it must not reach what they were given.
    assert torch.autograd.gradcheck(lambda *qkv: flow_attention(*qkv, is_pad=is_pad, feature_map="softplus"), x)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("tile", [4, 16])
def test_gradcheck_of_the_output_and_every_sum_of_the_state(tile, padded):
    d, m, tokens = 2, 3, 11  # no multiple of a tile of 4: the last one is filled up
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    past = flow_attention_step(draw(2, 1, 5, d), draw(2, 1, 5, d), draw(2, 1, 5, m), None)[1]
    is_pad = torch.tensor([[i in (0, 5, 6, 10) for i in range(tokens)], [i < 7 for i in range(tokens)]])

    def step(q, k, v, *sums):
        state = FlowState(past.n, *sums)
        y, after = flow_attention_step(q, k, v, state, eps=0.01, tile=tile, is_pad=is_pad if padded else None)
        return y, *after[1:]

    x = [draw(2, 1, tokens, d), draw(2, 1, tokens, d), draw(2, 1, tokens, m), *past[1:]]
    assert torch.autograd.gradcheck(step, [t.detach().requires_grad_() for t in x])


def test_a_state_holds_its_own_numbers_alone():
    _, state = flow_attention_step(*inputs(300), None)
    for name, tensor in zip(FlowState._fields, state, strict=True):
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size(), name
    zeros = FlowState.zeros(2, 3, 5, 7, device=torch.device("cpu"), dtype=torch.float32)
    assert len({tensor.data_ptr() for tensor in zeros}) == len(zeros)


@pytest.mark.parametrize("tokens", [60, 131])
def test_what_is_returned_may_be_changed_in_place(tokens):
    q, k, v = (t.requires_grad_() for t in inputs(tokens))
    y = flow_attention(q, k, v)
    expected = torch.autograd.grad((2 * y).sum(), [q, k, v], retain_graph=True)
    y = flow_attention(q, k, v).mul_(2)
    for actual, wanted in zip(torch.autograd.grad(y.sum(), [q, k, v]), expected, strict=True):
        assert torch.equal(actual, wanted)


def test_no_sequences_and_no_epsilon():
    assert flow_attention(*inputs(60, batch=0)).shape == (0, H, 60, M)
    x = inputs(131)
    assert_close(flow_attention(*x, eps=0.0), oracle(*x, eps=0.0)[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # the compiler does so
@pytest.mark.parametrize("tokens", [60, 135])
def test_it_compiles_into_one_graph(tokens):
    compiled = torch.compile(flow_attention, fullgraph=True, backend="aot_eager")
    x, y = ([t.requires_grad_() for t in inputs(tokens)] for _ in range(2))
    actual, expected = compiled(*x), flow_attention(*y)
    assert_close(actual, expected)
    for mine, theirs in zip(torch.autograd.grad(actual.sum(), x), torch.autograd.grad(expected.sum(), y), strict=True):
        assert_close(mine, theirs)


@pytest.mark.parametrize("tile", [1, 2, 3, 64, 65, 1000])
def test_the_tile_changes_nothing(tile):
    x = inputs(130)
    assert_close(flow_attention_step(*x, None, tile=tile)[0], flow_attention_step(*x, None, tile=130)[0])


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 150), st.lists(st.integers(1, 149), max_size=6), st.sampled_from([1, 3, 64]))
def test_a_sequence_resumed_anywhere_is_the_whole(tokens, cuts, tile):
    q, k, v = inputs(tokens, seed=tokens)
    borders = sorted({0, tokens, *(cut for cut in cuts if cut < tokens)})
    state, parts = None, []
    for start, end in pairwise(borders):
        part, state = flow_attention_step(q[:, :, start:end], k[:, :, start:end], v[:, :, start:end], state, tile=tile)
        parts.append(part)
    assert_close(torch.cat(parts, 2), flow_attention(q, k, v))
    _, whole = flow_attention_step(q, k, v, None)
    assert torch.equal(state.n, torch.full((B, 1), float(tokens), dtype=torch.float64))
    for actual, expected in zip(state, whole, strict=True):
        assert_close(actual, expected)


def test_the_state_holds_the_sums_it_names():
    q, k, v = inputs(9)
    _, state = flow_attention_step(q, k, v, None, tile=4)
    assert_close(state.k, k.sigmoid().sum(2))
    assert_close(state.q, q.sigmoid().sum(2))
    assert state.n.tolist() == [[9.0]] * B


@pytest.mark.parametrize("tokens", [1, 10, 200])
def test_the_state_is_dm_plus_4d_plus_2_numbers_a_head_however_long_the_past(tokens):
    q, k, v = (x[:1, :1] for x in inputs(tokens))
    _, state = flow_attention_step(q, k, v, None)
    assert sum(tensor.numel() for tensor in state) == D * M + 4 * D + 2
    start = FlowState.zeros(1, 1, D, M, device=torch.device("cpu"), dtype=torch.float32)
    assert [tensor.shape for tensor in state] == [tensor.shape for tensor in start]


def paddings(tokens):
    """(name, (B, T) is_pad): on the left, on the right, and with holes, other ones in each row."""
    left, right = torch.zeros(B, tokens, dtype=torch.bool), torch.zeros(B, tokens, dtype=torch.bool)
    left[0, : tokens // 3], left[1, : tokens - 1] = True, True
    right[0, -(tokens // 3) :], right[1, 1:] = True, True
    holes = torch.rand(B, tokens, generator=torch.Generator().manual_seed(5)) < 0.5
    holes[:, tokens // 2] = False
    whole = torch.zeros(B, tokens, dtype=torch.bool)
    return {"left": left, "right": right, "holes": holes, "none": whole}


@pytest.mark.parametrize("where", ["left", "right", "holes", "none"])
@pytest.mark.parametrize("tokens", [6, 64, 128, 129, 150])
@pytest.mark.parametrize("scale", [1.0, 25.0])
def test_padding_equals_dropping_the_padded_tokens(where, tokens, scale):
    is_pad = paddings(tokens)[where]
    x = [t.requires_grad_() for t in inputs(tokens, scale=scale)]
    actual = flow_attention(*x, is_pad=is_pad)
    assert actual.isfinite().all()
    for row in range(B):
        real = ~is_pad[row]
        dropped = flow_attention(*(t[row : row + 1, :, real] for t in x))
        assert_close(actual[row : row + 1, :, real], dropped)
    gradients = torch.autograd.grad(actual.masked_fill(is_pad[:, None, :, None], 0).square().sum(), x)
    for gradient in gradients:
        assert gradient.isfinite().all()
        assert (gradient.masked_select(is_pad[:, None, :, None]) == 0).all()


def test_padding_in_float32_is_finite_where_nothing_real_came_before():
    is_pad = torch.tensor([[True] * 6, [True] * 5 + [False]])
    x = [t.requires_grad_() for t in inputs(6, dtype=torch.float32)]
    y = flow_attention(*x, is_pad=is_pad)
    assert y.isfinite().all()
    for gradient in torch.autograd.grad(y.square().sum(), x):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("tile", [3, 64])
def test_padding_is_exact_across_tiles_and_steps(tile):
    is_pad = paddings(20)["holes"]
    x = inputs(20)
    whole, state = flow_attention_step(*x, None, is_pad=is_pad, tile=tile)
    first, middle = flow_attention_step(*(t[:, :, :8] for t in x), None, is_pad=is_pad[:, :8])
    second, resumed = flow_attention_step(*(t[:, :, 8:] for t in x), middle, is_pad=is_pad[:, 8:])
    real = ~is_pad[:, None, :, None].expand_as(whole)
    assert_close(torch.cat([first, second], 2)[real], whole[real])
    assert state.n.flatten().tolist() == (~is_pad).sum(1).tolist()
    for actual, expected in zip(resumed, state, strict=True):
        assert_close(actual, expected)


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_long_sequences_and_large_logits_stay_finite_in_float32(scale):
    q, k, v = inputs(3000, dtype=torch.float32, batch=1)
    if scale > 1:
        q, k = scale * q.sign(), scale * k.sign()
    x = [t.requires_grad_() for t in (q, k, v)]
    y = flow_attention(*x)
    assert y.isfinite().all()
    for name, gradient in zip("qkv", torch.autograd.grad(y.sum(), x), strict=True):
        assert gradient.isfinite().all(), name


@pytest.mark.parametrize("value", [-50.0, 50.0])
def test_all_logits_at_one_extreme_stay_finite(value):
    v = inputs(200, dtype=torch.float32)[2]
    q = torch.full((B, H, 200, D), value, requires_grad=True)
    k = torch.full((B, H, 200, D), value, requires_grad=True)
    y = flow_attention(q, k, v)
    assert y.isfinite().all()
    for gradient in torch.autograd.grad(y.square().sum(), [q, k]):
        assert gradient.isfinite().all()


def relative_error(actual, exact):
    return ((actual.double() - exact).norm() / exact.norm()).item()


# Float32 keeps 24 bits, and what is lost in a sum of a thousand terms is the square root of that many roundings of a
# sum that has grown as large. The three bfloat16 inputs and the output are rounded to 8 bits each: 2^-9 at the worst.
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
@pytest.mark.parametrize("tokens", [60, 900, 3000])
def test_rounding_errors_of_values_and_gradients_do_not_grow_with_length(tokens, dtype, bound):
    def attend(dtype):
        x = [t.requires_grad_() for t in inputs(tokens, batch=1, dtype=dtype)]
        y = flow_attention(*x)
        y.backward(inputs(tokens, batch=1, dtype=dtype, seed=1)[2])
        return [y.detach(), *(t.grad for t in x)]

    for name, actual, exact in zip(("y", "dq", "dk", "dv"), attend(dtype), attend(torch.float64), strict=True):
        assert relative_error(actual, exact) < bound, name


def test_thirty_thousand_tokens_stay_finite_and_near_float64():
    exact = flow_attention(*inputs(30_000, batch=1))
    y = flow_attention(*inputs(30_000, batch=1, dtype=torch.float32))
    assert y.isfinite().all()
    assert relative_error(y, exact) < 1e-6
    y = flow_attention(*inputs(30_000, batch=1, dtype=torch.bfloat16))
    assert relative_error(y, exact) < 2**-7


@pytest.mark.slow
def test_a_state_carried_for_ten_thousand_steps_stays_accurate():
    single, double = (inputs(10_000, batch=1, dtype=dtype) for dtype in (torch.float32, torch.float64))
    state, parts = None, []
    for start in range(0, 10_000, 3):  # as an agent's steps have it
        y, state = flow_attention_step(*(x[:, :, start : start + 3] for x in single), state)
        parts.append(y)
    exact, exact_state = flow_attention_step(*double, None)
    # Roundings of 2^-24 of a sum, one a term: the square root of 10,000 of them is 6e-6.
    assert relative_error(torch.cat(parts, 2), exact) < 1e-5
    for name, actual, expected in zip(FlowState._fields, state, exact_state, strict=True):
        assert relative_error(actual, expected) < 1e-5, name


def kept_bytes(run):
    """Bytes of the distinct storages that autograd keeps for the backward pass of `run()`."""
    kept = {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        output = run()
    del output
    return sum(kept.values())


@pytest.mark.parametrize(("tokens", "d"), [(60, 32), (60, 128), (900, 64), (3000, 64)])
def test_memory_kept_for_the_gradient_is_a_small_multiple_of_the_inputs(tokens, d):
    q, k, v = (torch.randn(2, 3, tokens, d, requires_grad=True) for _ in range(3))
    inputs_bytes = 3 * q.numel() * q.element_size()
    assert kept_bytes(lambda: flow_attention(q, k, v)) <= 3 * inputs_bytes
    assert kept_bytes(lambda: checkpoint(flow_attention, q, k, v, use_reentrant=False)) <= 1.1 * inputs_bytes


def test_bfloat16_inputs_are_summed_in_float32():
    x = inputs(600, dtype=torch.bfloat16)
    y, state = flow_attention_step(*x, None)
    assert y.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in state} == {torch.float32}
    exact = flow_attention(*(t.double() for t in x))
    # The rounding of the output alone: 2^-8 of each value.
    assert ((y.double() - exact).abs() <= 2**-8 * exact.abs() + 1e-4).all()


def test_under_autocast_flows_states_and_the_count_are_float32():
    torch.manual_seed(0)
    attention = FlowAttention(12, 3)
    x = torch.randn(2, 700, 12)
    exact, exact_state = attention.step(x, attention.initial_state(2))
    state, parts = attention.initial_state(2), []
    with torch.autocast("cpu", torch.bfloat16):
        for start in range(0, 700, 7):
            y, state = attention.step(x[:, start : start + 7], state)
            parts.append(y)
        whole = attention(x)
    assert {tensor.dtype for tensor in state} == {torch.float32}
    # bfloat16 counts to 256 and no further.
    assert state.n.tolist() == [[700.0], [700.0]]
    assert_close(state.k, exact_state.k, 2e-3)
    assert_close(state.memory, exact_state.memory, 2e-2)
    stepped = torch.cat(parts, 1)
    for actual in (stepped, whole):
        # Projections in bfloat16 (8 bits) of some ten terms: a few hundredths of the largest output.
        assert_close(actual.float(), exact, 3e-2)


def test_the_state_given_is_not_changed():
    attention = FlowAttention(12, 3).double()
    x = torch.randn(1, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, state = attention.step(x[:, :4], attention.initial_state(1))
    before = [tensor.clone() for tensor in state]
    first, _ = attention.step(x[:, 4:], state)
    second, _ = attention.step(x[:, 4:], state)
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))
    assert torch.equal(first, second)


@pytest.mark.parametrize("scale", [1.0, 25.0], ids=["free", "clamped"])
@pytest.mark.parametrize("sizes", [(1,), (3,), (2, 3, 3, 3), (4, 1, 9, 2), (3,) * 20])
def test_values_and_gradients_of_a_few_tokens_at_a_time_are_those_of_the_equations(sizes, scale):
    tokens = sum(sizes)
    ours, theirs = ([x.requires_grad_() for x in inputs(tokens, scale=scale)] for _ in range(2))
    state, parts = None, []
    for qkv in zip(*(x.split(sizes, dim=2) for x in ours), strict=True):
        part, state = flow_attention_step(*qkv, state)
        parts.append(part)
    actual, expected = torch.cat(parts, 2), oracle(*theirs)[0]
    assert_close(actual, expected)
    weights = torch.randn(actual.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for name, g, e in zip(
        "qkv", torch.autograd.grad(actual, ours, weights), torch.autograd.grad(expected, theirs, weights), strict=True
    ):
        assert e.abs().max() > 0, name
        assert_close(g, e, 1e-9)


@pytest.mark.parametrize("options", [{}, {"clip": 0.4, "eps": 0.1}])
@pytest.mark.parametrize("scale", [1.0, 25.0])
def test_the_quantities_are_those_of_the_equations(scale, options):
    q, k, v = inputs(67, scale=scale)
    actual = flow_quantities(q.sigmoid(), k.sigmoid(), **options)
    _, expected = oracle(q, k, v, **options)
    clip = options.get("clip", 10.0)
    expected = expected._replace(conserved_outgoing=expected.conserved_outgoing.clamp(-clip, clip))
    for name in actual._fields:
        assert_close(getattr(actual, name), getattr(expected, name))


def test_the_quantities_of_a_module_are_those_of_its_queries_and_keys_in_float32_at_least():
    torch.manual_seed(0)
    attention, x = FlowAttention(15, 3), torch.randn(2, 9, 15)
    q, k, _ = (part.unflatten(-1, (3, 5)).transpose(1, 2) for part in attention.project_in(x).split(15, -1))
    for actual, reference in zip(attention.flows(x), flow_quantities(q.sigmoid(), k.sigmoid()), strict=True):
        assert torch.equal(actual, reference)
    with torch.autocast("cpu", torch.bfloat16):
        assert {flow.dtype for flow in attention.flows(x)} == {torch.float32}


def test_a_lone_token_competes_with_nobody_and_draws_what_its_key_gives():
    q, k = (x.sigmoid() for x in inputs(1)[:2])
    flows = flow_quantities(q, k, eps=0.0)
    assert_close(flows.competition, torch.ones(B, H, 1, dtype=torch.float64))
    assert_close(flows.incoming, (q * k).sum(-1))
    assert_close(flows.conserved_incoming, torch.ones(B, H, 1, dtype=torch.float64))


def test_a_clip_is_refused_beyond_which_its_exponential_leaves_float32():
    with pytest.raises(ValueError, match="clip is 51.0: it must be above 0 and at most 50"):
        FlowAttention(8, 2, clip=51.0)
    # Sources that nothing flows from, then some that all does: the outgoing flow is at both bounds.
    q, v = torch.zeros(1, 1, 20, 4), torch.ones(1, 1, 20, 4)
    k = torch.full_like(q, -30.0)
    k[:, :, 10:] = 10.0
    assert flow_attention(q, k, v, clip=MOST_CLIP).isfinite().all()
    assert not flow_attention(q, k, v, clip=89.0).isfinite().all(), "so the bound is needed"
