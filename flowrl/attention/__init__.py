"""Causal self-attentions behind one interface; `ATTENTION` names them all.

Every class is built as ``ATTENTION[name](width, heads, dropout=0.0)`` and offers
``attn(x, is_pad=None)`` over a whole sequence, ``attn.step(x, state)`` for the next tokens of one (where
``attn.why_no_step`` is None), and ``attn.weights(x)``, what it does as a matrix to look at.
docs/reference/attentions.md has the equations, cost and state of each.
"""

from flowrl.attention.cosformer import CosformerAttention
from flowrl.attention.flow import FlowAttention
from flowrl.attention.linear import LinearAttention
from flowrl.attention.linformer import LinformerAttention
from flowrl.attention.multihead import CausalAttention
from flowrl.attention.performer import PerformerAttention
from flowrl.attention.reformer import ReformerAttention
from flowrl.attention.softmax import SoftmaxAttention

ATTENTION: dict[str, type[CausalAttention]] = {
    "flow": FlowAttention,
    "softmax": SoftmaxAttention,
    "linear": LinearAttention,
    "performer": PerformerAttention,
    "cosformer": CosformerAttention,
    "reformer": ReformerAttention,
    "linformer": LinformerAttention,
}

__all__ = [
    "ATTENTION",
    "CausalAttention",
    "CosformerAttention",
    "FlowAttention",
    "LinearAttention",
    "LinformerAttention",
    "PerformerAttention",
    "ReformerAttention",
    "SoftmaxAttention",
]
