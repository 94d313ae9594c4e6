"""Dispatch modes that watch an evaluation, and may rest while others like it follow."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
    _pop_mode,
    _push_mode,
)

from chunkjac._control_flow import check_uncompiled

_NOTHING = torch._C._disabled_torch_dispatch_impl

_SCALED = {torch.ops.aten.mul.Scalar, torch.ops.aten.div.Scalar}


class OperationMode(TorchDispatchMode):
    """Be a mode that is given each operation to run, those aside that must not run again.

    Operators that call functions (``torch.cond`` and the like) are none; the operations within those functions are.
    """

    supports_higher_order_operators = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Give an operation to the mode, unless its result is known, or a class of tensors makes others of it."""
        if types and any(map(_is_wrapper, types)):
            return NotImplemented
        if isinstance(func, HigherOrderOperator):
            check_uncompiled()
            return func(*map(self._within, args), **(kwargs or {}))
        return args[0] if _is_scaled_zero(func, args) else self.run(func, args, kwargs or {})

    @abstractmethod
    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation."""

    def _within(self, value: Any) -> Any:
        """Return a function so that its operations are given to the mode; what is none, as it is."""
        if isinstance(value, torch.Tensor) or not callable(value):
            return value

        def within(*args: Any, **kwargs: Any) -> Any:
            _push_mode(self)
            try:
                return value(*args, **kwargs)
            finally:
                _pop_mode()

        return within


@cache
def _is_wrapper(kind: type[torch.Tensor]) -> bool:
    """Tell whether a class of tensors makes other operations of each, which come by themselves."""
    return not issubclass(kind, (FakeTensor, FunctionalTensor)) and kind.__torch_dispatch__ is not _NOTHING


def _is_scaled_zero(func: Any, args: tuple[Any, ...]) -> bool:
    """Tell whether an operation scales a zero without memory, so that its result is that zero.

    Running it again from a Python dispatch mode ends the process (torch 2.13: ``mul.Scalar`` of an
    ``_efficientzerotensor``, as ``torch.add(x, constant, alpha=2)`` calls it in forward AD).
    """
    return func in _SCALED and isinstance(args[0], torch.Tensor) and args[0]._is_zerotensor()


class Watcher(OperationMode):
    """Be a mode that looks at operations and changes nothing about them.

    Looking costs 5-20 microseconds for each operation, as much as a small one itself.

    Attributes:
        is_strict: Whether somebody has set a limit to what may be alive.
    """

    is_strict = False

    def may_rest(self) -> bool:
        """Tell whether an evaluation of a few points more, like the one seen, would tell nothing new."""
        return False


def are_limited() -> bool:
    """Tell whether those who look at operations have a limit to keep to that somebody has set."""
    modes = (mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, Watcher))
    return any(mode.is_strict for mode in modes)


@contextmanager
def at_rest() -> Iterator[None]:
    """Take the watchers off that may rest; modes of others stay."""
    stack = _get_current_dispatch_mode_stack()
    kept = [mode for mode in stack if not (isinstance(mode, Watcher) and mode.may_rest())]
    if len(kept) == len(stack):
        yield
        return
    with _only(kept):
        yield


@contextmanager
def at_the_bottom(mode: TorchDispatchMode) -> Iterator[None]:
    """Have a mode see operations last, as others have left them."""
    with _only([mode, *_get_current_dispatch_mode_stack()]):
        yield


@contextmanager
def _only(modes: Sequence[TorchDispatchMode]) -> Iterator[None]:
    """Put these modes, the last of which sees operations first, in the place of all that are on."""
    with _disable_current_modes():
        for mode in modes:
            _push_mode(mode)
        try:
            yield
        finally:
            for _ in modes:
                _pop_mode()
