"""The bytes that a call may hold."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, SupportsIndex

import torch

from chunkjac._arguments import shown
from chunkjac._errors import ArgumentError
from chunkjac._memory.accelerators import free_accelerator_memory
from chunkjac._memory.cpu import free_cpu_memory
from chunkjac._memory.readings import Free
from chunkjac._units import format_bytes, parse_bytes

# A reading is used again for so long: a core touches less than half a gigabyte of new memory in that time, and a
# default leaves half of what is free.
_RECENT_S = 0.05

# No machine addresses more.
_MOST_BYTES = 2**63 - 1

_DEVICE_TYPES = ("cpu", "cuda", "xpu", "mps")


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
        return _recent.budget() if device.type == "cpu" else _default_budget(device)
    relative = isinstance(max_memory, str) and max_memory.strip().endswith("%")
    if not relative:
        n_bytes = min(_MOST_BYTES, parse_bytes(max_memory, name="max_memory"))
        return Budget(n_bytes, True, f"{place}={shown(max_memory)}")
    least = free_memory(device).least
    n_bytes = parse_bytes(max_memory, of_bytes=least.n_bytes, name="max_memory")
    return Budget(n_bytes, True, f"{place}={shown(max_memory)} of {format_bytes(least.n_bytes)} ({least.source})")


def _default_budget(device: torch.device) -> Budget:
    """Return a device's default, read now."""
    free = free_memory(device)
    source = f"{free.fraction:.0%} of {format_bytes(free.least.n_bytes)} ({free.least.source})"
    return Budget(free.default_bytes, False, source)


class _Recent:
    """Hold the CPU's default budget, and give it again for a short while.

    Reading takes 60 microseconds, and 400 where others have used the caches meanwhile: a twentieth of a small job.
    """

    def __init__(self) -> None:
        self._latest: tuple[Budget, float] | None = None

    def budget(self) -> Budget:
        """Return the CPU's default budget."""
        now_s = time.monotonic()
        if self._latest is None or now_s - self._latest[1] >= _RECENT_S:
            self._latest = _default_budget(torch.device("cpu")), now_s
        return self._latest[0]

    def forget(self) -> None:
        """Read again, whatever was read."""
        self._latest = None


_recent = _Recent()


def find_device(name: Any) -> torch.device:
    """Return the device that a plan is for; it need not be here.

    Raises:
        ArgumentError: There is no such device, or nothing can be computed on it.
    """
    try:
        device = torch.device(str.__str__(name) if isinstance(name, str) else name)
    except Exception as error:
        raise ArgumentError(f"device must be one such as 'cpu' or 'cuda', found {shown(name)}.") from error
    if device.type not in _DEVICE_TYPES:
        raise ArgumentError(f"device must be of type {', '.join(_DEVICE_TYPES)}, found {str(device)!r}.")
    if device.type == "cpu":
        return torch.device("cpu")
    if device.index is not None:
        return device
    backend = getattr(torch, device.type)
    index = backend.current_device() if is_here(device) and hasattr(backend, "current_device") else 0
    return torch.device(device.type, index)


def devices_here() -> list[torch.device]:
    """Return the devices that this machine has."""
    counts = {kind: getattr(torch, kind).device_count() for kind in ("cuda", "xpu") if hasattr(torch, kind)}
    numbered = [torch.device(kind, i) for kind, count in counts.items() for i in range(count)]
    return [device for device in (torch.device("cpu"), *numbered, torch.device("mps")) if is_here(device)]


def is_here(device: torch.device) -> bool:
    """Tell whether this machine has a device."""
    if device.type == "cpu":
        return True
    if device.type == "mps":
        return torch.backends.mps.is_available()
    backend = getattr(torch, device.type, None)
    return backend is not None and backend.is_available() and (device.index or 0) < backend.device_count()


def free_memory(device: torch.device) -> Free:
    """Return what a device has left to take.

    Raises:
        ArgumentError: Nothing can be computed on this device, or its memory cannot be read.
    """
    if device.type not in _DEVICE_TYPES:
        raise ArgumentError(f"the arguments are on {device}, where nothing can be computed; move them with x.to().")
    if not is_here(device):
        raise ArgumentError(f"max_memory must be given in bytes for {device}, which is not here, such as '8GiB'.")
    return free_cpu_memory() if device.type == "cpu" else free_accelerator_memory(device)
