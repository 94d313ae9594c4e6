"""What users give, read by its type before anything else is done with it; and shown."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from math import inf
from numbers import Real
from typing import Any

from chunkjac._errors import ArgumentError, ArgumentTypeError, ChunkjacError

# So many letters and parts of a value are shown, and so many are looked at to find what was meant.
_MOST_LETTERS, _MOST_PARTS = 80, 6


def shown(value: Any) -> str:
    """Return a value as messages show it: short, and by no method of its own, which may raise or print for ever."""
    kind = type(value)
    if issubclass(kind, str):
        value = str.__str__(value)
        return repr(value if len(value) <= _MOST_LETTERS else f"{value[:_MOST_LETTERS]}...")
    if kind is int:
        return repr(value) if value.bit_length() <= _MOST_LETTERS else f"an int of {value.bit_length()} bits"
    if kind is bytes:
        return repr(value[:_MOST_LETTERS])
    if kind in (bool, float, complex, type(None)):
        return repr(value)
    if kind in (tuple, list):
        parts = [shown(part) if type(part) not in (tuple, list) else kind.__name__ for part in value[:_MOST_PARTS]]
        parts += ["..."] if len(value) > _MOST_PARTS else []
        return f"[{', '.join(parts)}]" if kind is list else f"({', '.join(parts)}{',' if len(value) == 1 else ''})"
    return f"the class {_name_of(value)}" if issubclass(kind, type) else _name_of(kind)


def _name_of(kind: type) -> str:
    """Return the name of a class, with that of its library, whatever its metaclass says."""
    name, module = (type.__dict__[attribute].__get__(kind) for attribute in ("__name__", "__module__"))
    return str(name) if type(module) is not str or module == "builtins" else f"{module.partition('.')[0]}.{name}"


@contextmanager
def reading(name: str, value: Any) -> Iterator[None]:
    """Read an argument: what the value itself raises meanwhile becomes an error that names the argument.

    Raises:
        ArgumentTypeError: The value raised something.
    """
    try:
        yield
    except ChunkjacError:
        raise
    except Exception as error:
        raise ArgumentTypeError(
            f"{name} cannot be read: {shown(value)} raised {_name_of(type(error))}; give another value."
        ) from error


def read_name(argument: str, value: Any, known: Iterable[str]) -> str:
    """Refuse an unknown name, and suggest the nearest."""
    names = list(known)
    if isinstance(value, str) and str.__str__(value) in names:
        return str.__str__(value)
    said = str.__str__(value)[:_MOST_LETTERS] if isinstance(value, str) else ""
    near = get_close_matches(said, names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ArgumentError(f"{argument} must be one of {', '.join(map(repr, names))}, found {shown(value)}{hint}")


def read_int(name: str, value: Any, wanted: str = "an int") -> int:
    """Return a whole number as Python's own; a bool is a slip, also NumPy's or torch's."""
    try:
        if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
            raise TypeError
        return operator.index(value)
    except Exception:
        raise ArgumentTypeError(f"{name} must be {wanted}, found {shown(value)}.") from None


def read_argnums(argnums: Any) -> int | tuple[int, ...]:
    """Refuse what is neither a whole number nor a tuple of them."""
    with reading("argnums", argnums):
        if isinstance(argnums, tuple):
            return tuple(read_int("argnums", number, "int or Tuple of ints") for number in argnums)
    return read_int("argnums", argnums, "int or Tuple of ints")


def read_bool(name: str, value: Any) -> bool:
    """Refuse what is no bool."""
    if value is True or value is False:
        return value
    raise ArgumentTypeError(f"{name} must be a bool, True or False, found {shown(value)}.")


def as_float(value: Any) -> float | None:
    """Return a number as a float, infinity for one beyond its range; ``None`` for what is no number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    number: Any = value  # NumPy's are among them
    try:
        return float(number)
    except OverflowError:
        return -inf if number < 0 else inf
    except Exception:
        return None


def read_path(name: str, value: Any) -> str:
    """Refuse what is no path, or none that this system takes."""
    try:
        path = os.fspath(value)
        if not isinstance(path, str):
            raise TypeError
        path = str.__str__(path)
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise ArgumentError(f"{name}={shown(path)} cannot be used: {error.strerror}; give another path.") from error
    except Exception:  # bytes, a null character, what cannot be encoded
        raise ArgumentTypeError(f"{name} must be a path, text or an os.PathLike, found {shown(value)}.") from None
    return path
