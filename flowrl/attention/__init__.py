"""Causal self-attentions behind one interface; `ATTENTION` names them all.

Every class is built as ``ATTENTION[name](width, heads, dropout=0.0)`` and offers
``attn(x, is_pad=None)`` over a whole sequence, ``attn.step(x, state)`` for the next tokens of one, and
``attn.weights(x)``, what it does as a matrix to be looked at.
"""

from flowrl.attention.flow import FlowAttention
from flowrl.attention.multihead import CausalAttention
from flowrl.attention.softmax import SoftmaxAttention

ATTENTION: dict[str, type[CausalAttention]] = {
    "flow": FlowAttention,
    "softmax": SoftmaxAttention,
}

__all__ = ["ATTENTION", "CausalAttention", "FlowAttention", "SoftmaxAttention"]
