"""What every attention owes its callers, whatever its rule."""

import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrl.attention import ATTENTION
from flowrl.attention.flow import OUTPUT_EPS
from flowrl.attention.options import read_options, write_options

WIDTH, HEADS, BATCH = 15, 3, 2
# A rule's name, and its options after it.
WITH_OPTIONS = [
    *("flow output_norm", "flow decay", "flow decay output_norm clip=2 feature_map=softplus", "flow feature_map=elu"),
    *("performer features=7", "cosformer length=90", "reformer rounds=2 buckets=4", "linformer block=9 rank=2"),
]
every_attention = pytest.mark.parametrize("name", [*ATTENTION, *WITH_OPTIONS])
every_step = pytest.mark.parametrize(
    "name", [name for name in [*ATTENTION, *WITH_OPTIONS] if ATTENTION[name.split()[0]].why_no_step is None]
)
# What a rule learns beside the projections.
OWN_PARAMETERS = {"summarise_k", "summarise_v", "output_scale", "decay_logit"}


def built(name, *args, **keywords):
    name, *options = name.split()
    return ATTENTION[name](*args, **keywords, **read_options(ATTENTION[name], options))


def build(name, dropout=0.0):
    torch.manual_seed(0)
    return built(name, WIDTH, HEADS, dropout=dropout).double()


def sequence(tokens, seed=1):
    return torch.randn(BATCH, tokens, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_equal(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


def test_the_registry_names_the_papers_rivals_too():
    assert {"flow", "softmax", "linear", "performer", "cosformer", "reformer", "linformer"} <= set(ATTENTION)


@every_attention
@pytest.mark.parametrize("tokens", [1, 2, 50, 64, 65, 127, 128, 129, 149])
def test_a_prefix_is_what_it_is_whatever_follows(name, tokens):
    attention, x = build(name), sequence(150)
    assert_equal(attention(x[:, :tokens]), attention(x)[:, :tokens])


@every_attention
def test_a_token_reaches_itself_and_later_ones_alone(name):
    attention, x = build(name), sequence(140).requires_grad_()
    for t in (0, 63, 64, 130):
        (gradient,) = torch.autograd.grad(attention(x)[:, t].sum(), x)
        touched = gradient.abs().sum(dim=(0, 2))
        # Masked products leave exact zeros.
        assert (touched[t + 1 :] == 0).all()
        weighed = (attention.weights(x)[:, :, t, : t + 1] > 0).flatten(0, 1).any(0)
        assert weighed.any()
        assert (touched[: t + 1][weighed] > 0).all()
        if attention.sees_all:
            assert (touched[: t + 1] > 0).all()


@every_step
@settings(deadline=None, max_examples=25)
@given(tokens=st.integers(1, 140), cuts=st.lists(st.integers(1, 139), max_size=5))
def test_steps_of_any_size_equal_the_whole(name, tokens, cuts):
    attention, x = build(name), sequence(tokens)
    state, parts = attention.initial_state(BATCH), []
    for start, end in pairwise(sorted({0, tokens, *(cut for cut in cuts if cut < tokens)})):
        y, state = attention.step(x[:, start:end], state)
        parts.append(y)
    assert_equal(torch.cat(parts, 1), attention(x))


@every_step
def test_one_token_at_a_time_equals_the_whole(name):
    attention, x = build(name), sequence(135)
    state, parts = attention.initial_state(BATCH), []
    for t in range(135):
        y, state = attention.step(x[:, t : t + 1], state)
        parts.append(y)
    assert_equal(torch.cat(parts, 1), attention(x))


@every_attention
@pytest.mark.parametrize("tokens", [20, 140])
def test_padding_anywhere_equals_dropping(name, tokens):
    attention, x = build(name), sequence(tokens)
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
    attention, x = build(name), sequence(20)
    is_pad = torch.arange(20) >= torch.tensor([[13], [20]])
    assert_equal(attention(x)[0, :13], attention(x, is_pad)[0, :13])


@every_attention
def test_every_parameter_gets_a_gradient(name):
    attention = build(name)
    attention(sequence(29)).square().sum().backward()
    for parameter_name, parameter in attention.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 1e-9, parameter_name


@every_attention
def test_outside_training_nothing_is_random(name):
    attention, x = build(name, dropout=0.5).eval(), sequence(12)
    assert torch.equal(attention(x), attention(x))
    assert_equal(attention(x), build(name)(x))


@every_step
def test_outside_training_a_step_is_not_random(name):
    attention, x = build(name, dropout=0.5).eval(), sequence(12)
    y, _ = attention.step(x, attention.initial_state(BATCH))
    assert_equal(y, attention(x))


@every_attention
def test_rows_of_a_batch_do_not_meet(name):
    attention, x = build(name), sequence(30)
    assert_equal(attention(x)[1:], attention(x[1:]))


@every_attention
@pytest.mark.parametrize(("width", "heads"), [(16, 3), (0, 1), (8, 0), (-4, 2), (4, 8)])
def test_a_width_that_heads_do_not_divide_is_refused(name, width, heads):
    with pytest.raises(ValueError, match=f"width is {width} and heads is {heads}"):
        built(name, width, heads)


REFUSED = [
    ("flow", {"clip": 0.0}),
    ("flow", {"feature_map": "relu"}),
    ("performer", {"features": 0}),
    ("performer", {"redraw_every": -1}),
    ("cosformer", {"length": 0}),
    ("reformer", {"rounds": 0}),
    ("reformer", {"buckets": 3}),
    ("linformer", {"block": 4, "rank": 5}),
    ("linformer", {"block": 5_000}),
    ("softmax", {}),
]


@pytest.mark.parametrize(("name", "options"), REFUSED)
def test_a_check_refuses_what_the_constructor_does_in_the_same_words_and_draws_nothing(name, options):
    rule, heads = ATTENTION[name], HEADS if options else HEADS + 1
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=" is ") as checked:
        rule.check(WIDTH, heads, **options)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match=" is ") as constructed:
        rule(WIDTH, heads, **options)
    assert str(checked.value) == str(constructed.value)


