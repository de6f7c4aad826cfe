"""Whether returns can steer a policy that is trained on a dataset."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flowrl.data.dataset import TrajectoryDataset
from flowrl.inspection.references import References
from flowrl.inspection.regression import Gain, regression_gain
from flowrl.text import number, share

__all__ = ["FEW_EPISODES", "START", "TELLING", "Spread", "Steering", "SteeringVerdict", "judge_steering"]

FEW_EPISODES = 10
START = 20  # steps from an episode's start, where observations do not yet show who acts
WIDE, NARROW = 0.25, 0.10  # of the scale, from the 10th to the 90th percentile of returns over steps
BAND = 0.1  # of the scale
# Relative gain in held-out error from which on the return says something about the action: a rule of thumb, chosen on
# our own Hopper sets. Mixtures gain 1.0 to 3.6 %, the medium and the expert policy alone 0.0 %. The untrained policy
# gains 3 %, since in its short episodes the noise itself decides the return, but its returns are all alike.
TELLING = 0.005
SIDE_EPISODES = 5  # on either side of the middle of the returns

SteeringVerdict = Literal["yes", "weakly", "no"]


@dataclass(frozen=True)
class Spread:
    """How far apart the returns are."""

    p10: float
    """10th percentile of returns over steps: every step counts with the return of its episode."""
    p90: float
    scale: float
    """The spread is measured against this: the reference range, or the mean size of returns without one."""
    scale_name: str
    relative: float
    """From the 10th to the 90th percentile, over the scale."""
    densest_band: float
    """Largest share of the steps whose episodes' returns lie within `BAND` of the scale."""
    low_episodes: int
    """Episodes below the middle between the two percentiles."""
    high_episodes: int
    """The others."""


@dataclass(frozen=True)
class Steering:
    """Whether a target return can be expected to change what a policy trained on these data does."""

    verdict: SteeringVerdict
    sentence: str
    """The verdict in a word, a colon, and why."""
    detail: tuple[str, ...] = ()
    """The numbers behind it, a sentence each."""
    spread: Spread | None = None
    everywhere: Gain | None = None
    start: Gain | None = None
    """The same on the first `START` steps of the episodes alone."""

    @property
    def reason(self) -> str:
        """Why, for the middle of a sentence."""
        return self.sentence.partition(": ")[2].rstrip(".")


def judge_steering(dataset: TrajectoryDataset, references: References, generator: np.random.Generator) -> Steering:
    """Judge from the data alone whether returns can steer; no policy is trained, so this is an expectation.

    Yes takes both: returns that differ by much over the steps, and a return-to-go that says something about the action
    beyond what observation and time say (`regression_gain`). Returns that vary by luck alone, as one noisy policy's do,
    pass the first and fail the second. A dataset of 200,000 Hopper steps takes about 0.15 s on one core.

    Args:
        references: returns of a random and of an expert policy, by name; the first that is known gives the scale.
        generator: draws the steps, the folds and the random features of the regression.
    """
    lengths, returns = dataset.lengths.cpu().numpy(), dataset.returns.cpu().numpy().astype(np.float64)
    if len(lengths) < FEW_EPISODES:
        return Steering("no", f"No: {len(lengths)} episode(s) are too few to choose between returns.")
    spread = _spread(returns, lengths, references)
    if returns.max() - returns.min() <= 1e-6 * float(np.abs(returns).max()):
        return Steering("no", "No: all episodes have the same return.", (_spread_sentence(spread),), spread)
    everywhere = regression_gain(dataset, generator)
    start = regression_gain(dataset, generator, within=START) if int(lengths.max()) > START else None
    gains = [gain for gain in (everywhere, start) if gain is not None]
    verdict, sentence = _verdict(spread, gains)
    detail = [_spread_sentence(spread)]
    if gains:
        best = max(gains, key=lambda gain: gain.low)
        detail.append(_gain_sentence(best, at_start=best is start))
    return Steering(verdict, sentence, tuple(detail), spread, everywhere, start)


def _verdict(spread: Spread, gains: list[Gain]) -> tuple[SteeringVerdict, str]:
    """The first of these that holds decides."""
    if not gains:
        return "no", "No: the actions never vary."
    best = max(gains, key=lambda gain: gain.low)
    if spread.relative < NARROW:
        return "no", "No: the returns of most steps are too much alike."
    if all(gain.high < TELLING for gain in gains):
        return "no", (
            "No: the returns differ, but given the present observation and time the actions hardly differ with them"
            " (whether they do given the past is not judged)."
        )
    if best.low <= 0:
        return "weakly", "Uncertain: the returns differ, but whether the actions differ with them is open."
    if best.gain < TELLING:
        return "weakly", "Weakly: the returns differ, but the actions differ with them only a little."
    if spread.relative < WIDE:
        return "weakly", "Weakly: the actions differ with the returns, but the returns differ little."
    if min(spread.low_episodes, spread.high_episodes) < SIDE_EPISODES:
        return "weakly", (
            f"Weakly: {spread.low_episodes} episode(s) return less than the middle of the returns and"
            f" {spread.high_episodes} return more, which is too few on one side."
        )
    return "yes", "Probably: the returns differ, and the actions differ with them."


def _spread(returns: NDArray[np.float64], lengths: NDArray[np.int64], references: References) -> Spread:
    by_step = np.repeat(returns, lengths)
    scale, scale_name = _scale(by_step, references)
    p10, p90 = (float(p) for p in np.percentile(by_step, (10, 90)))
    low_episodes = int((returns < (p10 + p90) / 2).sum())
    return Spread(
        p10=p10,
        p90=p90,
        scale=scale,
        scale_name=scale_name,
        relative=(p90 - p10) / scale,
        densest_band=_densest(by_step, BAND * scale),
        low_episodes=low_episodes,
        high_episodes=len(returns) - low_episodes,
    )


def _scale(by_step: NDArray[np.float64], references: References) -> tuple[float, str]:
    for name, pair in references.items():
        if pair is not None and pair[1] > pair[0]:
            return pair[1] - pair[0], f"the range from random to expert ({name} references)"
    return float(np.abs(by_step).mean()) or 1.0, "the mean size of the returns (no reference is known)"


def _densest(values: NDArray[np.float64], width: float) -> float:
    """Largest share of the values in any closed interval of that width."""
    values = np.sort(values)
    return float((np.searchsorted(values, values + width, side="right") - np.arange(len(values))).max() / len(values))


def _spread_sentence(spread: Spread) -> str:
    return (
        f"Four fifths of all steps are from episodes that return {number(spread.p10)} to {number(spread.p90)}. This"
        f" spread is {spread.relative:.0%} of {spread.scale_name}, which is {number(spread.scale)}. Up to"
        f" {spread.densest_band:.0%} of the steps have returns that differ by no more than {BAND:.0%} of the latter."
    )


def _gain_sentence(gain: Gain, *, at_start: bool) -> str:
    change = f"{share(gain.gain)} smaller" if gain.gain >= 0 else f"{share(-gain.gain)} larger"
    where = f" (the first {START} steps of each)" if at_start else ""
    return (
        f"With the return-to-go, besides observation and time, the squared error of predicted actions on held-out"
        f" episodes{where} is {change} (95 % interval of the reduction: about {share(gain.low)} to {share(gain.high)})."
    )
