"""Verdicts on errors that are made to deserve them."""

from dataclasses import replace

import pytest

from flowrl.data.minari_store import open_dataset
from flowrl.inspection import SeededReplay, TransitionErrors, judge_alignment, reset_seeds


def errors(stored, earlier, later, *, last=None):
    made = TransitionErrors()
    made.observations["stored"] += stored
    made.observations["action one earlier"] += earlier
    made.observations["action one later"] += later
    made.first += stored[:1]
    made.last += stored[-1:] if last is None else last
    made.rewards["stored", 0] += [0.0]
    return made


SEEDED = SeededReplay(2, 20, 0.0, 0.0, 1e-9, 0.0, None, (0.0,) * 10)


@pytest.mark.parametrize(
    ("stored", "earlier", "later", "verdict", "part"),
    [
        ([1e-9] * 9, [1.0] * 9, [2.0] * 9, "aligned", "within 1e-09"),
        (
            [0.0] * 9,
            [1.0] * 9,
            [2.0] * 9,
            "aligned",
            "the nearest shift, o[t], a[t−1] → o[t+1], misses it by 1 (median)",
        ),
        ([0.01] * 9, [1.0] * 9, [2.0] * 9, "aligned, other simulator", "another version of the simulator"),
        ([1.0] * 9, [1e-9] * 9, [2.0] * 9, "misaligned", "o[t], a[t−1] → o[t+1]"),
        ([1.0] * 9, [2.0] * 9, [1e-9] * 9, "misaligned", "o[t], a[t+1] → o[t+1]"),
        ([1.0] * 9, [1.1] * 9, [2.0] * 9, "unclear", "no way of putting the data together"),
        ([1e-9] * 8 + [1.0], [1.0] * 9, [2.0] * 9, "partly misaligned", "1 of 9 transitions"),
    ],
)
def test_aligned_is_small_and_smallest(stored, earlier, later, verdict, part):
    found = judge_alignment(errors(stored, earlier, later), None, "X-v0")
    assert found.verdict == verdict
    assert part in found.sentence


def test_where_nothing_moves_nothing_can_be_told():
    found = judge_alignment(errors([0.0] * 9, [0.0] * 9, [0.0] * 9), None, "X-v0")
    assert found.verdict == "unclear"


@pytest.mark.parametrize(
    ("before", "now", "after", "verdict", "part"),
    [(1.0, 0.0, 1.0, "aligned", "Aligned: "), (0.0, 1.0, 1.0, "misaligned", "pays r[t-1]"),
     (1.0, 1.0, 0.0, "misaligned", "pays r[t+1]"), (1.0, 1.0, 1.0, "other rewards", "other rewards than X-v0 pays")],
)  # fmt: skip
def test_rewards_are_judged_as_well(before, now, after, verdict, part):
    made = errors([0.0] * 9, [1.0] * 9, [1.0] * 9)
    made.rewards["stored", -1], made.rewards["stored", 0], made.rewards["stored", 1] = [before], [now], [after]
    found = judge_alignment(made, None, "X-v0")
    assert found.verdict == verdict
    assert part in found.sentence


def test_last_transitions_alone_are_named():
    found = judge_alignment(errors([0.0] * 6 + [1.0] * 3, [1.0] * 9, [1.0] * 9, last=[1.0] * 3), None, "X-v0")
    assert found.verdict == "partly misaligned"
    assert found.wrong == 3
    assert "last observation a repeated one" in found.sentence


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
    found = judge_alignment(TransitionErrors(skipped_not_set=5), seeded, "X-v0")
    assert found.verdict == verdict
    assert "cannot be put into" in found.sentence


def test_seeds_are_read_from_the_file(write, numbered_episode):
    episodes = [numbered_episode(i, i + 2) for i in range(3)]
    write("test/seeds-v0", [episodes[0], replace(episodes[1], seed=None), episodes[2]])
    assert reset_seeds(open_dataset("test/seeds-v0"), [0, 1, 2]) == {0: 0, 2: 2}
    assert reset_seeds(open_dataset("test/seeds-v0"), [1, 2]) == {2: 2}
