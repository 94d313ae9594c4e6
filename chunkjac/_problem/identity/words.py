"""Values in words that are the same in any process.

No addresses, and no order that differs from run to run.
"""

from __future__ import annotations

import functools
import inspect
import sys
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import PurePath
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn

from chunkjac._problem.identity.dependences import is_foreign
from chunkjac._problem.identity.digests import array_digest, digest_of, looks_of, tensor_digest

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), slice, range)
_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)
_SETS = (set, frozenset)
_BRACKETS = {list: "[]", tuple: "()", set: "{}", frozenset: "{}", deque: "[]"}

# Libraries whose objects hold what changes by itself: clocks, locks, caches of compiled code.
_CLOSED = {*sys.stdlib_module_names, "torch", "chunkjac"}

# Longer texts are cut, and end with a digest of the whole.
_MOST_LETTERS, _N_KEPT = 300, 120


class Words:
    """Put values into words.

    Args:
        names: The names of modules by their ``id``.
        attributes_of: Returns those of an object's attributes that count.
    """

    def __init__(self, names: Mapping[int, str], attributes_of: Callable[[Any], dict[str, Any]]) -> None:
        self._names, self._attributes_of = names, attributes_of
        self._known: dict[int, tuple[Any, str]] = {}  # with the values, so that their ids stay theirs

    def of(self, value: Any, *, in_library: bool = False) -> str:
        """Return a value in words; what no words tell from others of its class, by its class alone."""
        if type(value) in _PLAIN:
            return _cut(repr(value))
        if id(value) not in self._known:
            self._known[id(value)] = value, f"the same {_class_name(value)}"  # what holds itself
            self._known[id(value)] = value, _cut(self._told(value, in_library))
        return self._known[id(value)][1]

    def module(self, module: nn.Module) -> str:
        """Return a module in words: its class, its attributes, and its parts where they are those of another."""
        name = self._names.get(id(module), "")
        attributes: dict[str, Any] = {"training": module.training}
        if isinstance(module, torch.jit.ScriptModule):
            attributes["code"] = _script(module)
        else:
            hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
            attributes |= {**self._attributes_of(module), **({"hooks": hooks} if hooks else {})}
        told = [_class_name(module), *(f"{key}={self.of(value)}" for key, value in attributes.items())]
        for key, child in module._modules.items():
            other = self._names.get(id(child), "None")
            told.append(key if other == f"{name}.{key}" else f"{key}={other}")
        return _cut(", ".join(told))

    def tensors(self, module: nn.Module) -> list[str]:
        """Return a module's parameters and buffers in words."""
        held = (tensor for part in (module._parameters, module._buffers) for tensor in part.values())
        return [self.of(tensor) for tensor in held if tensor is not None]

    def _told(self, value: Any, in_library: bool) -> str:
        """Return in words what is no plain number or text."""
        if isinstance(value, torch.Tensor):
            return _told_tensor(value)
        if type(value).__module__ == "numpy":
            return self._told_array(value)
        if isinstance(value, Enum):
            return f"{_class_name(value)}.{value.name}={self.of(value.value)}"
        if isinstance(value, dict):
            parts = sorted(f"{self.of(key)}: {self.of(part, in_library=in_library)}" for key, part in value.items())
            return f"{{{', '.join(parts)}}}"
        kind = next((kind for kind in _BRACKETS if isinstance(value, kind)), None)
        if kind is not None:
            told = [self.of(part, in_library=in_library) for part in value]
            return _BRACKETS[kind][0] + ", ".join(sorted(told) if kind in _SETS else told) + _BRACKETS[kind][1]
        if isinstance(value, (*_PLAIN, *_TORCH, PurePath)):
            return repr(value) if isinstance(value, (str, bytes)) else str(value)
        if isinstance(value, nn.Module):
            return f"module {self._names.get(id(value), _class_name(value))}"
        if isinstance(value, functools.partial):
            return f"partial {name_of(value)}{self.of(value.args)}{self.of(value.keywords)}"
        if isinstance(value, torch.jit.ScriptFunction):
            return f"{_class_name(value)} {_script(value)}"
        if inspect.isroutine(value) or isinstance(value, (type, ModuleType)):
            return value.__name__ if isinstance(value, ModuleType) else name_of(value)
        return self._told_object(value, in_library)

    def _told_array(self, value: Any) -> str:
        """Return an array or a number of NumPy's in words."""
        if not hasattr(value, "dtype") or not hasattr(value, "tobytes"):
            return name_of(value)
        if value.dtype.hasobject:
            return f"array {self.of(value.tolist())}"
        if not value.ndim:
            return f"{value.dtype} {value}"
        return f"array {value.dtype} {list(value.shape)} {array_digest(value)}"

    def _told_object(self, value: Any, in_library: bool) -> str:
        """Return an object in words: its class and its attributes; of a library's what is no such object."""
        module = type(value).__module__
        is_users = isinstance(value, (SimpleNamespace, Namespace)) or not is_foreign(module)
        is_closed = in_library or (module.partition(".")[0] in _CLOSED and not module.startswith("torch.distributions"))
        if hasattr(type(value), "__next__") or (is_closed and not is_users):
            return _class_name(value)
        parts = self._attributes_of(value).items()
        told = (f"{name}={self.of(part, in_library=not is_users)}" for name, part in parts)
        return f"{_class_name(value)}({', '.join(told)})"


def name_of(func: Any) -> str:
    """Return the qualified name of a function; a module's is its class's."""
    while isinstance(func, functools.partial):
        func = func.func
    named: Any = func if inspect.isroutine(func) or inspect.isclass(func) else type(func)
    module, name = getattr(named, "__module__", None), getattr(named, "__qualname__", type(named).__name__)
    return f"{module}.{name}" if module else name


def _told_tensor(tensor: torch.Tensor) -> str:
    """Return a tensor in words; without its values if they cannot be read."""
    try:
        return f"{looks_of(tensor)} {tensor_digest([tensor])}"
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError):
        return f"{_class_name(tensor)} {tensor.dtype}"


def _script(value: Any) -> str:
    """Return a digest of the program that a scripted function or module runs."""
    return digest_of(str(getattr(value, "inlined_graph", None)))


def _class_name(value: Any) -> str:
    """Return the qualified name of a value's class."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _cut(text: str) -> str:
    """Return a text that is not too long: of a long one its beginning, and a digest."""
    return text if len(text) <= _MOST_LETTERS else f"{text[:_N_KEPT]}... {digest_of(text)}"
