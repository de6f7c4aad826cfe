"""What a dataset's name and a selection mean: every way to write them, every mistake, and what is left of the data."""

import string
from contextlib import suppress
from dataclasses import fields, replace
from types import SimpleNamespace

import gymnasium as gym
import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.selection import Selection, _columns, _numbers, _parts, folder_name, load
from flowrl.errors import InputError

A, B, C = "test/a-v0", "test/b-v0", "test/c-v0"


@pytest.fixture
def ab(write, numbered_episode):
    """A: episodes 0 to 4 of 4, 1, 3, 5 and 2 steps; B: episodes 10 to 12 of 2, 6 and 1. Returns rise with the number,
    but for the lengths: of A 7, 100.25, 603.75, 1,511.25, 801.5."""
    write(A, [numbered_episode(e, n) for e, n in enumerate([4, 1, 3, 5, 2])])
    write(B, [numbered_episode(10 + e, n) for e, n in enumerate([2, 6, 1])])
    return SimpleNamespace(a=TrajectoryDataset.from_minari(A), b=TrajectoryDataset.from_minari(B))


def episodes(dataset):
    """The numbers that `numbered_episode` wrote into the observations."""
    return (dataset.observations[dataset.starts, 0] // 100).int().tolist()


def selected(dataset=A, **selection):
    return load(dataset, Selection(**selection)).selected


def same(one, other, *, but=()):
    for field in fields(TrajectoryDataset):
        mine, its = getattr(one, field.name), getattr(other, field.name)
        if field.name not in but:
            assert torch.equal(mine, its) if isinstance(mine, torch.Tensor) else mine == its, field.name


def test_with_no_selection_everything_is_there_and_nothing_is_copied(ab):
    loaded = load(A, Selection())
    same(loaded.whole, ab.a)
    assert loaded.selected is loaded.whole
    assert loaded.columns is None


# Slices and numbers


@pytest.mark.parametrize(
    ("text", "due"),
    [
        (":", [0, 1, 2, 3, 4]),
        (" : ", [0, 1, 2, 3, 4]),
        (":2", [0, 1]),
        ("2:", [2, 3, 4]),
        ("1:3", [1, 2]),
        ("-2:", [3, 4]),
        (":-2", [0, 1, 2]),
        ("-3:-1", [2, 3]),
        ("1:999", [1, 2, 3, 4]),
        ("-999:1", [0]),
        ("0", [0]),
        ("-1", [4]),
        ("4, 0 ,2", [4, 0, 2]),
        ("3:,0", [3, 4, 0]),
        (":1,-1,2:4", [0, 4, 2, 3]),
        ("5:,0", [0]),
        ("00", [0]),
        ("-0", [0]),
    ],
)
def test_numbers_are_pythons_own(text, due):
    assert _numbers(text, 5, "it", "things") == due


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *[
            (text, "is malformed: write slices and numbers, as in 0:5 or 0:5,8")
            for text in ("", " ", ",", "1,", ",1", "a", "1:b", "1:3:2", "::", "1 2", "1.5", "--1", "+1", "1-3", "²")
        ],
        ("5", "names number 5: there are 5 things"),
        ("-6", "names number -6: there are 5 things"),
        ("0,99", "names number 99: there are 5 things"),
        ("3:2", "leaves nothing of the 5 things"),
        ("5:", "leaves nothing of the 5 things"),
        (":0", "leaves nothing of the 5 things"),
        (":-5", "leaves nothing of the 5 things"),
        ("0:3,2", "names one of the things twice"),
        ("4,-1", "names one of the things twice"),
        (":,:", "names one of the things twice"),
    ],
)  # fmt: skip
def test_numbers_that_mean_nothing_are_refused(text, message):
    with pytest.raises(InputError) as caught:
        _numbers(text, 5, "it", "things")
    assert str(caught.value) == f"it {text!r} {message}"


ENDS = st.none() | st.integers(-12, 12)


@given(st.lists(st.tuples(ENDS, ENDS) | st.integers(-12, 12), min_size=1, max_size=3), st.integers(1, 9))
def test_any_numbers_are_pythons_own_or_refused(words, size):
    text, due, outside = [], [], False
    for word in words:
        if isinstance(word, int):
            text.append(str(word))
            outside |= not -size <= word < size
            due += [] if outside else [list(range(size))[word]]
        else:
            text.append(":".join("" if end is None else str(end) for end in word))
            due += list(range(size))[word[0] : word[1]]
    if outside or not due or len(set(due)) < len(due):
        with pytest.raises(InputError, match="^it "):
            _numbers(",".join(text), size, "it", "things")
    else:
        assert _numbers(",".join(text), size, "it", "things") == due


