"""The Performer's causal attention: softmax attention in expectation, by positive orthogonal random features (FAVOR+).

Source: Choromanski et al., "Rethinking Attention with Performers", ICLR 2021, lemma 1 and section 2.4. With random w,
each normal with covariance 1, and q, k divided by D^(1/4)::

    exp(q·k) = E exp(w·q - |q|²/2) exp(w·k - |k|²/2)

The paper's code keeps the exponents small by the largest one over all keys of the sequence, so that later tokens change
the output at earlier ones. Here a query is scaled by its own largest feature, which cancels, as |q|²/2 does; and since
w·k - |k|²/2 ≤ |w|²/2, a factor exp(|w|²/4) that moves from the key's to the query's feature bounds the former by
exp(|w|²/4), whatever the key. From below nothing bounds it: of keys of many times the usual length (a standard
deviation of 4 at D = 32, 3 at D = 128; trained agents have 0.1 to 1.5) all features can vanish in float32, and the
output with them.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowrl.attention.kernel import KernelAttention
from flowrl.attention.multihead import drawn_seed

MOST_FEATURES = 16_384  # the state of a head has D times as many numbers


class PerformerAttention(KernelAttention):
    """Multi-head causal Performer attention; its state is F M + F numbers a head.

    The random directions are a buffer, so that a checkpoint holds them. They differ between heads and layers, and are
    drawn by a generator that `drawn_seed` seeds: the initial weights are what they would be without them.

    Args:
        features: random features of a head (F); by default D ln D rounded, at least 1, the order that the paper's
            theorem 4 asks for.
        redraw_every: training steps that use the same features; 0 for all. `prepare_step` draws the next ones when the
            step that uses them begins, so that only features that were trained with are evaluated. They depend only on
            `seed` and the step: a resumed run draws what an uninterrupted one does. A state fits only the features that
            it was computed with.

    Raises:
        ValueError: as `CausalAttention`; `features` is below 1 or above `MOST_FEATURES`, or `redraw_every` below 0.
    """

    directions: Tensor  # (H, F, D)  w
    seed: Tensor  # () int64, of all draws of directions

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float = 0.0,
        *,
        features: int | None = None,
        redraw_every: int = 0,
    ) -> None:
        super().__init__(width, heads, dropout)
        self.check(width, heads, features=features, redraw_every=redraw_every)
        self.features = _default_features(width // heads) if features is None else features
        self.redraw_every = redraw_every
        self.register_buffer("seed", torch.tensor(drawn_seed()))
        self.register_buffer("directions", self._draw(0))
        self._drawn: int | None = 0  # the number of the draw in use; None after loading: the state_dict has no number
        self.register_load_state_dict_pre_hook(_before_loading)

    @classmethod
    def check(
        cls, width: int, heads: int, *, features: int | None = None, redraw_every: int = 0, **options: Any
    ) -> None:
        super().check(width, heads, **options)
        features = _default_features(width // heads) if features is None else features
        if not 1 <= features <= MOST_FEATURES:
            raise ValueError(f"features is {features}: it must be at least 1 and at most {MOST_FEATURES:,}")
        if redraw_every < 0:
            raise ValueError(f"redraw_every is {redraw_every}: it must be at least 0")

    def prepare_step(self, step: int) -> None:
        """Draw new features where they change: steps k·redraw_every + 1 to (k + 1)·redraw_every use draw number k."""
        if not self.redraw_every:
            return
        number = (step - 1) // self.redraw_every
        if number != self._drawn:
            # In place: whoever holds the buffer, like a compiled graph or another process's wrapper, uses the new ones.
            self.directions.copy_(self._draw(number))
            self._drawn = number

    def query_features(self, q: Tensor) -> Tensor:
        w = self.directions.to(q.dtype)
        exponents = self._scaled(q) @ w.mT + w.square().sum(-1)[:, None] / 4
        return (exponents - exponents.detach().amax(-1, keepdim=True)).exp()

    def key_features(self, k: Tensor) -> Tensor:
        k, w = self._scaled(k), self.directions.to(k.dtype)
        return (k @ w.mT - k.square().sum(-1, keepdim=True) / 2 - w.square().sum(-1)[:, None] / 4).exp()

    def _scaled(self, x: Tensor) -> Tensor:
        return x * x.shape[-1] ** -0.25

    def _draw(self, number: int) -> Tensor:
        """(H, F, D) orthogonal in blocks of D, with the lengths of normal vectors; the first draw has number 0."""
        seed = np.random.SeedSequence((int(self.seed), number)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed))
        d = self.width // self.heads
        heads = []
        for _ in range(self.heads):
            blocks = [
                nn.init.orthogonal_(torch.empty(d, d, dtype=torch.float64), generator=generator)
                for _ in range(-(-self.features // d))
            ]
            lengths = torch.randn(self.features, d, dtype=torch.float64, generator=generator).norm(dim=-1)
            heads.append(torch.cat(blocks)[: self.features] * lengths[:, None])
        return torch.stack(heads).to(torch.get_default_dtype())


def _before_loading(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(module, PerformerAttention)
    state_dict.pop(f"{prefix}training_steps", None)  # a count that earlier versions kept
    module._drawn = None


def _default_features(d: int) -> int:
    """D ln D rounded, at least 1."""
    return max(1, round(d * math.log(d)))
