"""What ``out`` may be: nothing, tensors to write into, or a function to call with each block."""

from __future__ import annotations

from typing import Any

import torch

from chunkjac._errors import ArgumentError
from chunkjac._memory import LiveBytes
from chunkjac._modes import Mode
from chunkjac._sinks._callback import CallbackSink
from chunkjac._sinks._tensor import TensorSink, check_out

ResultSink = TensorSink | CallbackSink


def is_callback(out: Any) -> bool:
    """Tell whether ``out`` is to be called."""
    return callable(out) and not isinstance(out, torch.Tensor)


def sink_for(mode: Mode, out: Any, tracker: LiveBytes) -> ResultSink:
    """Return where blocks go.

    Args:
        mode: What makes them.
        out: As the user gave it.
        tracker: What counts live bytes.

    Raises:
        ArgumentTypeError, ArgumentError: ``out`` cannot take the result.
    """
    return CallbackSink(mode, out, tracker) if is_callback(out) else TensorSink(mode, out)


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
    if verify and is_callback(out):
        raise ArgumentError(
            "verify checks the finished Jacobian, which out=callback never holds; leave one of the two out."
        )


def check_fits(mode: Mode, out: Any) -> None:
    """Refuse what cannot take the result, before there is one."""
    if not (out is None or is_callback(out)):
        check_out(mode, out)


def sink_name(out: Any) -> str:
    """Return what a plan calls the place that blocks go to."""
    if out is None:
        return "a new tensor"
    return "a callback" if is_callback(out) else "out"