@given(st.text(string.digits + ":,- ab", max_size=8))
def test_no_text_is_worse_than_refused(text):
    with suppress(InputError):
        numbers = _numbers(text, 4, "it", "things")
        assert numbers
        assert set(numbers) <= set(range(4))


def test_all_features_are_no_choice_of_features():
    assert _columns(":", 3) is None
    assert _columns("0:3", 3) == [0, 1, 2]
    assert _columns("2,0", 3) == [2, 0]


# Filters


@pytest.mark.parametrize(
    ("selection", "due"),
    [
        ({"dataset_episodes": "1:3"}, [1, 2]),
        ({"dataset_episodes": "3,0"}, [3, 0]),
        ({"dataset_episodes": "-2:"}, [3, 4]),
        ({"min_return": 603.75}, [2, 3, 4]),
        ({"min_return": 603.76}, [3, 4]),
        ({"min_return": float("-inf")}, [0, 1, 2, 3, 4]),
        ({"top_fraction": 0.4}, [3, 4]),
        # Of the episodes that the options before leave: of 0, 1, 2 the one above 50 that is best.
        ({"dataset_episodes": ":3", "top_fraction": 0.34}, [2]),
        ({"dataset_episodes": ":3", "min_return": 50.0}, [1, 2]),
        ({"dataset_episodes": ":3", "min_return": 50.0, "top_fraction": 0.5}, [2]),
        ({"min_return": 100.0, "top_fraction": 0.5}, [3, 4]),
    ],
)
def test_filters_in_their_order(ab, selection, due):
    loaded = load(A, Selection(**selection))
    assert episodes(loaded.selected) == due
    same(loaded.whole, ab.a)  # the targets of an evaluation come from all of the data
    same(loaded.selected, ab.a.select(torch.tensor(due), ""), but=["fingerprint"])


def test_every_selection_has_its_fingerprint(ab):
    kinds = [
        {}, {"dataset_episodes": "0:3"}, {"dataset_episodes": "0:2"}, {"min_return": 1.0}, {"min_return": 50.0},
        {"top_fraction": 0.4}, {"dataset_episodes": "0:3", "top_fraction": 0.4},
    ]  # fmt: skip
    fingerprints = [selected(**kind).fingerprint for kind in kinds]
    assert len(set(fingerprints)) == len(kinds)
    assert {fingerprint.partition("/")[0] for fingerprint in fingerprints} == {ab.a.fingerprint}


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"dataset_episodes": "5:"}, "dataset_episodes '5:' leaves nothing of the 5 episodes"),
        ({"dataset_episodes": "7"}, "dataset_episodes '7' names number 7: there are 5 episodes"),
        ({"dataset_episodes": "first"}, "dataset_episodes 'first' is malformed"),
        ({"dataset_episodes": "1,1"}, "dataset_episodes '1,1' names one of the episodes twice"),
        ({"min_return": 1e4}, "no episode of test/a-v0 has a return of 10000.0 or more: the best is 1,511.2"),
        ({"min_return": float("nan")}, "no episode of test/a-v0 has a return of nan or more"),
        ({"dataset_episodes": ":2", "min_return": 200.0}, "return of 200.0 or more: the best is 100.2"),
        ({"top_fraction": 0.0}, "top fraction is 0.0: it must be above 0 and at most 1"),
        ({"top_fraction": 1.5}, "top fraction is 1.5"),
        ({"top_fraction": float("nan")}, "top fraction is nan"),
        ({"observations": "3"}, "observations '3' names number 3: there are 3 features"),
        ({"observations": "0,0"}, "observations '0,0' names one of the features twice"),
        ({"observations": "3:"}, "observations '3:' leaves nothing of the 3 features"),
        ({"observations": "x"}, "observations 'x' is malformed"),
    ],
)
def test_a_selection_that_leaves_nothing_is_refused(ab, selection, message):
    with pytest.raises(InputError) as caught:
        load(A, Selection(**selection))
    assert message in str(caught.value)


@pytest.mark.parametrize(("text", "due"), [(":", None), ("0:2", [0, 1]), ("-1", [2]), ("2,0", [2, 0])])
def test_the_features_shown_leave_the_data_whole(ab, text, due):
    loaded = load(A, Selection(observations=text))
    assert loaded.columns == due
    same(loaded.selected, ab.a)


# Mixtures


