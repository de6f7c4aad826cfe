"""A transformer block with any causal attention, over a whole sequence or from a state."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from flowrl.attention import ATTENTION
from flowrl.attention.dropout import Dropout
from flowrl.attention.multihead import ALL
from flowrl.attention.options import read_options
from flowrl.nn.convolution import ShortConvolution
from flowrl.nn.model_config import ModelConfig


class BlockState(NamedTuple):
    """What one block keeps of the past of a sequence."""

    inputs: Tensor  # (B, tokens, width) that the convolution still reaches
    attention: Any  # of the attention's own kind


class Block(nn.Module):
    """A pre-norm transformer block: attention, then a two-layer perceptron, each added to its input."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.attention_norm = nn.LayerNorm(width)
        rule = ATTENTION[config.attention]
        self.convolution = ShortConvolution(width, config.convolution) if config.convolution else None
        self.attention = rule(
            width, config.heads, dropout=config.dropout, **read_options(rule, config.attention_options)
        )
        self.attention_dropout = Dropout(config.dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(inplace=True), nn.Linear(4 * width, width))
        self.mlp_dropout = Dropout(config.dropout)

    def forward(self, tokens: Tensor, is_pad: Tensor | None = None, at: slice = ALL) -> Tensor:
        """(B, T, width) to (B, tokens at, width)."""
        x = self.attention_norm(tokens)
        if self.convolution is not None:
            x = self.convolution(x, is_pad)
        attended = self.attention(x, is_pad, at)
        return self._feed_forward(self.attention_dropout(attended, tokens[:, at]))

    def initial_state(self, batch: int) -> BlockState:
        """The state of `batch` sequences before their first token."""
        if self.convolution is None:
            inputs = self.attention_norm.weight.new_zeros(batch, 0, self.attention.width)
        else:
            inputs = self.convolution.initial_state(batch)
        return BlockState(inputs, self.attention.initial_state(batch))

    def step(self, tokens: Tensor, state: BlockState, at: slice = ALL) -> tuple[Tensor, BlockState]:
        """As `forward` for the next (B, t, width) tokens after `state`, and the state after them."""
        x, inputs = self.attention_norm(tokens), state.inputs
        if self.convolution is not None:
            x, inputs = self.convolution.step(x, inputs)
        attended, after = self.attention.step(x, state.attention, at)
        return self._feed_forward(self.attention_dropout(attended, tokens[:, at])), BlockState(inputs, after)

    def _feed_forward(self, tokens: Tensor) -> Tensor:
        # As one row of tokens: of (B, T, width) a linear layer gives a view, and to change a view in place costs
        # its gradient a copy.
        rows = self.mlp(self.mlp_norm(tokens).flatten(0, 1))
        return self.mlp_dropout(rows.view_as(tokens), tokens)
