"""What a function's behaviour may depend on beside its inputs, as far as that can be seen.

A recorded program is what the function did then. Its values are compared with the function's in
each run; what changes derivatives and no values (hooks, flags that detach) shows here, or in the
comparison with one direction.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Hashable, Iterable, Iterator, Mapping
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as nn_module

from chunkjac._modules import behind
from chunkjac._problem import Problem

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)

# Looking at so many things takes about 10 ms; what holds more is looked at by a direction instead.
_MOST = 20_000

# Others are known by their identity as well; a bound method is made whenever one asks for it.
_BY_CONTENT = (torch.Tensor, list, tuple, dict, set, frozenset, MethodType)
_OF_CLASSES = (FunctionType, list, dict, *_PLAIN)
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
_LEAVES = (torch.Tensor, ModuleType, BuiltinFunctionType)


def fingerprint(problem: Problem) -> Hashable:
    """Return what is equal as long as nothing that can be seen has changed; tensors' values are not part of it."""
    parts: list[Hashable] = [
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        len(nn_module._global_backward_hooks),
        len(nn_module._global_forward_hooks),
    ]
    ahead: list[Any] = [problem.func, problem.args, *problem.modules]
    seen: dict[int, Any] = {}  # things, so that no other takes the place of one
    while ahead:
        value = ahead.pop()
        if isinstance(value, _PLAIN):
            parts.append(value)
            continue
        parts.append((type(value).__qualname__, 0 if isinstance(value, _BY_CONTENT) else id(value)))
        if id(value) in seen or isinstance(value, _LEAVES):
            continue
        seen[id(value)] = value
        ahead += _held(value)
        if len(parts) + len(ahead) > _MOST:
            return object()  # is equal to nothing
    return tuple(parts)


def _held(value: Any) -> Iterable[Any]:
    """Return what an object holds that its behaviour may depend on."""
    if isinstance(value, Mapping):
        return [part for item in value.items() for part in item]
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    if _is_installed(value):
        return ()
    if isinstance(value, FunctionType):
        return [*(part for part in behind(value) if part is not value), value.__defaults__, value.__kwdefaults__]
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    return _attributes(value)


def _attributes(value: Any) -> Iterator[Any]:
    """Yield the attributes of an object, the methods of its class, and how many hooks its parameters have."""
    if isinstance(value, nn.Module):
        yield from _of_module(value)
    elif not isinstance(value, type):
        yield getattr(value, "__dict__", None)
    kind = value if isinstance(value, type) else type(value)
    for each in kind.__mro__:
        if not _is_installed(each) and each.__module__ != "builtins":
            yield from (part for part in vars(each).values() if isinstance(part, _OF_CLASSES))
            if not isinstance(value, type):
                yield from (getattr(value, name, None) for name in getattr(each, "__slots__", ()))


def _of_module(module: nn.Module) -> Iterator[Any]:
    """Yield a module's attributes: plain ones at once, since there are many, and nothing of empty dictionaries."""
    attributes = vars(module)
    yield str([item for item in attributes.items() if type(item[1]) in _PLAIN])
    for name, value in attributes.items():
        if type(value) in _PLAIN or (isinstance(value, dict) and not value):
            continue
        if name == "_parameters":
            hooks = [len(part._backward_hooks or ()) for part in value.values() if part is not None]
            yield f"{[*map(id, value.values())]} {hooks}"
        elif name == "_buffers":
            yield f"{[*map(id, value.values())]}"
        elif name != "_modules":  # those stand in the list of modules themselves
            yield value


def _is_installed(value: Any) -> bool:
    """Tell whether a function or class is a library's: its code does not change, nor do the globals that it uses."""
    return isinstance(value, (type, FunctionType)) and _is_of_library(str(getattr(value, "__module__", "")))


@lru_cache(maxsize=4096)
def _is_of_library(module: str) -> bool:
    """Tell whether a module is installed, or Python's own."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return (file is None and module != "__main__") or any(place in str(file) for place in _LIBRARIES)
