"""The Performer's causal attention: softmax attention in expectation, by positive orthogonal random features (FAVOR+).

Source: Choromanski et al., "Rethinking Attention with Performers", ICLR 2021, lemma 1 and section 2.4. With random w,
each normal with covariance 1, and q, k divided by D^(1/4)::

    exp(q·k) = E exp(w·q - |q|²/2) exp(w·k - |k|²/2)

The paper's code keeps the exponents small by the largest one over all keys of the sequence, which tells a token of
later ones. Here a query is scaled by its own largest feature, which cancels, as |q|²/2 does; and since
w·k - |k|²/2 ≤ |w|²/2, a factor exp(|w|²/4) that moves from the key's to the query's feature bounds the former by
exp(|w|²/4), whatever the key. From below nothing bounds it: of keys of many times the usual length (a standard
deviation of 4 at D = 32, 3 at D = 128; trained agents have 0.1 to 1.5) all features can vanish in float32, and the
output with them.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from flowrl.attention.kernel import KernelAttention
from flowrl.attention.multihead import drawn_seed

MOST_FEATURES = 16_384  # the state of a head has D times as many numbers


class PerformerAttention(KernelAttention):
    """Multi-head causal Performer attention; its state is F M + F numbers a head.

    The random directions are a buffer, so that a checkpoint holds them; they come from a generator of their own, which
    leaves the initial weights what they would be without, seeded by `drawn_seed`. Every head of every layer has others.

    Args:
        features: random features of a head (F); by default D ln D rounded, at least 1, the order that the paper's
            theorem 4 asks for.
        redraw_every: training steps that use the same features; 0 for all. A step ends when a backward pass has reached
            the weights: evaluating, or working a block out again for its gradient, counts for nothing. Others are drawn
            when the next step begins, so that no features are evaluated that none was trained with. The count is a
            buffer, so a resumed run draws what an uninterrupted one does. A state is of the features that made it.

    Raises:
        ValueError: as `CausalAttention`; `features` is below 1 or above `MOST_FEATURES`, or `redraw_every` below 0.
    """

    directions: Tensor  # (H, F, D)  w
    training_steps: Tensor  # () int64
    seed: Tensor  # () int64, of the directions: a resumed run draws the next ones by it

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
        d = width // heads
        self.features = max(1, round(d * math.log(d))) if features is None else features
        if not 1 <= self.features <= MOST_FEATURES:
            raise ValueError(f"features is {features}: it must be at least 1 and at most {MOST_FEATURES:,}")
        if redraw_every < 0:
            raise ValueError(f"redraw_every is {redraw_every}: it must be at least 0")
        self.redraw_every = redraw_every
        self.register_buffer("seed", torch.tensor(drawn_seed()))
        self.register_buffer("directions", self._draw(0))
        self.register_buffer("training_steps", torch.zeros((), dtype=torch.int64))
        self._renewed = not redraw_every  # whether the features are those of the next training step
        if redraw_every:
            self.project_in.weight.register_post_accumulate_grad_hook(lambda _: self._end_step())
            self.register_load_state_dict_post_hook(lambda *_: setattr(self, "_renewed", False))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, is_pad: Tensor | None) -> Tensor:
        if self.training and not self._renewed:
            self._renew()
        return super().mix(q, k, v, is_pad)

    def query_features(self, q: Tensor) -> Tensor:
        w = self.directions.to(q.dtype)
        exponents = self._scaled(q) @ w.mT + w.square().sum(-1)[:, None] / 4
        return (exponents - exponents.detach().amax(-1, keepdim=True)).exp()

    def key_features(self, k: Tensor) -> Tensor:
        k, w = self._scaled(k), self.directions.to(k.dtype)
        return (k @ w.mT - k.square().sum(-1, keepdim=True) / 2 - w.square().sum(-1)[:, None] / 4).exp()

    def _scaled(self, x: Tensor) -> Tensor:
        return x * x.shape[-1] ** -0.25

    def _end_step(self) -> None:
        self.training_steps += 1
        self._renewed = int(self.training_steps) % self.redraw_every > 0

    @torch.compiler.disable()
    def _renew(self) -> None:
        self.directions = self._draw(int(self.training_steps) // self.redraw_every).to(self.directions)
        self._renewed = True

    def _draw(self, redraws: int) -> Tensor:
        """(H, F, D) orthogonal in blocks of D, with the lengths of normal vectors, after so many redraws."""
        seed = np.random.SeedSequence((int(self.seed), redraws)).generate_state(1, np.uint64)[0]
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
