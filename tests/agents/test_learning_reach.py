"""Every agent with critics learns Reach from mixed data to a stated share of its optimum, in seconds."""

import pytest
import torch
from small_problems import AGENTS, learned, small

from flowrl.data.dataset import TrajectoryDataset
from flowrl.envs.collecting import collect
from flowrl.evaluation.environments import make_vector_env
from flowrl.evaluation.reference_scores import reference_scores
from flowrl.evaluation.rollout import rollout

REACH = "flowrl/reach/mixed-v0"
SETTINGS = {
    "awac": {"temperature": 0.3},
    "iql": {"beta": 10.0, "expectile": 0.8},
    "td3-bc": {},
    "rebrac": {"actor_cloning": 0.1},
    "cql": {"alpha": 0.3, "entropy_rate": 1e-2},
    "fql": {"alpha": 0.1},
}


@pytest.fixture(scope="module")
def larger_reach(tmp_path_factory):
    """6,000 steps of Reach."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("larger")))
        collect(REACH, steps=6_000)
        return TrajectoryDataset.from_minari(REACH)


def mean_return(actor):
    envs = make_vector_env("flowrl/Reach-v0", 50)
    results = rollout(actor, envs, [None], list(range(10_000, 10_050)))
    envs.close()
    return sum(result.episode_return for result in results) / 50


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS)
def test_reach_is_learned(agent, larger_reach):
    config = small(agent, gamma=0.97, tau=0.02, learning_rate=1e-3, width=64, layer_norm=True, lower_bound=True)
    for name, value in SETTINGS[agent].items():
        config = config.__class__(**(vars(config) | {name: value}))
    learner = learned(config, larger_reach, 800)
    optimum = reference_scores("flowrl/Reach-v0").flowrl.expert
    played = mean_return(learner.actor)
    # The actor of FQL draws its actions, and the data go as fast away from the goal as to it.
    assert played > (0.8 if agent == "fql" else 0.9) * optimum
    assert float(larger_reach.returns.mean()) < 0.65 * optimum
    assert torch.isfinite(learner.critics(larger_reach.observations[:5], larger_reach.actions[:5])).all()
