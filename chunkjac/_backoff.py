"""Out of memory: what it looks like, and how to get the memory back."""

from __future__ import annotations

import gc

import torch

# How allocators say it where torch has no exception type for it. Anything else is not ours to
# swallow.
_MESSAGES = (
    "can't allocate memory",  # DefaultCPUAllocator
    "out of memory",
    "std::bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "could not create a primitive",  # oneDNN; ambiguous, raised again as it was if it persists
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message: the text without what the exception holds on to."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def reclaim(device: torch.device) -> None:
    """Give back what the failed attempt left: graphs, cycles, then the allocator's cache."""
    _drain_backward()
    gc.collect()
    if device.type != "cpu":
        getattr(torch, device.type).empty_cache()


def _drain_backward() -> None:
    """Run a backward pass over nothing.

    After an exception in a backward pass, the engine's queue of this thread still holds the
    nodes that were to come, and with them their saved tensors, until another pass runs (seen
    in torch 2.13 with LayerNorm).
    """
    with torch.enable_grad():
        nothing = torch.zeros(0, requires_grad=True)
        torch.autograd.grad(nothing * 1, nothing, grad_outputs=nothing.detach())
