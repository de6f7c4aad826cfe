"""The plain side of tests of updates: separate networks, and a learner in float64 whose noise is written down."""

import copy

import torch
from small_problems import batches, built, small
from torch import nn

from flowrl.data.transitions import Transitions

GAMMA, TAU, RATE, STEPS = 0.875, 0.1, 1e-3, 4
COMMON = {
    **{"gamma": GAMMA, "tau": TAU, "learning_rate": RATE, "width": 8, "layers": 2, "layer_norm": True},
    **{"normalise_observations": True, "actor_learning_rate": None, "actor_schedule": "constant"},
}


class Transcription:
    """The plain networks of a learner, with copies of its weights, and its data in model units."""

    def __init__(self, learner, dataset, activation=nn.ReLU):
        self.activation, self.layer_norm = activation, learner.critic.layer_norm
        self.actor = copy.deepcopy(learner.policy.network)
        self.critics = [self.plain(learner.critics.ensemble, member) for member in range(learner.critic.critics)]
        self.targets = copy.deepcopy(self.critics)
        self.mean, self.std = dataset.observations.double().mean(0), dataset.observations.double().std(0, correction=0)
        low, high = dataset.action_low.double(), dataset.action_high.double()
        self.centre, self.half = (low + high) / 2, (high - low) / 2
        self.critic_adam = torch.optim.Adam([weight for critic in self.critics for weight in critic.parameters()], RATE)

    def plain(self, ensemble, member):
        modules, last = [], len(ensemble.weights) - 1
        for layer, (weight, bias) in enumerate(zip(ensemble.weights, ensemble.biases, strict=True)):
            linear = nn.Linear(*weight.shape[1:], dtype=torch.float64)
            linear.weight.data, linear.bias.data = weight[member].detach().T.clone(), bias[member, 0].detach().clone()
            modules.append(linear)
            if layer < last:
                modules.append(self.activation())
                if self.layer_norm:
                    modules.append(nn.LayerNorm(weight.shape[2], elementwise_affine=False))
        return nn.Sequential(*modules)

    def scaled(self, batch):
        """Observations, actions, rewards, next observations, gamma (1 - terminated), in model units."""
        goes_on = GAMMA * (1 - batch.terminated.double())
        observations, following = (
            (seen - self.mean) / self.std for seen in (batch.observations, batch.next_observations)
        )
        return observations, (batch.actions - self.centre) / self.half, batch.rewards, following, goes_on

    def values(self, critics, observations, actions):
        return torch.stack([critic(torch.cat([observations, actions], 1))[:, 0] for critic in critics])

    def step(self, adam, loss):
        adam.zero_grad()
        loss.backward()
        adam.step()

    @torch.no_grad()
    def follow(self, targets, networks):
        for target, network in zip(targets, networks, strict=True):
            for slow, fast in zip(target.parameters(), network.parameters(), strict=True):
                slow.copy_((1 - TAU) * slow + TAU * fast)

    def assert_equal(self, learner):
        pairs = [(self.critics, learner.critics.ensemble), (self.targets, learner.target_critics.ensemble)]
        for critics, ensemble in pairs:
            for member, critic in enumerate(critics):
                assert_same_weights(self.plain(ensemble, member), critic)
        assert_same_weights(learner.policy.network, self.actor)


def assert_same_weights(one, two):
    for mine, plain in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-7, atol=1e-9)


def recorded(draw, drawn):
    """The same draws in float64, which are also written to the list."""

    def recording(*shape):
        drawn.append(draw(*shape).double())
        return drawn[-1]

    return recording


def in_double_precision(monkeypatch, dataset, agent, **settings):
    """A learner in float64, its float64 batches, the list that its noise is written to, and its dataset."""
    learner = built(small(agent, **COMMON, **settings), dataset, batch_size=16, steps=STEPS)
    drawn = []
    doubles = [
        (Transitions(*(x.double() if x.is_floating_point() else x for x in batch[:-1])), step)
        for batch, step in batches(learner, dataset, STEPS)
    ]
    for name in ("policy", "average", "critics", "target_critics", "state_value", "velocity"):
        if getattr(learner, name, None) is not None:
            getattr(learner, name).double()
    if agent == "cql":
        learner.log_entropy_weight.data = learner.log_entropy_weight.data.double()
    for name in ("noise", "uniform"):
        monkeypatch.setattr(learner, name, recorded(getattr(learner, name), drawn))
    # Heads and critics give float32, as after autocast: here they keep float64.
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)
    return learner, doubles, drawn, dataset
