"""How exact Flow-Attention is: against itself in float64, over long sequences and in a state that is carried far."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from flowrl.attention import FlowAttention
from flowrl.attention.flow import flow_attention
from flowrl.scripts.benchmarks.attention import Shape, inputs
from flowrl.scripts.benchmarks.measure import Row, Sample
from flowrl.scripts.benchmarks.setting import Setting
from flowrl.training.loop import isolated_rng

HEADS, FEATURES = 1, 64
LAST = 60  # the tokens whose error is told: what a sum over thousands lost shows at its end
GROWTH = 3.0  # by which the error may grow from the shortest sequence to the longest
# The last tokens of a sequence share the error of one state, so one sequence tells little: at 10,000 tokens some have
# half the usual error and some twice.
SEQUENCES = 8
MOST_TOKENS = 32_768  # of all sequences together, in the parallel form; the longest is measured on one


def numerics(setting: Setting) -> Iterator[Row]:
    """Relative error of outputs and gradients, by the sequence, at its last tokens; the worst of the three gradients.

    bf16 is of the inputs and outputs: the reference takes the same rounded inputs, the sums in between are float32.
    """
    sizes = setting.sizes
    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        shortest, *longer = (
            _errors((_sequences(tokens), HEADS, tokens, FEATURES), setting.device, dtype, name)
            for tokens in (*sizes.accurate, sizes.longest)
        )
        for found in longer:
            for what, error, least in zip(("outputs", "gradients"), found, shortest, strict=True):
                yield Row(what, error, least, bound=GROWTH, words="× the error")
    short, long = _carried(setting, (sizes.accurate[0], sizes.carried))
    yield Row("outputs, a token at a time", long, short, bound=GROWTH, words="× the error")


def _errors(shape: Shape, device: torch.device, dtype: torch.dtype, name: str) -> tuple[Sample, Sample]:
    """Of the outputs and of the gradients."""
    qkv = inputs(shape, device, dtype)
    exact = [x.detach().double().requires_grad_() for x in qkv]
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    found, expected = flow_attention(*qkv), flow_attention(*exact)
    gradients = zip(
        torch.autograd.grad(found, qkv, weights), torch.autograd.grad(expected, exact, weights.double()), strict=True
    )
    what = f"{name}, T {shape[2]:,}"
    worst = torch.stack([relative_error(*pair) for pair in gradients]).amax(0)
    return _sample(what, relative_error(found, expected)), _sample(what, worst)


def _carried(setting: Setting, lengths: Sequence[int]) -> list[Sample]:
    """Of a layer's outputs at the last tokens of these lengths, a state carried from token to token."""
    width = HEADS * FEATURES
    with isolated_rng(0, setting.device):
        layer = FlowAttention(width, HEADS).to(setting.device)
        x = torch.randn(SEQUENCES, max(lengths), width, device=setting.device)
    outputs, state = [], layer.initial_state(SEQUENCES)
    with torch.inference_mode():
        for token in x.split(1, dim=1):
            y, state = layer.step(token, state)
            outputs.append(y)
        found = torch.cat(outputs, dim=1)
        layer.double()
        expected = torch.cat([layer(sequence.double()) for sequence in x.split(1)])
    return [
        _sample(f"fp32, T {length:,}", relative_error(found[:, :length], expected[:, :length])) for length in lengths
    ]


def _sequences(tokens: int) -> int:
    return min(SEQUENCES, max(1, MOST_TOKENS // tokens))


def _sample(name: str, errors: Tensor) -> Sample:
    return Sample(name, "error", tuple(errors.tolist()))


def relative_error(found: Tensor, expected: Tensor) -> Tensor:
    """(B,) of (B, ..., T, D): root mean square of the difference over that of `expected`, over the last tokens."""
    found, expected = (y.detach()[..., -LAST:, :].double().flatten(1) for y in (found, expected))
    return (found - expected).norm(dim=1) / expected.norm(dim=1)
