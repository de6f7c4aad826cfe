"""The settings of a trajectory model."""

from dataclasses import dataclass
from typing import Literal

from flowrl.attention import ATTENTION
from flowrl.attention.options import read_options, write_options
from flowrl.data.samplers import Context

# The action is read from the observation's token, which carries the return where no token of its own does.
TOKENS: dict[str, tuple[str, ...]] = {
    "return-observation-action": ("return", "observation", "action"),
    "observation-action": ("observation", "action"),
    "return-observation": ("return", "observation"),
    "observation": ("observation",),
}

LONGEST_CONVOLUTION = 4_096  # tokens


@dataclass(frozen=True)
class ModelConfig:
    """The size and kind of a trajectory model."""

    attention: str = "flow"
    """Name of the attention: flow, softmax, linear, performer, cosformer, reformer or linformer."""
    width: int = 128
    """Features of a token."""
    layers: int = 3
    """Attention blocks."""
    heads: int = 4
    """Attention heads of a block; width must be a multiple of it."""
    attention_options: tuple[str, ...] = ()
    """Options of the attention, as NAME=VALUE, or NAME for one that is true; docs/reference/attentions.md has them."""
    convolution: int = 0
    """Width in tokens of a causal convolution before the attention's projections; 0 for none."""
    tokens: Literal["return-observation-action", "observation-action", "return-observation", "observation"] = (
        "return-observation-action"
    )
    """Tokens of a step. Without a return token, the return enters the observation's token; without an action token, the
    model does not see past actions."""
    context: Context = 20
    """Steps in a training window (K), or of a chunk in the mean, if a state is carried; episode: whole episodes. An
    agent trained on windows acts on at most as many steps."""
    conditioned: bool = True
    """Act towards a target return. If not, no return enters the model."""
    dropout: float = 0.1
    """Dropout probability on embeddings, residuals and softmax weights."""
    recompute: bool = False
    """Keep only the input of each block for the backward pass and compute the rest again: less memory, more time."""

    def __post_init__(self) -> None:
        if self.attention not in ATTENTION:
            raise ValueError(f"attention is {self.attention!r}: known are {', '.join(sorted(ATTENTION))}")
        options = read_options(ATTENTION[self.attention], self.attention_options)
        # The same options in the same words, whatever was typed.
        object.__setattr__(self, "attention_options", write_options(ATTENTION[self.attention], options))
        for name in ("width", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.context != "episode" and not (isinstance(self.context, int) and self.context >= 1):
            raise ValueError(f"context is {self.context!r}: it must be at least 1, or 'episode'")
        if self.width % self.heads:
            raise ValueError(f"width is {self.width} and heads is {self.heads}: width must be a multiple of heads")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout}: it must be at least 0 and below 1")
        if not 0 <= self.convolution <= LONGEST_CONVOLUTION:
            raise ValueError(
                f"convolution is {self.convolution}: it must be at least 0 and at most {LONGEST_CONVOLUTION:,}"
            )
        if self.tokens not in TOKENS:
            raise ValueError(f"tokens is {self.tokens!r}: known are {', '.join(TOKENS)}")
        if not self.conditioned and "return" in TOKENS[self.tokens]:
            without = [name for name, kinds in TOKENS.items() if "return" not in kinds]
            raise ValueError(f"tokens is {self.tokens!r} and conditioned is False: it must be {' or '.join(without)}")
        ATTENTION[self.attention].check(self.width, self.heads, **options)
