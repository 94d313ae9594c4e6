"""Functions with the variables that they close over as they are now."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any


def frozen(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that later changes to the variables around it do not reach.

    ``for t in times: losses.append(jacrev(lambda x: net(x) * t)(x))`` makes functions that all see the
    last ``t`` when they are called again. Values are not copied, nor are globals and attributes.
    """
    return _frozen(func, {})


def _frozen(value: Any, known: dict[int, Any]) -> Any:
    """Freeze a function, and those that it closes over; leave all else as it is."""
    if id(value) in known:
        return known[id(value)]
    if type(value) is functools.partial:
        return functools.partial(_frozen(value.func, known), *value.args, **value.keywords)
    if not isinstance(value, FunctionType) or not value.__closure__:
        return value
    cells = tuple(CellType() for _ in value.__closure__)
    copy = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
    copy.__kwdefaults__ = value.__kwdefaults__
    copy.__dict__.update(value.__dict__)
    known[id(value)] = copy  # a function may close over itself
    for cell, original in zip(cells, value.__closure__):
        try:
            cell.cell_contents = _frozen(original.cell_contents, known)
        except ValueError:  # empty still
            continue
    return copy
