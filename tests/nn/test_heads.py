"""Action heads against torch's own distributions and losses; actions stay within their bounds."""

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from flowrl.nn.heads import (
    LOG_STD_HIGH,
    LOG_STD_LOW,
    CategoricalHead,
    GaussianHead,
    TanhGaussianHead,
    TanhHead,
    deterministic_head,
)
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.perceptron import PerceptronActor

LOW, HIGH = torch.tensor([-2.0, -1.0]), torch.tensor([3.0, 2.0])
CENTRE, HALF_RANGE = (HIGH + LOW) / 2, (HIGH - LOW) / 2


@pytest.fixture
def bounded():
    """Two real actions with bounds off centre."""
    normaliser = Normaliser(3, 2)
    normaliser.action_centre.copy_(CENTRE)
    normaliser.action_half_range.copy_(HALF_RANGE)
    return normaliser


@pytest.fixture
def discrete():
    """Four discrete actions."""
    normaliser = Normaliser(3, 4, discrete=True)
    normaliser.action_centre.fill_(0.5)
    normaliser.action_half_range.fill_(0.5)
    return normaliser


def drawn(*shape, seed=0, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some_actions(*shape, seed=1):
    return LOW + (HIGH - LOW) * torch.rand(*shape, 2, generator=torch.Generator().manual_seed(seed))


def test_the_deterministic_head_is_that_of_the_action_space(bounded, discrete):
    assert (type(deterministic_head(bounded)), deterministic_head(bounded).size) == (TanhHead, 2)
    assert (type(deterministic_head(discrete)), deterministic_head(discrete).size) == (CategoricalHead, 4)


# A tanh


def test_a_tanh_fills_the_bounds_and_stays_inside(bounded):
    head = TanhHead(bounded)
    actions = head.action(head.prediction(drawn(500, 2, scale=100.0)))
    assert ((actions >= LOW) & (actions <= HIGH)).all()
    assert actions.amin(0).tolist() == LOW.tolist()
    assert actions.amax(0).tolist() == HIGH.tolist()


def test_the_error_of_a_tanh_is_the_squared_difference_of_scaled_actions(bounded):
    head, outputs, actions = TanhHead(bounded), drawn(3, 5, 2).requires_grad_(), some_actions(3, 5)
    error = head.error(head.prediction(outputs), actions)
    scaled = (actions - CENTRE) / HALF_RANGE
    torch.testing.assert_close(error, (outputs.tanh() - scaled) ** 2)
    (gradient,) = torch.autograd.grad(error.sum(), outputs)
    torch.testing.assert_close(gradient, (2 * (outputs.tanh() - scaled) * (1 - outputs.tanh() ** 2)).detach())
    right = head.prediction((0.99 * scaled).atanh())
    assert float(head.error(right, CENTRE + HALF_RANGE * 0.99 * scaled).max()) < 1e-12


@pytest.mark.parametrize("kind", [TanhHead, GaussianHead, TanhGaussianHead, CategoricalHead])
def test_predictions_are_float32_under_autocast(kind, bounded, discrete):
    head = kind(discrete if kind is CategoricalHead else bounded)
    assert head.prediction(drawn(3, head.size).bfloat16()).dtype == torch.float32


def test_a_sample_of_a_tanh_is_its_action_with_scaled_noise_clipped_to_the_bounds(bounded):
    head, outputs = TanhHead(bounded), torch.tensor([[0.0, 0.5], [0.0, 0.5], [-1.0, 2.0]], requires_grad=True)
    noise = torch.tensor([[0.2, -0.3], [1.5, -1.5], [-0.1, -0.1]])
    sample = head.sample(head.prediction(outputs), noise)
    scaled = outputs.tanh() + noise
    torch.testing.assert_close(sample[[0, 2]], (CENTRE + HALF_RANGE * scaled)[[0, 2]])
    assert sample[1].tolist() == [HIGH[0], LOW[1]]
    (gradient,) = torch.autograd.grad(sample.sum(), outputs)
    expected = HALF_RANGE * (1 - outputs.tanh() ** 2) * torch.tensor([[1.0], [0], [1]])
    torch.testing.assert_close(gradient, expected.detach())
    wide = head.sample(head.prediction(drawn(500, 2)), drawn(500, 2, seed=1, scale=10.0))
    assert ((wide >= LOW) & (wide <= HIGH)).all()


# A Gaussian


def gaussian_of(outputs):
    """(mean, std) of the scaled actions, by the head's description."""
    mean, log_std = outputs.chunk(2, -1)
    return mean.tanh(), log_std.clamp(LOG_STD_LOW, LOG_STD_HIGH).exp()


def test_the_log_likelihood_of_a_gaussian_is_torchs_in_value_and_gradient(bounded):
    head, actions = GaussianHead(bounded), some_actions(3, 5)
    assert head.size == 4
    outputs = drawn(3, 5, 4, scale=2.0).requires_grad_()
    likelihood = head.log_likelihood(head.prediction(outputs), actions)
    expected = Normal(*gaussian_of(outputs)).log_prob((actions - CENTRE) / HALF_RANGE).sum(-1)
    torch.testing.assert_close(likelihood, expected)
    mine, torchs = (torch.autograd.grad(value.sum(), outputs, retain_graph=True)[0] for value in (likelihood, expected))
    torch.testing.assert_close(mine, torchs)
    error = head.error(head.prediction(outputs), actions)
    assert error.shape == (3, 5, 1)
    torch.testing.assert_close(error[..., 0], -expected)


def test_a_gaussian_plays_its_mean(bounded):
    head, outputs = GaussianHead(bounded), drawn(7, 4)
    torch.testing.assert_close(head.action(head.prediction(outputs)), CENTRE + HALF_RANGE * outputs[:, :2].tanh())


def test_samples_of_a_gaussian_stay_inside_and_are_as_spread_as_it(bounded):
    head = GaussianHead(bounded)
    prediction = head.prediction(torch.tensor([0.3, -0.5, -2.0, -1.5]).expand(20_000, 4))
    samples = (head.sample(prediction, drawn(20_000, 2)) - CENTRE) / HALF_RANGE
    mean, std = gaussian_of(torch.tensor([0.3, -0.5, -2.0, -1.5]))
    # The bounds cut off less than a hundredth of either tail.
    torch.testing.assert_close(samples.mean(0), mean, rtol=0, atol=0.01)
    torch.testing.assert_close(samples.std(0), std, rtol=0.05, atol=0)
    wide = head.sample(head.prediction(torch.tensor([0.0, 0.0, 9.0, 9.0]).expand(1_000, 4)), drawn(1_000, 2))
    assert ((wide >= LOW) & (wide <= HIGH)).all()
    assert (wide == LOW).any()
    assert (wide == HIGH).any()


def test_samples_have_gradients_to_mean_and_spread_inside_the_bounds(bounded):
    head, outputs = GaussianHead(bounded), torch.tensor([0.3, -0.5, -3.0, -3.0], requires_grad=True)
    noise = drawn(2)
    sample = head.sample(head.prediction(outputs), noise)
    torch.testing.assert_close(sample, CENTRE + HALF_RANGE * (outputs[:2].tanh() + outputs[2:].exp() * noise))
    (gradient,) = torch.autograd.grad(sample.sum(), outputs)
    of_mean = HALF_RANGE * (1 - outputs[:2].tanh() ** 2)
    of_spread = HALF_RANGE * noise * outputs[2:].exp()
    torch.testing.assert_close(gradient, torch.cat([of_mean, of_spread]).detach())


# A Gaussian with one spread for all observations


def test_a_shared_spread_is_the_same_for_every_observation_and_the_mean_is_not(bounded):
    head = GaussianHead(bounded, shared_std=True)
    actor = PerceptronActor(bounded, width=8, layers=1, head=head)
    assert (head.size, head.free, actor.free.shape) == (2, 2, (2,))
    assert "free" in actor.state_dict()
    assert PerceptronActor(bounded, width=8, layers=1, head=GaussianHead(bounded)).free is None
    with torch.no_grad():
        actor.free.copy_(torch.tensor([-1.0, 7.0]))
    for shape in [(3,), (4, 3), (2, 5, 3)]:
        mean, log_std = actor(drawn(*shape)).chunk(2, -1)
        assert mean.shape == (*shape[:-1], 2)
        assert torch.equal(log_std, torch.tensor([-1.0, LOG_STD_HIGH]).expand_as(log_std))
    assert (mean.flatten(0, 1).std(0) > 0).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert actor(drawn(4, 3)).dtype == torch.float32


def test_the_gradient_of_a_shared_spread_is_that_of_torchs_gaussian(bounded):
    actor = PerceptronActor(bounded, width=8, layers=1, head=GaussianHead(bounded, shared_std=True))
    observations, actions = drawn(6, 3), some_actions(6)
    actor.head.error(actor(observations), actions).sum().backward()
    log_std = torch.zeros(2, requires_grad=True)
    mean = actor.network(observations).tanh().detach()
    (-Normal(mean, log_std.exp()).log_prob((actions - CENTRE) / HALF_RANGE)).sum().backward()
    torch.testing.assert_close(actor.free.grad, log_std.grad)


def test_a_shared_spread_becomes_that_of_the_actions(bounded):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        actor = PerceptronActor(bounded, width=8, layers=1, head=GaussianHead(bounded, shared_std=True))
    observations = drawn(500, 3)
    spread = torch.tensor([0.05, 0.3])
    actions = CENTRE + HALF_RANGE * (0.3 * observations[:, :2].tanh() + spread * drawn(500, 2, seed=1))
    optimiser = torch.optim.Adam(actor.network.parameters(), 0.03)
    optimiser.add_param_group({"params": [actor.free], "lr": 0.03})
    for _ in range(200):
        optimiser.zero_grad()
        actor.head.error(actor(observations), actions).mean().backward()
        optimiser.step()
    torch.testing.assert_close(actor.free.detach().exp(), spread, rtol=0.15, atol=0)


# A Gaussian squashed by a tanh


def squashed(prediction):
    """Torch's distribution of the scaled actions."""
    mean, log_std = prediction.chunk(2, -1)
    return Independent(TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform()), 1)