@pytest.mark.parametrize(
    ("text", "names", "shares"),
    [
        ("a", ["a"], None),
        ("a+b", ["a", "b"], None),
        ("a:3+b:1", ["a", "b"], [3, 1]),
        ("a:3+b", ["a", "b"], [3, 1]),
        ("a+b:0.5", ["a", "b"], [1, 0.5]),
        ("a:1e-9+b:1e9+c:2", ["a", "b", "c"], [1e-9, 1e9, 2]),
        ("a+a", ["a", "a"], None),
        ("x/y-v0: 2 +z", ["x/y-v0", "z"], [2, 1]),
    ],
)
def test_parts_and_shares(text, names, shares):
    assert _parts(text) == (names, shares)


@pytest.mark.parametrize("text", ["", "+", "a+", "+a", "a++b", ":3", ":3+a", "a+:1"])
def test_an_empty_part_is_refused(text):
    with pytest.raises(InputError) as caught:
        _parts(text)
    assert str(caught.value) == f"dataset {text!r} has an empty part: write A+B or A:3+B:1"


@pytest.mark.parametrize("share", ["0", "-1", "nan", "inf", "-inf", "", "x", "1e999", "0x1", "1/2"])
def test_a_share_that_is_none_is_refused(share):
    for text in (f"a:{share}+b:1", f"b+a:{share}", f"a:{share}"):
        with pytest.raises(InputError) as caught:
            _parts(text)
        assert str(caught.value) == f"share {share!r} in dataset {text!r} must be a number above 0, as in A:3+B:1"


@pytest.mark.parametrize("name", ["a+b", "a:3", "a:x", "+", "a-v0:1+b-v0:2"])
def test_a_folder_may_have_any_name(ab, minari_root, tmp_path, monkeypatch, name):
    (minari_root / A).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (name, str(tmp_path / name)):
        assert _parts(path) == ([path], None)
        same(load(path, Selection()).whole, ab.a)


def test_a_mixture_is_whole_in_all_and_filtered_in_each(ab):
    loaded = load(f"{A}+{B}", Selection(dataset_episodes=":2", top_fraction=0.5, observations="0:2"))
    assert episodes(loaded.whole) == [0, 1, 2, 3, 4, 10, 11, 12]
    assert loaded.whole.id == loaded.selected.id == f"{A}+{B}"
    assert loaded.whole.weights is loaded.selected.weights is None
    # The better half of the first two of each: of the whole it would be 10 and 11.
    assert episodes(loaded.selected) == [1, 11]
    assert loaded.columns == [0, 1]
    assert loaded.selected.observations.shape[1] == 3
    assert loaded.selected.fingerprint != loaded.whole.fingerprint


def test_shares_are_kept_whatever_the_filters_leave(ab):
    loaded = load(f"{A}:3+{B}:1", Selection(min_return=700.0))
    assert loaded.whole.id == f"{A}:3+{B}:1"
    assert episodes(loaded.selected) == [3, 4, 10, 11, 12]
    for dataset, (a, b) in ((loaded.whole, (slice(5), slice(5, None))), (loaded.selected, (slice(2), slice(2, None)))):
        mass = dataset.weights * dataset.lengths
        assert dataset.weights.dtype == torch.float64
        assert float(mass[a].sum() / mass[b].sum()) == pytest.approx(3)
        assert len(set(dataset.weights[a].tolist())) == len(set(dataset.weights[b].tolist())) == 1


def test_a_filter_that_empties_one_part_is_refused_naming_it(ab):
    with pytest.raises(InputError, match="no episode of test/a-v0 has a return of 1600.0 or more"):
        load(f"{A}+{B}", Selection(min_return=1600.0))
    with pytest.raises(InputError, match="names number 4: there are 3 episodes"):
        load(f"{A}+{B}", Selection(dataset_episodes="4"))


def test_a_share_of_one_dataset_alone_is_refused(ab):
    with pytest.raises(InputError, match="gives a share of one dataset: shares are for mixtures"):
        load(f"{A}:3", Selection())


def test_mixed_environments_ask_for_one(ab, write, numbered_episode):
    write(C, [numbered_episode(20, 3)], env_spec=gym.spec("Pendulum-v1"))
    with pytest.raises(InputError) as caught:
        load(f"{A}+{C}", Selection())
    assert str(caught.value) == f"{A}+{C} mixes the environments flowrl/Reach-v0, Pendulum-v1: env must name one"
    assert episodes(load(f"{A}+{C}", Selection(), "flowrl/Reach-v0").whole) == [0, 1, 2, 3, 4, 20]


