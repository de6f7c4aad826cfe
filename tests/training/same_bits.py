"""Comparing what training left behind, bit by bit."""

from typing import Any

import torch


def assert_same_bits(one: Any, two: Any, path: str = "") -> None:
    """Fail where two trees of dicts, lists, tensors and plain values differ, naming the place."""
    assert type(one) is type(two), path
    if isinstance(one, dict):
        assert one.keys() == two.keys(), path
        for key in one:
            assert_same_bits(one[key], two[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), path
        for index, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_same_bits(a, b, f"{path}[{index}]")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype, path
        assert torch.equal(one, two), path
    else:
        assert one == two, path
