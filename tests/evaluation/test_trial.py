"""A trial finds what is wrong with an environment before it is played for long, and names it."""

import numpy as np
import pytest
from misbehaving import (
    CloseRaises,
    ExitInInit,
    GearTooHigh,
    ImportErrorInInit,
    KeyErrorInInit,
    KeyMissing,
    Lists,
    NeedsOptions,
    NoEnvironment,
    NoSpace,
    OldReset,
    OldSignature,
    OldStep,
    OldStructured,
    OneInstance,
    OneReset,
    OutsideItsSpace,
    ResetGivesNone,
    ResetRaises,
    SharedSimulator,
    Sound,
    StepExits,
    StepGivesNone,
    StepRaises,
    Structured,
    Unseeded,
    WholeNumbersDeclared,
    Windowed,
    flagging,
    paying,
    seeing,
    spec_of,
)

from flowrl.errors import InputError
from flowrl.evaluation.trial import UNTRIED, try_environment

REFUSED = [
    (KeyErrorInInit, "KeyError: 'terrain'"),
    (ImportErrorInInit, "no_such_simulator"),
    (ExitInInit, "SystemExit: the simulator is not licensed"),
    (NoSpace, "no observation space"),
    (NoEnvironment, "gymnasium.Env"),
    (ResetRaises, "at its reset with seed 5: ConnectionError: no answer"),
    (NeedsOptions, "options must name a goal"),
    (OldReset, r"reset\(seed=, options=\)"),
    (OldSignature, r"reset\(seed=, options=\)"),
    (OldStep, r"\(observation, reward, terminated, truncated, info\)"),
    (OldStructured, r"reset\(seed=, options=\)"),
    (ResetGivesNone, "reset returned None"),
    (StepRaises, "at step 1 of the episode with seed 5: RuntimeError: the license server"),
    (StepExits, "SystemExit: 3"),
    (StepGivesNone, "step returned None|NoneType"),
    (KeyMissing, "KeyError: 'gear'"),
    (GearTooHigh, "does not fit its space"),
    (paying(float("nan")), "reward nan at step 1"),
    (paying(np.float32("inf")), "reward inf at step 1"),
    (paying(None), "reward None"),
    (paying("1.0"), "reward '1.0'"),
    (paying(1 + 0j), r"reward \(1\+0j\)"),
    (paying(np.ones(2)), "reward array"),
    (paying([]), r"reward \[\]"),
    (paying(np.array([np.nan])), "reward nan"),
    (seeing(None), "observation None"),
    (seeing(np.zeros(4, np.float32)), r"observation of shape \(4,\)"),
    (seeing(np.zeros((3, 1), np.float32)), r"observation of shape \(3, 1\)"),
    (seeing(np.array(["a", "b", "c"])), "observation array"),
    (seeing([[1.0], [2.0, 3.0], []]), r"observation \[\[1"),
    (seeing(np.zeros(3, complex)), "observation array"),
    (seeing(np.array([0, np.nan, 0], np.float32)), "feature 1 is nan at its reset"),
    (seeing(np.array([0, 0, -np.inf])), "feature 2 is -inf"),
    (flagging(None, False), "terminated None"),
    (flagging(False, "no"), "truncated 'no'"),
    (flagging(np.zeros(2, bool), False), "terminated array"),
    (flagging(2, False), "terminated 2"),
]


@pytest.mark.parametrize(("kind", "words"), REFUSED)
def test_what_cannot_be_played_is_refused_by_its_name_and_words(kind, words):
    with pytest.raises(InputError, match=words) as refusal:
        try_environment(spec_of(kind), seed=5)
    assert spec_of(kind).id in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", [KeyErrorInInit, ResetRaises, StepRaises, OldStep, paying(float("nan"))])
def test_worker_processes_hide_nothing(kind, capfd):
    with pytest.raises(InputError, match=spec_of(kind).id):
        try_environment(spec_of(kind), mode="async")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(
    "kind",
    [
        Sound,
        Structured,
        Lists,
        Unseeded,
        WholeNumbersDeclared,
        Windowed,
        paying(np.float32(1)),
        paying(True),
        paying(np.array([[2]])),
        flagging(np.bool_(False), np.array([1])),
    ],
)
def test_what_can_be_played_passes(kind, mode):
    assert try_environment(spec_of(kind), mode=mode) == UNTRIED


def test_options_are_handed_on():
    assert not try_environment(spec_of(NeedsOptions), options={"goal": 1}).one_at_a_time


@pytest.mark.parametrize(
    ("kind", "words"),
    [(OneInstance, "the port is taken"), (OneReset, "the simulator is in use"), (SharedSimulator, "disturb")],
)
def test_one_that_allows_one_at_a_time_is_found_out(kind, words):
    found = try_environment(spec_of(kind))
    assert found.one_at_a_time
    (caution,) = found.cautions
    assert words in caution
    assert "one after another" in caution
    assert not try_environment(spec_of(kind), episodes=1).one_at_a_time, "one episode needs no second environment"


def test_one_that_fails_as_it_is_closed_is_warned_of():
    (caution,) = try_environment(spec_of(CloseRaises)).cautions
    assert "'NoneType' object has no attribute 'quit'" in caution


def test_observations_outside_their_space_are_warned_of():
    (caution,) = try_environment(spec_of(OutsideItsSpace), seed=5).cautions
    assert "feature 0 is 5, of [-1, 1]" in caution


def test_a_render_mode_that_a_specification_names_opens_no_window():
    assert try_environment(spec_of(Windowed, kwargs={"render_mode": "human"})) == UNTRIED


def test_a_trial_leaves_no_environment_open():
    for _ in range(2):
        assert try_environment(spec_of(OneInstance)).one_at_a_time
    assert not OneInstance.held
