"""Options shown in signatures and docstrings, from the one list."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from inspect import Parameter
from typing import Any, TypeVar

from chunkjac._compilers import outside_of_graphs
from chunkjac._planner import Options

Function = TypeVar("Function", bound=Callable[..., Any])


def shows(function: Function) -> Function:
    """Let ``help()`` and ``inspect.signature`` of a function list each option that it takes.

    The signature lists those that stand behind ``**given``, with their types and defaults; the docstring gets the
    descriptions that it leaves out. Those that stand behind ``**given`` are for what runs, which torch.compile leaves
    out of its graphs.
    """
    signature = inspect.signature(function)
    shown = [*signature.parameters.values()]
    runs = shown[-1].kind is Parameter.VAR_KEYWORD
    if runs:
        shown[-1:] = _options_of(function, shown[-1])
        vars(function)["__signature__"] = signature.replace(parameters=shown)
    if function.__doc__ and Options.__doc__:  # python -OO leaves both out
        function.__doc__ = _completed(function.__doc__, [parameter.name for parameter in shown])
    return outside_of_graphs(function.__name__)(function) if runs else function


def _options_of(function: Callable[..., Any], given: Parameter) -> list[Parameter]:
    """Return the options that stand behind a parameter ``**given: Unpack[Given]``."""
    taken = inspect.unwrap(function).__globals__[given.annotation.removeprefix("Unpack[").removesuffix("]")]
    return [
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields(Options)
        if field.name in taken.__annotations__
    ]


def _entries(section: str) -> dict[str, str]:
    """Return the descriptions of arguments by their names."""
    return {entry.split(":")[0].strip(" *"): entry for entry in re.split(r"\n(?=    \S)", section)}


_OF_OPTIONS = _entries(str(inspect.getdoc(Options)).partition("Attributes:\n")[2])


def _completed(text: str, names: list[str]) -> str:
    """Return a docstring with an entry for each argument, in order.

    Args:
        text: The docstring, whose ``Args`` may leave options out.
        names: The arguments.
    """
    before, section, after = re.split(r"^Args:\n(.*?)\n\n", inspect.cleandoc(text), maxsplit=1, flags=re.M | re.S)
    entries = _OF_OPTIONS | _entries(section)
    return "\n".join([f"{before}Args:", *(entries[name] for name in names), "", after])