@every_attention
def test_a_check_passes_what_can_be_built(name):
    name, *words = name.split()
    ATTENTION[name].check(WIDTH, HEADS, **read_options(ATTENTION[name], words))
    with pytest.raises(ValueError, match="width is 16 and heads is 3"):
        ATTENTION[name].check(16, HEADS, **read_options(ATTENTION[name], words))


@every_attention
def test_a_step_of_training_that_begins_changes_no_attention_by_default(name):
    attention, x = build(name), sequence(5)
    y = attention(x)
    for step in (1, 2, 1_000):
        attention.prepare_step(step)
    assert torch.equal(attention(x), y)


@every_attention
def test_nothing_is_cautioned_against_in_a_window_of_the_default_length(name):
    name, *words = name.split()
    assert ATTENTION[name].cautions(60, **read_options(ATTENTION[name], words)) == []


@every_step
def test_gradients_flow_through_steps_too(name):
    attention, x = build(name), sequence(6).requires_grad_()
    y, _ = attention.step(x, attention.initial_state(BATCH))
    (stepped,) = torch.autograd.grad(y.square().sum(), x)
    (whole,) = torch.autograd.grad(attention(x).square().sum(), x)
    assert_equal(stepped, whole)


@every_attention
def test_the_parameters_of_the_registry_agree_so_that_agents_differ_in_the_rule_alone(name):
    reference = {n: p.shape for n, p in build("softmax").named_parameters()}
    actual = {n: p.shape for n, p in build(name).named_parameters() if n not in OWN_PARAMETERS}
    if build(name).parts == 2:  # no key of its own
        reference |= {"project_in.weight": (2 * WIDTH, WIDTH), "project_in.bias": (2 * WIDTH,)}
    assert actual == reference


@every_attention
def test_what_a_rule_draws_leaves_torchs_generator_alone(name):
    states = []
    for one in (name, "softmax"):
        if build(one).parts == 3:
            torch.manual_seed(0)
            built(one, WIDTH, HEADS)
            states.append(torch.get_rng_state())
    assert all(torch.equal(state, states[0]) for state in states)
    one, two = build(name), build(name)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@every_attention
def test_weights_and_buffers_are_copied_with_the_state_dict(name):
    attention, x = build(name), sequence(20)
    torch.manual_seed(5)
    other = built(name, WIDTH, HEADS).double()
    assert not torch.equal(other(x), attention(x))
    other.load_state_dict(attention.state_dict())
    assert torch.equal(other(x), attention(x))


@every_attention
@pytest.mark.parametrize("at", [slice(-1, None), slice(1, None, 3)])
def test_the_output_of_some_tokens_is_theirs_in_the_whole(name, at):
    attention, x = build(name), sequence(7)
    assert_equal(attention(x, None, at), attention(x)[:, at])


