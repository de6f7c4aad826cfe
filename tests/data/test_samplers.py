"""Windows stay in their episode, are zero where it has ended, and start at every step alike."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.mixing import mix
from flowrl.data.samplers import Chunks, Episodes, Part, Windows, windows_at
from flowrl.data.stored_arrays import StoredArrays


@pytest.fixture
def numbered():
    """Two episodes of 3 and 2 steps, whose numbers name their step."""
    return TrajectoryDataset.from_stored_arrays(
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
    batch = Windows(dataset, draws, 1).draw(torch.Generator().manual_seed(0))
    rows = (batch.observations[:, 0, :1] == first).int().argmax(1)
    counts = torch.bincount(rows, minlength=dataset.steps).double()
    expected = draws / dataset.steps
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    # 39 degrees of freedom: 72 is passed once in a thousand; uniform over episodes would give some 400,000.
    assert chi_square < 72


def test_the_generator_is_the_only_source_of_randomness(random_dataset):
    dataset = random_dataset([9, 4])
    before = torch.get_rng_state()
    one, two, three = (Windows(dataset, 6, 3).draw(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one.observations, three.observations)
    assert torch.equal(torch.get_rng_state(), before)


def test_two_batches_of_one_generator_differ(random_dataset):
    windows, generator = Windows(random_dataset([50]), 8, 2), torch.Generator().manual_seed(0)
    assert not torch.equal(*(windows.draw(generator).observations for _ in range(2)))


@pytest.mark.parametrize("full", [False, True])
def test_the_ranks_parts_are_the_batch_of_one_process(random_dataset, full):
    for weights in (None, torch.tensor([1.0, 4.0, 2.0], dtype=torch.float64)):
        dataset = replace(random_dataset([9, 2, 5]), weights=weights)
        generators = [torch.Generator().manual_seed(3) for _ in range(4)]
        whole, *parts = (
            Windows(dataset, 12, 4, full=full, part=part).draw(generator)
            for part, generator in zip([Part(), *(Part(rank, 3) for rank in range(3))], generators, strict=True)
        )
        for tensor, *shares in zip(whole, *parts, strict=True):
            assert torch.equal(torch.cat(shares), tensor)
        assert all(torch.equal(g.get_state(), generators[0].get_state()) for g in generators)


def test_full_windows_begin_earlier_and_are_padded_only_in_short_episodes(random_dataset):
    dataset = random_dataset([7, 2, 5])
    batch = Windows(dataset, 4000, 3, full=True).draw(torch.Generator().manual_seed(0))
    begins = torch.bincount(batch.timesteps[:, 0] + 10 * (batch.is_pad.sum(1) > 0))
    assert begins[5:10].sum() == 0, "no window begins later than three steps before the end"
    # Of 14 first steps, 2 lie in the episode of 2 steps, whose windows all begin at its start.
    assert begins[10:].tolist() == [int(begins[10])]
    assert abs(int(begins[10]) - 4000 * 2 / 14) < 5 * (4000 * 2 / 14) ** 0.5
    # Of the 7 steps 0..6 the windows begin at 0, 1, 2, 3, and at 4 for 4, 5 and 6; of the 5 at 0, 1, and 2 for 2, 3, 4.
    expected = torch.tensor([2, 2, 1 + 3, 1, 3]) * 4000 / 14
    assert ((begins[:5] - expected).abs() < 5 * expected.sqrt()).all()
    uniform = Windows(dataset, 4000, 1).draw(torch.Generator().manual_seed(0))
    for one, other in zip(
        Windows(dataset, 4000, 1, full=True).draw(torch.Generator().manual_seed(0)), uniform, strict=True
    ):
        assert torch.equal(one, other), "windows of one step are full as they are"


# Weights


def rows_of(dataset, draws, seed=0):
    """The rows that windows begin at; each row's observation is its number."""
    numbers = torch.arange(dataset.steps, dtype=torch.float32)[:, None]
    batch = Windows(replace(dataset, observations=numbers), draws, 1).draw(torch.Generator().manual_seed(seed))
    return batch.observations[:, 0, 0].long()


def chi_square(counts, expected):
    return float(((counts - expected) ** 2 / expected).sum())


