"""What ``out`` may be: nothing, tensors to write into, files, or what is called with each block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from chunkjac._errors import ArgumentError, BudgetError
from chunkjac._memory import LiveBytes, find_device, free_memory
from chunkjac._modes import Mode, result_bytes
from chunkjac._problem import described
from chunkjac._sinks.callback import CallbackSink
from chunkjac._sinks.file import FileSink
from chunkjac._sinks.given_tensors import check_out
from chunkjac._sinks.host import HostSink
from chunkjac._sinks.reductions.reduction import ReducingSink, Reduction
from chunkjac._sinks.stream import Stream, StreamSink
from chunkjac._sinks.tensor import TensorSink
from chunkjac._store import Target, is_path
from chunkjac._units import format_bytes

ResultSink = TensorSink | CallbackSink | FileSink | StreamSink | ReducingSink


def read_out(out: Any, *, resume: bool, settings: Mapping[str, Any], here: torch.device) -> Any:
    """Return ``out`` as sinks take it: a path is looked at, of an object that writes its method is taken.

    Args:
        out: As the user gave it. A text that names a device is one; give ``Path("cpu")`` for a folder of that name.
        resume: Whether files that are there are gone on with.
        settings: What else than function, inputs and mode the values depend on, as the user gave it.
        here: Where the function runs.

    Raises:
        ArgumentError: ``resume`` is given, and no path.
        StoreError: Nothing can be written there.
    """
    device = _device_of(out)
    if is_path(out) and device is None:
        target = Target.of(out, resume, ((name, described(value)) for name, value in settings.items()))
        target.check()
        return target
    if resume:
        raise ArgumentError("resume=True goes on with a file; give its path as out.")
    if device is not None:
        return None if device == here else device
    write = None if isinstance(out, torch.Tensor) or callable(out) else getattr(out, "write", None)
    return write if callable(write) else out


def _device_of(out: Any) -> torch.device | None:
    """Return the device that ``out`` is, or names; ``None`` if it is none."""
    if isinstance(out, str):
        try:
            torch.device(out)
        except RuntimeError:
            return None
    return find_device(out) if isinstance(out, (str, torch.device)) else None


def is_callback(out: Any) -> bool:
    """Tell whether ``out`` is to be called."""
    return callable(out) and not isinstance(out, torch.Tensor)


def sink_for(mode: Mode, out: Any, tracker: LiveBytes, room_bytes: int, *, keeps: bool = False) -> ResultSink:
    """Return where blocks go.

    Args:
        mode: What makes them.
        out: As :func:`read_out` gave it.
        tracker: What counts live bytes.
        room_bytes: What the sink and chunks may hold together.
        keeps: Whether a block that is the whole result may be kept as it is.

    Raises:
        ArgumentTypeError, ArgumentError, StoreError: ``out`` cannot take the result.
    """
    if isinstance(out, Target):
        return FileSink(mode, out)
    if isinstance(out, Stream):
        return StreamSink(mode, out)
    if isinstance(out, Reduction):
        return out.sink(mode, room_bytes)
    if isinstance(out, torch.device):
        _check_room(mode, out)
        copies = out.type == "cpu" and mode.problem.device.type == "cuda"
        return HostSink(mode) if copies else TensorSink(mode, device=out)
    return CallbackSink(mode, out, tracker) if is_callback(out) else TensorSink(mode, out, keeps=keeps)


def _check_room(mode: Mode, device: torch.device) -> None:
    """Refuse a device that has no room for the result.

    Raises:
        BudgetError: The message says how much there is.
    """
    needed_bytes, free_bytes = result_bytes(mode), free_memory(device).least.n_bytes
    if needed_bytes > free_bytes:
        raise BudgetError(
            f"the Jacobian takes {format_bytes(needed_bytes)}, and {device} has {format_bytes(free_bytes)}; give a "
            "path as out, or a callable.",
            needed_bytes=needed_bytes,
            needed_bytes_by_mode={},
            budget_bytes=free_bytes,
        )


def check_with(out: Any, *, create_graph: bool, verify: int) -> None:
    """Refuse what would need a Jacobian that is not there, or one with a graph.

    Raises:
        ArgumentError: The message names both options.
    """
    if create_graph and is_callback(out):
        raise ArgumentError(
            "create_graph=True needs the whole Jacobian, which out=callback never holds; leave one of the two out."
        )
    if create_graph and out is not None:
        raise ArgumentError("create_graph=True cannot write into out=, which has no graph; leave one of the two out.")
    if verify and (is_callback(out) or isinstance(out, Target)):
        where = "out=callback never holds" if is_callback(out) else "a file holds on disk"
        raise ArgumentError(f"verify checks the finished Jacobian, which {where}; leave one of the two out.")


def check_fits(mode: Mode, out: Any) -> None:
    """Refuse what cannot take the result, before there is one."""
    if not (out is None or is_callback(out) or isinstance(out, (Target, Reduction, Stream, torch.device))):
        check_out(mode, out)


def sink_name(out: Any) -> str:
    """Return what a plan calls the place that blocks go to."""
    if out is None:
        return "a new tensor"
    if isinstance(out, torch.device):
        return f"a new tensor on {out}"
    if isinstance(out, Target):
        return f"the {'file' if out.kind == 'file' else 'folder'} {out.given}"
    if isinstance(out, Reduction):
        return out.name
    return "a loop" if isinstance(out, Stream) else "a callback" if is_callback(out) else "out"
