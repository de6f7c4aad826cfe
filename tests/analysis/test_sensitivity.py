"""How much the action depends on the target, against values computed by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from flowrl.analysis.sensitivity import MOST_STATES, sensitivity
from flowrl.analysis.steps import spread
from flowrl.nn.heads import deterministic_head
from flowrl.nn.model_config import ModelConfig
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.perceptron import PerceptronActor
from flowrl.nn.trajectory_actor import Recording, TrajectoryActor


class Linear(nn.Module):
    """Acts by the return-to-go alone: in model units of the two actions, a·R and b·R for the given slopes."""

    def __init__(self, normaliser, slopes):
        super().__init__()
        self.normaliser, self.slopes = normaliser, torch.tensor(slopes)
        self.head, self.kinds = deterministic_head(normaliser), ("return", "observation", "action")
        self.config = ModelConfig()

    def forward(self, returns_to_go, observations, actions, timesteps):
        outputs = returns_to_go[..., None] * self.slopes
        if self.normaliser.discrete:
            return outputs + observations  # logits
        return self.normaliser.action_centre + self.normaliser.action_half_range * outputs


def linear(slopes, *, discrete=False):
    normaliser = Normaliser(len(slopes), len(slopes), discrete=discrete)
    normaliser.action_centre.fill_(3.0)
    normaliser.action_half_range.copy_(torch.arange(1.0, 1.0 + len(slopes)))
    return TrajectoryActor(Linear(normaliser, slopes), "window", 5).eval()


def recording(target, observations):
    length = len(observations)
    returns_to_go = target - torch.arange(float(length))
    return Recording(returns_to_go, torch.as_tensor(observations), torch.zeros(length, observations.shape[1]))


def test_the_sensitivity_of_a_linear_policy_is_its_slope_times_the_difference_of_targets():
    actor = linear([0.03, 0.04])
    recordings = {target: recording(target, torch.zeros(length, 2)) for target, length in ((10.0, 3), (2.0, 17))}
    result = sensitivity(actor, recordings, worst=-6.0, best=10.0)
    # Both dimensions change by slope · Δ, in half ranges: the root mean square is Δ √((0.03² + 0.04²) / 2).
    slope = math.sqrt((0.03**2 + 0.04**2) / 2)
    assert result["targets"] == [-6.0, 2.0, 10.0]
    assert result["change"] == pytest.approx([16 * slope, 8 * slope, 0], rel=1e-5)
    assert result["worst_to_best"] == result["change"][0]
    assert (result["states"], result["unit"], result["looks_at_return"]) == (20, "half the action range", True)


def test_the_sensitivity_of_choices_is_the_share_of_states_in_which_they_change():
    # The second is chosen where 0.1 R exceeds the margin m that its logit is behind. R is 10 at the first step.
    margins = torch.tensor([0.95, 0.85, 0.75, 0.05])  # against R of 10, 9, 8, 7
    observations = torch.stack([margins, torch.zeros(4)], 1)
    recordings = {10.0: recording(10.0, observations)}
    result = sensitivity(linear([0.0, 0.1], discrete=True), recordings, worst=4.0, best=10.0)
    # With target 4, R is 4, 3, 2, 1: only the last is still above its margin (0.1 > 0.05). At 10 all are: 1 > 0.95, ...
    assert result == {
        "looks_at_return": True,
        "states": 4,
        "unit": "share of states",
        "targets": [4.0, 10.0],
        "change": [0.75, 0.0],
        "worst_to_best": 0.75,
    }


def test_many_states_are_thinned_evenly():
    recordings = {target: recording(target, torch.zeros(700, 2)) for target in (1.0, 2.0)}
    result = sensitivity(linear([0.1, 0.1]), recordings, worst=1.0, best=2.0)
    assert result["states"] == MOST_STATES
    assert result["worst_to_best"] == pytest.approx(0.1, rel=1e-5)
    assert spread(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert spread(1, 9).tolist() == [0]
    assert spread(9, 3).tolist() == [0, 4, 8]
    for length in (10, 199, 200, 201, 399, 1000):
        steps = spread(length, 200)
        assert len(steps) == len(set(steps.tolist())) == min(length, 200)
        assert (steps[0], steps[-1]) == (0, length - 1)
        assert np.ptp(np.diff(steps)) <= 1


def test_behaviour_cloning_looks_at_no_return():
    actor = PerceptronActor(Normaliser(2, 2), width=4, layers=1).eval()
    result = sensitivity(actor, {7.0: recording(7.0, torch.zeros(3, 2))}, worst=1.0, best=7.0)
    assert (result["looks_at_return"], result["change"], result["worst_to_best"]) == (False, [0.0, 0.0], 0.0)


def test_of_another_actor_that_takes_a_target_nothing_is_claimed():
    actor = PerceptronActor(Normaliser(2, 2), width=4, layers=1).eval()
    actor.conditioned = True
    result = sensitivity(actor, {7.0: recording(7.0, torch.zeros(3, 2))}, worst=1.0, best=7.0)
    assert (result["looks_at_return"], result["change"], result["worst_to_best"]) == (True, [None, None], None)