def test_without_weights_the_draws_are_those_of_randint(random_dataset):
    dataset = random_dataset([9, 4, 7])
    expected = torch.randint(20, (500,), generator=torch.Generator().manual_seed(3))
    assert torch.equal(rows_of(dataset, 500, seed=3), expected)
    mixture = mix("m", [dataset])
    assert torch.equal(rows_of(mixture, 500, seed=3), expected)


@pytest.mark.parametrize("shares", [(3.0, 1.0), (1.0, 1.0), (0.2, 7.0), (1e-3, 1.0)])
def test_each_part_is_drawn_by_its_share_and_each_step_of_it_alike(random_dataset, shares):
    parts = [random_dataset([1, 2, 17]), random_dataset([5, 1], seed=1)]
    mixture, draws = mix("m", parts, shares), 60_000
    counts = torch.bincount(rows_of(mixture, draws), minlength=26).double()
    share = shares[0] / sum(shares)
    expected = draws * torch.cat([torch.full((20,), share / 20), torch.full((6,), (1 - share) / 6)]).double()
    # Five standard deviations of a binomial; and 25 degrees of freedom pass 61 once in ten thousand. Expected counts
    # of 3, for the rare share, are still enough for that.
    assert abs(float(counts[:20].sum()) - draws * share) < 5 * (draws * share * (1 - share)) ** 0.5
    assert chi_square(counts, expected) < 61


def test_equal_shares_of_the_steps_are_like_no_shares(random_dataset):
    """Shares in the ratio of the steps: all steps equally often again, through the other road."""
    parts = [random_dataset([1, 2, 17]), random_dataset([5, 1], seed=1)]
    mixture = mix("m", parts, [20.0, 6.0])
    counts = torch.bincount(rows_of(mixture, 26_000), minlength=26).double()
    assert chi_square(counts, torch.full((26,), 1000.0)) < 61


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1.0, 1e9, 1.7e308])
def test_the_size_of_all_shares_together_means_nothing(random_dataset, scale):
    parts = [random_dataset([1, 2, 17]), random_dataset([5, 1], seed=1)]
    one, other = (mix("m", parts, shares) for shares in ([1.0, 0.5], [scale, scale / 2]))
    assert torch.equal(rows_of(one, 2000), rows_of(other, 2000))


@pytest.mark.parametrize(
    "shares", [(1e9, 1e-9), (1e-9, 1e9), (1e308, 1e308), (5e-324, 1.0), (1.0, 5e-324), (5e-324,) * 2]
)
def test_extreme_shares_stay_in_range(random_dataset, shares):
    parts = [random_dataset([1, 2, 17]), random_dataset([5, 1], seed=1)]
    rows = rows_of(mix("m", parts, shares), 20_000)
    counts = torch.bincount(rows, minlength=26).double()
    assert len(counts) == 26
    if shares[0] != shares[1]:  # the rare one, once in 10^18 draws, is not among 20,000
        common = counts[:20] if shares[0] > shares[1] else counts[20:]
        assert common.sum() == 20_000
        assert chi_square(common, torch.full_like(common, 20_000 / len(common))) < 55


