"""Value-based agents whose actor looks back: what it reads, its losses, and runs that die and go on."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from small_problems import BACKBONES, CPU, FROZEN, LOOKING_BACK, batches, built, line, small, walk
from test_training_value_agents import CONFIG, SETTINGS, Dead, differences, metrics, trained

from flowrl.agents.backbone import Backbone
from flowrl.agents.registry import AGENTS
from flowrl.data.samplers import WHOLE
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.state import tensors_of
from flowrl.training.config import TrainingConfig
from flowrl.training.run_folder import RunFolder


def played(actor, dataset, episode):
    """(steps + 1, ...) the actor's actions as it is led through an episode of the data, one step after the other.

    Its own action is replaced by the data's before the next step.
    """
    first, length = int(dataset.starts[episode]), int(dataset.lengths[episode])
    carry = actor.initial(dataset.returns_to_go[first : first + 1])
    actions = []
    for step in range(length + 1):
        row = first + step
        seen = dataset.observations[row] if step < length else dataset.final_observations[episode]
        paid = dataset.rewards[row - 1 : row] if step else torch.zeros(1)
        carry, action = actor.act(carry, seen[None], paid)
        actions.append(action[0])
        if step == length:
            break
        if hasattr(carry, "actions"):
            carry = carry._replace(actions=torch.cat([carry.actions[:, :-1], dataset.actions[row][None, None]], 1))
        else:
            carry = carry._replace(action=dataset.actions[row][None])
    return torch.stack(actions)


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["episodes", "conditioned"])
def test_what_is_predicted_for_a_transition_is_what_the_actor_does_there(backbone):
    """So nothing of the future reaches a prediction, and the next action is that of the next step."""
    dataset = line(4, 7)
    settings = BACKBONES[backbone] | {"context": "episode", "rollout": "recurrent"}
    learner = built(small("td3-bc", **settings), dataset, batch_size=4)
    learner.policy.eval()
    checked = 0
    for batch, _ in batches(learner, dataset, 5):
        read = learner.read(learner.policy, batch)
        columns = batch.past.observations.shape[1]
        for place, after, here, then, observation in zip(
            batch.past.here, batch.past.after, read.here, read.after, batch.observations, strict=True
        ):
            (row,) = torch.nonzero((dataset.observations == observation).all(1))[:, 0].tolist()
            actions = played(learner.policy, dataset, int((dataset.starts <= row).sum()) - 1)
            step = int(dataset.timesteps[row])
            torch.testing.assert_close(here, actions[step], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(then, actions[step + 1], rtol=1e-4, atol=1e-5)
            assert int(after - place) == 1 and int(place) % columns == step  # noqa: PT018
            checked += 1
    assert checked == 5 * 4 * 7


@torch.no_grad()
def test_a_carried_state_stands_for_the_steps_before_a_chunk():
    """With weights that do not change, every prediction is that of the whole episode up to there."""
    dataset = line(4, 9)
    learner = built(small("td3-bc", **BACKBONES["chunks"]), dataset, batch_size=4)
    learner.policy.eval()
    started = torch.zeros(4, dtype=torch.bool)
    checked = 0
    for batch, step in batches(learner, dataset, 12):
        learner._prepare(batch.past, step)
        read, past = learner.read(learner.policy, batch), batch.past
        started |= past.begins & (past.timesteps[:, 0] == 0)
        columns = past.observations.shape[1]
        for place, here, observation in zip(past.here.tolist(), read.here, batch.observations, strict=True):
            if not started[place // columns]:
                continue  # the very first chunks begin anywhere
            (row,) = torch.nonzero((dataset.observations == observation).all(1))[:, 0].tolist()
            first = row - int(dataset.timesteps[row])
            whole = slice(first, row + 1)
            predicted = learner.policy.model(
                dataset.returns_to_go[None, whole], dataset.observations[None, whole], dataset.actions[None, whole],
                dataset.timesteps[None, whole],
            )  # fmt: skip
            torch.testing.assert_close(here, predicted[0, -1], rtol=1e-4, atol=1e-5)
            checked += 1
        learner._advance(past)
    assert checked > 60


def test_the_losses_are_those_of_each_transition_with_its_own_past():
    """ReBRAC, written for one transition at a time: the past is cut off at its observation."""
    dataset = line(6, 7)
    config = small("rebrac", **BACKBONES["windows"], target_noise=0.0, layer_norm=True)
    learner = built(config, dataset, batch_size=5)
    ((batch, _),) = batches(learner, dataset, 1)
    policy, average = learner.policy.eval(), learner.average.eval()
    columns = batch.past.observations.shape[1]

    def act(actor, place):
        window, column = divmod(place, columns)
        upto = slice(0, column + 1)
        past = batch.past
        return actor.model(
            past.returns_to_go[window, upto][None], past.observations[window, upto][None],
            past.actions[window, upto][None], past.timesteps[window, upto][None],
        )[0, -1]  # fmt: skip

    normalise = Normaliser.of(dataset).actions
    own, targets = [], []
    for row, (place, after) in enumerate(zip(batch.past.here.tolist(), batch.past.after.tolist(), strict=True)):
        own.append(act(policy, place))
        following = act(average, after)
        value = learner.target_critics(batch.next_observations[row][None], following[None]).min()
        if bool(batch.has_next_action[row]):
            value = value - 0.05 * (normalise(following) - normalise(batch.next_actions[row])).square().sum()
        targets.append(batch.rewards[row] + batch.discounts[row] * value)
    own, targets = torch.stack(own), torch.stack(targets).detach()
    values = learner.critics(batch.observations, batch.actions)
    expected = ((values - targets) ** 2).mean(1).sum()
    loss, _ = learner.critic_losses(batch, learner.noise(batch, 1))
    torch.testing.assert_close(loss, expected)

    judged = learner.critics(batch.observations, own).min(0).values
    distance = (normalise(own) - normalise(batch.actions)).square().sum(1).mean()
    expected = 0.1 * distance - judged.mean() / judged.detach().abs().mean()
    loss, _ = learner.actor_losses(batch)
    torch.testing.assert_close(loss, expected)
    weights = list(policy.parameters())
    for mine, plain in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("agent", "backbone", "first"),
    [*((agent, backbone, 0) for agent in ("iql", "rebrac") for backbone in BACKBONES), ("iql", "chunks", 6),
     ("rebrac", "windows", 10), ("rebrac", "episodes", 6)],
)  # fmt: skip
def test_a_run_that_died_and_goes_on_ends_in_the_same_bits(agent, backbone, first, tmp_path):
    settings = BACKBONES[backbone] | {"dropout": 0.1, "actor_clip_norm": 0.5, "actor_warmup": 5}
    settings |= {"critics_first": first}
    with pytest.raises(Dead):
        trained(agent, tmp_path / "a", dies_at=11, **settings)
    resumed = trained(agent, tmp_path / "a", **settings)
    whole = trained(agent, tmp_path / "b", **settings)
    one, two = (RunFolder(tmp_path / name).load() for name in "ab")
    assert not differences(one, two)
    assert not differences(resumed.state_dict(), whole.state_dict())
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


@pytest.mark.parametrize("agent", LOOKING_BACK)
@pytest.mark.parametrize("backbone", ["windows", "chunks"])
def test_every_weight_of_the_backbone_is_trained(agent, backbone):
    discrete = agent in ("awac", "cql")
    dataset = walk(20) if discrete else line(10, 7)
    learner = built(small(agent, **SETTINGS, **BACKBONES[backbone]), dataset, batch_size=16, steps=4)
    before = {name: weight.clone() for name, weight in learner.policy.named_parameters()}
    for batch, step in batches(learner, dataset, 4):
        learner.update(batch, step)
    for name, weight in learner.policy.named_parameters():
        assert bool((weight != before[name]).any()), name


def test_the_critics_that_are_trained_first_are_those_of_the_perceptron():
    dataset = line(10, 7)
    config = small("rebrac", **SETTINGS, **BACKBONES["windows"])
    together = built(
        replace(config, backbone=replace(config.backbone, critics_first=6)), dataset, batch_size=4, steps=9
    )
    alone = built(small("rebrac", **SETTINGS), dataset, batch_size=16, steps=6)
    order, same_order = (torch.Generator().manual_seed(0) for _ in range(2))
    sampler, plain = together.sampler(dataset, 4, WHOLE), alone.sampler(dataset, 16, WHOLE)
    before = copy.deepcopy(together.then.state_dict())
    for step in range(1, 7):
        together.update(sampler.draw(order), step)
        alone.update(plain.draw(same_order), step)
    for name in ("critics", "target_critics"):
        mine, theirs = (getattr(learner, name).state_dict() for learner in (together.then, alone))
        assert not differences(mine, theirs)
        assert differences(mine, before[name])
    assert not differences(together.then.policy.state_dict(), before["policy"]), "not trained yet"
    assert together.actor is together.then.average
    moments = [learner.critic_optimiser.state_dict()["state"] for learner in (together.then, alone)]
    assert not differences(*moments), "so that the first step after it is no jump"
    for step in range(7, 10):
        together.update(sampler.draw(order), step)
    for name in ("policy", "critics"):
        assert differences(together.then.state_dict()[name], before[name])
    assert not differences(together.first.critics.state_dict(), alone.critics.state_dict()), "its part is over"


def test_critics_that_diverge_are_found_before_a_checkpoint_and_the_step_is_the_run_s():
    dataset = line(10, 7)
    config = small("rebrac", **BACKBONES["windows"], critics_first=5)
    learner = built(config, dataset, batch_size=4, steps=40, checkpoint_every=9)
    order, sampler = torch.Generator().manual_seed(0), learner.sampler(dataset, 4, WHOLE)
    for step in range(1, 9):
        learner.update(sampler.draw(order), step)
    with torch.no_grad():
        learner.then.critics.ensemble.biases[-1].fill_(1e9)
    with pytest.raises(ValueError, match="the critics diverged by step 9"):
        learner.update(sampler.draw(order), 9)


def test_the_state_that_is_carried_is_without_dropout():
    dataset = line(10, 9)
    settings = BACKBONES["chunks"] | {"dropout": 0.5, "learning_rate": FROZEN}
    learner = built(small("iql", **settings), dataset, batch_size=4)
    states = []
    for seed in range(2):
        ((batch, step),) = batches(learner, dataset, 1)
        torch.manual_seed(seed)
        learner.update(batch, step)
        assert learner.policy.training
        assert learner.carried.keys() == {"policy"}, "nobody reads the average"
        states.append(tensors_of(learner.carried["policy"]))
    for one, two in zip(*states, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_critics_first_leaves_steps_for_the_rest(tmp_path):
    with pytest.raises(ValueError, match="critics_first is 12 and steps is 12: it must be less than steps"):
        trained("iql", tmp_path, **BACKBONES["windows"], critics_first=12)


def test_the_rate_rises_and_the_gradient_is_clipped():
    dataset = line(10, 7)
    moved = {}
    for name, settings in {"plain": {}, "clipped": {"actor_clip_norm": 1e-9}, "warm": {"actor_warmup": 1_000}}.items():
        learner = built(small("iql", **settings), dataset, batch_size=16)
        before = [weight.clone() for weight in learner.policy.parameters()]
        critics = [weight.clone() for weight in learner.critics.parameters()]
        for batch, step in batches(learner, dataset, 1):
            learner.update(batch, step)
        pairs = zip(before, learner.policy.parameters(), strict=True)
        moved[name] = max(float((new - old).detach().abs().max()) for old, new in pairs)
        pairs = zip(critics, learner.critics.parameters(), strict=True)
        assert max(float((new - old).detach().abs().max()) for old, new in pairs) == pytest.approx(3e-3, rel=0.01)
    assert moved["plain"] == pytest.approx(3e-3, rel=0.01)
    assert moved["warm"] == pytest.approx(3e-6, rel=0.01)
    assert moved["clipped"] < 1e-3  # of the size of Adam's epsilon


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbone": "gru"}, "backbone is 'gru': known are mlp, cosformer"),
        ({"context": 5}, "context is 5 and backbone is mlp, which does not look back"),
        ({"backbone": "flow", "actor_width": 30}, "actor_width is 30 and heads is 4"),
        ({"backbone": "flow", "heads": 0}, "heads is 0: it must be at least 1"),
        ({"backbone": "flow", "actor_layers": 0}, "actor_layers is 0: it must be at least 1"),
        ({"backbone": "flow", "tokens": "return-observation"}, "tokens is 'return-observation' and conditioned is F"),
        ({"backbone": "reformer", "carry_state": True}, "carry_state is True and backbone is 'reformer'"),
        ({"backbone": "flow", "critics_first": -1}, "critics_first is -1: it must be at least 0"),
        ({"critics_first": 9}, "critics_first is 9 and backbone is mlp"),
        ({"backbone": "flow", "acting_context": 21}, "acting_context is 21: it must be at least 1 and at most"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Backbone(**settings)


def test_what_cannot_look_back_says_so():
    for agent, settings, words in (
        ("fql", {"backbone": "flow"}, "backbone is 'flow': it must be mlp"),
        ("iql", {"backbone": "flow", "compile": True}, "compile is True and backbone is 'flow'"),
    ):
        with pytest.raises(ValueError, match=words):
            small(agent, **settings)


def test_what_trains_the_same_weights_is_recorded_alike():
    records = [
        replace(AGENTS["iql"].config, backbone=Backbone("flow", **settings)).record()
        for settings in (
            {"attention_options": ("clip=5",)},
            {"attention_options": ("clip=5.0",), "rollout": "window"},
        )
    ]
    assert records[0] == records[1]
    assert json.loads(json.dumps(records[0])) == records[0]
    assert "backbone" not in AGENTS["iql"].config.record(), "as in runs from before there were others"


def test_cautions(random_dataset):
    dataset = random_dataset([30, 40])
    config = small("iql", backbone="flow", context=4, n_step=3, actor_warmup=200)
    said = config.cautions(dataset, TrainingConfig(steps=1_000, batch_size=8), CPU)
    assert any("actor_warmup is 200" in each for each in said)
    assert any("predicted from up to 7 steps" in each for each in said)


def test_it_acts_as_it_is_asked():
    config = replace(AGENTS["iql"].config, backbone=Backbone("flow"))
    assert config.acting_cautions() == []
    assert config.acting("window", 5).backbone.acting_context == 5
    assert len(config.acting("recurrent", None).acting_cautions()) == 1
    learner = config.acting("recurrent", None).build(Normaliser(1, 1), CONFIG, CPU)
    assert (learner.actor.rollout, learner.actor.conditioned) == ("recurrent", False)
    with pytest.raises(ValueError, match="does not look back"):
        AGENTS["iql"].config.acting("window", None)
