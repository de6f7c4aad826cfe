"""Windows stay in their episode, are zero where it has ended, and start at every step alike."""

import numpy as np
import pytest
import torch

from flowrl.data import TrajectoryDataset
from flowrl.stored_arrays import StoredArrays
from flowrl.windows import sample_windows, windows_at


@pytest.fixture
def numbered():
    """Two episodes of 3 and 2 steps, every figure telling where it stands."""
    return TrajectoryDataset.from_arrays(
        "numbered",
        StoredArrays(
            observations=np.array([[10], [11], [12], [13], [20], [21], [22]], np.float32),
            actions=np.array([[0.1], [0.2], [0.3], [0.4], [0.5]], np.float32),
            rewards=np.array([1, 2, 4, 8, 16], np.float32),
            terminations=np.zeros(5, bool),
            truncations=np.zeros(5, bool),
            lengths=np.array([3, 2]),
        ),
        action_low=np.array([-1.0]),
        action_high=np.array([1.0]),
    )


def test_windows_by_hand(numbered):
    batch = windows_at(numbered, torch.tensor([0, 1, 2, 3, 4]), 3)
    assert batch.observations[..., 0].tolist() == [[10, 11, 12], [11, 12, 0], [12, 0, 0], [20, 21, 0], [21, 0, 0]]
    torch.testing.assert_close(
        batch.actions[..., 0],
        torch.tensor([[0.1, 0.2, 0.3], [0.2, 0.3, 0], [0.3, 0, 0], [0.4, 0.5, 0], [0.5, 0, 0]]),
    )
    assert batch.rewards.tolist() == [[1, 2, 4], [2, 4, 0], [4, 0, 0], [8, 16, 0], [16, 0, 0]]
    assert batch.returns_to_go.tolist() == [[7, 6, 4], [6, 4, 0], [4, 0, 0], [24, 16, 0], [16, 0, 0]]
    assert batch.timesteps.tolist() == [[0, 1, 2], [1, 2, 0], [2, 0, 0], [0, 1, 0], [1, 0, 0]]
    none, one, two = [False] * 3, [False, False, True], [False, True, True]
    assert batch.is_pad.tolist() == [none, one, two, one, two]
    assert batch.is_pad.dtype == torch.bool
    assert batch.timesteps.dtype == torch.int64
    assert {batch.observations.dtype, batch.returns_to_go.dtype, batch.actions.dtype} == {torch.float32}


@pytest.mark.parametrize("context", [1, 2, 7, 50])
def test_a_window_never_leaves_its_episode(random_dataset, context):
    dataset = random_dataset([5, 1, 13, 7])
    batch = windows_at(dataset, torch.arange(dataset.steps), context)
    starts = dataset.starts.tolist()
    for row in range(dataset.steps):
        episode = max(e for e, start in enumerate(starts) if start <= row)
        left = starts[episode] + int(dataset.lengths[episode]) - row
        real = min(left, context)
        assert batch.is_pad[row].tolist() == [False] * real + [True] * (context - real)
        for name in ("observations", "actions", "rewards", "returns_to_go", "timesteps"):
            window, source = getattr(batch, name)[row], getattr(dataset, name)
            assert torch.equal(window[:real], source[row : row + real]), name
            assert (window[real:] == 0).all(), name


def test_first_steps_are_uniform_over_steps_not_over_episodes(random_dataset):
    dataset = random_dataset([1, 2, 37])
    draws = 40_000
    first = windows_at(dataset, torch.arange(dataset.steps), 1).observations[:, 0, 0]
    batch = sample_windows(dataset, draws, 1, torch.Generator().manual_seed(0))
    rows = (batch.observations[:, 0, :1] == first).int().argmax(1)
    counts = torch.bincount(rows, minlength=dataset.steps).double()
    expected = draws / dataset.steps
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    # 39 degrees of freedom: 72 is passed once in a thousand; uniform over episodes would give some 400,000.
    assert chi_square < 72


def test_the_generator_is_the_only_source_of_randomness(random_dataset):
    dataset = random_dataset([9, 4])
    before = torch.get_rng_state()
    one, two, three = (sample_windows(dataset, 6, 3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one.observations, three.observations)
    assert torch.equal(torch.get_rng_state(), before)


def test_two_batches_of_one_generator_differ(random_dataset):
    dataset, generator = random_dataset([50]), torch.Generator().manual_seed(0)
    assert not torch.equal(*(sample_windows(dataset, 8, 2, generator).observations for _ in range(2)))


def test_full_windows_begin_earlier_and_are_padded_only_in_short_episodes(random_dataset):
    dataset = random_dataset([7, 2, 5])
    batch = sample_windows(dataset, 4000, 3, torch.Generator().manual_seed(0), full=True)
    begins = torch.bincount(batch.timesteps[:, 0] + 10 * (batch.is_pad.sum(1) > 0))
    assert begins[5:10].sum() == 0, "no window begins later than three steps before the end"
    # Of 14 first steps, 2 lie in the episode of 2 steps, whose windows all begin at its start.
    assert begins[10:].tolist() == [int(begins[10])]
    assert abs(int(begins[10]) - 4000 * 2 / 14) < 5 * (4000 * 2 / 14) ** 0.5
    # Of the 7 steps 0..6 the windows begin at 0, 1, 2, 3, and at 4 for 4, 5 and 6; of the 5 at 0, 1, and 2 for 2, 3, 4.
    expected = torch.tensor([2, 2, 1 + 3, 1, 3]) * 4000 / 14
    assert ((begins[:5] - expected).abs() < 5 * expected.sqrt()).all()
    uniform = sample_windows(dataset, 4000, 1, torch.Generator().manual_seed(0))
    for one, other in zip(
        sample_windows(dataset, 4000, 1, torch.Generator().manual_seed(0), full=True), uniform, strict=True
    ):
        assert torch.equal(one, other), "windows of one step are full as they are"
