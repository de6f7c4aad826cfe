"""D4RL's views of Minari datasets, row by row against what D4RL itself would have read."""

from dataclasses import replace

import minari
import numpy as np
import pytest
from d4rl_files import ID, arrays, files, read_slowly
from hypothesis import HealthCheck, given, settings

from flowrl.data.d4rl import (
    get_dataset,
    get_normalized_score,
    qlearning_dataset,
    sequence_dataset,
)
from flowrl.data.minari_store import open_dataset
from flowrl.errors import InputError


def d4rls_qlearning(flat):
    """The rows of D4RL's `qlearning_dataset`, one by one: no timeout, and not the last, which has no next row."""
    rows = []
    for t in range(len(flat["rewards"]) - 1):
        if not flat["timeouts"][t]:
            rows.append((t, flat["observations"][t], flat["actions"][t], flat["rewards"][t], flat["terminals"][t]))
    return rows


def d4rls_sequences(flat):
    """The episodes of D4RL's `sequence_dataset`, each a list of row numbers; one that no flag ends is not yielded."""
    episodes, rows = [], []
    for t in range(len(flat["rewards"])):
        rows.append(t)
        if flat["terminals"][t] or flat["timeouts"][t]:
            episodes.append(rows)
            rows = []
    return episodes


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files())
def test_the_views_are_d4rls_row_by_row(imported, file):
    content, horizon = file
    episodes, dropped = read_slowly(content, horizon)
    if not episodes:
        return
    imported_file = imported(content, horizon=horizon)
    # What D4RL would have read: the file's rows, less those of an episode that no flag ends.
    kept = len(content["rewards"]) - dropped
    flat = {name: value[:kept] for name, value in content.items()}
    flat["timeouts"] = np.array([row.timeout for rows, _ in episodes for row in rows])
    flat = {k: v if v.dtype == bool else v.astype(np.float32) for k, v in flat.items()}

    view = get_dataset(ID)
    assert list(view) == ["observations", "actions", "rewards", "next_observations", "terminals", "timeouts"]
    for name, value in flat.items():
        np.testing.assert_array_equal(view[name], value)
        assert view[name].dtype == value.dtype
    following = np.concatenate([e.observations[1:] for e in imported_file.episodes]).astype(np.float32)
    np.testing.assert_array_equal(view["next_observations"], following)

    table = qlearning_dataset(ID)
    assert list(table) == ["observations", "actions", "next_observations", "rewards", "terminals"]
    expected = d4rls_qlearning(flat)
    assert {len(value) for value in table.values()} == {len(expected)}
    for index, (t, observation, action, reward, terminal) in enumerate(expected):
        np.testing.assert_array_equal(table["observations"][index], observation)
        np.testing.assert_array_equal(table["actions"][index], action)
        assert (table["rewards"][index], table["terminals"][index]) == (reward, terminal)
        if not terminal:  # there D4RL has the next episode's first observation
            np.testing.assert_array_equal(table["next_observations"][index], flat["observations"][t + 1])
        else:
            np.testing.assert_array_equal(table["next_observations"][index], following[t])
    assert (table["observations"].dtype, table["terminals"].dtype) == (np.float32, bool)

    sequences = list(sequence_dataset(ID))
    for sequence, rows in zip(sequences, d4rls_sequences(flat), strict=True):
        assert list(sequence) == list(view)
        for name, value in flat.items():
            np.testing.assert_array_equal(sequence[name], value[rows])


def test_timeouts_are_kept_on_demand(imported):
    imported(arrays())
    table = qlearning_dataset(ID, keep_timeouts=True)
    assert len(table["rewards"]) == 9
    assert table["next_observations"][:, 0].tolist() == [1, 2, 3, 1003, 5, 6, 7, 8, 1008]
    assert table["terminals"].tolist() == [t == 3 for t in range(9)]
    assert qlearning_dataset(ID)["rewards"].tolist() == [t + 0.25 for t in range(8)]


def test_timeouts_are_not_kept_where_what_follows_them_is_not_real(imported):
    imported(arrays(following=False))
    with pytest.raises(InputError, match=f"keep_timeouts .* {ID} does not have it in 2 episodes"):
        qlearning_dataset(ID, keep_timeouts=True)
    assert len(qlearning_dataset(ID)["rewards"]) == 8


def test_the_last_terminal_row_is_left_out_as_d4rl_does(imported):
    imported(arrays(12, terminals=(3, 11), timeouts=()))
    assert qlearning_dataset(ID)["rewards"].tolist() == [t + 0.25 for t in range(11)]
    assert len(qlearning_dataset(ID, keep_timeouts=True)["rewards"]) == 12


def test_any_minari_dataset_has_the_views(reach_dataset):
    flat, episodes = get_dataset(reach_dataset), list(minari.load_dataset(reach_dataset))
    assert len(list(sequence_dataset(reach_dataset))) == len(episodes)
    np.testing.assert_array_equal(
        flat["next_observations"], np.concatenate([e.observations[1:] for e in episodes]).astype(np.float32)
    )
    np.testing.assert_array_equal(flat["timeouts"], np.concatenate([e.truncations for e in episodes]))


def test_an_episode_that_nothing_ends_ends_by_timeout(write, numbered_episode):
    open_end = replace(numbered_episode(1, 2, terminated=False), truncations=np.zeros(2, bool))
    write("test/open-v0", [numbered_episode(0, 3), open_end, numbered_episode(2, 2)])
    assert get_dataset("test/open-v0")["timeouts"].tolist() == [False] * 4 + [True] + [False] * 2
    assert [len(s["rewards"]) for s in sequence_dataset("test/open-v0")] == [3, 2, 2]


def test_views_of_nothing_are_refused_at_the_call():
    for view in (get_dataset, qlearning_dataset, sequence_dataset, lambda i: get_normalized_score(i, 1.0)):
        with pytest.raises(InputError, match="is not here"):
            view("flowrl/none-v0")


def test_an_edited_sequence_leaves_the_others_alone(imported):
    imported(arrays())
    sequences = sequence_dataset(ID)
    first = next(sequences)
    first["observations"] += 100
    assert first["next_observations"][:, 0].tolist() == [1, 2, 3, 1003]
    assert next(sequences)["observations"][:, 0].tolist() == [4, 5, 6, 7, 8]


def test_scores_are_fractions(imported):
    imported(arrays(), reference_scores=(-20.272305, 3234.3))
    assert get_normalized_score(ID, 3234.3) == 1.0
    assert get_normalized_score(ID, np.array([-20.272305, 1607.0138475])) == pytest.approx([0.0, 0.5])
    assert minari.get_normalized_score(open_dataset(ID), np.float64(99.0)) == get_normalized_score(ID, 99)


def test_scores_without_references_are_refused(imported):
    imported(arrays())
    with pytest.raises(InputError, match=f"dataset {ID} has no reference scores"):
        get_normalized_score(ID, 1.0)
