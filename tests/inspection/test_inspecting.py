"""An inspection as a whole, of sound datasets and of those that training would refuse."""

import gymnasium as gym
import h5py
import numpy as np
import pytest

from flowrl.data.minari_store import open_dataset
from flowrl.errors import InputError
from flowrl.inspection import inspect_dataset
from flowrl.inspection.answers import answers
from flowrl.inspection.page import page


def test_collected_data_are_sound(reach_dataset):
    steps = []
    inspection = inspect_dataset(reach_dataset, say=steps.append)
    assert len(steps) == 4
    assert inspection.alignment.verdict == "aligned"
    assert inspection.alignment.seeded.maximum == 0
    assert inspection.alignment.seeded.diverged is None
    assert inspection.refused == []
    assert inspection.statistics.non_finite == inspection.statistics.repeated == inspection.statistics.neither_flag == 0
    assert inspection.steering.verdict in ("yes", "weakly")
    assert inspection.stitching.verdict == "no"
    assert inspection.references["flowrl"] == inspection.references["dataset"]
    assert [answer.tone for answer in answers(inspection)[:2]] == ["plain", "good"]
    assert inspect_dataset(open_dataset(reach_dataset)) == inspection, "the same seed says the same"


def test_a_misaligned_dataset_is_warned_of_and_not_sound(reach_dataset, changed):
    inspection = inspect_dataset(changed(open_dataset(reach_dataset), lambda o, a, r: (o[1:], a[:-1], r[:-1])))
    assert any("misaligned" in warning for warning in inspection.warnings)
    assert answers(inspection)[2].tone == "bad"


@pytest.mark.parametrize(("late", "verdict"), [(0, "aligned"), (1, "misaligned")])
def test_data_whose_actions_were_scaled_are_checked_with_scaled_actions(late, verdict, reach_dataset, changed):
    """As in a wrapper that halved them."""
    source = open_dataset(reach_dataset)
    low, high = 2 * source.action_space.low, 2 * source.action_space.high
    dataset = changed(
        source,
        lambda o, a, r: (o[late:], 2 * a[: len(a) - late], r[: len(r) - late]),
        action_space=gym.spaces.Box(low, high),
    )
    inspection = inspect_dataset(dataset)
    assert inspection.alignment.verdict == verdict
    assert sum("scaled" in warning for warning in inspection.warnings) == 1


def doubled(source):
    """A space of actions twice as wide."""
    return gym.spaces.Box(2 * source.action_space.low, 2 * source.action_space.high)


def test_a_space_that_is_only_declared_wider_is_no_scaling(reach_dataset, changed):
    """The environment clips, so the data hold actions that it does not take, and they fit it as they are."""
    source = open_dataset(reach_dataset)
    wild = changed(
        source,
        lambda o, a, r: (o, np.where(a == source.action_space.high, 2 * a, a), r),
        action_space=doubled(source),
    )
    assert inspect_dataset(wild).alignment.verdict == "aligned"


def test_actions_outside_of_their_own_bounds_are_checked_and_trained_as_they_are(reach_dataset, changed):
    source = open_dataset(reach_dataset)
    middle = (source.action_space.low + source.action_space.high) / 2
    narrow = gym.spaces.Box((source.action_space.low + middle) / 2, (source.action_space.high + middle) / 2)
    inspection = inspect_dataset(changed(source, lambda o, a, r: (o, a, r), action_space=narrow))
    assert inspection.alignment.verdict == "aligned"
    assert not any("are scaled" in warning for warning in inspection.warnings)
    assert sum("outside" in warning for warning in inspection.warnings) == 1


def test_scaled_data_are_checked_in_what_they_were_recorded_in_not_in_what_they_are_evaluated_in(
    reach_dataset, changed
):
    source = open_dataset(reach_dataset)
    dataset = changed(
        source,
        lambda o, a, r: (o, 2 * a, r),
        action_space=doubled(source),
        env_spec=None,
        metadata={"eval_env_spec": source.env_spec.to_json()},
    )
    assert inspect_dataset(dataset).alignment.verdict == "unknown"


def test_what_is_done_is_said_beside_what_is_refused(reach_dataset, changed):
    inspection = inspect_dataset(
        changed(
            open_dataset(reach_dataset),
            lambda o, a, r: (o, a, r),
            metadata={"eval_env_spec": gym.spec("Pendulum-v1").to_json()},
        )
    )
    assert len(inspection.refused) == len(inspection.notes) == 1
    assert inspection.notes[0] in answers(inspection)[1].detail


def test_another_environment_or_none(reach_dataset):
    inspection = inspect_dataset(reach_dataset, env="Hopper-v5")
    assert inspection.alignment.verdict == "unknown"
    assert inspection.references["D4RL"] is None, "another environment's references are not this one's"
    assert inspect_dataset(reach_dataset, transitions=0).alignment is None


@pytest.mark.parametrize("bad", [{"env": "Hoper-v5"}, {"transitions": -1}, {"seed": -1}, {"dataset": "no/such-v0"}])
def test_what_cannot_be_used_is_an_input_error(bad, reach_dataset):
    with pytest.raises(InputError):
        inspect_dataset(**({"dataset": reach_dataset} | bad))


BROKEN = {
    "NaN": ("observations", lambda a: np.where(np.arange(len(a))[:, None] == 2, np.nan, a), "NaN"),
    "infinite reward": ("rewards", lambda a: np.where(np.arange(len(a)) == 1, np.inf, a), "infinity"),
    "T observations": ("observations", lambda a: a[:-1], "episode 3"),
    "narrow": ("actions", lambda a: a[:, :1], "episode 3"),
    "empty": ("rewards", lambda a: a[:0], "episode 3"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_training_would_refuse_has_a_page_that_says_so(broken, reach_dataset, minari_root):
    name, change, part = BROKEN[broken]
    with h5py.File(minari_root / reach_dataset / "data/main_data.hdf5", "r+") as file:
        array = file[f"episode_3/{name}"][()]
        del file[f"episode_3/{name}"]
        file[f"episode_3/{name}"] = change(array)
    inspection = inspect_dataset(reach_dataset)
    assert part in inspection.refused[0]
    assert inspection.steering is inspection.stitching is None
    assert answers(inspection)[1].tone == "bad"
    assert "REFUSED" in page(inspection)


def test_an_unsupported_space_is_refused_not_a_crash(write, numbered_episode):
    space = gym.spaces.Box(0, 1, (3, 1), np.float32)
    write("test/image-v0", [numbered_episode(i, 3) for i in range(2)], observation_space=space)
    inspection = inspect_dataset("test/image-v0")
    assert len(inspection.refused) == 1
    assert inspection.statistics is None
