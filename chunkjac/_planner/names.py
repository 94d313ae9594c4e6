"""Options that are names or numbers, read."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from chunkjac._errors import ArgumentError, ArgumentTypeError

_BATCHINGS = ("auto", "vmap", "native", "loop")


def check_name(argument: str, value: Any, known: Iterable[str] | Mapping[str, Any]) -> None:
    """Refuse an unknown name, and suggest the nearest."""
    names = list(known)
    if value not in names:
        near = get_close_matches(str(value), names, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ArgumentError(f"{argument} must be one of {', '.join(map(repr, names))}, found {value!r}{hint}")


def read_chunk_size(chunk_size: Any) -> int | None:
    """Refuse what is no count."""
    if chunk_size is None:
        return None
    if isinstance(chunk_size, bool) or not hasattr(chunk_size, "__index__"):
        raise ArgumentTypeError(f"chunk_size must be None or an int, found {chunk_size!r}.")
    if operator.index(chunk_size) < 1:
        raise ArgumentError(f"`chunk_size` should be greater than 0, found {chunk_size}; None plans it.")
    return operator.index(chunk_size)


def read_verify(verify: Any) -> int:
    """Refuse what is no number of checks."""
    if not hasattr(verify, "__index__"):
        raise ArgumentTypeError(f"verify must be a number of checks, found {verify!r}.")
    if operator.index(verify) < 0:
        raise ArgumentError(f"verify must be 0 or more checks, found {verify}.")
    return operator.index(verify)


def read_batching(batching: Any) -> str | int:
    """Refuse what is neither the name of a rung nor a dimension."""
    if isinstance(batching, str):
        check_name("batching", batching, _BATCHINGS)
        return batching
    if isinstance(batching, bool) or not hasattr(batching, "__index__"):
        raise ArgumentTypeError(f"batching must be one of {', '.join(map(repr, _BATCHINGS))}, or an int: {batching!r}.")
    return operator.index(batching)
