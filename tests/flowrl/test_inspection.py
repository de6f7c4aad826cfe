"""Every figure of an inspection by hand on tiny arrays; verdicts on data that are made to deserve them."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest

from flowrl.data import TrajectoryDataset
from flowrl.inspection import (
    Alignment,
    Distribution,
    SeededReplay,
    Steering,
    TransitionErrors,
    episode_returns,
    figure,
    figures,
    judge_alignment,
    load,
    regression_gain,
    reset_seeds,
    steering,
    warnings,
)
from flowrl.inspection_page import Inspection, page, returns_picture, score_table, screen, summary
from flowrl.minari_store import open_dataset
from flowrl.stored_arrays import StoredArrays

NONE = {"own": None, "dataset": None, "D4RL": None}


def tiny():
    """Three episodes of 2, 1 and 3 steps; returns 3, −1 and 6."""
    return StoredArrays(
        np.array([[0, 7], [1, 7], [2, 7], [3, 7], [4, 7], [5, 7], [6, 7], [7, 7], [8, 7]], np.float32),
        np.array([[-1], [1], [0], [1], [1], [0.5]], np.float32),
        np.array([1, 2, -1, 3, 2, 1], np.float32),
        np.array([False, True, False, False, False, False]),
        np.array([False, False, True, False, False, False]),
        np.array([2, 1, 3]),
    )


def tiny_figures(arrays=None, **keywords):
    bounds = {"action_low": np.array([-1.0]), "action_high": np.array([1.0])}
    return figures(arrays or tiny(), (4, 5, 9), **(bounds | keywords))


def test_counts_lengths_and_returns():
    found = tiny_figures()
    assert (found.episodes, found.steps) == (3, 6)
    assert episode_returns(tiny()).tolist() == [3, -1, 6]
    assert found.lengths.percentiles[50] == 2
    assert found.lengths.mean == 2
    assert found.returns.mean == pytest.approx(8 / 3)
    assert (found.returns.percentiles[0], found.returns.percentiles[50], found.returns.percentiles[100]) == (-1, 3, 6)
    # Steps: 3 3 −1 6 6 6.
    assert found.returns_by_step.mean == pytest.approx(23 / 6)
    assert found.returns_by_step.percentiles[50] == 4.5
    assert found.returns_by_step.count == 6
    # To go: 3 2 | −1 | 6 3 1.
    assert found.returns_to_go.percentiles[0] == -1
    assert found.returns_to_go.percentiles[100] == 6
    assert found.returns_to_go.mean == pytest.approx(14 / 6)
    assert found.rewards.mean == pytest.approx(8 / 6)
    assert found.rewards.std == pytest.approx(np.std([1, 2, -1, 3, 2, 1]))
    assert sum(found.returns_histogram.counts) == 3
    assert sum(found.returns_by_step_histogram.counts) == 6
    assert found.returns_histogram.edges == found.returns_by_step_histogram.edges
    assert (found.returns_histogram.edges[0], found.returns_histogram.edges[-1]) == (-1, 6)


def test_flags():
    found = tiny_figures()
    assert (found.terminated, found.truncated, found.both_flags, found.neither_flag) == (1, 1, 0, 1)
    both = tiny_figures(replace(tiny(), truncations=np.array([False, True, True, False, False, True])))
    assert (both.truncated, both.both_flags, both.neither_flag) == (3, 1, 0)


def test_features():
    found = tiny_figures()
    first, second = found.observations
    assert (first.minimum, first.mean, first.maximum) == (0, 4, 8)
    assert first.std == pytest.approx(np.arange(9).std())
    assert not first.constant
    assert second.constant
    assert second.std == 0
    assert second.at_low is None
    (action,) = found.actions
    assert action.at_low == pytest.approx(1 / 6)
    assert action.at_high == pytest.approx(3 / 6)
    assert action.saturated == pytest.approx(4 / 6)
    unbounded = tiny_figures(action_low=np.array([-np.inf]), action_high=None)
    assert unbounded.actions[0].saturated is None


def test_what_is_not_finite_is_named_and_left_out():
    arrays = tiny()
    arrays.observations[4, 0] = np.nan  # the second observation of the second episode
    arrays.actions[5, 0] = -np.inf
    arrays.rewards[2] = np.inf
    found = tiny_figures(arrays)
    assert found.non_finite == 3
    assert [(p.array, p.episode, p.step, p.dimension, p.value) for p in found.non_finite_places] == [
        ("observations", 5, 1, 0, "nan"),
        ("actions", 9, 2, 0, "-inf"),
        ("rewards", 5, 0, None, "inf"),
    ]
    assert found.observations[0].non_finite == 1
    assert found.observations[0].mean == 4  # 36 − 4 over 8
    assert found.returns.count == 2
    assert found.returns.percentiles[0] == 3
    assert found.returns_to_go.count == 5
    assert found.returns_to_go.percentiles[100] == 6, "an episode's infinity does not reach the next"
    assert found.rewards.count == 5


def test_nothing_finite_at_all_still_has_figures():
    arrays = tiny()
    for array in (arrays.observations, arrays.actions, arrays.rewards):
        array[:] = np.nan
    found = tiny_figures(arrays)
    assert found.returns == Distribution(0, None, None, {})
    assert found.observations[0].mean is None
    assert found.non_finite == 18 + 6 + 6
    inspection = inspected(figures=found)
    assert "nan" in screen(inspection)
    json.loads(summary(inspection), parse_constant=pytest.fail)
    assert "<img" not in page(inspection)


def test_duplicates_are_equal_to_the_bit(random_arrays):
    arrays = random_arrays([3, 2, 3, 3])
    starts = {0: 0, 2: 5, 3: 8}
    for copy in (2, 3):
        arrays.actions[starts[copy] : starts[copy] + 3] = arrays.actions[:3]
        arrays.rewards[starts[copy] : starts[copy] + 3] = arrays.rewards[:3]
        arrays.observations[starts[copy] + copy : starts[copy] + copy + 4] = arrays.observations[:4]
    found = figures(arrays, (10, 11, 12, 13))
    assert found.duplicates == ((10, 12, 13),)
    assert found.repeated == 2
    arrays.observations[-1, 0] += 1e-3  # the last observation, to which no action answers, counts as well
    assert figures(arrays, (10, 11, 12, 13)).duplicates == ((10, 12),)


def test_every_reference_has_a_scale_of_its_own():
    references = {"dataset": (-1.0, 6.0), "D4RL": (0.0, 3.0), "own": None}
    found = tiny_figures(references=references)
    assert found.scores["dataset"][100] == 100
    assert found.scores["dataset"][0] == 0
    assert found.scores["D4RL"][100] == 200
    assert set(found.scores) == {"dataset", "D4RL"}
    table = score_table(found, references)
    assert table[0] == ["return over episodes", "raw", "dataset's own", "D4RL"]
    assert table[1] == ["min", "-1.000", "0.0", "-33.3"]
    assert table[-1] == ["reference: expert = 100", "", "6.000", "3.000"]
    assert tiny_figures(references={"own": (2.0, 2.0)}).scores == {}, "an empty range normalises nothing"


def test_seeds_are_read_from_the_file(write, numbered_episode):
    episodes = [numbered_episode(i, i + 2) for i in range(3)]
    write("test/seeds-v0", [episodes[0], replace(episodes[1], seed=None), episodes[2]])
    assert reset_seeds(open_dataset("test/seeds-v0")) == {0: 0, 2: 2}


def test_episodes_that_go_on_after_a_flag_are_counted():
    early = replace(tiny(), truncations=np.array([True, False, False, True, True, False]))
    assert tiny_figures(early).early_flags == 2


def test_warnings():
    said = " ".join(warnings(tiny_figures(), None, NONE))
    for part in ("Only 3 episode", "Observation dimension(s) 1 never vary", "Action dimension(s) 0 stand at a bound",
                 "1 episode(s) end with neither flag", "No reference scores"):  # fmt: skip
        assert part in said
    assert "repeat" not in said
    assert "same return" not in said
    same = tiny()
    same.rewards[:] = [1, 1, 2, 1, 0, 1]
    same.truncations[:] = [True, False, False, True, True, False]
    said = " ".join(warnings(tiny_figures(same), None, {"own": (0.0, 1.0)}))
    assert "All episodes have the same return" in said
    assert "2 episode(s) go on after" in said
    assert "reference" not in said
    misaligned = Alignment("misaligned", "MISALIGNED: as told.")
    assert warnings(None, misaligned, {"own": (0.0, 1.0)}) == ["Alignment with the simulator: misaligned."]


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
        ([0.0] * 9, [1.0] * 9, [2.0] * 9, "aligned", "every shift misses by 1 or more"),
        ([0.01] * 9, [1.0] * 9, [2.0] * 9, "aligned, other simulator", "another simulator"),
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
     (1.0, 1.0, 0.0, "misaligned", "pays r[t+1]"), (1.0, 1.0, 1.0, "other rewards", "others than X-v0 pays")],
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
        (replace(SEEDED, diverged=0), "misaligned"),
        (replace(SEEDED, diverged=7), "unclear"),
    ],
)
def test_where_no_state_can_be_set_the_seeds_decide(seeded, verdict):
    found = judge_alignment(TransitionErrors(skipped_not_set=5), seeded, "X-v0")
    assert found.verdict == verdict
    assert "cannot be set" in found.sentence


# Steering.


def made_dataset(skill_of_episode, act, lengths=(30,) * 60, seed=0):
    """Episodes whose every reward is their skill, plus luck; `act(observations, skill, generator)` gives actions."""
    generator = np.random.default_rng(seed)
    observations, actions, rewards = [], [], []
    for episode, length in enumerate(lengths):
        skill = skill_of_episode(episode, generator)
        observed = generator.normal(size=(length + 1, 3))
        observations.append(observed)
        actions.append(act(observed[:-1], skill, generator))
        rewards.append(skill + 0.1 * generator.normal(size=length))
    arrays = StoredArrays(
        np.concatenate(observations).astype(np.float32),
        np.concatenate(actions).astype(np.float32),
        np.concatenate(rewards).astype(np.float32),
        np.zeros(sum(lengths), bool),
        np.zeros(sum(lengths), bool),
        np.array(lengths),
    )
    return TrajectoryDataset.from_arrays("made", arrays, action_low=np.full(2, -9.0), action_high=np.full(2, 9.0))


def by_skill(observed, skill, generator):
    return skill * np.tanh(observed[:, :2]) + 0.3 * generator.normal(size=(len(observed), 2))


def by_observation(observed, skill, generator):
    return np.tanh(observed[:, :2]) + 0.3 * generator.normal(size=(len(observed), 2))


def mixed_skill(episode, generator):
    return episode % 3 / 2


def steered(*arguments, references=NONE, **keywords):
    return steering(made_dataset(*arguments, **keywords), references, np.random.default_rng(0))


def test_actions_that_depend_on_the_return_can_be_steered():
    found = steered(mixed_skill, by_skill)
    assert found.verdict == "yes", found.sentence
    assert found.everywhere.low > 0.1
    assert found.low_episodes + found.high_episodes == 60
    assert min(found.low_episodes, found.high_episodes) >= 20
    assert found.scale_name.startswith("the mean size")
    assert found == steered(mixed_skill, by_skill), "the same seed says the same"


@pytest.mark.parametrize("seed", range(5))
def test_luck_cannot_be_steered(seed):
    found = steered(mixed_skill, by_observation, seed=seed)
    assert found.verdict == "no", found.sentence
    assert "hardly by what was done" in found.sentence
    assert abs(found.everywhere.gain) < 0.005
    assert found.everywhere.explained > 0.6


def test_a_narrow_band_cannot_be_steered():
    found = steered(mixed_skill, by_skill, references={"own": (0.0, 10_000.0), "D4RL": (0.0, 1.0)})
    assert found.verdict == "no"
    assert "too much alike" in found.sentence
    assert found.scale == 10_000, "the first reference that is known gives the scale"
    assert found.densest_band == 1.0


def test_little_difference_or_few_on_one_side_is_weak():
    found = steered(mixed_skill, by_skill, references={"own": (0.0, 200.0)})
    assert found.verdict == "weakly", found.sentence
    lengths = (10,) * 40 + (300, 300)
    found = steered(lambda episode, _: float(episode >= 40), by_skill, lengths=lengths)
    assert found.verdict == "weakly", found.sentence
    assert found.high_episodes == 2
    assert "too few on one side" in found.sentence or "inconclusive" in found.sentence


def test_few_episodes_equal_returns_and_still_actions():
    assert "too few" in steered(mixed_skill, by_skill, lengths=(30,) * 5).sentence
    dataset = made_dataset(mixed_skill, by_skill)
    for change in ({"returns": dataset.returns * 0 + 1}, {"actions": dataset.actions * 0}):
        assert steering(replace(dataset, **change), NONE, np.random.default_rng(0)).verdict == "no"
    assert regression_gain(replace(dataset, actions=dataset.actions * 0), np.random.default_rng(0)) is None


# Refusals.


def break_file(path, name, change):
    with h5py.File(path / "data/main_data.hdf5", "r+") as file:
        array = file[name][()]
        del file[name]
        file[name] = change(array)


@pytest.fixture
def stored(write, numbered_episode):
    return write("test/whole-v0", [numbered_episode(i, i + 2) for i in range(4)])


def test_a_sound_dataset_is_not_refused(stored):
    arrays, loaded, refused = load(open_dataset("test/whole-v0"))
    assert refused == []
    assert loaded.episodes == len(arrays.lengths) == 4


@pytest.mark.parametrize(
    ("name", "change", "part", "readable"),
    [
        ("episode_1/observations", lambda a: a[:-1], "episode 1: observations have shape", False),
        ("episode_1/actions", lambda a: a[:, :1], "episode 1: actions have shape", False),
        ("episode_2/rewards", lambda a: a[:0], "episode 2 has no steps", False),
        ("episode_2/rewards", lambda a: a * np.nan, "rewards hold NaN or infinity, first in episode 2", True),
    ],
)
def test_what_training_refuses_is_named(stored, name, change, part, readable):
    break_file(stored, name, change)
    arrays, loaded, refused = load(open_dataset("test/whole-v0"))
    assert part in refused[0]
    assert loaded is None
    assert (arrays is not None) == readable


def test_all_episodes_of_wrong_length_are_named(stored):
    for index in (1, 3):
        break_file(stored, f"episode_{index}/observations", lambda a: a[:-1])
    _, _, refused = load(open_dataset("test/whole-v0"))
    assert refused[1] == "2 episodes in all are empty or disagree in length: 1, 3"


# The page.


def inspected(**keywords):
    whole = {
        "id": "a/b-v0", "fingerprint": "f", "metadata": {"description": "d"}, "references": NONE, "refused": [],
        "warnings": [], "figures": None, "alignment": None, "steering": None,
    }  # fmt: skip
    return Inspection(**(whole | keywords))


def test_text_from_the_data_is_escaped_everywhere():
    evil = "<script>alert('1')</script>"
    inspection = inspected(
        id=evil, metadata={evil: evil, "environment": evil}, refused=[evil], warnings=[evil, evil], fingerprint=evil,
        alignment=Alignment("unknown", evil, env_id=evil), steering=Steering("no", evil),
        figures=tiny_figures(references={evil: (0.0, 1.0)}), references={evil: (0.0, 1.0)},
    )  # fmt: skip
    made = page(inspection)
    assert "<script" not in made
    assert "&lt;script&gt;" in made
    returns_picture(inspection.figures, "$evil_{$")


def test_the_summary_is_strict_json():
    seeded = replace(SEEDED, maximum=float("inf"), by_step=(0.0, float("nan")))
    alignment = judge_alignment(errors([0.0] * 9, [1.0] * 9, [1.0] * 9), seeded, "X-v0")
    made = json.loads(summary(inspected(figures=tiny_figures(), alignment=alignment)), parse_constant=pytest.fail)
    assert made["alignment"]["seeded"]["maximum"] is None
    assert made["alignment"]["seeded"]["by_step"] == [0.0, None]
    assert made["figures"]["returns"]["percentiles"]["50"] == 3
    assert made["figures"]["terminated"] == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0.000"), (0.0001, "1.0e-04"), (1.5, "1.500"), (-12.34, "-12.3"), (3234.3, "3,234")],
)
def test_a_figure_has_the_digits_that_it_needs(value, text):
    assert figure(value) == text
