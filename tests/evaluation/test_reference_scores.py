"""References never raise, and are None where there is none."""

import json

import numpy as np
import pytest

from flowrl.data.d4rl import Reference, d4rl_environment, d4rl_reference
from flowrl.envs.behavior import UniformPolicy
from flowrl.envs.playing import EpisodePlayer
from flowrl.envs.tiny import ReachPolicy
from flowrl.evaluation.environments import make_env
from flowrl.evaluation.reference_scores import REFERENCES, DatasetReference, reference_scores, usable_reference


def test_hopper_has_d4rls_and_flowrls_reference():
    hopper, row = reference_scores("Hopper-v5"), json.loads(REFERENCES.read_text())["Hopper-v5"]
    assert hopper.d4rl == Reference(-20.272305, 3234.3)
    assert hopper.flowrl == Reference(row["random"]["mean"], row["expert"]["mean"])


@pytest.mark.parametrize("name", ["Hopper", "Walker2d", "HalfCheetah"])
def test_flowrl_references_are_of_v5_alone_and_apart_from_d4rls(name):
    scores = reference_scores(f"{name}-v5")
    assert scores.flowrl.random < 50 < 2500 < scores.flowrl.expert
    assert scores.flowrl.random != scores.d4rl.random
    assert reference_scores(f"{name}-v4").flowrl is None
    assert reference_scores(f"{name}-v4").d4rl == scores.d4rl


def test_corridors_reference_is_exact():
    assert reference_scores("flowrl/Corridor-v0").flowrl == Reference(0.5, 1.0)


@pytest.mark.parametrize("name", ["HalfCheetah-v4", "Walker2d-v4", "Ant-v5"])
def test_the_family_shares_d4rls_reference(name):
    assert reference_scores(name).d4rl is not None
    assert reference_scores(name).flowrl is None


@pytest.mark.parametrize("name", ["Nowhere-v0", "", "Hopper", "Hopper-v77", "a/b/c", "hopper-v4", "pen-v5"])
def test_an_unknown_id_has_no_references(name):
    unknown = reference_scores(name)
    assert (unknown.env_id, unknown.d4rl, unknown.flowrl) == (name, None, None)


def test_reachs_reference_is_what_its_policies_return():
    reference, env = reference_scores("flowrl/Reach-v0").flowrl, make_env("flowrl/Reach-v0")
    uniform = UniformPolicy(env.action_space.low, env.action_space.high)
    for policy, mean in [(uniform, reference.random), (ReachPolicy(1.0), reference.expert)]:
        returns = [EpisodePlayer(env).episode(policy, 2, index).rewards.sum() for index in range(500)]
        assert np.mean(returns) == pytest.approx(mean, abs=4 * np.std(returns) / 500**0.5)


D4RL = {
    "hopper-medium-replay-v2": (-20.272305, 3234.3, "Hopper-v4"),
    "halfcheetah-random-v0": (-280.178953, 12135.0, "HalfCheetah-v4"),
    "walker2d-medium-expert-v2": (1.629008, 4592.3, "Walker2d-v4"),
    "ant-expert-v2": (-325.6, 3879.7, "Ant-v4"),
    "antmaze-umaze-diverse-v0": (0.0, 1.0, None),
    "kitchen-complete-v0": (0.0, 4.0, None),
    "pen-human-v1": (96.262799, 3076.8331017826877, None),
    "door-cloned-v1": (-56.512833, 2880.5693087298737, None),
    "hammer-expert-v0": (-274.856578, 12794.134825156867, None),
    "relocate-human-v1": (-6.425911, 4233.877797728884, None),
    "maze2d-umaze-v1": (23.85, 161.86, None),
    "maze2d-medium-v1": (13.13, 277.39, None),
    "maze2d-large-v1": (6.7, 273.99, None),
}


@pytest.mark.parametrize("name", D4RL)
def test_a_d4rl_dataset_has_its_reference_and_environment(name):
    random, expert, environment = D4RL[name]
    assert d4rl_reference(name) == Reference(random, expert)
    assert d4rl_environment(name) == environment
    if environment is not None:
        assert reference_scores(environment).d4rl == d4rl_reference(name)


@pytest.mark.parametrize(
    "name",
    ["", "hopper", "hopper-medium", "hopper-v2", "Hopper-v4", "maze2d-umaze-dense-v1", "bullet-hopper-medium-v0"],
)
def test_other_names_have_neither(name):
    assert d4rl_reference(name) is None
    assert d4rl_environment(name) is None


# Those that are stored with a dataset


@pytest.mark.parametrize("pair", [(0.0, 40.0), (-3, 7), (-1e9, -1e-9)])
def test_a_pair_of_numbers_in_order_is_used(pair):
    assert usable_reference([pair]) == (Reference(*map(float, pair)), [])


@pytest.mark.parametrize(
    "pair",
    [
        (1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (0.0, float("nan")), (0.0, float("inf")), (-float("inf"), 0.0),
        (None, 1.0), (0.0, None), ("0", "1"), (False, True), ([0], [1]), (0, 10**400), (0.0, 5e-324), (-1e308, 1e308),
    ],
)  # fmt: skip
def test_what_scores_cannot_be_normalised_by_is_said_and_not_used(pair):
    usable, cautions = usable_reference([pair, pair])
    assert usable is None
    assert len(cautions) == 1
    assert "reference scores" in cautions[0]


def test_a_mixture_uses_what_its_datasets_agree_on():
    assert usable_reference([]) == (None, [])
    assert usable_reference([(0, 40), (0.0, 40.0)]) == (Reference(0.0, 40.0), [])
    usable, cautions = usable_reference([(0, 40), (0, float("nan"))])
    assert (usable, len(cautions)) == (Reference(0.0, 40.0), 1)
    usable, cautions = usable_reference([(0, 40), (0, 50)])
    assert usable is None
    assert "40" in cautions[0]
    assert "50" in cautions[0]


@pytest.mark.parametrize(
    ("played", "belongs_to", "used"),
    [
        ("own/Toy-v0", "own/Toy-v0", True), ("own/Toy-v0", None, True), ("own/Toy-v0", "own/Other-v0", False),
        ("flowrl/Reach-v0", "flowrl/Reach-v0", False), ("Hopper-v4", None, False),
    ],
)  # fmt: skip
def test_a_datasets_reference_is_used_in_its_environment_where_there_is_no_other(played, belongs_to, used):
    stored = DatasetReference(0.0, 40.0, belongs_to)
    known = reference_scores(played, stored)
    assert known.dataset == (stored if used else None)
    assert (known.d4rl, known.flowrl) == (reference_scores(played).d4rl, reference_scores(played).flowrl)


@pytest.mark.parametrize("env", [None, "own/Toy-v0"])
def test_a_datasets_reference_survives_json(env):
    stored = DatasetReference(-1.5, 40.0, env)
    assert DatasetReference.from_record(json.loads(json.dumps(stored.record()))) == stored
    assert DatasetReference.from_record(None) is None


@pytest.mark.parametrize("record", [[], 3, {}, {"random": 0.0, "expert": 0.0, "env": None}, {"random": 0, "expert": 1}])
def test_a_damaged_record_is_no_reference(record):
    with pytest.raises(ValueError, match="reference scores"):
        DatasetReference.from_record(record)
