"""What an accelerator's memory has left."""

from __future__ import annotations

from typing import Any

import torch

from chunkjac._memory.readings import Free, Reading

_MIB = 2**20


def free_accelerator_memory(device: torch.device, backend: Any = None) -> Free:
    """Return what an accelerator has left to take.

    Args:
        device: A CUDA, XPU or MPS device.
        backend: The module to ask, ``torch.cuda`` for instance; found from the device.
    """
    backend = backend if backend is not None else getattr(torch, device.type)
    return _free_mps(backend) if device.type == "mps" else _free_caching(device, backend)


def _free_caching(device: torch.device, backend: Any) -> Free:
    """Read a caching allocator: what the driver has free, and what the cache holds unused."""
    free_bytes, total_bytes = backend.mem_get_info(device)
    statistics = backend.memory_stats(device)
    reserved_bytes = statistics.get("reserved_bytes.all.current", 0)
    unused_bytes = reserved_bytes - statistics.get("active_bytes.all.current", 0)
    name = f"torch.{device.type}"
    readings = [Reading(free_bytes + unused_bytes, f"{name}.mem_get_info + unused cache", total_bytes)]
    fraction_of = getattr(backend, "get_per_process_memory_fraction", None)
    if fraction_of is not None:
        limit_bytes = int(fraction_of(device) * total_bytes)
        allowed_bytes = max(0, limit_bytes - reserved_bytes) + unused_bytes
        readings.append(Reading(allowed_bytes, f"{name}.get_per_process_memory_fraction", limit_bytes))
    # The rest is for what the allocator does not see: handles, workspaces, fragments.
    return Free(tuple(readings), 0.90, 128 * _MIB)


def _free_mps(backend: Any) -> Free:
    """Read Metal's recommendation; beyond it macOS swaps."""
    limit_bytes = backend.recommended_max_memory()
    left_bytes = limit_bytes - backend.driver_allocated_memory()
    source = "torch.mps.recommended_max_memory - driver_allocated_memory"
    return Free((Reading(max(0, left_bytes), source, limit_bytes),), 0.60)
