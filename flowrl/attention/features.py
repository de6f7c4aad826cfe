"""The feature maps that make queries and keys positive."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from flowrl.attention.multihead import at_least_float32


def elu_plus_one(x: Tensor) -> Tensor:
    """x + 1 above 0, exp(x) below: written so, since elu(x) + 1 is exactly 0 in float32 from x = -17 down."""
    return x.relu() + x.clamp(max=0).exp()


FeatureMap = Literal["sigmoid", "softplus", "elu"]
FEATURE_MAPS: dict[FeatureMap, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,  # Flow-Attention's
    "softplus": softplus,
    "elu": elu_plus_one,  # the linear transformer's
}


def map_features(q: Tensor, k: Tensor, feature_map: FeatureMap) -> tuple[Tensor, Tensor]:
    """Queries and keys after the feature map, in at least float32."""
    with torch.autocast(q.device.type, enabled=False):
        of = FEATURE_MAPS[feature_map]
        return of(q.to(at_least_float32(q))), of(k.to(at_least_float32(k)))
