"""What reaches a prediction and what does not, in training's parallel form and in acting's steps."""

from typing import Any

import pytest
import torch

from flowrl.attention import ATTENTION
from flowrl.nn.model_config import TOKENS, ModelConfig
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.state import map_state, tensors_of
from flowrl.nn.trajectory import TimestepEmbedding, TrajectoryModel

every_attention = pytest.mark.parametrize("attention", ATTENTION)
# A name, and options of the model after it.
WITH_OPTIONS = [
    *("flow convolution=4", "softmax convolution=3 tokens=observation-action", "linear tokens=observation-action"),
    "flow attention_options=decay,output_norm tokens=observation-action convolution=1",
    *("flow tokens=return-observation", "softmax tokens=observation", "linear tokens=observation convolution=2"),
]
every_model = pytest.mark.parametrize("attention", [*ATTENTION, *WITH_OPTIONS])
every_step = pytest.mark.parametrize(
    "attention", [name for name in [*ATTENTION, *WITH_OPTIONS] if ATTENTION[name.split()[0]].why_no_step is None]
)


@pytest.fixture
def normaliser(random_dataset):
    return Normaliser.of(random_dataset([30, 7, 41]))


def model_of(attention, normaliser, **options):
    torch.manual_seed(0)
    attention, *words = attention.split()
    of_config: dict[str, Any] = dict(word.split("=") for word in words)
    if "convolution" in of_config:
        of_config["convolution"] = int(of_config["convolution"])
    if "attention_options" in of_config:
        of_config["attention_options"] = of_config["attention_options"].split(",")
    config = ModelConfig(attention, width=12, layers=2, heads=3, context=5, dropout=0.0, **of_config)
    model = TrajectoryModel(config, normaliser)
    for block in model.blocks:
        if block.convolution is not None:  # it begins as the identity
            torch.nn.init.normal_(block.convolution.factors)
    for name, value in options.items():
        setattr(model, name, value)
    # At std 0.02 the blocks hardly act on their input: larger weights show what they let through.
    for parameter in model.blocks.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.normal_(model.action_head.weight, std=0.3)
    return model.double()


def episodes(steps, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    timesteps = torch.arange(steps).expand(batch, steps)
    return 5 * draw(batch, steps), draw(batch, steps, 3), draw(batch, steps, 2).tanh(), timesteps


@every_model
def test_a_prediction_knows_the_past_and_its_observation_but_not_its_action_nor_the_future(attention, normaliser):
    model = model_of(attention, normaliser)
    returns, observations, actions, timesteps = episodes(9)
    x = [t.requires_grad_() for t in (returns, observations, actions)]
    for t in (0, 4, 8):
        predicted = model(*x, timesteps)[:, t]
        of_return, of_observation, of_action = torch.autograd.grad(predicted.square().sum(), x, allow_unused=True)
        assert (of_return[:, : t + 1] != 0).all()
        assert (of_observation[:, : t + 1].abs().sum(-1) > 0).all()
        assert (of_return[:, t + 1 :] == 0).all()
        assert (of_observation[:, t + 1 :] == 0).all()
        if model.embed_action is None:
            assert of_action is None, "past actions are not seen"
            continue
        assert (of_action[:, :t].abs().sum(-1) > 0).all()
        assert (of_action[:, t:] == 0).all()


@every_model
def test_a_timestep_reaches_its_own_and_later_predictions_alone(attention, normaliser):
    model = model_of(attention, normaliser)
    *x, timesteps = episodes(8)
    moved = timesteps.clone()
    moved[:, 5] += 3
    change = (model(*x, moved) - model(*x, timesteps)).abs().amax(dim=(0, 2))
    assert (change[:5] == 0).all()
    assert (change[5:] > 1e-6).all()


@every_step
@pytest.mark.parametrize("steps", [1, 2, 21, 60])
def test_steps_chained_equal_forward_over_the_episode(attention, normaliser, steps):
    model = model_of(attention, normaliser)
    returns, observations, actions, timesteps = episodes(steps)
    expected = model(returns, observations, actions, timesteps)
    state, previous, predicted = model.initial_state(2), None, []
    for t in range(steps):
        action, state = model.step(previous, returns[:, t], observations[:, t], t, state)
        predicted.append(action)
        previous = actions[:, t]
    # The action head rounds to float32, whose last digit is 6e-8 of the largest action.
    torch.testing.assert_close(torch.stack(predicted, 1), expected, rtol=0, atol=5e-7)


@every_step
def test_chunks_resumed_equal_forward_over_the_episode_in_value_and_gradient(attention, normaliser):
    model = model_of(attention, normaliser)
    columns = episodes(31)
    expected = model(*columns)
    expected_gradient = torch.autograd.grad(expected.square().sum(), model.embed_observation.weight)[0]
    state, parts = model.initial_state(2), []
    for start, end in ((0, 1), (1, 9), (9, 30), (30, 31)):
        predicted, state = model.resume(*(column[:, start:end] for column in columns), state)
        parts.append(predicted)
    resumed = torch.cat(parts, 1)
    torch.testing.assert_close(resumed, expected, rtol=0, atol=5e-7)
    (gradient,) = torch.autograd.grad(resumed.square().sum(), model.embed_observation.weight)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-8)


