"""Flow-Attention that forgets, against the oracle with a decay, and that against its recurrence."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrl.attention import decayed_flow
from flowrl.attention.decayed_flow import decayed_flow_attention
from flowrl.attention.flow import FlowAttention, FlowState, flow_attention
from flowrl.attention.flow_oracle import flow_oracle

B, H, D, M = 2, 3, 5, 7  # different primes: a mixed-up axis cannot go unnoticed
CLIP, EPS = 10.0, 1e-6


def recurrence(q, k, v, decay, *, clip=CLIP, eps=EPS):
    """Every sum as S <- γ S + term, the count as n <- γ n + 1; (B, H, T, ...) with q, k positive, decay (H,)."""
    decay = decay[:, None]
    zeros = torch.zeros_like(q[:, :, 0])
    n, k_sum, q_sum, k_flow, q_flow, all_competing = 0.0, zeros, zeros, zeros, zeros, 0.0
    memory, outputs = 0.0, []
    for t in range(q.shape[2]):
        qt, kt, vt = q[:, :, t], k[:, :, t], v[:, :, t]
        n = decay * n + 1
        k_sum, q_sum = decay * k_sum + kt, decay * q_sum + qt
        incoming = ((qt + eps) * (k_sum + eps)).sum(-1, keepdim=True)
        outgoing = ((kt + eps) * (q_sum + eps)).sum(-1, keepdim=True)
        k_flow, q_flow = decay * k_flow + kt * n / outgoing, decay * q_flow + qt * n / incoming
        conserved_in = ((qt + eps) * (k_flow + eps)).sum(-1, keepdim=True) / n
        conserved_out = (((kt + eps) * (q_flow + eps)).sum(-1, keepdim=True) / n).clamp(-clip, clip)
        all_competing = decay * all_competing + conserved_out.exp()
        carried = n * conserved_out.exp() / all_competing * vt
        memory = decay[..., None] * memory + kt[..., :, None] * carried[..., None, :]
        outputs.append(conserved_in.sigmoid() / incoming * (qt[..., None] * memory).sum(-2))
    return torch.stack(outputs, 2)


def oracle(q, k, v, log_decay):
    return flow_oracle(q, k, v, decay=log_decay.exp())[0]


def inputs(tokens, *, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(B, H, tokens, D), (B, H, tokens, D), (B, H, tokens, M)]
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    log_decay = torch.tensor([0.999, 0.9, 0.5], dtype=torch.float64).log()
    return (scale * q).sigmoid(), (scale * k).sigmoid(), v, log_decay


def attend(q, k, v, log_decay, state=None, **options):
    return decayed_flow_attention(q, k, v, log_decay, state, **({"clip": CLIP, "eps": EPS} | options))


def assert_close(actual, expected, tolerance=1e-11):
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("scale", [1.0, 25.0], ids=["free", "clamped"])
def test_the_oracle_is_the_recurrence(scale):
    *columns, log_decay = inputs(30, scale=scale)
    assert_close(oracle(*columns, log_decay), recurrence(*columns, log_decay.exp()))


@pytest.mark.parametrize("scale", [1.0, 25.0], ids=["free", "clamped"])
@pytest.mark.parametrize("tokens", [1, 2, 63, 64, 65, 150])
def test_values_and_all_gradients_are_those_of_the_equations(tokens, scale):
    ours, theirs = ([x.clone().requires_grad_() for x in inputs(tokens, scale=scale)] for _ in range(2))
    actual, _ = attend(*ours)
    expected = oracle(*theirs)
    assert_close(actual, expected)
    weights = torch.randn(actual.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    reference = torch.autograd.grad(expected, theirs, weights, allow_unused=True)
    gradients = torch.autograd.grad(actual, ours, weights)
    for name, g, e in zip(("q", "k", "v", "decay"), gradients, reference, strict=True):
        if (name, tokens) == ("decay", 1):  # a lone token has nothing to forget
            assert (e == 0).all()
            assert (g == 0).all()
        else:
            assert e.abs().max() > 0, name
            assert_close(g, e, 1e-9)


@pytest.mark.parametrize("decay", [1e-6, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("tokens", [60, 600])
def test_the_gradient_of_a_decay_is_no_noise_in_float32(tokens, decay):
    """That of a strong decay is small: as a difference of sums it would be noise."""
    *columns, _ = inputs(tokens)
    log_decay = torch.tensor([decay] * H, dtype=torch.float64).log()
    weights = torch.randn(columns[2].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    results = []
    for dtype in (torch.float32, torch.float64):
        given = [x.to(dtype).requires_grad_() for x in (*columns, log_decay)]
        y, _ = attend(*given)
        results.append([y, torch.autograd.grad(y, given[3], weights.to(dtype))[0]])
    for actual, reference in zip(*results, strict=True):
        assert_close(actual, reference, 5e-6)


def test_no_sequences():
    empty = [torch.rand(0, H, 70, size, requires_grad=True) for size in (D, D, M)]
    for is_pad in (None, torch.zeros(0, 70, dtype=torch.bool)):
        log_decay = torch.zeros(H, requires_grad=True)
        y, state = attend(*empty, log_decay, is_pad=is_pad)
        assert y.shape == (0, H, 70, M)
        assert state.memory.shape == (0, H, D, M)
        y.sum().backward()
        assert log_decay.grad is not None
        assert (log_decay.grad == 0).all()


def test_it_is_differentiable_once_and_says_so():
    *columns, log_decay = inputs(10)
    y, _ = attend(*columns, log_decay.requires_grad_())
    for loss in (y.sum(), y.square().sum()):
        (gradient,) = torch.autograd.grad(loss, log_decay, create_graph=True, retain_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward(retain_graph=True)


def test_all_of_the_state_can_be_changed_in_place():
    *columns, log_decay = inputs(70)
    _, state = attend(*(x.requires_grad_() for x in columns), log_decay)
    for part in state[1:]:
        part.mul_(2.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # the compiler does so
@pytest.mark.parametrize("tokens", [60, 70], ids=["one tile", "two tiles"])
def test_it_compiles_into_one_graph(tokens):
    compiled = torch.compile(decayed_flow_attention, fullgraph=True, backend="aot_eager")
    actual = []
    for run in (compiled, decayed_flow_attention):
        given = [x.clone().requires_grad_() for x in inputs(tokens)]
        y, _ = run(*given, clip=CLIP, eps=EPS)
        actual.append([y, *torch.autograd.grad(y.square().sum(), given)])
    for mine, reference in zip(*actual, strict=True):
        assert_close(mine, reference)


@pytest.mark.parametrize("tokens", [1, 60, 128, 150])
def test_without_forgetting_it_is_the_papers(tokens):
    generator = torch.Generator().manual_seed(3)
    q, k = (torch.randn(B, H, tokens, D, generator=generator, dtype=torch.float64) for _ in range(2))
    v = torch.randn(B, H, tokens, M, generator=generator, dtype=torch.float64)
    actual, _ = attend(q.sigmoid(), k.sigmoid(), v, torch.zeros(H, dtype=torch.float64))
    assert_close(actual, flow_attention(q, k, v))


@pytest.mark.parametrize("tokens", [2, 70], ids=["few", "tiles"])
def test_the_sigmoid_can_be_left_to_it(tokens):
    *columns, log_decay = inputs(tokens + 5)
    _, state = attend(*(x[:, :, :5] for x in columns), log_decay)
    q, k, v = (x[:, :, 5:] for x in columns)
    actual = []
    for mapped in (True, False):
        given = [x.clone().requires_grad_() for x in (q.logit(), k.logit(), v)]
        positive = [x.sigmoid() for x in given[:2]] if mapped else given[:2]
        y, after = attend(*positive, given[2], log_decay, state, mapped=mapped)
        weighted = sum((x * torch.linspace(1, 2, x.numel(), dtype=x.dtype).view_as(x)).sum() for x in (y, *after))
        actual.append([y, *after, *torch.autograd.grad(weighted, given)])
    for mine, reference in zip(*actual, strict=True):
        assert_close(mine, reference)


@settings(deadline=None, max_examples=25)
@given(tokens=st.integers(1, 140), cuts=st.lists(st.integers(1, 139), max_size=5), tile=st.sampled_from([1, 7, 64]))
def test_split_and_resumed_anywhere_it_is_the_same(tokens, cuts, tile):
    *columns, log_decay = inputs(tokens)
    state, parts = None, []
    for start, end in pairwise(sorted({0, tokens, *(cut for cut in cuts if cut < tokens)})):
        y, state = attend(*(x[:, :, start:end] for x in columns), log_decay, state, tile=tile)
        parts.append(y)
    assert_close(torch.cat(parts, 2), oracle(*columns, log_decay))


@pytest.mark.parametrize("tokens", [1, 3, 4])
def test_a_few_tokens_written_out_are_a_tile(tokens, monkeypatch):
    *columns, log_decay = inputs(20 + tokens)
    first, last = [x[:, :, :20] for x in columns], [x[:, :, 20:] for x in columns]
    actual = []
    for few in (decayed_flow.FEW, 0):
        monkeypatch.setattr(decayed_flow, "FEW", few)
        given = [x.clone().requires_grad_() for x in (*first, *last, log_decay)]
        _, state = attend(*given[:3], given[6])
        y, after = attend(*given[3:6], given[6], state)
        weighted = sum((x * torch.linspace(1, 2, x.numel(), dtype=x.dtype).view_as(x)).sum() for x in (y, *after))
        actual.append([y, *after, *torch.autograd.grad(weighted, given)])
    assert decayed_flow.FEW == 0
    for mine, reference in zip(*actual, strict=True):
        assert reference.abs().max() > 0
        assert_close(mine, reference)


EVERY_DERIVATIVE = {(3, False), (8, True)}


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True], ids=["full", "holes"])
@pytest.mark.parametrize("tile", [2, 3, 8])
def test_gradcheck_of_the_output_and_every_sum_of_the_state(tile, padded):
    """Tiles that are full or not, before and after a state, with a real token in each row's past."""
    *columns, log_decay = inputs(13)
    is_pad = torch.rand(B, 8, generator=torch.Generator().manual_seed(5)) < 0.4 if padded else None

    def run(q, k, v, log_decay):
        # ε as large as to be seen by finite differences.
        _, state = attend(q[:, :, :5], k[:, :, :5], v[:, :, :5], log_decay, tile=tile, eps=0.01)
        y, after = attend(*(x[:, :, 5:] for x in (q, k, v)), log_decay, state, is_pad=is_pad, tile=tile, eps=0.01)
        return y, *after

    # Along random directions, but for two cases: every derivative takes long.
    assert torch.autograd.gradcheck(
        run, [x.requires_grad_() for x in (*columns, log_decay)], fast_mode=(tile, padded) not in EVERY_DERIVATIVE
    )