def test_the_log_density_of_a_squashed_gaussian_is_torchs_in_value_and_gradient(bounded):
    head, bounded = TanhGaussianHead(bounded), bounded.double()
    assert (head.size, head.free) == (4, 0)
    prediction = (0.7 * drawn(200, 4)).double().requires_grad_()
    actions = some_actions(200).double() * 0.99 + CENTRE * 0.01
    error = head.error(prediction, actions)
    assert error.shape == (200, 1)
    expected = -squashed(prediction).log_prob((actions - CENTRE) / HALF_RANGE)
    torch.testing.assert_close(error[:, 0], expected)
    mine, torchs = (torch.autograd.grad(each.sum(), prediction, retain_graph=True)[0] for each in (error, expected))
    torch.testing.assert_close(mine, torchs)


def test_a_sample_of_a_squashed_gaussian_and_its_log_density_are_torchs_in_value_and_gradient(bounded):
    head, bounded = TanhGaussianHead(bounded), bounded.double()
    prediction, noise = (0.7 * drawn(200, 4)).double().requires_grad_(), drawn(200, 2, seed=1).double()
    sample, density = head.sample_with_log_density(prediction, noise)
    mean, log_std = prediction.chunk(2, -1)
    expected = (mean + log_std.exp() * noise).tanh()
    torch.testing.assert_close(sample, CENTRE + HALF_RANGE * expected)
    torch.testing.assert_close(density, squashed(prediction).log_prob(expected), rtol=1e-5, atol=1e-7)
    assert torch.equal(head.sample(prediction, noise), sample)
    for mine, torchs in [(sample, CENTRE + HALF_RANGE * expected), (density, squashed(prediction).log_prob(expected))]:
        gradients = [torch.autograd.grad(each.sum(), prediction, retain_graph=True)[0] for each in (mine, torchs)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_the_density_of_a_squashed_gaussian_is_one_in_all(bounded):
    one_action = Normaliser(3, 1)
    one_action.action_centre.fill_(7.0)
    one_action.action_half_range.fill_(0.3)
    scaled = torch.linspace(-0.9985, 0.9985, 1_998)[:, None]
    for prediction in torch.tensor([[0.0, -1.0], [0.8, -1.5], [-0.5, -0.7]]):
        errors = TanhGaussianHead(one_action).error(prediction.expand(1_998, 2), 7.0 + 0.3 * scaled)
        assert float((-errors).exp().sum()) * 0.001 == pytest.approx(1.0, abs=0.002)


def test_samples_of_a_squashed_gaussian_stay_inside_and_its_mean_is_played(bounded):
    head = TanhGaussianHead(bounded)
    outputs = torch.cat([drawn(2_000, 2, scale=5.0), torch.full((2_000, 2), 9.0)], -1)
    prediction = head.prediction(outputs)
    assert (prediction[:, 2:] == LOG_STD_HIGH).all()
    samples, densities = head.sample_with_log_density(prediction, drawn(2_000, 2, seed=1, scale=10.0))
    assert ((samples >= LOW) & (samples <= HIGH)).all()
    assert samples.amin(0).tolist() == LOW.tolist()
    assert samples.amax(0).tolist() == HIGH.tolist()
    assert densities.isfinite().all()
    torch.testing.assert_close(head.action(prediction), CENTRE + HALF_RANGE * outputs[:, :2].tanh())


@pytest.mark.parametrize("log_std", [-20.0, 0.0, 20.0])
@pytest.mark.parametrize("share", [-1.0, -0.9999999, 1.0, 1.1])
def test_the_error_of_a_squashed_gaussian_is_finite_at_the_bounds(bounded, share, log_std):
    head = TanhGaussianHead(bounded)
    outputs = torch.tensor([0.3, -0.5, log_std, log_std], requires_grad=True)
    error = head.error(head.prediction(outputs), CENTRE + HALF_RANGE * share)
    (gradient,) = torch.autograd.grad(error.sum(), outputs)
    assert error.isfinite().all()
    assert gradient.isfinite().all()


# Discrete actions


def test_the_error_of_a_discrete_action_is_torchs_cross_entropy(discrete):
    head = CategoricalHead(discrete)
    outputs = drawn(3, 5, 4, scale=7.0).requires_grad_()
    numbers = torch.randint(4, (3, 5), generator=torch.Generator().manual_seed(0))
    actions = F.one_hot(numbers, 4).float()
    error = head.error(head.prediction(outputs), actions)
    assert error.shape == (3, 5, 1)
    expected = F.cross_entropy(outputs.flatten(0, 1), numbers.flatten(), reduction="none")
    torch.testing.assert_close(error.flatten(), expected)
    (gradient,) = torch.autograd.grad(error.sum(), outputs)
    torch.testing.assert_close(gradient, outputs.softmax(-1).detach() - actions)
    torch.testing.assert_close(head.log_likelihood(outputs, actions).flatten(), -expected)
    # Padding has no action: its row of zeros costs nothing and pulls nowhere.
    assert head.error(outputs, torch.zeros(3, 5, 4)).abs().max() == 0
    extreme = head.error(torch.tensor([[1e4, -1e4, 0, 0]]), torch.tensor([[0.0, 1, 0, 0]]))
    assert extreme.tolist() == [[2e4]]


def test_the_likeliest_action_is_played(discrete):
    head = CategoricalHead(discrete)
    logits = torch.tensor([[[0.0, 3, 2, -1], [-5, -6, -7, -4.5]], [[9, 0, 0, 0], [1, 1, 0, 0]]])
    expected = [[[0, 1, 0, 0], [0, 0, 0, 1]], [[1, 0, 0, 0], [1, 0, 0, 0]]]
    assert head.action(head.prediction(logits)).tolist() == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_action_from_logits_that_are_not_finite_is_nan(discrete, value):
    actions = CategoricalHead(discrete).action(torch.tensor([[0.0, value, 1, 0], [0, 0, 1, 0]]))
    assert actions[0].isnan().all()
    assert actions[1].tolist() == [0, 0, 1, 0]


def test_the_value_of_a_discrete_sample_is_the_expected_one_with_its_gradient(discrete):
    head, outputs = CategoricalHead(discrete), drawn(5, 4, scale=3.0).requires_grad_()
    samples = [head.sample(head.prediction(outputs), drawn(5, 4, seed=seed)) for seed in (1, 2)]
    assert torch.equal(*samples)
    probabilities = outputs.detach().exp() / outputs.detach().exp().sum(-1, keepdim=True)
    torch.testing.assert_close(samples[0].detach(), probabilities)
    values = drawn(5, 4, seed=3)
    (gradient,) = torch.autograd.grad((samples[0] * values).sum(), outputs)
    advantages = values - (probabilities * values).sum(-1, keepdim=True)
    torch.testing.assert_close(gradient, probabilities * advantages)
