"""Out of memory: what it looks like, and how to get the memory back."""

from __future__ import annotations

import gc
import threading

import torch

# How allocators say it where torch has no exception type for it, in lower case. Anything else is
# not ours to swallow.
_MESSAGES = (
    "can't allocate memory",  # DefaultCPUAllocator
    "not enough memory",  # the same on Windows
    "out of memory",
    "std::bad_alloc",
    "bad allocation",  # the same on Windows
    "_alloc_failed",  # CUBLAS_STATUS_, CUDNN_STATUS_, CUSOLVER_STATUS_, CUFFT
    "out_of_device_memory",  # XPU
    # These may mean something else, and are raised again as they were if they persist.
    "could not create a primitive",  # oneDNN
    "could not create a memory",
    "_status_not_initialized",  # a cuBLAS or cuDNN handle that found no room
)


# So many letters of a reason are told.
_MOST_LETTERS = 500

# How TorchScript begins what it raises in the place of an exception from Python, whose text it loses.
_SCRIPTED = "The following operation failed in the TorchScript interpreter"
_latest = threading.local()


class OverBudget(MemoryError):  # noqa: N818 - not an error until nothing smaller is left to try
    """Say that the next operation would exceed the limit; nothing was allocated for it."""


def refusal(why: str) -> OverBudget:
    """Return what is to be raised, with its text kept aside for those who lose it on the way."""
    _latest.why = why
    return OverBudget(why)


def refusal_behind(error: BaseException) -> OverBudget | None:
    """Return the refusal that an exception comes from."""
    if isinstance(error, OverBudget):
        return error
    why = getattr(_latest, "why", None)
    is_lost = isinstance(error, RuntimeError) and text_of(error).startswith(_SCRIPTED)
    is_lost = is_lost and text_of(error).endswith("Error: \n")
    return OverBudget(why) if is_lost and why is not None else None


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that memory ran out, or may mean it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = text_of(error).lower()
    is_known = isinstance(error, RuntimeError) and any(message in text for message in _MESSAGES)
    return is_known or refusal_behind(error) is not None


def without_frames(error: BaseException) -> BaseException:
    """Return an exception that holds on to no tensors: its frames go, and what it came from."""
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message: the text without what the exception holds on to."""
    return (text_of(error).strip().splitlines() or [type(error).__name__])[0][:_MOST_LETTERS]


def text_of(error: BaseException) -> str:
    """Return an exception's text; none where it cannot say it, for it may be the user's."""
    try:
        return str(error)
    except Exception:
        return ""


def reclaim(device: torch.device, *, ran_out: bool) -> None:
    """Give back what a failed attempt left: graphs; where memory ran out also cycles, and the allocator's cache.

    Collecting takes 0.1 to 0.5 s in a process with the usual libraries, and attempts leave no cycles: a function may.

    Args:
        device: Where it ran.
        ran_out: Whether memory has run out there.
    """
    drain_backward()
    if not ran_out:
        return
    gc.collect()
    if device.type != "cpu":
        getattr(torch, device.type).empty_cache()


def drain_backward() -> None:
    """Run a backward pass over nothing.

    After an exception in a backward pass, the engine's queue of this thread still holds the
    nodes that were to come, and with them their saved tensors, until another pass runs (seen
    in torch 2.13 with LayerNorm).
    """
    with torch.enable_grad():
        nothing = torch.zeros(0, requires_grad=True)
        torch.autograd.grad(nothing * 1, nothing, grad_outputs=nothing.detach())