def test_a_padded_token_changes_neither_sums_nor_count():
    *columns, log_decay = inputs(90)
    holes = torch.rand(B, 90, generator=torch.Generator().manual_seed(3)) < 0.4
    holes[1, :70] = True  # more than a tile before the first token
    given = [x.requires_grad_() for x in (*columns, log_decay)]
    y, state = attend(*columns, log_decay, is_pad=holes)
    assert y.isfinite().all()
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(y, given, weights.masked_fill(holes[:, None, :, None], 0))
    d_decay = torch.zeros(H, dtype=torch.float64)
    for row in range(B):
        real = ~holes[row]
        alone, after = attend(*(x[row : row + 1, :, real] for x in columns), log_decay)
        assert_close(y[row : row + 1, :, real], alone)
        for actual, reference in zip(state, after, strict=True):
            assert_close(actual[row : row + 1], reference)
        reference = torch.autograd.grad(alone, given, weights[row : row + 1, :, real])
        for actual, expected in zip(gradients[:3], reference[:3], strict=True):
            assert_close(actual[row], expected[row], 1e-9)
        d_decay += reference[3]
    assert_close(gradients[3], d_decay, 1e-9)


def test_the_count_is_of_what_is_remembered():
    *columns, log_decay = inputs(2_000)
    _, state = attend(*columns, log_decay)
    assert isinstance(state, FlowState)
    # 1 + γ + γ² + ... over 2,000 tokens: (1 - γ^2000) / (1 - γ).
    reference = torch.tensor([(1 - decay**2_000) / (1 - decay) for decay in (0.999, 0.9, 0.5)], dtype=torch.float64)
    assert_close(state.n, reference.expand(B, H))


