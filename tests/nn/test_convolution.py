"""The short convolution: by hand, causal, in steps, and the identity at first."""

from itertools import pairwise

import pytest
import torch

from flowrl.nn.convolution import ShortConvolution


def convolution_of(span, width=5):
    convolution = ShortConvolution(width, span).double()
    torch.nn.init.normal_(convolution.factors, generator=torch.Generator().manual_seed(0))
    return convolution


def sequence(tokens, width=5):
    return torch.randn(2, tokens, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_by_hand():
    convolution = ShortConvolution(1, 3)
    with torch.no_grad():
        convolution.factors.copy_(torch.tensor([[1.0], [10.0], [100.0]]))
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1)
    assert convolution(x).flatten().tolist() == [1, 2 + 10, 3 + 20 + 100, 4 + 30 + 200]


@pytest.mark.parametrize("span", [1, 2, 4])
def test_it_begins_as_the_identity(span):
    x = sequence(6).float()
    assert torch.equal(ShortConvolution(5, span)(x), x)


@pytest.mark.parametrize("span", [1, 2, 4])
@pytest.mark.parametrize("cuts", [(0, 9), (0, 1, 2, 3, 9), (0, 4, 5, 9)])
def test_steps_equal_the_whole(span, cuts):
    convolution, x = convolution_of(span), sequence(9)
    state, parts = convolution.initial_state(2), []
    for start, end in pairwise(cuts):
        y, state = convolution.step(x[:, start:end], state)
        parts.append(y)
        assert state.shape == (2, span - 1, 5)
    torch.testing.assert_close(torch.cat(parts, 1), convolution(x), rtol=0, atol=1e-14)


def test_padding_on_the_left_is_as_if_it_were_not_there_and_on_the_right_reaches_nobody():
    convolution, x = convolution_of(4), sequence(9)
    is_pad = torch.zeros(2, 9, dtype=torch.bool)
    is_pad[0, :3] = is_pad[1, 6:] = True
    y = convolution(x, is_pad)
    torch.testing.assert_close(y[:1, 3:], convolution(x[:1, 3:]), rtol=0, atol=1e-14)
    torch.testing.assert_close(y[1:, :6], convolution(x[1:, :6]), rtol=0, atol=1e-14)
