"""What a function can be seen to depend on, in an order that is the same in any process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from chunkjac._problem.identity.code import (
    globals_in,
    is_of_library,
    names_changed_in,
    names_in,
    names_set_in,
    slots_of,
)

# What is looked into, at most: a function that reaches more is not told from others by the rest.
_MOST = 50_000

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.Tensor, torch.dtype, torch.device)

# What every module has; of these only hooks change what it gives.
_OWN_NAMES = {*vars(nn.Module())}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")

# Their versions tell what their functions do.
KNOWN = ("torch", "chunkjac")

# What torch.compile notes: addresses among it.
_COMPILERS = "_torchdynamo"

# Special methods that run before a function does, or for people to read.
_ASIDE = {"__init__", "__new__", "__post_init__", "__init_subclass__", "__setstate__", "__getstate__", "__reduce__"}
_ASIDE |= {"__repr__", "__str__", "__del__", "__deepcopy__", "__copy__", "__dir__"}


class Reach:
    """Find functions, modules and values that a function's answers may come from.

    Code of the user's is followed to the globals and methods that it names; a library's is not.

    Args:
        roots: The function, and what it is given.

    Attributes:
        functions: Functions written in Python, by name.
        modules: Modules of torch, by name; their parts follow them.
        values: What variables, defaults and the like hold, by place: the variable's name and its value.
        names: The names of modules by their ``id``.
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self.functions: dict[str, FunctionType] = {}
        self.modules: dict[str, nn.Module] = {}
        self.values: dict[str, tuple[str, Any]] = {}
        self.names: dict[int, str] = {}
        self._ahead = [*roots][::-1]
        self._seen: dict[int, Any] = {}  # things, so that no other takes the place of one
        self._classes: set[tuple[type, bool]] = set()
        self._methods: dict[str, FunctionType] = {}
        self._used = {"forward"}
        self._set: set[str] = set()
        self._changed: set[str] = set()
        self._follow()

    def is_fixed(self, name: str, value: Any) -> bool:
        """Tell whether nothing that was found can be seen to change a variable or an attribute: counters, caches."""
        is_container = isinstance(value, (list, dict, set, deque))
        return name not in self._set and not (is_container and name in self._changed)

    def attributes_of(self, value: Any) -> dict[str, Any]:
        """Return an object's attributes that stay as they are, in order of their names; not what all modules have."""
        found = {**_attributes(value)}
        skipped = _OWN_NAMES if isinstance(value, nn.Module) else ()
        names = (name for name in sorted(found) if not (name in skipped or name.startswith(_COMPILERS)))
        return {name: found[name] for name in names if self.is_fixed(name, found[name])}

    def _follow(self) -> None:
        """Look into all that can be reached."""
        while self._ahead and len(self._seen) < _MOST:
            value = self._ahead.pop()
            if not isinstance(value, _PLAIN) and id(value) not in self._seen:
                self._seen[id(value)] = value
                self._look_into(value)
            if not self._ahead:
                self._ahead += [self._methods.pop(key) for key in sorted(self._methods) if self._is_used(key)]

    def _add(self, values: Iterable[Any]) -> None:
        """Note things to look into next."""
        self._ahead += [*values][::-1]

    def _note(self, place: str, name: str, value: Any) -> None:
        """Note a value."""
        if not isinstance(value, ModuleType):
            self.values[_unused(place, self.values)] = name, value
        self._add([value])

    def _look_into(self, value: Any) -> None:
        """Note what a thing holds."""
        if isinstance(value, nn.Module):
            self._look_into_module(value, type(value).__qualname__)
        elif isinstance(value, (list, tuple, deque)):
            self._add(value)
        elif isinstance(value, dict):
            self._add(value.values())
        elif isinstance(value, partial):
            self._note("arguments of a partial", "", (value.args, value.keywords))
            self._add([value.func])
        elif isinstance(value, MethodType):
            self._note(f"object of {value.__func__.__qualname__}", "", value.__self__)
            self._add([value.__func__])
        elif isinstance(value, FunctionType):
            self._look_into_function(value)
        elif isinstance(value, type):
            self._look_into_class(value, is_called=True)
        elif not isinstance(value, (ModuleType, Enum)):
            self._look_into_object(value)

    def _look_into_module(self, module: nn.Module, name: str) -> None:
        """Note a module and its parts, and what it is made of."""
        self._seen[id(module)] = module
        name = _unused(name, self.modules)
        self.modules[name], self.names[id(module)] = module, name
        self._look_into_class(type(module), is_called=False)
        if not isinstance(module, torch.jit.ScriptModule):
            attributes = _attributes(module)
            self._add(value for key, value in attributes.items() if key not in _OWN_NAMES)
            self._add(hook for key in _HOOKS for hook in attributes[key].values())
        for key, child in module._modules.items():
            if child is not None and id(child) not in self._seen:
                self._look_into_module(child, f"{name}.{key}")

    def _look_into_function(self, function: FunctionType) -> None:
        """Note a function's code, its defaults, and the variables around it."""
        code, name, module = function.__code__, function.__qualname__, function.__globals__.get("__name__", "")
        self.functions[_unused(f"{function.__module__}.{name}", self.functions)] = function
        self._used |= {*names_in(code)}
        if function.__name__ not in _ASIDE and module.partition(".")[0] not in KNOWN:
            self._set |= {*names_set_in(code)}
            self._changed |= {*names_changed_in(code)}
        if function.__defaults__ or function.__kwdefaults__:
            self._note(f"defaults of {name}", "", (function.__defaults__, function.__kwdefaults__))
        self._add(filter(None, [getattr(function, "__wrapped__", None)]))
        for variable, cell in zip(code.co_freevars, function.__closure__ or ()):
            if variable != "__class__":
                self._note(f"variable {variable} of {name}", variable, _contents(cell))
        if not is_foreign(module):
            for attribute, value in self.attributes_of(function).items():
                self._note(f"attribute {attribute} of {name}", attribute, value)
            self._look_into_names(module, function.__globals__, {*globals_in(code)})

    def _look_into_names(self, module: str, variables: Mapping[str, Any], names: set[str]) -> None:
        """Note those of a module's variables that code names, and of the user's modules among them likewise."""
        for name in sorted(names & variables.keys()):
            value, place = variables[name], f"variable {name} of {module}"
            if place not in self.values:
                self._note(place, name, value)
            if isinstance(value, ModuleType) and not is_foreign(value.__name__) and id(value) not in self._seen:
                self._seen[id(value)] = value
                self._look_into_names(value.__name__, vars(value), self._used)

    def _look_into_class(self, kind: type, *, is_called: bool) -> None:
        """Note what a class of the user's defines, and what a module's does; methods once they are named."""
        for each in kind.__mro__:
            is_looked_into = not is_foreign(each.__module__) or (issubclass(each, nn.Module) and each is not nn.Module)
            if not is_looked_into or (each, is_called) in self._classes:
                continue
            self._classes.add((each, is_called))
            for name, value in sorted(vars(each).items()):
                place = f"{each.__module__}.{each.__qualname__}.{name}"
                for function in _functions_in(value):
                    if is_called:  # an operation of autograd's, say, whose methods torch calls
                        self._add([function])
                    else:
                        self._methods[_unused(place, self._methods)] = function
                is_constant = isinstance(value, (*_PLAIN, list, tuple, dict, set)) and not name.endswith("_")
                if is_constant and not is_foreign(each.__module__):
                    self._note(place, name, value)

    def _is_used(self, key: str) -> bool:
        """Tell whether a method is named somewhere, or is a special one."""
        name = self._methods[key].__name__
        return name in self._used or (name.startswith("__") and name not in _ASIDE)

    def _look_into_object(self, value: Any) -> None:
        """Note what an object of the user's holds, what a builtin method is bound to, and what a library's wraps."""
        owner = getattr(value, "__self__", None)
        if owner is not None and not isinstance(owner, ModuleType):
            self._note(f"object of {value.__qualname__}", "", owner)
        self._add(filter(None, [getattr(value, "__wrapped__", None)]))
        attributes = _attributes(value)
        if is_foreign(type(value).__module__):
            inside = (FunctionType, MethodType, partial, nn.Module)
            self._add(part for part in attributes.values() if isinstance(part, inside))
        else:
            self._look_into_class(type(value), is_called=False)
            self._add(attributes[name] for name in sorted(attributes))


def is_foreign(module: str | None) -> bool:
    """Tell whether a module is a library's, or this one."""
    return str(module).partition(".")[0] == "chunkjac" or is_of_library(module)


def _attributes(value: Any) -> dict[str, Any]:
    """Return an object's attributes, also those in slots."""
    slots = [name for each in type(value).__mro__ for name in slots_of(each)]
    held = getattr(value, "__dict__", None)
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return {**found, **held} if isinstance(held, dict) else found


def _functions_in(value: Any) -> Iterator[FunctionType]:
    """Yield the functions in what a class defines."""
    parts: tuple[Any, ...] = (value,)
    if isinstance(value, (staticmethod, classmethod)):
        parts = (value.__func__,)
    elif isinstance(value, property):
        parts = (value.fget,)
    yield from (part for part in parts if isinstance(part, FunctionType))


def _contents(cell: CellType) -> Any:
    """Return the value of a variable that is closed over; ``None`` before it has one."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _unused(name: str, known: Mapping[str, Any]) -> str:
    """Return a name that is not known yet: with a number, if it is."""
    if name not in known:
        return name
    number = 2
    while f"{name} ({number})" in known:
        number += 1
    return f"{name} ({number})"
