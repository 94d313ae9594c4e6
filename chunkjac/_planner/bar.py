"""What memory is used for, as a line of letters."""

from __future__ import annotations

from collections.abc import Mapping

from chunkjac._units import format_bytes

_WIDTH = 50


def draw_bar(parts: Mapping[str, int], whole_bytes: int) -> tuple[str, str]:
    """Return a bar and its legend.

    Each part is drawn with its first letter; what is left of the whole is drawn as dots. Cells
    go to the parts by largest remainder, so that they add up.

    Args:
        parts: Names and bytes; the first letters differ.
        whole_bytes: What the whole bar stands for; the parts, if they are more.
    """
    rest_bytes = max(0, whole_bytes - sum(parts.values()))
    amounts = {**{name[0].upper(): n_bytes for name, n_bytes in parts.items()}, ".": rest_bytes}
    total_bytes = max(1, sum(amounts.values()))
    cells = {letter: n_bytes * _WIDTH // total_bytes for letter, n_bytes in amounts.items()}
    by_remainder = sorted(amounts, key=lambda letter: amounts[letter] * _WIDTH % total_bytes, reverse=True)
    for letter in by_remainder[: _WIDTH - sum(cells.values())]:
        cells[letter] += 1
    legend = [f"{name[0].upper()} {name} {format_bytes(n_bytes)}" for name, n_bytes in parts.items() if n_bytes]
    bar = "".join(letter * count for letter, count in cells.items())
    return f"|{bar}|", ", ".join([*legend, f". free {format_bytes(rest_bytes)}"])
