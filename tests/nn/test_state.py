"""States of nested lists and tuples: their tensors, in one order."""

import torch

from flowrl.nn.state import map_state, tensors_of


def test_a_state_is_taken_apart_and_put_together_in_the_same_order():
    state = [(torch.tensor([1.0, 2.0]), None), {"kept": 1}, torch.tensor(3.0), torch.tensor([4.0, 5.0])]
    doubled = map_state(lambda x: 2 * x, state)
    assert [tensor.tolist() for tensor in tensors_of(doubled)] == [[2, 4], [8, 10]]  # of those with a batch alone
    assert doubled[0][1] is None
    assert doubled[1:3] == [{"kept": 1}, torch.tensor(3.0)]
