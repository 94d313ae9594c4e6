"""Tables in words."""

from __future__ import annotations

from dataclasses import fields
from typing import Any


def public_fields(record: Any) -> dict[str, Any]:
    """Return the fields that are not private."""
    names = [item.name for item in fields(record) if not item.name.startswith("_")]
    return {name: getattr(record, name) for name in names}


def count(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def table(rows: list[tuple[str, str]]) -> list[str]:
    """Return lines with the labels in one column."""
    width = max(len(label) for label, _ in rows)
    return [f"  {label:<{width}}  {text}" for label, text in rows]


def listed(reasons: tuple[str, ...]) -> list[str]:
    """Return the reasons, a line each."""
    return ["  because", *(f"    - {reason}" for reason in reasons)] if reasons else []