@every_step
@pytest.mark.parametrize("at", [slice(-1, None), slice(1, None, 3)])
def test_the_output_of_some_tokens_of_a_step_is_theirs_in_the_whole(name, at):
    attention, x = build(name), sequence(7)
    y, state = attention.step(x, attention.initial_state(BATCH), at)
    whole, of_whole = attention.step(x, attention.initial_state(BATCH))
    assert_equal(y, whole[:, at])
    assert all(torch.equal(one, two) for one, two in zip(state, of_whole, strict=True))


@every_attention
@pytest.mark.parametrize("tokens", [1, 2, 64, 131])
def test_the_weights_are_what_the_values_are_multiplied_by(name, tokens):
    attention, x = build(name, dropout=0.5).eval(), sequence(tokens)
    weights = attention.weights(x)
    assert weights.shape == (BATCH, HEADS, tokens, tokens)
    assert (weights >= 0).all()
    assert (weights.triu(1) == 0).all()
    v = attention.project_in(x)[..., -WIDTH:].unflatten(-1, (HEADS, -1)).transpose(1, 2)
    y = weights @ v
    if "output_norm" in name:
        y = y / y.square().mean(-1, keepdim=True).add(OUTPUT_EPS).sqrt()
    merged = y.transpose(1, 2).flatten(-2)
    assert_equal(attention.project_out(merged), attention(x))


@every_attention
@pytest.mark.parametrize("at", [slice(-1, None), slice(1, None, 3), torch.tensor([4, 0, 6])])
def test_the_weights_of_some_tokens_are_theirs_in_the_whole(name, at):
    attention, x = build(name), sequence(7)
    assert_equal(attention.weights(x, at), attention.weights(x)[:, :, at])


@every_step
def test_a_state_is_a_row_of_tensors_that_can_be_chosen_among_and_is_not_changed(name):
    attention, x = build(name), sequence(40)
    _, state = attention.step(x[:, :23], attention.initial_state(BATCH))
    before = [tensor.clone() for tensor in state]
    whole, _ = attention.step(x[:, 23:], state)
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))
    one = type(state)(*(tensor[[1]] for tensor in state))
    assert_equal(attention.step(x[[1], 23:], one)[0], whole[[1]])


@every_step
def test_a_state_holds_its_own_numbers_alone(name):
    attention = build(name)
    _, state = attention.step(sequence(200), attention.initial_state(BATCH))
    for tensor in state:
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


@every_attention
def test_a_rule_without_a_step_says_so_in_one_sentence(name):
    attention = build(name)
    if attention.why_no_step is None:
        assert attention.initial_state(BATCH) is not None
        return
    assert name.split()[0] in attention.why_no_step
    assert "--" not in attention.why_no_step, "a library names no option of a command line"
    for call in (lambda: attention.initial_state(BATCH), lambda: attention.step(sequence(3), None)):
        with pytest.raises(NotImplementedError) as caught:
            call()
        assert str(caught.value) == attention.why_no_step


