"""The modules that a function uses, and their attributes as they were."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from chunkjac._problem.transforms import is_wrapped, unwrapped


def modules_of(func: Callable[..., Any], args: tuple[Any, ...]) -> list[nn.Module]:
    """Return the modules that a function can be seen to use.

    Itself, what it is bound to, what it is a partial of, what its closure and the globals that it names hold, the
    same of functions among those (of globals, in its own file) and its attributes, and its arguments; with all their
    submodules.
    """
    roots: list[Any] = [*tree_flatten(args)[0], *behind(func)]
    ahead = [root for root in reversed(roots) if isinstance(root, nn.Module)]
    found: dict[nn.Module, None] = {}
    while ahead:
        module = ahead.pop()
        if module not in found:
            found[module] = None
            if module._modules:
                ahead += [child for child in reversed(module._modules.values()) if child is not None]
    return list(found)


def runs_compiled_code(func: Callable[..., Any], args: tuple[Any, ...], modules: list[nn.Module]) -> bool:
    """Tell whether a function can be seen to use scripted or compiled ones, which call torch unseen."""
    scripted = (torch.jit.ScriptFunction, torch.jit.ScriptModule)
    parts = [*args, *behind(func), *modules]
    kinds = {*map(type, parts)}  # much fewer
    if any(issubclass(kind, scripted) for kind in kinds):
        return True
    return any("_torchdynamo_orig_callable" in getattr(part, "__dict__", ()) for part in parts)


def is_lazy(module: nn.Module) -> bool:
    """Tell whether a module has parameters that are yet to be made."""
    return isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params()


@contextmanager
def restored_attributes(modules: list[nn.Module]) -> Iterator[None]:
    """Give modules the attributes back that they had: what is cached meanwhile is forgotten."""
    found = _attributes_of(modules)
    try:
        yield
    finally:
        _put_back(found)


@contextmanager
def forgotten_if_it_fails(modules: list[nn.Module]) -> Iterator[None]:
    """Give modules the attributes back that they had, if what is done meanwhile fails."""
    found = _attributes_of(modules)
    try:
        yield
    except BaseException:
        _put_back(found)
        raise


def unwrap_attributes(modules: list[nn.Module]) -> bool:
    """Give modules the values of tensors whose transforms are over; return whether no others are left."""
    held: list[Any] = [each for module in modules for each in (vars(module), module._parameters, module._buffers)]
    is_plain = True
    for attributes in (each for each in held if isinstance(each, dict)):
        for name, value in list(attributes.items()):
            if isinstance(value, torch.Tensor) and is_wrapped(value):
                plain = unwrapped(value)
                attributes[name] = nn.Parameter(plain) if isinstance(value, nn.Parameter) else plain
                is_plain = is_plain and not is_wrapped(attributes[name])
    return is_plain


def behind(func: Any) -> Iterator[Any]:
    """Yield what a callable is made of."""
    return _behind(func, set())


def _behind(func: Any, seen: set[int]) -> Iterator[Any]:
    """Yield what a callable is made of, but for functions that were seen: one may close over itself."""
    if id(func) in seen:
        return
    seen.add(id(func))
    if isinstance(func, functools.partial):
        yield from _behind(func.func, seen)
        yield from tree_flatten((func.args, func.keywords))[0]
    elif inspect.ismethod(func):
        yield from _behind(func.__self__, seen)
        yield from _behind(func.__func__, seen)
    elif inspect.isfunction(func):
        for value in (func.__globals__[name] for name in _names(func.__code__) if name in func.__globals__):
            is_near = inspect.isfunction(value) and value.__globals__ is func.__globals__
            yield from _behind(value, seen) if is_near else _held(value)
        for cell in func.__closure__ or ():
            if _is_filled(cell):
                yield from _behind(cell.cell_contents, seen)
    for part in _held(func):
        yield part
        if isinstance(part, (functools.partial, FunctionType, MethodType)):
            yield from _behind(part, seen)


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that code looks up, and code within it: lambdas, and comprehensions before Python 3.12."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _held(value: Any) -> Iterator[Any]:
    """Yield an object, and the attributes of one that is neither a module nor a class."""
    yield value
    if hasattr(value, "__dict__") and not isinstance(value, (nn.Module, ModuleType, type)):
        yield from vars(value).values()


def _is_filled(cell: CellType) -> bool:
    """Tell whether a closure's variable has a value yet."""
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _attributes_of(modules: list[nn.Module]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return modules' attributes, and the dictionaries of parameters, buffers and caches among them, with copies."""
    dictionaries = (
        each
        for module in modules
        for each in (vars(module), *(value for value in vars(module).values() if type(value) is dict))
    )
    return [(dictionary, dict(dictionary)) for dictionary in dictionaries]


def _put_back(found: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Give modules the attributes back that they had."""
    for dictionary, contents in found:
        dictionary.clear()
        dictionary.update(contents)
