"""What can be told of functions and classes from their code, with nothing run."""

from __future__ import annotations

import dis
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from functools import lru_cache
from types import CodeType
from typing import Any

_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})

# Methods by which lists, sets, dictionaries and queues are changed.
_CHANGES = {"append", "appendleft", "extend", "insert", "add", "update", "setdefault", "pop", "popleft", "remove"}
_CHANGES |= {"popitem", "discard", "clear", "move_to_end", "sort", "reverse"}


def contents_of(code: CodeType) -> Iterator[bytes | str]:
    """Yield all in a function's code that decides what it does, the same in any process."""
    yield code.co_code
    yield getattr(code, "co_exceptiontable", b"")
    yield " ".join((*code.co_names, "/", *code.co_freevars))
    for constant in code.co_consts:
        yield from _constant(constant)


def _constant(value: Any) -> Iterator[bytes | str]:
    """Yield a constant in code: a number or text, some of them, or the code of a function within."""
    if isinstance(value, CodeType):
        yield from contents_of(value)
    elif isinstance(value, tuple):
        yield f"{len(value)} constants"
        for part in value:
            yield from _constant(part)
    elif isinstance(value, frozenset):
        yield " ".join(sorted(map(repr, value)))  # their order differs from process to process
    else:
        yield repr(value)


def names_in(code: CodeType) -> Iterator[str]:
    """Yield the names in a function's code, and in that of functions within it."""
    yield from code.co_names
    for within in _codes_within(code):
        yield from names_in(within)


def globals_in(code: CodeType) -> Iterator[str]:
    """Yield the globals that a function reads, and functions within it do."""
    yield from (step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for within in _codes_within(code):
        yield from globals_in(within)


def names_set_in(code: CodeType) -> Iterator[str]:
    """Yield the attributes, globals and variables around it that a function gives other values."""
    for step in dis.get_instructions(code):
        is_outside = step.opname in ("STORE_ATTR", "STORE_GLOBAL") or (
            step.opname == "STORE_DEREF" and step.argval in code.co_freevars
        )
        if is_outside:
            yield step.argval
    for within in _codes_within(code):
        yield from names_set_in(within)


def names_changed_in(code: CodeType) -> Iterator[str]:
    """Yield names of which a function can be seen to change the contents.

    ``calls.append(x)``, ``cache[key] = x``, ``counts["all"] += 1``: what is changed by its name there.
    """
    steps = [*dis.get_instructions(code)]
    for i, (step, following) in enumerate(zip(steps, [*steps[1:], None])):
        is_method = step.opname in ("LOAD_METHOD", "LOAD_ATTR") and step.argval in _CHANGES
        is_twice = step.opname == "COPY" and following is not None and following.opname == "COPY"  # Python 3.11 on
        is_item = is_twice or step.opname in ("STORE_SUBSCR", "DELETE_SUBSCR", "DUP_TOP_TWO")
        end = i if is_method else _start_of_value(steps, i) if is_item else 0
        owner = steps[end - 1] if end > 0 else None
        if owner is not None and owner.opname.startswith("LOAD_") and isinstance(owner.argval, str):
            yield owner.argval
    for within in _codes_within(code):
        yield from names_changed_in(within)


def _start_of_value(steps: Sequence[dis.Instruction], end: int) -> int:
    """Return where the steps begin that leave the topmost value there is before a step."""
    n_missing = 1
    while n_missing > 0 and end > 0:
        end -= 1
        n_missing -= dis.stack_effect(steps[end].opcode, steps[end].arg, jump=False)
    return end


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
