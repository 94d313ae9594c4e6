"""Operators that call functions: ``torch.cond``, ``while_loop``, ``scan`` and the like.

Called by themselves, they compile the functions they are given, which nobody can look at from outside: a
``TorchFunctionMode`` would be compiled with them, and under a dispatch mode the compiler marks them as not to be
compiled, for good, so that the next call without one fails (torch 2.13). So they are run as they are, uncompiled.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import torch
from torch._higher_order_ops import utils

from chunkjac._switches import Switch

# Where they are, and who compiles them.
_FOLDER, _COMPILER = "_higher_order_ops", "compile_wrapper"

# What hands them to the compiler, and the function that is handed over for `torch.cond`.
_CALLER, _BRANCHING = "_hop_compile_and_call", "_cond_op_wrapper"


class ControlFlowError(NotImplementedError):
    """Say that such an operator was met, and is to be run uncompiled."""


def _run_as_it_is(set_back: ExitStack) -> None:
    """Let the compiler run everything as it is."""
    set_back.enter_context(torch.compiler.set_stance("force_eager"))
    set_back.enter_context(_plain_branches())


_uncompiled = Switch(_run_as_it_is)


@contextmanager
def _plain_branches() -> Iterator[None]:
    """Let ``torch.cond`` call the branch that it takes: its own derivative needs the compiler (torch 2.13)."""
    compile_and_call = getattr(utils, _CALLER, None)
    if compile_and_call is None:  # another release
        yield
        return

    def call(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any] | None = None) -> Any:
        if func.__name__ != _BRANCHING:
            return compile_and_call(func, args, kwargs)
        condition, if_true, if_false, operands = args
        return (if_true if condition else if_false)(*operands)

    setattr(utils, _CALLER, call)
    try:
        yield
    finally:
        setattr(utils, _CALLER, compile_and_call)


def check_uncompiled() -> None:
    """Refuse to go on within an operator that was given to the compiler, and take its marks away.

    Raises:
        ControlFlowError: It was not called within ``_uncompiled``.
    """
    if _uncompiled.n_within:
        return
    frames = list(_frames())
    if any(frame.f_code.co_name == _COMPILER for frame in frames):
        for frame in frames:
            if _FOLDER in frame.f_code.co_filename:
                torch._C._dynamo.eval_frame.reset_code(frame.f_code)
        raise ControlFlowError("an operator that calls functions is to be run as it is")


def _frames() -> Iterator[FrameType]:
    """Yield the frames of those who have called this."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_about_control_flow(error: BaseException) -> bool:
    """Tell whether an exception may come of such an operator that was not run within ``_uncompiled``."""
    is_compilers = type(error).__module__.startswith("torch._dynamo")
    return not _uncompiled.n_within and (isinstance(error, ControlFlowError) or is_compilers)


class Calling:
    """Call a function: as it is, or uncompiled from the first call on that meets an operator like ``torch.cond``."""

    def __init__(self) -> None:
        self._is_uncompiled = False

    def __call__(self, func: Callable[..., Any], args: Iterable[Any]) -> Any:
        """Return what it returns."""
        args = tuple(args)
        if not self._is_uncompiled:
            try:
                return func(*args)
            except Exception as error:
                if not _is_about_control_flow(error):
                    raise
            self._is_uncompiled = True
        with _uncompiled:
            return func(*args)
