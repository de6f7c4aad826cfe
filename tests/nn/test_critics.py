"""Critics computed at once are the same perceptrons computed one by one, in values, gradients and first weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flowrl.nn.critics import ActionValues, Ensemble, StateValue
from flowrl.nn.normaliser import Normaliser

SHAPE = {"width": 16, "layers": 2}


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def real():
    """Two real actions with bounds off centre, three features of other scales."""
    normaliser = Normaliser(3, 2)
    normaliser.observation_mean.copy_(torch.tensor([5.0, -2.0, 0.0]))
    normaliser.observation_std.copy_(torch.tensor([2.0, 0.5, 30.0]))
    normaliser.action_centre.copy_(torch.tensor([0.5, -1.0]))
    normaliser.action_half_range.copy_(torch.tensor([2.5, 0.1]))
    return normaliser


@pytest.fixture
def discrete():
    """Four discrete actions."""
    normaliser = Normaliser(3, 4, discrete=True)
    normaliser.action_centre.fill_(0.5)
    normaliser.action_half_range.fill_(0.5)
    return normaliser


def one_by_one(ensemble, activation, layer_norm):
    """The members as perceptrons of torch, with the same weights."""
    members = []
    for member in range(len(ensemble.weights[0])):
        modules = []
        for weight, bias in zip(ensemble.weights, ensemble.biases, strict=True):
            linear = nn.Linear(*weight.shape[1:], dtype=weight.dtype)
            linear.load_state_dict({"weight": weight[member].mT, "bias": bias[member, 0]})
            modules += [linear, activation()]
            modules += [nn.LayerNorm(weight.shape[2], elementwise_affine=False)] if layer_norm else []
        members.append(nn.Sequential(*modules[: -2 if layer_norm else -1]))
    return members


@pytest.mark.parametrize("members", [None, 3, 2, 1])
@pytest.mark.parametrize(("activation", "module"), [(F.relu_, nn.ReLU), (F.gelu, nn.GELU)])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize(("outputs", "width", "layers"), [(1, 16, 2), (4, 16, 2), (1, 8, 1), (1, 8, 4), (1, 1, 2)])
def test_values_and_gradients_are_those_of_single_perceptrons(
    outputs, width, layers, layer_norm, activation, module, members
):
    shape = {"width": width, "layers": layers, "layer_norm": layer_norm, "activation": activation}
    ensemble = Ensemble(3, 5, outputs, **shape).double()
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    values = ensemble(x, members)
    assert values.shape == (members or 3, 7, outputs)
    singles = one_by_one(ensemble, module, layer_norm)
    expected = torch.stack([single(x) for single in singles[:members]])
    torch.testing.assert_close(values, expected)

    weighting = torch.randn_like(values)
    mine, *gradients = torch.autograd.grad((weighting * values).sum(), [x, *ensemble.parameters()])
    (weighting * expected).sum().backward()
    torch.testing.assert_close(mine, x.grad)
    assert len(gradients) == 2 * (layers + 1)
    for layer in range(layers + 1):
        linears = [[part for part in single if isinstance(part, nn.Linear)][layer] for single in singles]
        for member, linear in enumerate(linears):
            of_weight, of_bias = gradients[layer][member].mT, gradients[layers + 1 + layer][member, 0]
            if member >= (members or 3):
                assert not of_weight.any()
                assert not of_bias.any()
            else:
                torch.testing.assert_close(of_weight, linear.weight.grad)
                torch.testing.assert_close(of_bias, linear.bias.grad)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_no_member_has_a_gradient_from_another(layer_norm):
    ensemble = Ensemble(3, 5, 1, **SHAPE, layer_norm=layer_norm)
    ensemble(torch.randn(64, 5))[1].sum().backward()
    for weights in ensemble.parameters():
        assert not weights.grad[[0, 2]].any()
        assert weights.grad[1].any()


def test_the_first_weights_of_every_member_are_drawn_as_those_of_a_linear_layer():
    ensemble = Ensemble(3, 50, 400, width=400, layers=1)
    for weight, bias in zip(ensemble.weights, ensemble.biases, strict=True):
        linear = nn.Linear(*weight.shape[1:])
        for member in range(3):
            for mine, torchs in [(weight[member], linear.weight), (bias[member], linear.bias)]:
                assert smirnov(mine, torchs) < 1.95  # passed once in a thousand
    members = ensemble.weights[0].flatten(1)
    assert torch.corrcoef(members).fill_diagonal_(0).abs().max() < 0.03  # four standard deviations


def smirnov(one, two):
    """The two-sample Kolmogorov-Smirnov statistic, in units of its standard size."""
    one, two = one.detach().flatten().sort().values, two.detach().flatten().sort().values
    points = torch.cat([one, two])
    shares = [torch.searchsorted(sample, points, right=True) / len(sample) for sample in (one, two)]
    return float((shares[0] - shares[1]).abs().max()) * (len(one) * len(two) / (len(one) + len(two))) ** 0.5


def test_two_ensembles_of_one_seed_are_alike():
    torch.manual_seed(3)
    one = Ensemble(2, 5, 1, **SHAPE)
    torch.manual_seed(3)
    two = Ensemble(2, 5, 1, **SHAPE)
    assert all(torch.equal(*pair) for pair in zip(one.parameters(), two.parameters(), strict=True))


# Values of actions


def test_a_discrete_action_has_its_own_value_and_probabilities_the_expected_one(discrete):
    critics, observations = ActionValues(discrete, 2, **SHAPE), torch.randn(5, 3)
    every = critics.of_all(observations)
    assert every.shape == (2, 5, 4)
    for number in range(4):
        one_hot = F.one_hot(torch.full((5,), number), 4).float()
        assert torch.equal(critics(observations, one_hot), every[:, :, number])
    probabilities = torch.rand(5, 4).softmax(-1)
    expected = torch.stack([(probabilities * values).sum(-1) for values in every])
    torch.testing.assert_close(critics(observations, probabilities), expected)
    torch.testing.assert_close(critics(observations, probabilities, members=1), expected[:1])
    assert critics.of_all(observations, members=1).shape == (1, 5, 4)


def test_real_actions_and_observations_enter_in_scaled_units(real):
    critics = ActionValues(real, 2, **SHAPE)
    observations, scaled = torch.randn(5, 3), (2 * torch.rand(5, 2) - 1).requires_grad_()
    actions = torch.tensor([0.5, -1.0]) + torch.tensor([2.5, 0.1]) * scaled
    raw = torch.tensor([5.0, -2.0, 0.0]) + torch.tensor([2.0, 0.5, 30.0]) * observations
    values = critics(raw, actions)
    expected = critics.ensemble(torch.cat([observations, scaled], -1))[:, :, 0]
    assert values.shape == (2, 5)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(critics(raw, actions, members=1), expected[:1], rtol=1e-4, atol=1e-5)
    mine, plain = (torch.autograd.grad(value.sum(), scaled, retain_graph=True)[0] for value in (values, expected))
    torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-5)


def test_a_state_value_is_one_number_an_observation(real):
    value, observations = StateValue(real, **SHAPE, layer_norm=True), torch.randn(5, 3)
    expected = value.ensemble((observations - real.observation_mean) / real.observation_std)
    assert value(observations).shape == (5,)
    assert torch.equal(value(observations), expected[0, :, 0])


@pytest.mark.parametrize("is_discrete", [False, True])
def test_a_feature_that_is_not_shown_changes_no_value(is_discrete):
    normaliser = Normaliser(3, 2, columns=[0, 2], discrete=is_discrete)
    state, action = StateValue(normaliser, **SHAPE), ActionValues(normaliser, 2, **SHAPE)
    seen, actions = torch.randn(5, 3), torch.rand(5, 2)
    hidden, shown = seen + torch.tensor([0.0, 1.0, 0.0]), seen + torch.tensor([0.0, 0.0, 1.0])
    for value in (state, lambda observations: action(observations, actions)):
        assert torch.equal(value(hidden), value(seen))
        assert not torch.equal(value(shown), value(seen))


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("kind", ["real", "discrete", "state"])
def test_values_and_gradients_are_float32_under_autocast(kind, layer_norm, real, discrete):
    if kind == "state":
        values, inputs = StateValue(real, **SHAPE, layer_norm=layer_norm), [torch.randn(64, 3)]
    else:
        normaliser = real if kind == "real" else discrete
        values = ActionValues(normaliser, 2, **SHAPE, layer_norm=layer_norm)
        inputs = [torch.randn(64, 3), torch.rand(64, normaliser.action_size)]
    exact = values(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = values(*inputs)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact), "computed in float32"
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)
    rounded.square().mean().backward()
    assert {weight.grad.dtype for weight in values.parameters()} == {torch.float32}


@pytest.mark.parametrize("is_discrete", [False, True])
def test_a_saved_state_gives_the_same_bits(is_discrete, real, discrete):
    saved_normaliser = discrete if is_discrete else real
    size = saved_normaliser.action_size
    normalisers = [saved_normaliser, Normaliser(3, size, discrete=is_discrete)]
    seen, actions = torch.randn(5, 3), torch.rand(5, size)
    for inputs, (saved, loaded) in [
        ((seen, actions), [ActionValues(normaliser, 3, **SHAPE) for normaliser in normalisers]),
        ((seen,), [StateValue(normaliser, **SHAPE) for normaliser in normalisers]),
    ]:
        assert not torch.equal(loaded(*inputs), saved(*inputs))
        loaded.load_state_dict(saved.state_dict())
        assert torch.equal(loaded(*inputs), saved(*inputs))