def test_every_step_of_a_rare_part_is_drawn_alike(random_dataset):
    """A part that has a millionth of the line's length is still divided finely: points are put on it by hand."""
    parts = [random_dataset([50]), random_dataset([7, 3], seed=1)]
    mixture = mix("m", parts, [1.0, 1e-6])
    points = (1 + 1e-6 * (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000) / (1 + 1e-6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda *_, **__: points)
        counts = torch.bincount(rows_of(mixture, 10_000), minlength=60)
    assert counts[:50].sum() <= 1
    assert ((counts[50:] - 1000).abs() <= 1).all()


@pytest.mark.parametrize("point", [0.0, 1 - 2**-53, 0.5])
def test_the_ends_of_the_line_are_steps_too(random_dataset, point):
    parts = [random_dataset([2, 2]), random_dataset([3, 1], seed=1)]
    mixture = mix("m", parts, [1.0, 1.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda size, **__: torch.full((size,), point, dtype=torch.float64))
        (row,) = set(rows_of(mixture, 3).tolist())
    assert row == {0.0: 0, 0.5: 4, 1 - 2**-53: 7}[point]


def rewarding(lengths, reward):
    """A dataset whose every step has that reward."""
    steps = sum(lengths)
    flat = np.full(steps, reward, np.float32), np.zeros(steps, bool), np.zeros(steps, bool), np.array(lengths)
    rows = np.zeros((steps + len(lengths), 1), np.float32), np.zeros((steps, 1), np.float32)
    return TrajectoryDataset.from_stored_arrays(
        "rewarding", StoredArrays(*rows, *flat), action_low=-np.ones(1), action_high=np.ones(1)
    )


@settings(max_examples=60)
@given(
    lengths=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=2, max_size=4),
    exponents=st.lists(st.floats(-320, 308), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
def test_no_row_is_ever_out_of_range_and_no_window_crosses_a_seam(lengths, exponents, seed):
    parts = [rewarding(part, number) for number, part in enumerate(lengths)]
    shares = [max(10.0**exponent, 5e-324) for exponent in exponents[: len(parts)]]
    mixture = mix("m", parts, shares)
    episode_of = torch.repeat_interleave(torch.arange(mixture.episodes), mixture.lengths)
    numbered_rows = replace(mixture, actions=torch.arange(mixture.steps).float()[:, None])
    batch = Windows(numbered_rows, 64, 4).draw(torch.Generator().manual_seed(seed))
    for window, is_pad, rewards in zip(batch.actions[..., 0].long(), batch.is_pad, batch.rewards, strict=True):
        real = window[~is_pad]
        assert len(set(episode_of[real].tolist())) == 1
        assert (real.diff() == 1).all()
        assert len(set(rewards[~is_pad].tolist())) == 1  # of one dataset


def test_drawing_by_weights_takes_the_generator_alone(random_dataset):
    mixture = mix("m", [random_dataset([9]), random_dataset([4], seed=1)], [2.0, 1.0])
    before = torch.get_rng_state()
    assert torch.equal(rows_of(mixture, 50, seed=1), rows_of(mixture, 50, seed=1))
    assert not torch.equal(rows_of(mixture, 50, seed=1), rows_of(mixture, 50, seed=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_of_episodes_are_whole_and_about_equally_long(random_dataset):
    lengths = [3, 40, 5, 38, 4, 41, 6, 39]
    dataset, generator = random_dataset(lengths), torch.Generator().manual_seed(0)
    longest = []
    for _ in range(50):
        batch = Episodes(dataset, 2).draw(generator)
        real = (~batch.is_pad).sum(1)
        assert batch.timesteps[:, 0].tolist() == [0, 0]
        assert set(real.tolist()) <= set(lengths)
        assert batch.is_pad.shape[1] == real.max()
        longest.append(int(real.max() - real.min()))
    assert sum(spread > 10 for spread in longest) <= 10  # of eight pairs that are drawn at once one may be mixed


def test_each_step_counts_alike_in_batches_of_episodes_long_or_short(random_dataset):
    """The loss is a mean over the steps of a batch: a step's weight is 1 / (steps of its batch)."""
    dataset, generator = random_dataset([3] * 6 + [30] * 2), torch.Generator().manual_seed(0)
    weight = {3: 0.0, 30: 0.0}
    for _ in range(4_000):
        real = (~Episodes(dataset, 2).draw(generator).is_pad).sum(1)
        for length in real.tolist():
            weight[length] += length / int(real.sum())
    # 18 steps in short episodes and 60 in long ones.
    assert weight[3] / weight[30] == pytest.approx(18 / 60, rel=0.15)


def test_the_ranks_batches_of_episodes_are_the_batch_of_one_process(random_dataset):
    dataset = random_dataset([3, 9, 5, 12, 7])
    whole = Episodes(dataset, 6).draw(torch.Generator().manual_seed(4))
    parts = [Episodes(dataset, 6, part=Part(r, 3)).draw(torch.Generator().manual_seed(4)) for r in range(3)]
    shares = sorted(round(float(x), 4) for part in parts for x in part.rewards.sum(1))
    assert shares == sorted(round(float(x), 4) for x in whole.rewards.sum(1))


def chunked(dataset, batch_size, context, count, **options):
    chunks, generator = Chunks(dataset, batch_size, context, **options), torch.Generator().manual_seed(0)
    return [chunks.draw(generator) for _ in range(count)]


def test_chunks_follow_each_other_through_whole_episodes(random_dataset):
    dataset = random_dataset([9, 4, 17, 1, 12])
    ends = set()
    last = None
    for batch, begins in chunked(dataset, 3, 5, 200):
        for row in range(3):
            times = batch.timesteps[row][~batch.is_pad[row]].tolist()
            assert times == list(range(times[0], times[0] + len(times)))
            if last is not None:
                assert begins[row] == (last[row] is None)
                assert times[0] == (0 if begins[row] else last[row] + 1)
        assert last is not None or begins.all()
        now = []
        for row in range(3):
            real = ~batch.is_pad[row]
            over = int(batch.returns_to_go[row, int(real.sum()) - 1].eq(batch.rewards[row, int(real.sum()) - 1]))
            t = int(batch.timesteps[row, int(real.sum()) - 1])
            # Nothing is left to earn after an episode's last step; its length is one of the dataset's.
            now.append(None if over and t + 1 in (9, 4, 17, 1, 12) else t)
            ends |= {t + 1} if now[-1] is None else set()
        last = now
    assert ends == {9, 4, 17, 1, 12}


def test_a_chunks_length_is_drawn_around_the_context_and_is_that_of_all_rows(random_dataset):
    steps = [batch.is_pad.shape[1] for batch, _ in chunked(random_dataset([400]), 2, 20, 300)]
    assert set(steps) == set(range(10, 31))
    assert sum(steps) / len(steps) == pytest.approx(20, abs=1)
    assert {batch.is_pad.shape[1] for batch, _ in chunked(random_dataset([9]), 2, 1, 20)} == {1}


def test_every_step_is_read_equally_often_in_chunks(random_dataset):
    dataset = random_dataset([9, 4, 17])
    seen = torch.zeros(dataset.steps)
    for batch, _ in chunked(dataset, 8, 5, 1_500):
        for observation in batch.observations[~batch.is_pad][:, 0]:
            seen[(dataset.observations[:, 0] == observation).nonzero()[0, 0]] += 1
    assert (seen / seen.mean()).min() > 0.9
    assert (seen / seen.mean()).max() < 1.1


def test_rows_do_not_move_in_step_through_episodes_of_one_length(random_dataset):
    dataset = random_dataset([100] * 4)
    first = [batch.timesteps[:, 0] for batch, _ in chunked(dataset, 8, 5, 99)]
    assert min(int(t.max() - t.min()) for t in first) > 20


def test_a_ranks_chunks_are_its_rows_of_the_batch_of_one_process(random_dataset):
    dataset = random_dataset([9, 4, 17, 1, 12])
    whole = chunked(dataset, 6, 5, 30)
    for rank in range(3):
        for (batch, begins), (all_rows, all_begin) in zip(
            chunked(dataset, 6, 5, 30, part=Part(rank, 3)), whole, strict=True
        ):
            mine = slice(2 * rank, 2 * rank + 2)
            assert torch.equal(begins, all_begin[mine])
            assert all(torch.equal(one, two[mine]) for one, two in zip(batch, all_rows, strict=True))


def test_chunks_go_on_from_their_state(random_dataset):
    dataset, generator = random_dataset([9, 4, 17, 1, 12]), torch.Generator().manual_seed(0)
    chunks = Chunks(dataset, 3, 5)
    for _ in range(7):
        chunks.draw(generator)
    kept, state = chunks.state_dict(), generator.get_state()
    following = [chunks.draw(generator) for _ in range(9)]
    other = Chunks(dataset, 3, 5)
    other.load_state_dict(kept)
    generator.set_state(state)
    again = [other.draw(generator) for _ in range(9)]
    for (batch, begins), (expected, expected_begins) in zip(again, following, strict=True):
        assert torch.equal(begins, expected_begins)
        assert torch.equal(batch.rewards, expected.rewards)


def test_episodes_and_chunks_are_drawn_by_the_weights(random_dataset):
    parts = [random_dataset([5]), random_dataset([5], seed=1)]
    dataset = mix("m", parts, [3.0, 1.0])
    generator, first = torch.Generator().manual_seed(0), 0
    for _ in range(2_000):
        first += int(Episodes(dataset, 1).draw(generator).observations[0, 0, 0] == dataset.observations[0, 0])
    assert first / 2_000 == pytest.approx(0.75, abs=0.04)
    seen = [
        begin for batch, begins in chunked(dataset, 1, 5, 4_000) for begin in [batch.observations[0, 0, 0]] if begins[0]
    ]
    assert np.mean([bool(x == dataset.observations[0, 0]) for x in seen]) == pytest.approx(0.75, abs=0.04)
