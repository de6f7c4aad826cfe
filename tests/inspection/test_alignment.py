"""Each verdict on errors that call for it."""

from dataclasses import replace

import pytest

from flowrl.inspection.alignment import SeededReplay, TransitionErrors
from flowrl.inspection.alignment_verdict import judge_alignment


def errors(stored, earlier, later, *, last=None):
    gathered = TransitionErrors()
    gathered.observations["stored"] += stored
    gathered.observations["action one earlier"] += earlier
    gathered.observations["action one later"] += later
    gathered.first += stored[:1]
    gathered.last += stored[-1:] if last is None else last
    gathered.rewards["stored", 0] += [0.0]
    return gathered


SEEDED = SeededReplay(2, 20, 0.0, 0.0, 1e-9, 0.0, None, (0.0,) * 10)


@pytest.mark.parametrize(
    ("stored", "earlier", "later", "verdict", "part"),
    [
        ([1e-9] * 9, [1.0] * 9, [2.0] * 9, "aligned", "within 1e-09"),
        ([0.0] * 9, [1.0] * 9, [2.0] * 9, "aligned", "o[t], a[t−1] → o[t+1]"),
        ([0.01] * 9, [1.0] * 9, [2.0] * 9, "aligned, other simulator", "within 0.01"),
        ([1.0] * 9, [1e-9] * 9, [2.0] * 9, "misaligned", "o[t], a[t−1] → o[t+1]"),
        ([1.0] * 9, [2.0] * 9, [1e-9] * 9, "misaligned", "o[t], a[t+1] → o[t+1]"),
        ([1.0] * 9, [1.1] * 9, [2.0] * 9, "unclear", "o[t], a[t−1] → o[t+1]"),
        ([1e-9] * 8 + [1.0], [1.0] * 9, [2.0] * 9, "partly misaligned", "1 of 9"),
    ],
)
def test_aligned_is_small_and_smallest(stored, earlier, later, verdict, part):
    alignment = judge_alignment(errors(stored, earlier, later), None, "X-v0")
    assert alignment.verdict == verdict
    assert part in alignment.sentence


def test_where_nothing_moves_it_is_unclear():
    alignment = judge_alignment(errors([0.0] * 9, [0.0] * 9, [0.0] * 9), None, "X-v0")
    assert alignment.verdict == "unclear"


@pytest.mark.parametrize(
    ("before", "now", "after", "verdict", "part"),
    [(1.0, 0.0, 1.0, "aligned", ""), (0.0, 1.0, 1.0, "misaligned", "pays r[t-1]"),
     (1.0, 1.0, 0.0, "misaligned", "pays r[t+1]"), (1.0, 1.0, 1.0, "other rewards", "X-v0")],
)  # fmt: skip
def test_rewards_are_judged_as_well(before, now, after, verdict, part):
    gathered = errors([0.0] * 9, [1.0] * 9, [1.0] * 9)
    gathered.rewards |= {("stored", -1): [before], ("stored", 0): [now], ("stored", 1): [after]}
    alignment = judge_alignment(gathered, None, "X-v0")
    assert alignment.verdict == verdict
    assert part in alignment.sentence


def test_last_transitions_alone_are_named():
    alignment = judge_alignment(errors([0.0] * 6 + [1.0] * 3, [1.0] * 9, [1.0] * 9, last=[1.0] * 3), None, "X-v0")
    assert alignment.verdict == "partly misaligned"
    assert alignment.wrong == 3
    assert "last" in alignment.sentence


@pytest.mark.parametrize(
    ("seeded", "verdict"),
    [
        (None, "unknown"),
        (SEEDED, "aligned"),
        (replace(SEEDED, first_observation=1.0), "unclear"),
        (replace(SEEDED, diverged=0, later=1.0, action_matters=True), "unclear"),
        (replace(SEEDED, diverged=0, later=0.0, action_matters=True), "misaligned"),
        (replace(SEEDED, diverged=7), "unclear"),
        (replace(SEEDED, diverged=7, repeats=False), "unclear"),
        (replace(SEEDED, later=0.0, action_matters=False), "unclear"),
        (replace(SEEDED, later=0.0, action_matters=True), "aligned"),
        (replace(SEEDED, reward=1.0, later=1.0, action_matters=True), "other rewards"),
    ],
)
def test_where_no_state_can_be_set_the_seeds_decide(seeded, verdict):
    alignment = judge_alignment(TransitionErrors(skipped_not_set=5), seeded, "X-v0")
    assert alignment.verdict == verdict
    assert alignment.checked == 0
    assert alignment.skipped_not_set == 5