@pytest.mark.parametrize("order", [(A, C), (C, A)])
def test_a_part_without_environment_takes_that_of_the_other(ab, write, numbered_episode, order):
    write(C, [numbered_episode(20, 3)], env_spec=None)
    whole, part, _ = load("+".join(order), Selection(top_fraction=0.5))
    assert whole.env_spec.id == part.env_spec.id == "flowrl/Reach-v0"


def test_incompatible_parts_are_refused(ab, write, numbered_episode):
    wide = numbered_episode(0, 3)
    wide = replace(wide, observations=np.concatenate([wide.observations] * 2, 1))
    write(C, [wide], observation_space=gym.spaces.Box(-np.inf, np.inf, (6,), np.float64))
    with pytest.raises(InputError, match="test/a-v0 and test/c-v0 cannot be mixed: observation size is 3 and 6"):
        load(f"{A}+{C}", Selection())


@pytest.mark.parametrize("dataset", [f"{A}+nowhere", "nowhere", f"{A}+flowrl/no/such-v0:2"])
def test_a_dataset_that_is_not_there_is_refused(ab, dataset):
    with pytest.raises(InputError, match="nowhere|no/such"):
        load(dataset, Selection())


def test_a_d4rl_name_is_found_in_its_folder_alone_and_in_a_mixture(tmp_path, monkeypatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    for seed, name in enumerate(["hopper_medium-v2", "hopper_expert-v2"]):
        generator, timeouts = np.random.default_rng(seed), np.arange(24) % 8 == 7
        with h5py.File(tmp_path / f"{name}.hdf5", "w") as file:
            file["observations"] = generator.normal(size=(24, 11)).astype("f4")
            file["next_observations"] = np.roll(file["observations"][:], -1, 0)
            file["actions"] = generator.uniform(-1, 1, (24, 3)).astype("f4")
            file["rewards"] = np.full(24, seed + 1, "f4")
            file["terminals"], file["timeouts"] = np.zeros(24, bool), timeouts
    one = load("hopper-medium-v2", Selection()).whole
    assert (one.id, one.returns.tolist()) == ("d4rl/hopper/medium-v2", [8, 8, 8])
    mixed = load("hopper-medium-v2:1+hopper-expert-v2:2", Selection(dataset_episodes="-1"))
    assert mixed.whole.id == "d4rl/hopper/medium-v2:1+d4rl/hopper/expert-v2:2"
    assert mixed.whole.returns.tolist() == [8, 8, 8, 16, 16, 16]
    assert mixed.selected.returns.tolist() == [8, 16]
    with pytest.raises(InputError, match="D4RL_DATASET_DIR"):
        load("hopper-random-v2", Selection())


@pytest.mark.parametrize(
    ("dataset", "due"),
    [
        ("flowrl/reach/mixed-v0", "flowrl-reach-mixed-v0"),
        ("a/b-v0:3+c/d-v0:1", "a-b-v0-3+c-d-v0-1"),
        ("/data/my set/", "data-my-set"),
        ("hopper-medium-v2", "hopper-medium-v2"),
        ("a:0.5+b", "a-0.5+b"),
    ],
)
def test_folder_name(dataset, due):
    assert folder_name(dataset) == due


# Folders


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Folders of the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("copies/reach-v0", "copies/other-v0", "a+b/reach-v0", "x:3"):
        (tmp_path / name).mkdir(parents=True)


@pytest.mark.parametrize(
    ("text", "names", "shares"),
    [
        ("copies/reach-v0", ["copies/reach-v0"], None),
        ("x:3", ["x:3"], None),
        ("copies/reach-v0+test/a-v0", ["copies/reach-v0", "test/a-v0"], None),
        ("copies/reach-v0:3+copies/other-v0:1", ["copies/reach-v0", "copies/other-v0"], [3.0, 1.0]),
        ("./copies/reach-v0:3+test/a-v0", ["./copies/reach-v0", "test/a-v0"], [3.0, 1.0]),
        ("a+b/reach-v0", ["a+b/reach-v0"], None),
        ("a+b/reach-v0+test/a-v0:2", ["a+b/reach-v0", "test/a-v0"], [1.0, 2.0]),
        ("test/a-v0:2+a+b/reach-v0:5+x:3", ["test/a-v0", "a+b/reach-v0", "x:3"], [2.0, 5.0, 1.0]),
        ("x:3:4+test/a-v0", ["x:3", "test/a-v0"], [4.0, 1.0]),
    ],
)
def test_folders_in_mixtures(folders, text, names, shares):
    assert _parts(text) == (names, shares)
