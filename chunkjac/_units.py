"""Bytes as people write and read them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, SupportsIndex

from chunkjac._arguments import read_int, shown
from chunkjac._errors import ArgumentError

# The SI and IEC prefixes (ISO/IEC 80000-13). Case matters: "Gb" is a gigabit to some.
_UNIT_BYTES = {
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate(("k", "M", "G", "T", "P"), 1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate(("K", "M", "G", "T", "P"), 1)},
    "KB": 1000,
}
_AMOUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]*|%)\s*")


def read_bytes(name: str, value: Any) -> int | str:
    """Return what was given as a number of bytes, checked: Python's own int, or plain text.

    Raises:
        ArgumentTypeError, ArgumentError: As :func:`parse_bytes` does.
    """
    n_bytes = parse_bytes(value, name=name)
    return str.__str__(value) if isinstance(value, str) else n_bytes


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
    is_text = isinstance(value, str)
    n_bytes = _from_text(str.__str__(value), of_bytes, name) if is_text else read_int(name, value, _WANTED)
    if n_bytes < 1:
        raise ArgumentError(f"{name} must be at least 1 byte, found {shown(value)}; {_EXAMPLES}.")
    return n_bytes


_EXAMPLES = 'give bytes as a positive int, or text such as "4GiB", "500MB" or "80%"'

_WANTED = f"an int or a str ({_EXAMPLES})"


def _from_text(text: str, of_bytes: int | None, name: str) -> int:
    """Read a number with its unit."""
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ArgumentError(f"{name} cannot be read: {shown(text)}; {_EXAMPLES}.")
    number, unit = Decimal(match[1]), match[2]
    if unit == "%":
        if not 0 < number <= 100:
            raise ArgumentError(f"{name} must be above 0% and at most 100%, found {shown(text)}.")
        return max(1, int(number / 100 * of_bytes)) if of_bytes is not None else 1
    if unit == "" and number == int(number):
        return int(number)
    if unit not in _UNIT_BYTES:
        raise ArgumentError(f"{name} has {_unit_fault(unit)} in {shown(text)}; {_EXAMPLES}.")
    return int(number * _UNIT_BYTES[unit])


def _unit_fault(unit: str) -> str:
    """Say what is wrong with a unit, and what may have been meant."""
    if unit == "":
        return "a fraction of a byte"
    prefix = unit[0].upper()
    if prefix in "KMGTP" and unit[1:].lower() in ("", "b", "i", "ib"):
        return f"an ambiguous unit {shown(unit)} (write {prefix}iB for powers of 1024, {prefix}B for powers of 1000)"
    return f"an unknown unit {shown(unit)}"


def format_bytes(n_bytes: float) -> str:
    """Return bytes as text, with three digits or four and a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n_bytes) < 1024:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.4g} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.4g} TiB"
