"""The device that trains or plays, its precision, and its random numbers."""

import importlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import torch

from flowrl.errors import InputError, cause
from flowrl.training import distributed


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU where there is one.

    Raises:
        InputError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used here: {cause(error)}") from error
    return device


def choose_precision(name: str, device: torch.device) -> Literal["fp32", "bf16"]:
    """What `auto` means on a device: bf16 where it has units for it; emulated it is many times slower than fp32."""
    if name != "auto":
        return "bf16" if name == "bf16" else "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    fast = device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return "bf16" if fast else "fp32"


def device_memory(device: torch.device) -> float:
    """Bytes of memory of a device; infinite where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        return math.inf


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory that this process has held, in bytes by metric: resident, and on its GPU if it uses one.

    Without the resident memory where the system does not say.
    """
    peaks = {}
    status = Path("/proc/self/status")
    if status.exists():  # Linux's ru_maxrss counts what the process was before it became this program
        peaks["memory/peak_bytes"] = 1024.0 * int(status.read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0])
    else:
        with suppress(ImportError):  # Windows has no such module
            resource = importlib.import_module("resource")
            peaks["memory/peak_bytes"] = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # macOS: bytes
    if device.type == "cuda":
        peaks["memory/peak_gpu_bytes"] = float(torch.cuda.max_memory_allocated(device))
    return peaks


@contextmanager
def isolated_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators (initial weights, dropout) inside, and leave them outside as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def rng_states(device: torch.device) -> list[dict[str, torch.Tensor]]:
    """The states of torch's generators, a dict a process; with several processes all call it at the same time."""
    state = {"torch": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return distributed.gather(state)


def set_rng_states(device: torch.device, states: list[dict[str, Any]]) -> None:
    """Set this process's generators; a process that did not run when the states were taken keeps its own."""
    if distributed.rank() >= len(states):
        return
    state = states[distributed.rank()]
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
