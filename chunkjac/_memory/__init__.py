"""Memory: what is alive now, what an operation will take, and what a device can give."""

from chunkjac._memory._budget import Budget, devices_here, find_budget, find_device, free_memory
from chunkjac._memory._gauge import Gauge
from chunkjac._memory._heap import keep_freed_memory
from chunkjac._memory._tracker import LiveBytes, OverBudget

__all__ = [
    "Budget",
    "Gauge",
    "LiveBytes",
    "OverBudget",
    "devices_here",
    "find_budget",
    "find_device",
    "free_memory",
    "keep_freed_memory",
]
