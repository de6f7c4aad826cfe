"""The attention alone: its time against its rivals, what it keeps for its backward, and how exact it is."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from flowrl.attention import ATTENTION
from flowrl.attention.flow import FlowAttention, flow_attention
from flowrl.attention.multihead import CausalAttention
from flowrl.scripts.benchmarks.baselines import running_sum_attention
from flowrl.scripts.benchmarks.measure import Contender, Row, Sample, alternate, faster, storage_bytes
from flowrl.scripts.benchmarks.setting import Setting
from flowrl.training.loop import isolated_rng

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
Shape = tuple[int, int, int, int]  # B, H, T, D

softmax: Attention = partial(scaled_dot_product_attention, is_causal=True)

LONG_HEADS, LONG_FEATURES = 4, 64
HISTORY = 300  # tokens before a step
LITERAL_SPEEDUPS = (120, 40)
LONG_TARGETS = {300: ("at most", 1.3), 900: ("at least", 1.2), 3_000: ("at least", 2.8), 8_192: ("at least", 6.0)}


def core(setting: Setting) -> Iterator[Row]:
    """Forward and backward of the attention alone."""
    for shape, speedup in zip(setting.sizes.core_shapes, LITERAL_SPEEDUPS, strict=True):
        flow, literal = _race(setting, shape, {"flow": flow_attention, "running sums": running_sum_attention}, few=True)
        yield faster(told(shape), flow, literal, speedup)
    for shape in setting.sizes.core_shapes:
        flow, sdpa = _race(setting, shape, {"flow": flow_attention, "softmax": softmax})
        yield Row(told(shape), flow, sdpa, "at most", 1.25)
    if "bf16" in setting.precisions:
        for shape in setting.sizes.core_shapes:
            flow, sdpa = _race(setting, shape, {"flow": flow_attention, "softmax": softmax}, dtype=torch.bfloat16)
            yield Row(f"{told(shape)}, bf16", flow, sdpa)
    for tokens in setting.sizes.long:
        shape = max(1, setting.sizes.tokens // tokens), LONG_HEADS, tokens, LONG_FEATURES
        flow, sdpa = _race(setting, shape, {"flow": flow_attention, "softmax": softmax}, few=tokens > 1_000)
        sense, bound = LONG_TARGETS.get(tokens, ("at most", None))
        yield (
            faster(told(shape), flow, sdpa, bound) if sense == "at least" else Row(told(shape), flow, sdpa, bound=bound)
        )


def layers(setting: Setting) -> Iterator[Row]:
    """Whole layers, projections and all, of every attention and of flow's options, against softmax's."""
    sizes = setting.sizes
    kinds: dict[str, Callable[[], CausalAttention]] = {
        name: partial(rule, sizes.width, sizes.heads[-1]) for name, rule in ATTENTION.items()
    }
    kinds["flow, decay"] = partial(FlowAttention, sizes.width, sizes.heads[-1], decay=True)
    kinds["flow, output_norm"] = partial(FlowAttention, sizes.width, sizes.heads[-1], output_norm=True)
    built = {}
    for name, kind in kinds.items():
        with isolated_rng(0, setting.device):
            built[name] = kind().to(setting.device)
    generator = torch.Generator().manual_seed(0)

    def tokens(*shape: int) -> Tensor:
        return torch.randn(*shape, sizes.width, generator=generator).to(setting.device)

    for batch, length in ((sizes.batch, 3 * sizes.context), (1, 3 * sizes.long_context)):
        x = tokens(batch, length).requires_grad_()
        contenders = [Contender(name, partial(_train_layer, layer, x)) for name, layer in built.items()]
        what = f"B {batch}, T {length:,}, width {sizes.width}, H {sizes.heads[-1]}, forward and backward"
        yield from _against_softmax(setting, what, contenders, few=length > 1_000)
    past, step = tokens(sizes.environments, HISTORY), tokens(sizes.environments, 3)
    contenders = []
    with torch.inference_mode():
        for name, layer in built.items():
            if not layer.why_no_step:
                _, state = layer.step(past, layer.initial_state(sizes.environments))
                contenders.append(Contender(name, partial(_step_layer, layer, step, state)))
    yield from _against_softmax(setting, f"a step of {sizes.environments} episodes after {HISTORY} tokens", contenders)


def _against_softmax(setting: Setting, what: str, contenders: list[Contender], *, few: bool = False) -> Iterator[Row]:
    samples = alternate(contenders, setting.few if few else setting.repetitions, setting.device)
    (softmax,) = (sample for sample in samples if sample.name == "softmax")
    for sample in samples:
        if sample is not softmax:
            yield Row(what, sample, softmax)


def _train_layer(layer: CausalAttention, x: Tensor) -> None:
    torch.autograd.grad(layer(x).sum(), [x, *layer.parameters()])


@torch.inference_mode()
def _step_layer(layer: CausalAttention, x: Tensor, state: Any) -> None:
    layer.step(x, state)


def memory(setting: Setting) -> Iterator[Row]:
    """Bytes that autograd saves between forward and backward, against the bytes of q, k and v.

    Counted are the storages, each whole and once, of all tensors that it saves. Flow-Attention saves none of q, k and
    v; where something else keeps them, they come on top: the last row but one of a shape.
    """
    shapes = [*setting.sizes.core_shapes, *((1, LONG_HEADS, t, LONG_FEATURES) for t in setting.sizes.long if t > 300)]
    for shape in shapes:
        qkv = inputs(shape, setting.device)
        inputs_size = Sample("q, k and v", "B", (storage_bytes(qkv),))
        for name, attention, others, bound in (
            ("flow", flow_attention, [], 3.0),
            ("flow, recomputed", recomputed, [], 1.1),
            ("softmax", softmax, [], None),
            ("flow, and q, k, v", flow_attention, qkv, None),
            ("flow with a decay", decaying, [], None),
        ):
            kept = Sample(name, "B", (storage_bytes([*saved_tensors(attention, qkv), *others]),))
            yield Row(told(shape), kept, inputs_size, "at most", bound, "× q+k+v")


def recomputed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Flow-Attention whose backward computes the forward again."""
    y = checkpoint(flow_attention, q, k, v, use_reentrant=False, preserve_rng_state=False)
    assert isinstance(y, Tensor)
    return y


def decaying(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Flow-Attention whose heads forget at the rates that they begin with, as the layer calls it."""
    layer = FlowAttention(q.shape[1] * q.shape[3], q.shape[1], decay=True).to(q.device)
    return layer.mix(q, k, v, None)


def saved_tensors(attention: Attention, qkv: list[Tensor]) -> list[Tensor]:
    """What autograd saves for the backward of `attention`."""
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attention(*qkv)
    return saved


def inputs(shape: Shape, device: torch.device, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Normal q, k and v (B, H, T, D), the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for _ in "qkv"]


def told(shape: Shape) -> str:
    """A shape in words."""
    return "B {}, H {}, T {:,}, D {}".format(*shape)


def _race(
    setting: Setting,
    shape: Shape,
    attentions: dict[str, Attention],
    *,
    dtype: torch.dtype = torch.float32,
    few: bool = False,
) -> list[Sample]:
    qkv = inputs(shape, setting.device, dtype)
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(setting.device, dtype)

    def there_and_back(attention: Attention) -> None:
        torch.autograd.grad(attention(*qkv), qkv, weights)

    contenders = [Contender(name, partial(there_and_back, attention)) for name, attention in attentions.items()]
    return alternate(contenders, setting.few if few else setting.repetitions, setting.device)
