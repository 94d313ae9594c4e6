"""What holds the values of an output by an input: a ``.npy`` file, or a Zarr array."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

from chunkjac._store.layout import FileLayout, Part
from chunkjac._store.npy import NpyFile
from chunkjac._store.target import Target
from chunkjac._store.zarr import ZarrArray


class Values(Protocol):
    """Take directions, and find them again."""

    def make(self, made: list[Path] | None) -> None:
        """Make it, on the disk.

        Args:
            made: What joins each path that was not there; ``None`` if something of it may be there.

        Raises:
            StoreError: There is no room.
        """

    def is_whole(self) -> bool:
        """Tell whether it is there and has lost nothing.

        Raises:
            StoreError: It is something else than what was made.
        """

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

    def read(self, elements: slice) -> Any:
        """Return the directions of a block as an array, each a row; ``None`` if they cannot be read."""

    def opened(self) -> Any:
        """Return what reads it.

        Raises:
            StoreError: It is not whole, or something else than what was made.
        """


def all_values(target: Target, layout: FileLayout) -> list[list[Values]]:
    """Return what holds the directions of each tensor: a thing for each tensor at the other end."""
    return [
        [_values_at(target, part, block_size) for part in layout.parts_of(leaf)]
        for leaf, block_size in enumerate(layout.block_sizes)
    ]


def _values_at(target: Target, part: Part, block_size: int) -> Values:
    """Return what holds the values of an output by an input."""
    path = target.file(part.name)
    return ZarrArray(path, part, block_size) if target.kind == "zarr" else NpyFile(path, part)


def read_block(files: Sequence[Values], elements: slice, sums: Sequence[int]) -> list[Any] | None:
    """Return the directions of a block, an array for each file; ``None`` if they are not what was written.

    Args:
        files: Those of the block's tensor.
        elements: The directions.
        sums: Their checksums.
    """
    found = [file.read(elements) for file in files]
    is_right = len(sums) == len(found) and all(
        values is not None and crc32(values) == known for values, known in zip(found, sums)
    )
    return found if is_right else None
