"""Bytes as people write and read them."""

from __future__ import annotations

import operator
import re
from decimal import Decimal
from typing import SupportsIndex

from chunkjac._errors import ArgumentError, ArgumentTypeError

# The SI and IEC prefixes (ISO/IEC 80000-13). Case matters: "Gb" is a gigabit to some.
_UNIT_BYTES = {
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate(("k", "M", "G", "T", "P"), 1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate(("K", "M", "G", "T", "P"), 1)},
    "KB": 1000,
}
_AMOUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]*|%)\s*")


def parse_bytes(value: SupportsIndex | str, *, of_bytes: int | None = None, name: str) -> int:
    """Return the bytes that ``value`` means.

    Args:
        value: A positive int, or text such as ``"4GiB"``, ``"500MB"`` or ``"80%"``.
        of_bytes: What a percentage is of; without it a percentage is only checked.
        name: The argument to name in errors.

    Raises:
        ArgumentTypeError: ``value`` is neither a whole number nor text.
        ArgumentError: ``value`` is not positive or cannot be read.
    """
    n_bytes = _from_text(value, of_bytes, name) if isinstance(value, str) else _from_int(value, name)
    if n_bytes < 1:
        raise ArgumentError(f"{name} must be at least 1 byte, found {value!r}; {_EXAMPLES}.")
    return n_bytes


_EXAMPLES = 'give bytes as a positive int, or text such as "4GiB", "500MB" or "80%"'


def _from_int(value: SupportsIndex, name: str) -> int:
    """Read a whole number; a bool or a float is a slip."""
    try:
        if isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", None) == "b":
            raise TypeError  # NumPy before 2.3 takes its own bools for an index
        return operator.index(value)
    except TypeError:
        raise ArgumentTypeError(f"{name} must be an int or a str, found {value!r}; {_EXAMPLES}.") from None


def _from_text(text: str, of_bytes: int | None, name: str) -> int:
    """Read a number with its unit."""
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ArgumentError(f"{name} cannot be read: {text!r}; {_EXAMPLES}.")
    number, unit = Decimal(match[1]), match[2]
    if unit == "%":
        if not 0 < number <= 100:
            raise ArgumentError(f"{name} must be above 0% and at most 100%, found {text!r}.")
        return max(1, int(number / 100 * of_bytes)) if of_bytes is not None else 1
    if unit == "" and number == int(number):
        return int(number)
    if unit not in _UNIT_BYTES:
        raise ArgumentError(f"{name} has {_unit_fault(unit)} in {text!r}; {_EXAMPLES}.")
    return int(number * _UNIT_BYTES[unit])


def _unit_fault(unit: str) -> str:
    """Say what is wrong with a unit, and what may have been meant."""
    if unit == "":
        return "a fraction of a byte"
    prefix = unit[0].upper()
    if prefix in "KMGTP" and unit[1:].lower() in ("", "b", "i", "ib"):
        return f"an ambiguous unit {unit!r} (write {prefix}iB for powers of 1024, {prefix}B for powers of 1000)"
    return f"an unknown unit {unit!r}"


def format_bytes(n_bytes: float) -> str:
    """Return bytes as text, with three digits or four and a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n_bytes) < 1024:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.4g} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.4g} TiB"