def test_heads_begin_with_memories_from_short_to_long_and_learn_them():
    attention = FlowAttention(20, 4, decay=True).double()
    memory = 1 / (1 - attention.log_decay.exp())
    assert memory.tolist() == pytest.approx([4096, 512, 64, 8], rel=1e-3)
    assert FlowAttention(5, 1, decay=True).log_decay.exp().item() == pytest.approx(1 - 1 / 4096)
    attention(torch.randn(2, 30, 20, dtype=torch.float64)).square().sum().backward()
    assert (attention.decay_logit.grad != 0).all()


def test_a_head_of_short_memory_forgets():
    attention = FlowAttention(6, 1, decay=True)
    with torch.no_grad():
        attention.decay_logit.fill_(math.log(2 - 1))  # γ = 1/2
    x = torch.randn(1, 200, 6, generator=torch.Generator().manual_seed(0))
    other = torch.cat([torch.randn(1, 100, 6, generator=torch.Generator().manual_seed(1)), x[:, 100:]], 1)
    with torch.no_grad():
        one, two = attention(x), attention(other)
    assert (one - two)[:, 100].abs().max() > 1e-4
    assert (one - two)[:, 199].abs().max() < 1e-6


def test_near_uniform_weights_shrink_the_output_with_length_and_an_output_norm_keeps_it():
    """DESIGN section 3: of random weights the output falls from 1 token to 60 to 3,000."""
    tokens = 3_000

    def size(**options):
        torch.manual_seed(0)
        attention = FlowAttention(32, 1, **options)
        torch.nn.init.eye_(attention.project_out.weight)
        for projection in (attention.project_in, attention.project_out):
            torch.nn.init.zeros_(projection.bias)
        with torch.no_grad():
            y = attention(torch.randn(4, tokens, 32))
        return [y[:, at].square().mean().sqrt().item() for at in (0, 59, tokens - 1)]

    plain, normed = size(), size(output_norm=True)
    assert plain[0] > 4 * plain[1] > 16 * plain[2]
    assert normed == pytest.approx([1.0, 1.0, 1.0], abs=1e-3)