@every_step
def test_a_state_after_a_chunk_goes_on_step_by_step(attention, normaliser):
    model = model_of(attention, normaliser)
    columns = returns, observations, _, _ = episodes(12)
    expected = model(*columns)
    _, state = model.resume(*(column[:, :9] for column in columns), model.initial_state(2))
    # The chunk has read its last action already.
    predicted, _ = model.step(None, returns[:, 9], observations[:, 9], 9, state)
    torch.testing.assert_close(predicted, expected[:, 9], rtol=0, atol=5e-7)


@every_step
def test_the_episodes_of_a_state_can_be_chosen_among(attention, normaliser):
    model = model_of(attention, normaliser)
    columns = episodes(12)
    _, state = model.resume(*(column[:, :9] for column in columns), model.initial_state(2))
    one = map_state(lambda x: x[[1]], state)
    assert type(one[0]) is type(state[0])
    assert len(tensors_of(one)) == len(tensors_of(state))
    predicted, _ = model.resume(*(column[[1], 9:] for column in columns), one)
    whole, _ = model.resume(*(column[:, 9:] for column in columns), state)
    torch.testing.assert_close(predicted, whole[[1]], rtol=0, atol=5e-7)


@pytest.mark.parametrize(
    ("tokens", "kinds"),
    [("return-observation-action", 3), ("observation-action", 2), ("return-observation", 2), ("observation", 1)],
)
def test_a_step_has_a_token_of_every_kind(tokens, kinds, normaliser):
    model = model_of(f"flow tokens={tokens}", normaliser)
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    model(*episodes(7))
    assert seen == [7 * kinds]


def test_other_tokens_begin_with_the_same_weights(normaliser):
    whole, *others = (model_of(f"flow tokens={tokens}", normaliser).state_dict() for tokens in TOKENS)
    for other in others:
        assert whole.keys() - other.keys() <= {"embed_action.weight", "embed_action.bias"}
        assert all(torch.equal(whole[name], value) for name, value in other.items())


@every_model
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_the_last_step_alone_is_predicted_as_in_the_window_and_its_action_is_not_looked_at(
    attention, normaliser, steps
):
    model = model_of(attention, normaliser)
    returns, observations, actions, timesteps = episodes(steps)
    expected = model(returns, observations, actions, timesteps)[:, -1:]
    actions[:, -1] = torch.nan
    last = model(returns, observations, actions, timesteps[:1], last=True)
    torch.testing.assert_close(last, expected, rtol=0, atol=5e-7)


@every_model
def test_right_padding_changes_nothing_masked_or_not(attention, normaliser):
    model = model_of(attention, normaliser)
    x = episodes(7)
    padded = [torch.cat([t, torch.zeros(2, 4, *t.shape[2:], dtype=t.dtype)], 1) for t in x]
    is_pad = torch.arange(11).expand(2, 11) >= 7
    expected = model(*x)
    torch.testing.assert_close(model(*padded)[:, :7], expected, rtol=0, atol=5e-7)
    torch.testing.assert_close(model(*padded, is_pad)[:, :7], expected, rtol=0, atol=5e-7)


@every_model
def test_masked_left_padding_changes_nothing(attention, normaliser):
    model = model_of(attention, normaliser)
    x = episodes(7)
    padded = [torch.cat([torch.zeros(2, 4, *t.shape[2:], dtype=t.dtype), t], 1) for t in x]
    is_pad = torch.arange(11).expand(2, 11) < 4
    torch.testing.assert_close(model(*padded, is_pad)[:, 4:], model(*x), rtol=0, atol=5e-7)


@every_attention
def test_no_timestep_is_beyond_the_model(attention, normaliser):
    model = model_of(attention, normaliser)
    *x, timesteps = episodes(4)
    late = [model(*x, timesteps + start) for start in (0, 1001, 10_000, 1_000_000)]
    assert all(actions.isfinite().all() for actions in late)
    assert (late[1] - late[2]).abs().max() > 1e-4
    if ATTENTION[attention].why_no_step is None:
        action, _ = model.step(None, x[0][:, 0], x[1][:, 0], 10_000, model.initial_state(2))
        assert action.isfinite().all()


def test_neighbouring_timesteps_differ_far_out():
    torch.manual_seed(0)
    embedding = TimestepEmbedding(16)
    rows = embedding(torch.arange(20_000))
    assert (rows[1:] - rows[:-1]).abs().amax(1).min() > 1e-2
    assert TimestepEmbedding(1)(torch.arange(3)).shape == (3, 1)


@every_model
def test_actions_fill_their_off_centre_bounds_and_stay_inside(attention, normaliser):
    low, high = torch.tensor([-2.0, -1.0]), torch.tensor([3.0, 2.0])
    model = model_of(attention, normaliser).float()
    torch.nn.init.normal_(model.action_head.weight, std=100.0)
    returns, observations, actions, timesteps = episodes(200)
    predicted = model(returns.float(), observations.float(), actions.float(), timesteps)
    assert (predicted >= low).all()
    assert (predicted <= high).all()
    torch.testing.assert_close(predicted.amin(dim=(0, 1)), low)
    torch.testing.assert_close(predicted.amax(dim=(0, 1)), high)


