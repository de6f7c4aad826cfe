"""The linear transformer's causal attention, with features elu(x) + 1.

Source: Katharopoulos et al., "Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention",
ICML 2020, equations 7-12.
"""

from torch import Tensor

from flowrl.attention.features import elu_plus_one
from flowrl.attention.kernel import KernelAttention


class LinearAttention(KernelAttention):
    """Multi-head causal linear attention; its state is D M + D numbers a head."""

    def query_features(self, q: Tensor) -> Tensor:
        return elu_plus_one(q)

    def key_features(self, k: Tensor) -> Tensor:
        return elu_plus_one(k)
