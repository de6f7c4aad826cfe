"""The perceptron is a plain one: its activations work in place and change neither its input nor its gradients."""

import pytest
import torch
from torch import nn

from flowrl.nn.perceptron import perceptron


@pytest.mark.parametrize(("keywords", "activation"), [({}, nn.ReLU), ({"activation": nn.GELU}, nn.GELU)])
def test_values_and_gradients_are_those_of_plain_layers(keywords, activation):
    network = perceptron(3, 2, width=8, layers=2, **keywords)
    linears = [module for module in network if isinstance(module, nn.Linear)]
    assert [linear.weight.shape for linear in linears] == [(8, 3), (8, 8), (2, 8)]
    plain = nn.Sequential(linears[0], activation(), linears[1], activation(), linears[2])
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = x.detach().clone()
    values = network(x)
    torch.testing.assert_close(values, plain(x))
    assert torch.equal(x, before)
    inputs = [x, *network.parameters()]
    mine, plains = (torch.autograd.grad(each.square().sum(), inputs) for each in (values, plain(x)))
    torch.testing.assert_close(mine, plains)
    assert network(x.view(1, 5, 3)).shape == (1, 5, 2)


def test_dropout_is_after_every_hidden_layer_and_in_training_alone():
    torch.manual_seed(0)
    network = perceptron(3, 2, width=64, layers=2, dropout=0.5)
    x = torch.ones(1, 3)
    assert sum(isinstance(module, nn.Dropout) and module.p == 0.5 for module in network) == 2
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