def test_raw_units_enter_and_leave(normaliser):
    """Scaling the data and the normaliser together scales nothing inside."""
    model = model_of("flow", normaliser)
    returns, observations, actions, timesteps = episodes(6)
    expected = model(returns, observations, actions, timesteps)
    scaled = Normaliser(3, 2)
    scaled.observation_mean.copy_(7 + 10 * normaliser.observation_mean)
    scaled.observation_std.copy_(10 * normaliser.observation_std)
    scaled.return_scale.copy_(4 * normaliser.return_scale)
    scaled.action_centre.copy_(1 + 2 * normaliser.action_centre)
    scaled.action_half_range.copy_(2 * normaliser.action_half_range)
    other = model_of("flow", scaled)
    scaled_actions = other(4 * returns, 7 + 10 * observations, 1 + 2 * actions, timesteps)
    torch.testing.assert_close(scaled_actions, 1 + 2 * expected, rtol=0, atol=2e-6)


@every_model
def test_every_parameter_gets_a_gradient(attention, normaliser):
    model = model_of(attention, normaliser)
    model(*episodes(6)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@every_attention
def test_recomputation_changes_no_gradient_and_keeps_less(attention, normaliser):
    def gradients(recompute):
        torch.manual_seed(0)
        config = ModelConfig(attention, width=12, layers=2, heads=3, context=5, dropout=0.1, recompute=recompute)
        model = TrajectoryModel(config, normaliser).double()
        kept = {}

        def pack(x):
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            predicted = model(*episodes(17))
        predicted.square().sum().backward()
        return [p.grad for p in model.parameters()], sum(kept.values())

    (once, size), (twice, smaller) = gradients(False), gradients(True)
    for a, b in zip(once, twice, strict=True):
        assert torch.equal(a, b)
    assert smaller < size


def test_one_seed_gives_flow_and_softmax_the_same_tensors(normaliser):
    flow, softmax = (initial(attention, normaliser) for attention in ("flow", "softmax"))
    assert flow.keys() == softmax.keys()


@every_attention
def test_one_seed_gives_every_attention_the_same_initial_weights(attention, normaliser):
    expected = initial("softmax", normaliser)
    if ATTENTION[attention].parts == 2:  # fewer weights to draw: what was drawn before the blocks agrees
        expected = {name: weights for name, weights in expected.items() if name.startswith(("embed", "normaliser"))}
    weights = initial(attention, normaliser)
    assert expected.keys() <= weights.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def initial(attention, normaliser):
    torch.manual_seed(3)
    return TrajectoryModel(ModelConfig(attention, width=16, heads=2), normaliser).state_dict()


def test_the_statistics_travel_with_the_weights(normaliser):
    weights = TrajectoryModel(ModelConfig(width=16, heads=2), normaliser).state_dict()
    for name in ("observation_mean", "observation_std", "action_centre", "action_half_range", "return_scale"):
        assert torch.equal(weights[f"normaliser.{name}"], getattr(normaliser, name))


def test_dropout_acts_in_training_alone(normaliser):
    model = TrajectoryModel(ModelConfig(width=12, heads=3, dropout=0.5), normaliser)
    x = [t.float() if t.is_floating_point() else t for t in episodes(5)]
    assert not torch.equal(model(*x), model(*x))
    model.eval()
    assert torch.equal(model(*x), model(*x))


def test_bfloat16_is_near_float32(normaliser):
    torch.manual_seed(0)
    model = TrajectoryModel(ModelConfig(width=32, heads=2, dropout=0.0), normaliser)
    x = [t.float() if t.is_floating_point() else t for t in episodes(20)]
    exact = model(*x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(*x)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "flaw"}, f"attention is 'flaw': known are {', '.join(sorted(ATTENTION))}"),
        ({"width": 0}, "width is 0: it must be at least 1"),
        ({"layers": 0}, "layers is 0"),
        ({"heads": 0}, "heads is 0"),
        ({"context": 0}, "context is 0"),
        ({"width": 10, "heads": 3}, "width is 10 and heads is 3"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"context": "all"}, "context is 'all': it must be at least 1, or 'episode'"),
        ({"convolution": -1}, "convolution is -1: it must be at least 0"),
        ({"convolution": 2_000_000_000_000}, "convolution is 2000000000000: it must be at least 0 and at most 4,096"),
        (
            {"attention": "linformer", "attention_options": ["block=2000000000"]},
            "block is 2000000000: it must be at most 4,096",
        ),
        ({"tokens": "action"}, "tokens is 'action': known are return-observation-action, observation-action, return-"),
        ({"attention_options": ["decoy"]}, "FlowAttention has no option 'decoy'"),
        ({"attention_options": ["clip=0"]}, "clip is 0.0: it must be above 0"),
        ({"attention": "linformer", "attention_options": ["rank=20"]}, "rank is 20 and block is 16"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options)
