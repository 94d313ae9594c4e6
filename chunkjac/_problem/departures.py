"""What a function does that derivatives do not follow, or do not all follow alike."""

from __future__ import annotations

import sys
from copy import deepcopy
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from chunkjac._tensors import tensors_among

# By these calls memory is seen outside of torch, and what is made of it comes back as constants: torch.func refuses
# them. Numbers that are read (item, tolist) are constants in torch.func, too.
_HIDING = {"numpy", "__array__", "data_ptr", "__dlpack__", "backward"}

# These make constants of tensors in a list, which have derivatives.
_COPYING = {"tensor", "as_tensor", "asarray", "scalar_tensor"}

# What is done to gradients here is not done to tangents.
_HOOKS = {"register_hook", "register_post_accumulate_grad_hook"}

# What a part without gradients is called.
_PART = "torch.no_grad"

# By these calls a part is said to be constant.
_HOLDING = {"detach", "detach_", "item", "tolist", "__float__"}
_data: Any = torch.Tensor.data.__get__  # type: ignore[attr-defined]

# The functions that look at a call.
_LOOKING = {"note", "_note", "__torch_function__", "_is_held", "_is_func_s"}

_TELLING = _HIDING | _COPYING | _HOOKS | _HOLDING | {"_set_grad_enabled", "grad", "_make_dual"}


class Departures(TorchFunctionMode):
    """Note what a function does that derivatives do not follow.

    Attributes:
        held: The calls that say that a part is to be taken for constant: that means the same in both modes.
        hidden: The calls by which numbers may have left autograd: what depends on them has no derivative, unsaid.
        copied: The calls that made constants of tensors with derivatives, as they do in torch.func.
        divided: What reverse mode sees and forward mode does not: parts under ``no_grad``, hooks.
        nested: The calls by which the function differentiates something itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[str, None] = {}
        self.hidden: dict[str, None] = {}  # in the order in which they came
        self.copied: dict[str, None] = {}
        self.divided: dict[str, None] = {}
        self.nested: dict[str, None] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note a call, and run it."""
        kwargs = kwargs or {}
        self.note(func, args, kwargs)
        return func(*args, **kwargs)

    def note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> None:
        """Note a call if it tells something."""
        if self.are_told_by(func) and args:
            self._note("data" if func == _data else func.__name__, args, kwargs or {})

    @property
    def kept(self) -> list[str]:
        """Return the calls that make derivatives another thing than differences on purpose, if nothing is hidden."""
        return [] if self.hidden else [*self.held, *self.divided]

    @staticmethod
    def are_told_by(func: Any) -> bool:
        """Tell whether calls of a function may tell something, by its name."""
        name = getattr(func, "__name__", "")
        return name in _TELLING or (name == "__get__" and func == _data)

    def holding(self, *, by_tangents: bool) -> TorchFunctionMode | None:
        """Return a mode, to be entered for each evaluation, in which what is held stays what it was in the first.

        Args:
            by_tangents: Whether derivatives are meant that pass through parts under ``no_grad``.

        Returns:
            ``None`` if there are hooks, whose gradients nothing can hold.
        """
        return _Holding(holds_parts=not by_tangents) if self.divided.keys() <= {_PART} else None

    def _note(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Sort a call by its name."""
        if name in _HOOKS:
            self.divided[name] = None
        elif name in _HOLDING or name == "data":
            if _is_func_s():
                self.held[name] = None
        elif name == "_set_grad_enabled":
            if not (args[0] or _is_an_end()):
                self.divided[_PART] = None
        elif name == "_make_dual":
            self.nested["torch.func.jvp"] = None
        elif name == "grad":
            (self.nested if kwargs.get("create_graph") else self.hidden)["torch.autograd.grad"] = None
        elif name in _COPYING:
            if any(tensor.requires_grad for tensor in tensors_among([args[0]])):
                self.copied[f"torch.{name}"] = None
        elif _is_real(args[0]):
            self.hidden[name] = None


def _is_held(func: Any) -> bool:
    """Tell whether a call, which is being made, is one by which the function takes something for constant."""
    return (getattr(func, "__name__", "") in _HOLDING or func == _data) and _is_func_s()


def _is_func_s() -> bool:
    """Tell whether a call is made by the function, neither by us nor by what a custom function does within."""
    return torch.is_grad_enabled() and not _is_ours()


def _is_an_end() -> bool:
    """Tell whether grad mode is only put back, at the end of a block (``enable_grad`` within torch.func's ``grad``)."""
    frame = _frame_beyond(_LOOKING | {"__init__"})
    return frame.f_code.co_name == "__exit__" and frame.f_globals.get("__name__") == "torch.autograd.grad_mode"


def _is_real(value: Any) -> bool:
    """Tell whether a value is a tensor that may have a derivative."""
    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())


def _is_ours() -> bool:
    """Tell whether a call comes from this package, which looks at what functions give."""
    return str(_frame_beyond(_LOOKING).f_globals.get("__name__", "")).startswith("chunkjac.")


def _frame_beyond(names: set[str]) -> FrameType:
    """Return the innermost frame of another name, from the one on that asks who calls it."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_name in names:
        frame = frame.f_back
    return frame


class _Holding(TorchFunctionMode):
    """Give what a function detaches or reads as it was in the first evaluation, so that differences do not move it.

    Args:
        holds_parts: Whether that goes for what it computes under ``no_grad``.
    """

    def __init__(self, *, holds_parts: bool) -> None:
        super().__init__()
        self._holds_parts = holds_parts
        self._values: list[Any] = []
        self._n_calls = 0
        self._is_off = False  # by the function: custom functions compute without gradients, too

    def __enter__(self) -> Any:
        """Begin an evaluation."""
        self._n_calls, self._is_off = 0, False
        return super().__enter__()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a call, or give what it gave."""
        if getattr(func, "__name__", "") == "_set_grad_enabled":
            self._is_off = not args[0] and (self._is_off or torch.is_grad_enabled())
        made = func(*args, **(kwargs or {}))
        is_part = self._holds_parts and self._is_off and _is_real(made)
        if not (is_part or _is_held(func)) or (args and made is args[0]):
            return made
        if self._n_calls == len(self._values):
            self._values.append(_copied(made))
        self._n_calls += 1
        return _copied(self._values[self._n_calls - 1])


def _copied(value: Any) -> Any:
    """Return what may be written to."""
    return value.detach().clone() if isinstance(value, torch.Tensor) else deepcopy(value)
