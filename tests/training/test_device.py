"""Devices, precision and torch's generators."""

import pytest
import torch

from flowrl.errors import InputError
from flowrl.training.device import choose_device, choose_precision, isolated_rng, rng_states, set_rng_states

CPU = torch.device("cpu")


@pytest.mark.parametrize(("units", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_is_bf16_where_the_processor_has_units_for_it(monkeypatch, units, chosen):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: units)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert choose_precision("auto", CPU) == chosen
    assert choose_precision("fp32", CPU) == "fp32"
    assert choose_precision("bf16", CPU) == "bf16"


@pytest.mark.parametrize("name", ["cuda:99", "quantum", ""])
def test_a_device_that_is_not_here_is_refused_in_one_sentence(name):
    with pytest.raises(InputError, match=f"device '{name}' cannot be used here") as caught:
        choose_device(name)
    assert "\n" not in str(caught.value)


def test_random_numbers_inside_are_those_of_the_seed_and_those_outside_go_on():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = torch.rand(2)
    drawn = []
    for _ in range(2):
        with isolated_rng(7, CPU):
            drawn.append(torch.rand(3))
    assert torch.equal(torch.cat([first, torch.rand(2)]), expected)
    assert torch.equal(*drawn)


def test_generators_go_on_from_their_states():
    states = rng_states(CPU)
    expected = torch.rand(3)
    set_rng_states(CPU, states)
    assert torch.equal(torch.rand(3), expected)
