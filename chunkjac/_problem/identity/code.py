"""What can be told of functions and classes from their code, with nothing run."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType
from typing import Any

_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


def names_in(code: CodeType) -> Iterator[str]:
    """Yield the names in a function's code, and in that of functions within it."""
    yield from code.co_names
    for within in _codes_within(code):
        yield from names_in(within)


def slots_of(kind: type) -> tuple[str, ...]:
    """Return the names of a class's slots."""
    slots: Any = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


@lru_cache(maxsize=4096)
def is_of_library(module: str | None) -> bool:
    """Tell whether a module is installed, or Python's own: its code does not change, nor do the globals it uses."""
    name = str(module)
    top = name.partition(".")[0]
    files = (getattr(sys.modules.get(each), "__file__", None) for each in (name, top))
    file = next(filter(None, files), "")
    return top in sys.stdlib_module_names or any(file.startswith(place) for place in _LIBRARIES)


def _codes_within(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of functions within a function."""
    return (constant for constant in code.co_consts if isinstance(constant, CodeType))
