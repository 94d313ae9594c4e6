"""Memory as the system counts it: the process's pages, or an accelerator's allocator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psutil
import torch

from chunkjac._memory.cpu import status_bytes


class Gauge:
    """Follow how far memory rises above the level when this was made.

    Nothing is reset for it: the counters of peaks are the user's. So a peak is known only where
    it is a new one for the process; else what is alive when somebody asks has to do.

    Args:
        read: Gives the current level and the highest ever, in bytes.

    Attributes:
        highest_bytes: The highest rise that any sample told.
    """

    def __init__(self, read: Callable[[], tuple[int, int]]) -> None:
        self._read = read
        self._start_bytes, self._peak_bytes = read()
        self.highest_bytes = 0

    @classmethod
    def of(cls, device: torch.device, backend: Any = None) -> Gauge:
        """Return the gauge of a device.

        Args:
            device: Where the function runs.
            backend: The module to ask, ``torch.cuda`` for instance; found from the device.
        """
        if device.type == "cpu":
            return cls(_read_process)
        backend = backend if backend is not None else getattr(torch, device.type)
        return cls(lambda: _read_allocator(device, backend))

    def sample(self) -> int:
        """Return the highest rise since the last sample, as far as it is known."""
        current_bytes, peak_bytes = self._read()
        seen_bytes = peak_bytes if peak_bytes > self._peak_bytes else current_bytes
        self._peak_bytes = peak_bytes
        rise_bytes = max(0, seen_bytes - self._start_bytes)
        self.highest_bytes = max(self.highest_bytes, rise_bytes)
        return rise_bytes


def _read_process() -> tuple[int, int]:
    """Return the resident set and its highest."""
    status = status_bytes()
    if "VmRSS" in status and "VmHWM" in status:
        return status["VmRSS"], status["VmHWM"]
    memory = psutil.Process().memory_info()  # no Linux
    return memory.rss, getattr(memory, "peak_wset", memory.rss)


def _read_allocator(device: torch.device, backend: Any) -> tuple[int, int]:
    """Return what an accelerator's allocator has given out, and the most that it ever had."""
    if device.type == "mps":
        allocated_bytes = backend.current_allocated_memory()
        return allocated_bytes, allocated_bytes
    statistics = backend.memory_stats(device)
    current_bytes = statistics.get("allocated_bytes.all.current", 0)
    return current_bytes, statistics.get("allocated_bytes.all.peak", current_bytes)
