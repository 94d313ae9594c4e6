"""What was given as ``out``, read: it makes a destination."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from chunkjac._arguments import read_path, reading, shown
from chunkjac._errors import ArgumentError, ArgumentTypeError
from chunkjac._memory import find_device, is_here
from chunkjac._sinks.callback import Callback
from chunkjac._sinks.destination import Destination
from chunkjac._sinks.device import NewTensorElsewhere
from chunkjac._sinks.file import Files
from chunkjac._sinks.given_tensors import GivenTensors
from chunkjac._sinks.tensor import NewTensor


def read_out(out: Any, *, resume: bool, settings: Mapping[str, Any], here: torch.device) -> Destination:
    """Return where ``out`` sends blocks: a path is looked at, of an object that writes its method is taken.

    Args:
        out: As the user gave it. A text that names a device is one; give ``Path("cpu")`` for a folder of that name.
        resume: Whether files that are there are gone on with.
        settings: What else than function, inputs and mode the values depend on, as the user gave it.
        here: Where the function runs.

    Raises:
        ArgumentError: ``resume`` is given, and no path.
        StoreError: Nothing can be written there.
    """
    with reading("out", out):
        device = _device_of(out)
        if device not in (None, here) and is_here(here) and not is_here(device):
            raise ArgumentError(f"out={device} is a device that is not here; give another, a path, or a callable.")
        if device is None and isinstance(out, (str, os.PathLike)):
            return Files.at(read_path("out", out), resume, settings)
        return _in_memory(out, device, here).resumed(resume)


def _in_memory(out: Any, device: torch.device | None, here: torch.device) -> Destination:
    """Return where blocks go if that is no path."""
    if out is None or device == here:
        return NewTensor()
    if device is not None:
        return NewTensorElsewhere(device)
    if isinstance(out, type):
        raise ArgumentTypeError(f"out must be an instance, found {shown(out)}; make one, or give a function.")
    if isinstance(out, torch.Tensor):
        return GivenTensors(out)
    call = out if callable(out) else getattr(out, "write", None)
    return Callback(call) if callable(call) else GivenTensors(out)


def _device_of(out: Any) -> torch.device | None:
    """Return the device that ``out`` is, or names; ``None`` if it is none."""
    try:
        device = torch.device(str.__str__(out)) if isinstance(out, str) else out
    except Exception:
        return None
    if not isinstance(device, torch.device):
        return None
    try:
        return find_device(device)
    except ArgumentError:
        return device  # of a type that computes nothing
