"""Transitions with their past: the same transitions as alone, each after what came before it in its episode."""

import numpy as np
import pytest
import torch

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import Chunks, Episodes, Part, Windows
from flowrl.data.transition_windows import TransitionWindows
from flowrl.data.transitions import TransitionSampler

LENGTHS = [5, 1, 3, 8, 1, 2]
TERMINATED = [True, False, False, False, True, False]
REPEATED = [False, False, True, True, False, False]  # the last observation: the true one is not stored


@pytest.fixture
def dataset():
    """Numbers name episode and step: 1000 e + 10 t is seen, 1000 e + 10 t + 5 is done, t + 1 is paid."""
    seen = [1000.0 * episode + 10 * np.arange(length + 1) for episode, length in enumerate(LENGTHS)]
    for row, repeat in zip(seen, REPEATED, strict=True):
        row[-1] = row[-2] if repeat else row[-1]
    acted = [(1000.0 * episode + 10 * np.arange(length) + 5)[:, None] for episode, length in enumerate(LENGTHS)]
    rewards = [np.arange(length) + 1.0 for length in LENGTHS]
    return TrajectoryDataset.from_arrays([row[:, None] for row in seen], acted, rewards, TERMINATED)


KINDS = {
    "windows": lambda data, part: Windows(data, 6, 4, part=part),
    "one step": lambda data, part: Windows(data, 6, 1, part=part),
    "episodes": lambda data, part: Episodes(data, 6, part=part),
    "chunks": lambda data, part: Chunks(data, 6, 4, part=part),
}


def drawn(dataset, kind, n_step, *, batches=40, part=None):
    transitions = TransitionSampler(dataset, 6, gamma=0.5, n_step=n_step)
    sampler = TransitionWindows(KINDS[kind](transitions.drawable, part or Part()), transitions)
    order = torch.Generator().manual_seed(0)
    return transitions, [sampler.draw(order) for _ in range(batches)]


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_each_is_the_transition_alone_and_its_past_is_its_episode_s(dataset, kind, n_step):
    transitions, batches = drawn(dataset, kind, n_step)
    rows_seen = set()
    for batch in batches:
        past = batch.past
        episodes, steps = batch.observations[:, 0].long() // 1000, batch.observations[:, 0].long() % 1000 // 10
        rows = torch.tensor([0, *np.cumsum(LENGTHS)[:-1]])[episodes] + steps
        rows_seen |= set(rows.tolist())
        for mine, alone in zip(batch[:-1], transitions.at(rows)[:-1], strict=True):
            assert torch.equal(mine, alone)
        assert len(rows) == int((~past.is_pad).sum()) > 0
        columns = past.observations.shape[1]
        for place, after, episode, step, following in zip(
            past.here.tolist(),
            past.after.tolist(),
            episodes.tolist(),
            steps.tolist(),
            batch.next_observations,
            strict=True,
        ):
            window, column = divmod(place, columns)
            assert after // columns == window
            assert torch.equal(past.observations[window, after - window * columns], following)
            # Every column up to the next observation is the same episode's, one step after the other.
            reach = range(after - window * columns + 1)
            of_window = [step + other - column for other in reach]
            assert past.timesteps[window, : len(reach)].tolist() == of_window
            expected = [min(other, LENGTHS[episode] - REPEATED[episode]) for other in of_window]
            assert past.observations[window, : len(reach), 0].tolist() == [1000 * episode + 10 * x for x in expected]
            to_go = [sum(range(other + 1, LENGTHS[episode] + 1)) for other in of_window]
            assert past.returns_to_go[window, : len(reach)].tolist() == to_go
            assert past.actions[window, column, 0] == 1000 * episode + 10 * step + 5
    unknown = {int(sum(LENGTHS[: e + 1])) - 1 for e, repeat in enumerate(REPEATED) if repeat}
    assert rows_seen == set(range(sum(LENGTHS))) - unknown, "all are drawn but those with an unknown end"


def test_chunks_follow_each_other_through_the_known_steps(dataset):
    _, batches = drawn(dataset, "chunks", 1)
    last: list[float | None] = [None] * 6
    for batch in batches:
        past = batch.past
        for window in range(6):
            real = past.observations[window, : past.is_pad.shape[1], 0][~past.is_pad[window]]
            if not past.begins[window]:
                assert real[0] == last[window] + 10
            elif last[window] is not None:
                assert real[0] % 1000 == 0
            last[window] = float(real[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_the_ranks_are_the_batch_of_one_process(dataset, kind):
    _, whole = drawn(dataset, kind, 1)
    parts = [drawn(dataset, kind, 1, part=Part(rank, 2))[1] for rank in range(2)]
    for one, *shares in zip(whole, *parts, strict=True):
        rows = sorted(row for share in shares for row in share.observations[:, 0].tolist())
        assert rows == sorted(one.observations[:, 0].tolist())
        assert {share.past.most_steps for share in shares} == {one.past.is_pad.shape[1]}
