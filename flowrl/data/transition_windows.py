"""Transitions with what came before them, for value-based agents that look back."""

from typing import Any

import torch

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import Chunks, Episodes, Windows
from flowrl.data.transitions import Past, Transitions, TransitionSampler


class TransitionWindows:
    """All transitions of windows, whole episodes or chunks, each with its past.

    A window of K steps has K + n columns, n steps of a transition, so that the next observation of its last step is in
    it too.

    Args:
        windows: draws where the windows lie, in `transitions.drawable`.
        transitions: of the dataset.
    """

    def __init__(self, windows: Windows | Episodes | Chunks, transitions: TransitionSampler) -> None:
        self.windows, self.transitions = windows, transitions
        dataset = transitions.dataset
        last = dataset.ends[dataset.starts] - 1
        self._episode = torch.repeat_interleave(
            torch.arange(dataset.episodes, device=last.device), dataset.lengths, output_size=dataset.steps
        )
        self._final_returns_to_go = dataset.returns_to_go[last] - dataset.rewards[last]
        self._longest = int(transitions.spans.max())

    @property
    def dataset(self) -> TrajectoryDataset:
        """The data that are drawn from."""
        return self.transitions.dataset

    def draw(self, generator: torch.Generator) -> Transitions:
        """The next batch; takes `generator` as `TransitionSampler.draw` does."""
        data, drawable = self.transitions.dataset, self.windows.dataset
        first, steps, most_steps, own, begins = self.windows.places(generator)
        episode, ends = self._episode[first][:, None], drawable.ends[first][:, None]
        rows = (first[:, None] + torch.arange(steps + self._longest, device=first.device)).minimum(ends)
        stored = rows.minimum(data.ends[first][:, None] - 1)
        is_final = rows > stored
        # There is one observation more an episode than it has steps.
        observations, actions = self.transitions.columns(rows + episode)
        returns_to_go = torch.where(is_final, self._final_returns_to_go[episode], data.returns_to_go[stored])
        is_pad = rows[:, :steps] == ends
        taken = rows[:, :steps][~is_pad]
        here = torch.arange(rows.numel(), device=first.device).view_as(rows)[:, :steps][~is_pad]
        past = Past(
            observations=observations,
            actions=actions,
            returns_to_go=returns_to_go,
            timesteps=data.timesteps[stored] + is_final,
            here=here,
            after=here + self.transitions.spans[taken],
            is_pad=is_pad,
            most_steps=most_steps,
            own=own,
            begins=begins,
        )
        return self.transitions.at(taken)._replace(past=past)

    def state_dict(self) -> dict[str, Any]:
        """Of what draws the windows."""
        return self.windows.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `flowrl.protocols.Sampler`."""
        self.windows.load_state_dict(state)
