"""Places from which a function can be changed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from enum import Enum
from functools import partial
from itertools import chain
from operator import methodcaller
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import ReferenceType

import torch
from torch import nn
from torch.nn.modules import module as nn_module

from chunkjac._problem.identity.code import is_of_library, names_in, slots_of

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, range)

# Looking at so many things takes some 30 ms once; a function that reaches more is looked at by a direction instead.
_MOST = 50_000

# What these hold changes by itself, or is outside of the process.
_RESTLESS = {"random", "time", "datetime", "os", "sys", "io", "secrets", "uuid", "socket", "subprocess", "tempfile"}

_RESTLESS |= {"pathlib", "threading"}

# Set by the interpreter for types that are not written in Python (`Py_TPFLAGS_IMMUTABLETYPE`).
_IMMUTABLE_TYPE = 1 << 8


class Reach:
    """Hold the places from which a function's behaviour can be changed.

    Attributes:
        is_complete: Whether all was understood that was found.
    """

    def __init__(self) -> None:
        self.is_complete = True
        self._ahead: list[Any] = []
        self._seen: dict[int, Any] = {}  # things, so that no other takes the place of one
        self._dictionaries: list[Mapping[Any, Any]] = []
        self._lists: list[list[Any] | set[Any]] = []
        self._cells: list[CellType] = []
        self._entries: list[tuple[Mapping[str, Any], str]] = []
        self._attributes: list[tuple[Any, str]] = []

    def values(self) -> list[Any]:
        """Return what is in all places now."""
        return [
            *_flags(),
            *chain.from_iterable(self._dictionaries),
            *chain.from_iterable(map(_values, self._dictionaries)),
            *chain.from_iterable(self._lists),
            *map(_contents, self._cells),
            *(mapping.get(name) for mapping, name in self._entries),
            *(getattr(value, name, None) for value, name in self._attributes),
        ]

    def sizes(self) -> list[int]:
        """Return how many things each container holds."""
        return [*map(len, self._dictionaries), *map(len, self._lists)]

    def add(self, *values: Any) -> None:
        """Note things to look into."""
        self._ahead += values

    def follow(self) -> None:
        """Look into all that can be reached."""
        while self._ahead and self.is_complete:
            value = self._ahead.pop()
            if isinstance(value, PLAIN) or id(value) in self._seen:
                continue
            self._seen[id(value)] = value
            self._look_into(value)
            self.is_complete = self.is_complete and len(self._seen) < _MOST

    def _look_into(self, value: Any) -> None:
        """Note what a thing holds, and the places where that can be exchanged."""
        kind = type(value)
        if isinstance(value, torch.Tensor):
            return
        if isinstance(value, nn.Module):
            self._look_into_module(value)
        elif kind in (tuple, frozenset):
            self.add(*value)
        elif isinstance(value, (list, set)):
            self._lists.append(value)
            self.add(*value)
        elif isinstance(value, dict):
            self._look_into_dictionary(value)
        elif isinstance(value, ReferenceType):
            self.add(value())
        elif isinstance(value, partial):
            self.add(value.func, value.args, value.keywords)
        elif isinstance(value, MethodType):
            self.add(value.__self__, value.__func__)
        elif isinstance(value, BuiltinFunctionType):
            self._look_into_builtin(value)
        elif isinstance(value, FunctionType):
            self._look_into_function(value)
        elif isinstance(value, ModuleType):
            self.is_complete = self.is_complete and value.__name__.partition(".")[0] not in _RESTLESS
        elif isinstance(value, type):
            self._look_into_class(value)
        elif not isinstance(value, Enum) and not _is_torch_operator(value):
            self._look_into_object(value)

    def _look_into_dictionary(self, value: Mapping[Any, Any]) -> None:
        self._dictionaries.append(value)
        self.add(*value, *value.values())

    def _look_into_module(self, module: nn.Module) -> None:
        """Look into what a module holds; those who hook into its parameters are counted."""
        self.add(type(module))
        attributes = vars(module)
        self._dictionaries.append(attributes)
        for value in attributes.values():
            if type(value) is dict and not value:
                self._dictionaries.append(value)
            else:
                self.add(value)
        self._attributes += [
            (part, "_backward_hooks") for part in attributes.get("_parameters", {}).values() if part is not None
        ]

    def _look_into_builtin(self, value: BuiltinFunctionType) -> None:
        """Look at what a method of a builtin type is bound to."""
        owner = value.__self__
        if isinstance(owner, ModuleType):
            self.is_complete = self.is_complete and owner.__name__ not in _RESTLESS
        else:
            self.add(owner)

    def _look_into_function(self, function: FunctionType) -> None:
        """Look at a function's code, its defaults, and the variables around it; not into a library's."""
        if is_of_library(function.__module__):
            self.is_complete = self.is_complete and str(function.__module__).partition(".")[0] not in _RESTLESS
            self.add(*filter(None, map(_contents, function.__closure__ or ())))
            return
        self._attributes += [(function, name) for name in ("__code__", "__defaults__", "__kwdefaults__")]
        self.add(function.__defaults__, function.__kwdefaults__, vars(function))
        self._cells += function.__closure__ or ()
        self.add(*map(_contents, function.__closure__ or ()))
        names = {*names_in(function.__code__)}
        self._look_into_names(function.__globals__, names)

    def _look_into_names(self, variables: Mapping[str, Any], names: set[str]) -> None:
        """Look at those of the variables that code names, and of the user's modules among them likewise."""
        for name in sorted(names & variables.keys()):
            value = variables[name]
            self._entries.append((variables, name))
            self.add(value)
            if isinstance(value, ModuleType) and not is_of_library(value.__name__) and id(value) not in self._seen:
                self._seen[id(value)] = value
                self._look_into_names(vars(value), names)

    def _look_into_class(self, kind: type) -> None:
        """Look at what a class of the user's and its bases define."""
        for each in kind.__mro__:
            if id(each) in self._seen and each is not kind:
                continue
            self._seen[id(each)] = each
            if not is_of_library(each.__module__):
                self._dictionaries.append(vars(each))
                self.add(*(part for value in vars(each).values() for part in _unwrapped(value)))

    def _look_into_object(self, value: Any) -> None:
        """Look at an object's attributes, if it is written in Python."""
        kind = type(value)
        slots = [name for each in kind.__mro__ for name in slots_of(each)]
        is_open = hasattr(value, "__dict__") or bool(slots)
        if not is_open or kind.__flags__ & _IMMUTABLE_TYPE or _is_restless(value):
            self.is_complete = False
            return
        self.add(kind)
        self._attributes += [(value, name) for name in slots]
        self.add(*(getattr(value, name, None) for name in slots))
        if hasattr(value, "__dict__"):
            self._look_into_dictionary(vars(value))


def _flags() -> tuple[Hashable, ...]:
    """Return what in torch itself decides how functions and modules run."""
    return (
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        *(len(hooks) for hooks in (nn_module._global_forward_hooks, nn_module._global_forward_pre_hooks)),
        *(len(hooks) for hooks in (nn_module._global_backward_hooks, nn_module._global_backward_pre_hooks)),
    )


def _contents(cell: CellType) -> Any:
    """Return the value of a variable that is closed over; ``None`` before it has one."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _unwrapped(value: Any) -> tuple[Any, ...]:
    """Return the functions in what a class defines."""
    if isinstance(value, (staticmethod, classmethod)):
        return (value.__func__,)
    if isinstance(value, property):
        return tuple(filter(None, (value.fget, value.fset)))
    return (value,) if isinstance(value, (FunctionType, list, dict, *PLAIN)) else ()


def _is_restless(value: Any) -> bool:
    """Tell whether an object changes when it is used."""
    return hasattr(type(value), "__next__") or type(value).__module__.partition(".")[0] in _RESTLESS


def _is_torch_operator(value: Any) -> bool:
    """Tell whether a thing is an operator of torch, which stays what it is."""
    return type(value).__module__ == "torch._ops"


_values = methodcaller("values")
