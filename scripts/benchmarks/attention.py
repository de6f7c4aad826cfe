"""Attention alone: its core and whole layers, and how exact the core is."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from flowrl.attention import ATTENTION, CausalAttention
from flowrl.attention.flow import flow_attention
from flowrl.scripts.benchmarks.textbook import textbook_flow
from flowrl.scripts.benchmarks.timing import Row, alternate, compared, precisions

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
Shape = tuple[int, int, int, int]  # B, H, T, D

softmax: Attention = partial(scaled_dot_product_attention, is_causal=True)

LAST = 60  # tokens whose error is measured: those that the longest sums reach


def core(device: torch.device, repetitions: int, quick: bool) -> list[Row]:
    """The attention alone, forward and backward."""
    shapes: list[Shape] = [(64, 1, 60, 128), (64, 4, 60, 64)]
    shapes += [(max(1, 3_840 // tokens), 4, tokens, 64) for tokens in (300, 900, 3_000, 8_192)]
    if quick:
        shapes = [(8, 4, 60, 64), (1, 4, 300, 64)]
    rows = []
    for shape in shapes:
        for precision, dtype in precisions(device).items():
            contenders = {"flow": flow_attention, "softmax": softmax}
            if precision == "fp32":
                contenders["textbook flow"] = textbook_flow
            qkv, weights = inputs(shape, device, dtype)
            calls = {name: partial(forward_backward, rule, qkv, weights) for name, rule in contenders.items()}
            what = "B {}, H {}, T {:,}, D {}, {}".format(*shape, precision)
            rows += compared(what, alternate(calls, repetitions))
    return rows


def inputs(
    shape: Shape, device: torch.device, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[list[Tensor], Tensor]:
    """Normal q, k and v, and the weights of the output in a loss."""
    generator = torch.Generator().manual_seed(seed)
    *qkv, weights = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(4))
    return [x.requires_grad_() for x in qkv], weights


def forward_backward(attention: Attention, qkv: list[Tensor], weights: Tensor) -> tuple[Tensor, ...]:
    """The output, and the gradients of q, k and v."""
    y = attention(*qkv)
    return y, *torch.autograd.grad(y, qkv, weights)


def layers(device: torch.device, repetitions: int, quick: bool) -> list[Row]:
    """Whole layers of every attention, fp32: forward and backward, and the step of an actor."""
    width, heads, past = 128, 4, 300
    names = sorted(ATTENTION, key=lambda name: name != "softmax")  # ratios are to softmax's
    built = {name: ATTENTION[name](width, heads) for name in names}
    for option in ("decay", "output_norm"):
        built[f"flow, {option}"] = ATTENTION["flow"](width, heads, **{option: True})
    built = {name: layer.to(device) for name, layer in built.items()}

    rows = []
    for batch, tokens in [(4, 60), (1, 300)] if quick else [(64, 60), (1, 3_000)]:
        x = torch.randn(batch, tokens, width, device=device).requires_grad_()
        calls = {name: partial(_train_layer, layer, x) for name, layer in built.items()}
        what = f"B {batch}, T {tokens:,}, width {width}, H {heads}, forward and backward"
        rows += compared(what, alternate(calls, repetitions))
    episodes = 4 if quick else 64
    x = torch.randn(episodes, past + 3, width, device=device)
    calls = {}
    for name, layer in built.items():
        if not layer.why_no_step:
            with torch.inference_mode():
                _, state = layer.step(x[:, :past], layer.initial_state(episodes))
            calls[name] = partial(_step_layer, layer, x[:, past:], state)
    return rows + compared(f"a step of {episodes} episodes after {past} tokens", alternate(calls, repetitions))


def _train_layer(layer: CausalAttention, x: Tensor) -> None:
    torch.autograd.grad(layer(x).sum(), [x, *layer.parameters()])


@torch.inference_mode()
def _step_layer(layer: CausalAttention, x: Tensor, state: Any) -> None:
    layer.step(x, state)


def exactness(device: torch.device, repetitions: int, quick: bool) -> list[Row]:
    """Relative errors of Flow-Attention at the last tokens of sequences, against the textbook's in float64.

    The gradients' error is the largest of q, k and v. Both read the same inputs, in bf16 the rounded ones.

    Args:
        repetitions: sequences; the last tokens of one share the error of its state, so one says little.
    """
    rows = []
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        outputs, gradients = {}, {}
        for tokens in (60, 300) if quick else (60, 900, 3_000):
            errors = [_errors(tokens, seed, device, dtype) for seed in range(repetitions)]
            outputs[f"T {tokens:,}"], gradients[f"T {tokens:,}"] = zip(*errors, strict=True)
        rows += compared(f"outputs, {precision}", outputs, "") + compared(f"gradients, {precision}", gradients, "")
    return rows


def _errors(tokens: int, seed: int, device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Of the output and of the gradients."""
    qkv, weights = inputs((1, 1, tokens, 64), device, dtype, seed)
    exact = [x.detach().double().requires_grad_() for x in qkv]
    computed = forward_backward(flow_attention, qkv, weights)
    expected = forward_backward(textbook_flow, exact, weights.double())
    output, *gradients = map(relative_error, computed, expected)
    return output, max(gradients)


def relative_error(computed: Tensor, expected: Tensor) -> float:
    """Of the last tokens of (B, H, T, D): the norm of the difference over that of `expected`."""
    computed, expected = (x.detach()[:, :, -LAST:].double() for x in (computed, expected))
    return float((computed - expected).norm() / expected.norm())