# Projections in bfloat16 keep 8 bits. Where a rule chooses, a token that lies between two buckets may change over.
@every_attention
@pytest.mark.parametrize("tokens", [20, 300])
def test_under_autocast_a_rule_is_near_float32(name, tokens):
    attention, x = build(name).float(), sequence(tokens).float()
    exact = attention(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = attention(x)
    assert y.dtype == torch.bfloat16
    difference = (y.float() - exact).norm() / exact.norm()
    assert difference < (0.03 if attention.sees_all else 0.2)


@every_step
def test_under_autocast_states_are_summed_in_float32(name):
    attention, x = build(name).float(), sequence(700).float()
    state, parts = attention.initial_state(BATCH), []
    with torch.autocast("cpu", torch.bfloat16):
        for start in range(0, 700, 7):
            y, state = attention.step(x[:, start : start + 7], state)
            parts.append(y)
        whole = attention(x)
    assert (torch.cat(parts, 1) - whole).float().norm() / whole.float().norm() < 0.02


@every_attention
def test_padded_rows_and_their_gradients_are_finite_in_float32(name):
    attention, x = build(name).float(), sequence(40).float().requires_grad_()
    is_pad = torch.ones(BATCH, 40, dtype=torch.bool)
    is_pad[1, 30:] = False
    y = attention(x, is_pad)
    (gradient,) = torch.autograd.grad((y + y.square()).sum(), x)
    assert y.isfinite().all()
    assert gradient.isfinite().all()


@every_attention
def test_long_sequences_of_large_inputs_stay_finite_in_float32(name):
    attention, tokens = build(name).float(), 600 if name.split()[0] in ("reformer", "linformer") else 3_000
    for scale in (1.0, 30.0):
        x = (scale * sequence(tokens).float()).requires_grad_()
        y = attention(x)
        (gradient,) = torch.autograd.grad((y + y.square()).sum(), x)
        assert y.isfinite().all()
        assert gradient.isfinite().all()
        assert (y[:, -1] != 0).any()


@every_step
def test_a_state_of_constant_size_keeps_it_and_begins_as_zeros(name):
    attention = build(name)
    _, few = attention.step(sequence(31), attention.initial_state(BATCH))
    _, many = attention.step(sequence(131), attention.initial_state(BATCH))
    start = attention.initial_state(BATCH)
    shapes = [[tensor.shape for tensor in state] for state in (start, few, many)]
    assert attention.constant_state == (shapes[0] == shapes[1] == shapes[2])
    if attention.constant_state:
        assert all((tensor == 0).all() for tensor in start)


@pytest.mark.parametrize(
    ("name", "drawn"), [("performer", "directions"), ("reformer", "rotations"), ("linformer", "summarise_k")]
)
def test_what_a_layer_draws_for_itself_is_its_own_and_moves_no_other_weight(name, drawn):
    def layers(rule, seed):
        torch.manual_seed(seed)
        return [rule(WIDTH, HEADS) for _ in range(2)]

    one, again, other = (layers(ATTENTION[name], seed) for seed in (1, 1, 2))
    a, b, c = (getattr(layer, drawn) for layer in (one[0], one[1], other[0]))
    assert torch.equal(a, getattr(again[0], drawn))
    assert torch.equal(b, getattr(again[1], drawn))
    assert not torch.equal(a, b), "of another layer"
    assert not torch.equal(a, c), "of another training seed"
    if ATTENTION[name].parts == 3:
        for own, plain in zip(one, layers(ATTENTION["softmax"], 1), strict=True):
            assert torch.equal(own.project_in.weight, plain.project_in.weight)
            assert torch.equal(own.project_out.weight, plain.project_out.weight)


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("flow", ["decays"], "FlowAttention has no option 'decays': known are clip, decay, feature_map, output_norm"),
        ("softmax", ["decay"], "SoftmaxAttention has no option 'decay': it has none"),
        ("flow", ["decay=1"], "option decay of FlowAttention is '1': known are true, false"),
        ("flow", ["clip=x"], "option clip of FlowAttention is 'x': it must be a number"),
        ("performer", ["features=2.5"], "option features of PerformerAttention is '2.5': it must be a whole number"),
        (
            "flow",
            ["feature_map=relu"],
            "option feature_map of FlowAttention is 'relu': known are sigmoid, softplus, elu",
        ),
        ("flow", ["decay", "decay=false"], "option decay of FlowAttention is given twice"),
        ("reformer", ["rounds=-5"], "option rounds of ReformerAttention is -5: it must be at least 0 and below 2^31"),
    ],
)
def test_an_option_that_cannot_be_is_refused_in_one_sentence(name, words, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        read_options(ATTENTION[name], words)


def test_options_are_read_by_their_types():
    words = ["clip=2.5", "decay", "output_norm=false", "feature_map=elu"]
    reference = {"clip": 2.5, "decay": True, "output_norm": False, "feature_map": "elu"}
    assert read_options(ATTENTION["flow"], words) == reference
    assert read_options(ATTENTION["performer"], ["features=7", "redraw_every=100"]) == {
        "features": 7,
        "redraw_every": 100,
    }
    assert read_options(ATTENTION["softmax"], []) == {}


def test_an_option_of_an_attention_of_ones_own_needs_a_type():
    class Own(ATTENTION["linear"]):
        def __init__(self, width, heads, dropout=0.0, *, alpha=1.0):
            super().__init__(width, heads, dropout)

    with pytest.raises(ValueError, match="option alpha of Own has no type"):
        read_options(Own, ["alpha=2"])


def test_options_are_written_in_one_way():
    options = {"decay": True, "clip": 2.5, "output_norm": False, "feature_map": "elu"}
    words = write_options(ATTENTION["flow"], options)
    assert words == ("clip=2.5", "feature_map=elu", "decay")
    assert read_options(ATTENTION["flow"], words) == {k: v for k, v in options.items() if v}
    assert write_options(ATTENTION["linformer"], {"rank": 2}) == ("rank=2",)


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan"), float("inf")])
def test_a_clip_that_cannot_be_is_refused(clip):
    with pytest.raises(ValueError, match=f"clip is {clip}"):
        ATTENTION["flow"](8, 2, clip=clip)


def test_a_feature_map_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="feature_map is 'relu': known are sigmoid, softplus, elu"):
        ATTENTION["flow"](8, 2, feature_map="relu")
