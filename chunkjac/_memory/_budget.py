"""The bytes that a call may hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import SupportsIndex

import torch

from chunkjac._errors import ArgumentError
from chunkjac._memory._accelerators import free_accelerator_memory
from chunkjac._memory._cpu import free_cpu_memory
from chunkjac._memory._readings import Free
from chunkjac._units import format_bytes, parse_bytes


@dataclass(frozen=True, slots=True)
class Budget:
    """Hold the bytes that a call may hold.

    Attributes:
        n_bytes: The most that may be alive at any moment.
        explicit: Whether somebody set it; otherwise it is the device's default.
        source: Where it came from, for people.
    """

    n_bytes: int
    explicit: bool
    source: str


def find_budget(max_memory: SupportsIndex | str | None, device: torch.device, place: str = "max_memory") -> Budget:
    """Return the budget of a call on a device, read now.

    Args:
        max_memory: Bytes, text, a percentage of what is free now, or ``None``.
        device: Where the function runs.
        place: Where ``max_memory`` came from, for people.
    """
    if max_memory is None:
        free = free_memory(device)
        source = f"{free.fraction:.0%} of {format_bytes(free.least.n_bytes)} ({free.least.source})"
        return Budget(free.default_bytes, False, source)
    relative = isinstance(max_memory, str) and max_memory.strip().endswith("%")
    if not relative:
        return Budget(parse_bytes(max_memory, name="max_memory"), True, f"{place}={max_memory!r}")
    least = free_memory(device).least
    n_bytes = parse_bytes(max_memory, of_bytes=least.n_bytes, name="max_memory")
    return Budget(n_bytes, True, f"{place}={max_memory!r} of {format_bytes(least.n_bytes)} ({least.source})")


def free_memory(device: torch.device) -> Free:
    """Return what a device has left to take.

    Raises:
        ArgumentError: Nothing can be computed on this device, or its memory cannot be read.
    """
    if device.type not in ("cpu", "cuda", "xpu", "mps"):
        raise ArgumentError(f"the inputs are on {device}, where nothing can be computed; move them with x.to().")
    return free_cpu_memory() if device.type == "cpu" else free_accelerator_memory(device)
