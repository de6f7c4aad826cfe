"""The oracle of causal Flow-Attention: its equations one by one, token by token, as slow as they stand on paper.

For tests and for reading, not for use. It shares no code with what it checks; autograd makes the gradient. The
equations are those of `flowrl.attention.flow`, where every sum over j ≤ i is multiplied by γ^(i-j) if there is a decay.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class OracleFlows(NamedTuple):
    """(B, H, T) each, as the equations name them; Ô before its clamp."""

    incoming: Tensor  # I
    outgoing: Tensor  # O
    conserved_incoming: Tensor  # Î
    conserved_outgoing: Tensor  # Ô
    competition: Tensor  # C
    allocation: Tensor  # sigmoid(Î)


def flow_oracle(
    q: Tensor, k: Tensor, v: Tensor, *, clip: float = 10.0, eps: float = 1e-6, decay: Tensor | None = None
) -> tuple[Tensor, OracleFlows]:
    """Causal Flow-Attention and its flows, in time and memory quadratic in T.

    Args:
        q: (B, H, T, D) queries after the feature map.
        k: (B, H, T, D) keys after the feature map.
        v: (B, H, T, M) values.
        clip: bound on Ô.
        eps: ε, added once after each sum.
        decay: (H,) γ of each head; None for 1.

    Returns:
        y (B, H, T, M) in the dtype of the inputs, and the flows.
    """
    tokens = range(q.shape[2])
    qs, ks, vs = q.unbind(2), k.unbind(2), v.unbind(2)  # (B, H, D or M) of each token
    ones = torch.ones_like(qs[0][..., :1])

    def total(i: int, terms: list[Tensor]) -> Tensor:
        """Σ_{j≤i} γ^(i-j) terms_j."""
        if decay is None:
            return torch.stack(terms[: i + 1]).sum(0)
        ages = torch.arange(i, -1, -1, device=q.device)
        return (decay[:, None] ** ages[:, None, None, None] * torch.stack(terms[: i + 1])).sum(0)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(-1, keepdim=True)

    n = [total(i, [ones] * (i + 1)) for i in tokens]
    incoming = [dot(qs[i] + eps, total(i, [*ks]) + eps) for i in tokens]
    outgoing = [dot(ks[j] + eps, total(j, [*qs]) + eps) for j in tokens]
    k_per_flow = [ks[j] * n[j] / outgoing[j] for j in tokens]
    q_per_flow = [qs[i] * n[i] / incoming[i] for i in tokens]
    conserved_incoming = [dot(qs[i] + eps, total(i, k_per_flow) + eps) / n[i] for i in tokens]
    conserved_outgoing = [dot(ks[j] + eps, total(j, q_per_flow) + eps) / n[j] for j in tokens]
    exponentials = [conserved.clamp(-clip, clip).exp() for conserved in conserved_outgoing]
    competition = [n[j] * exponentials[j] / total(j, exponentials) for j in tokens]
    allocation = [conserved.sigmoid() for conserved in conserved_incoming]
    y = [
        allocation[i] / incoming[i] * total(i, [dot(qs[i], ks[j]) * competition[j] * vs[j] for j in range(i + 1)])
        for i in tokens
    ]
    flows = (incoming, outgoing, conserved_incoming, conserved_outgoing, competition, allocation)
    return torch.stack(y, 2), OracleFlows(*(torch.cat(flow, -1) for flow in flows))
