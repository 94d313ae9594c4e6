"""What holds the values of an output by an input: a ``.npy`` file, or a Zarr array."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from chunkjac._store.layout import FileLayout, Part
from chunkjac._store.npy import NpyFile
from chunkjac._store.target import Target
from chunkjac._store.zarr import ZarrArray


class Values(Protocol):
    """Take directions, and find them again."""

    def make(self, block_size: int, made: list[Path] | None) -> None:
        """Make it, on the disk.

        Args:
            block_size: How many directions a block has.
            made: What joins each path that was not there; ``None`` if something of it may be there.

        Raises:
            StoreError: There is no room.
        """

    def is_whole(self) -> bool:
        """Tell whether it is there and has lost nothing.

        Raises:
            StoreError: It is something else than what was made.
        """

    def has(self, elements: slice) -> bool:
        """Tell whether the directions of a finished block may still be there."""

    def open(self) -> None:
        """Make ready for writing.

        Raises:
            StoreError: It is not there, cannot be written to, or is something else than what was made.
        """

    def write(self, first: int, values: memoryview) -> None:
        """Write directions from one on.

        Raises:
            OSError: The disk is full, for instance.
        """

    def sync(self) -> None:
        """Wait until what was written is on the disk."""

    def close(self) -> None:
        """Let go of it."""

    def sum_of(self, elements: slice) -> int | None:
        """Return the checksum of the directions of a block; ``None`` if they cannot be read."""

    def opened(self) -> Any:
        """Return what reads it.

        Raises:
            StoreError: It is not whole, or something else than what was made.
        """


def values_at(target: Target, part: Part) -> Values:
    """Return what holds the values of an output by an input."""
    kind: type[ZarrArray | NpyFile] = ZarrArray if target.kind == "zarr" else NpyFile
    return kind(target.file(part.name), part)


def all_values(target: Target, layout: FileLayout) -> list[list[Values]]:
    """Return what holds the directions of each tensor."""
    return [[values_at(target, part) for part in layout.parts_of(leaf)] for leaf in range(len(layout.sizes))]
