"""A short causal convolution of each feature over the tokens: a look at what stands right before each."""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad


class ShortConvolution(nn.Module):
    """y_t = Σ_{s<span} w_s ∘ x_{t-s}, with factors of each feature; it begins as the identity.

    Source: Primer (So et al. 2021) has such depthwise convolutions after the projections to queries, keys and values;
    here one stands before them, for all three.

    Args:
        width: features of a token.
        span: tokens that reach an output, the token itself among them; at least 1.
    """

    def __init__(self, width: int, span: int) -> None:
        super().__init__()
        self.span = span
        factors = torch.zeros(span, width)
        factors[0] = 1.0
        self.factors = nn.Parameter(factors)

    def initial_state(self, batch: int) -> Tensor:
        """(B, span - 1, width): before the first token stand zeros."""
        return self.factors.new_zeros(batch, self.span - 1, self.factors.shape[1])

    def forward(self, x: Tensor, is_pad: Tensor | None = None) -> Tensor:
        """(B, T, width) to the same, as if zeros stood at the padding (B, T): on the left it is as if it were not."""
        if is_pad is not None:
            x = x.masked_fill(is_pad[..., None], 0)
        return self._over(pad(x, (0, 0, self.span - 1, 0)), x.shape[1])

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward` for the (B, t, width) tokens that follow `state`, and the state after them."""
        seen = torch.cat([state.to(x.dtype), x], 1)
        return self._over(seen, x.shape[1]), seen[:, x.shape[1] :].clone()

    def _over(self, seen: Tensor, tokens: int) -> Tensor:
        shifts = range(self.span)  # a grouped convolution takes longer on a CPU
        return torch.stack([seen[:, self.span - 1 - s :][:, :tokens] * self.factors[s] for s in shifts]).sum(0)
