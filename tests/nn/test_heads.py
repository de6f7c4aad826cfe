"""Action heads against torch's own distributions and losses; actions stay within their bounds."""

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal

from flowrl.nn.heads import LOG_STD_HIGH, LOG_STD_LOW, CategoricalHead, GaussianHead, TanhHead, deterministic_head
from flowrl.nn.normaliser import Normaliser

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


@pytest.mark.parametrize("kind", [TanhHead, GaussianHead, CategoricalHead])
def test_predictions_are_float32_under_autocast(kind, bounded, discrete):
    head = kind(discrete if kind is CategoricalHead else bounded)
    assert head.prediction(drawn(3, head.size).bfloat16()).dtype == torch.float32


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
    samples = (head.sample(prediction, torch.Generator().manual_seed(0)) - CENTRE) / HALF_RANGE
    mean, std = gaussian_of(torch.tensor([0.3, -0.5, -2.0, -1.5]))
    # The bounds cut off less than a hundredth of either tail.
    torch.testing.assert_close(samples.mean(0), mean, rtol=0, atol=0.01)
    torch.testing.assert_close(samples.std(0), std, rtol=0.05, atol=0)
    wide = head.sample(head.prediction(torch.tensor([0.0, 0.0, 9.0, 9.0]).expand(1_000, 4)))
    assert ((wide >= LOW) & (wide <= HIGH)).all()
    assert (wide == LOW).any()
    assert (wide == HIGH).any()


def test_samples_have_gradients_to_mean_and_spread_inside_the_bounds(bounded):
    head, outputs = GaussianHead(bounded), torch.tensor([0.3, -0.5, -3.0, -3.0], requires_grad=True)
    noise = torch.randn(2, generator=torch.Generator().manual_seed(0))
    sample = head.sample(head.prediction(outputs), torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(sample.sum(), outputs)
    of_mean = HALF_RANGE * (1 - outputs[:2].tanh() ** 2)
    of_spread = HALF_RANGE * noise * outputs[2:].exp()
    torch.testing.assert_close(gradient, torch.cat([of_mean, of_spread]).detach())


def test_samples_take_their_generator_alone(bounded):
    head, prediction = GaussianHead(bounded), GaussianHead(bounded).prediction(drawn(5, 4))
    before = torch.get_rng_state()
    one, two, other = (head.sample(prediction, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


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
