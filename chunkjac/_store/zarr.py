"""A Zarr array with the values of an output by an input, in packed pieces.

A piece is a file, which Zarr writes beside the old one and renames, so that it is always whole. A piece that is not
there reads as NaN, and never as zeros; so zeros are written, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from math import ceil
from pathlib import Path
from typing import Any
from zlib import crc32

from chunkjac._errors import ArgumentError, StoreError
from chunkjac._store.journal import sync_path
from chunkjac._store.layout import Part, not_as_made, not_whole

# Pieces are no larger than this where a block is, so that a few columns of many rows can be read as well.
_PIECE_BYTES = 32 * 2**20

_METADATA, _UNFINISHED = "zarr.json", ".partial"
_FILES, _ARRAYS = re.compile(r"zarr\.json|c\.[0-9]+\.[0-9]+"), re.compile(r"[0-9]+_[0-9]+")


class ZarrArray:
    """Write and read the matrix of flattened outputs and inputs. See :class:`chunkjac._store.values.Values`.

    Args:
        path: The array's folder.
        part: What is in it.
    """

    def __init__(self, path: Path, part: Part) -> None:
        self._path, self._part = path, part
        self._array: Any = None  # kept while it is there: opening takes a millisecond
        self._written: set[Path] = set()

    def make(self, block_size: int, made: list[Path] | None) -> None:
        """Make the array; pieces that are there stay. How much room packed values take is not known before."""
        zarr = library()
        group = self._path.parent if self._part.name else None
        folders = [folder for folder in (group, self._path) if folder is not None and not folder.exists()]
        for folder in folders:
            folder.mkdir()
            if made is not None:
                made.append(folder)
        if group is not None:
            zarr.open_group(group, mode="a", zarr_format=3)
        self._array = None
        (self._path / _METADATA).unlink(missing_ok=True)
        zarr.create_array(
            self._path,
            shape=self._part.shape,
            chunks=_piece_shape(self._part, block_size),
            dtype=self._part.dtype,
            fill_value=float("nan"),
            chunk_key_encoding={"name": "default", "separator": "."},
            config={"write_empty_chunks": True},
            attributes={"shape": list(self._part.result_shape)},
            zarr_format=3,
        )
        _sync(self._metadata())
        for folder in folders:
            sync_path(folder.parent)

    def is_whole(self) -> bool:
        """Tell whether the array is there; :meth:`has` tells of its pieces."""
        return all(path.exists() for path in self._metadata()) and self._found() is not None

    def has(self, elements: slice) -> bool:
        """Tell whether all pieces of some directions are there."""
        array = self._found()
        return array is not None and all(path.exists() for path in self._pieces(array, elements))

    def open(self) -> None:
        """Make ready for writing; what was being written when a run was killed goes."""
        self._array = None
        if self._found("r+") is None:
            raise StoreError(f"{str(self._path)!r} cannot be gone on with: {_METADATA!r} is not there.")
        for path in self._path.glob(f"*{_UNFINISHED}"):
            path.unlink(missing_ok=True)

    def write(self, first: int, values: memoryview) -> None:
        """Write directions from one on."""
        import numpy as np

        n_rows, n_columns = self._part.shape
        rows = np.frombuffer(values, self._part.dtype).reshape(-1, n_rows if self._part.fortran_order else n_columns)
        elements = slice(first, first + len(rows))
        self._array[self._index(elements)] = rows.T if self._part.fortran_order else rows
        self._written.update(self._pieces(self._array, elements))

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        written, self._written = self._written, set()
        _sync(written)

    def close(self) -> None:
        """Let go of the array."""
        self._array = None

    def sum_of(self, elements: slice) -> int | None:
        """Return the checksum of some directions; ``None`` if they cannot be read."""
        import numpy as np

        try:
            rows = self._found()[self._index(elements)]
        except Exception:  # what unpacks a damaged piece tells of it in many ways
            return None
        data: Any = np.ascontiguousarray(rows.T if self._part.fortran_order else rows)
        return crc32(data.reshape(-1).view(np.uint8))

    def opened(self) -> Any:
        """Return the array, which reads what it is asked for."""
        array = self._found()
        pieces = [] if array is None else [*self._pieces(array, slice(0, array.shape[self._axis]))]
        n_found = sum(path.exists() for path in pieces)
        if array is None or n_found < len(pieces):
            raise not_whole(self._path, f"{n_found} of {len(pieces)} pieces")
        return array

    @property
    def _axis(self) -> int:
        """Return the axis of directions."""
        return 1 if self._part.fortran_order else 0

    def _index(self, elements: slice) -> tuple[slice, slice]:
        """Return where directions are in the array."""
        return (slice(None), elements) if self._part.fortran_order else (elements, slice(None))

    def _metadata(self) -> list[Path]:
        """Return the files that Zarr knows the array by, and its group."""
        return [self._path / _METADATA, *([self._path.parent / _METADATA] if self._part.name else [])]

    def _found(self, mode: str = "r") -> Any:
        """Return the array, ``None`` if it is not there.

        Raises:
            StoreError: It is something else than what was made.
        """
        if self._array is not None:
            return self._array
        zarr = library()
        try:
            array = zarr.open_array(self._path, mode=mode, config={"write_empty_chunks": True})
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever reads damaged metadata raises
            raise StoreError(f"{str(self._path)!r} cannot be read: {error}; compute it at another path.") from error
        if array.shape != self._part.shape or array.dtype != self._part.dtype:
            wanted = f"instead of {self._part.shape} and {self._part.dtype}"
            raise not_as_made(self._path, f"its shape is {array.shape} and its type {array.dtype}, {wanted}")
        self._array = array
        return array

    def _pieces(self, array: Any, elements: slice) -> Iterator[Path]:
        """Yield the files that hold some directions."""
        size, n_others = array.chunks[self._axis], array.shape[1 - self._axis]
        for i in range(elements.start // size, ceil(elements.stop / size)):
            for j in range(ceil(n_others / array.chunks[1 - self._axis])):
                yield self._path / array.metadata.encode_chunk_key((j, i) if self._part.fortran_order else (i, j))


def own_and_others(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return what Zarr arrays and groups of ours consist of, in an order in which it can be removed; and what else.

    Args:
        folder: The array's or group's. There may be none.
    """
    own: list[Path] = []
    others: list[Path] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if _ARRAYS.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            inside = own_and_others(path)
            own += inside[0]
            others += inside[1]
        else:
            is_own = _FILES.fullmatch(path.name) or path.name.endswith(_UNFINISHED)
            (own if is_own and path.is_file() else others).append(path)
    if folder.is_dir():
        own.append(folder)
    return own, others


def library() -> Any:
    """Return Zarr, which is read when it is needed.

    Raises:
        ArgumentError: It is not installed.
    """
    try:
        import zarr
    except ModuleNotFoundError as error:
        raise ArgumentError("a .zarr path needs Zarr; install it with pip install 'chunkjac[zarr]'.") from error
    return zarr


def _piece_shape(part: Part, block_size: int) -> tuple[int, int]:
    """Return the shape of a piece: a block, or a part of one that is large."""
    n_directions, n_others = part.shape[::-1] if part.fortran_order else part.shape
    n_rows = max(1, min(block_size, n_directions))
    n_pieces = max(1, ceil(n_rows * part.direction_bytes / _PIECE_BYTES))
    n_columns = max(1, ceil(n_others / n_pieces))
    return (n_columns, n_rows) if part.fortran_order else (n_rows, n_columns)


def _sync(paths: Iterable[Path]) -> None:
    """Wait until files and their names are on the disk."""
    paths = set(paths)
    for path in (*paths, *{path.parent for path in paths}):
        sync_path(path)
