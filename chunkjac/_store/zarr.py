"""A Zarr array with the values of an output by an input, in packed pieces.

A piece is a file, which Zarr writes beside the old one and renames, so that it is always whole. A piece that is not
there reads as NaN, and never as zeros; so zeros are written, too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from math import ceil, prod
from pathlib import Path
from typing import Any

from chunkjac._errors import ArgumentError, StoreError
from chunkjac._store.files import make_own, open_own, read_own
from chunkjac._store.journal import sync_path
from chunkjac._store.layout import Part, not_as_made, not_whole

# Pieces are no larger than this where a block is, so that a few columns of many rows can be read as well.
_PIECE_BYTES = 32 * 2**20

METADATA, UNFINISHED = "zarr.json", ".partial"
_GROUP = {"attributes": {}, "zarr_format": 3, "node_type": "group"}

# NumPy's types by Zarr's names, as far as Jacobians have them.
_TYPES = {2: "float16", 4: "float32", 8: "float64"}

# What a piece begins with, in Zstandard's format (RFC 8878, 3.1.1).
_FRAME = b"\x28\xb5\x2f\xfd"


class ZarrArray:
    """Write and read the matrix of flattened outputs and inputs. See :class:`chunkjac._store.values.Values`.

    Args:
        path: The array's folder.
        part: What is in it.
        block_size: How many directions a block has.
    """

    def __init__(self, path: Path, part: Part, block_size: int) -> None:
        self._path, self._part = path, part
        self._piece_shape = _piece_shape(part, block_size)
        self._array: Any = None  # kept while it is there: opening takes a millisecond
        self._written: set[Path] = set()

    def make(self, made: list[Path] | None) -> None:
        """Make the array; pieces that are there stay. How much room packed values take is not known before."""
        self._array = None
        group = self._path.parent if self._part.name else None
        for folder, fields in ((group, _GROUP), (self._path, _fields(self._part, self._piece_shape))):
            if folder is None:
                continue
            self._check_link()
            is_new = not folder.exists()
            if is_new:
                folder.mkdir()
                if made is not None:
                    made.append(folder)
            if folder == self._path or not os.path.lexists(folder / METADATA):
                (folder / METADATA).unlink(missing_ok=True)
                make_own(folder / METADATA, json.dumps(fields, indent=2).encode())
            _sync([folder / METADATA, *([folder] if is_new else [])])

    def is_whole(self) -> bool:
        """Tell whether the array is there; reading blocks tells of its pieces."""
        is_known = not self._part.name or (self._path.parent / METADATA).exists()
        return is_known and self._found() is not None

    def open(self) -> None:
        """Make ready for writing; what was being written when a run was killed goes."""
        self._array = None
        if self._found("r+") is None:
            raise StoreError(f"{str(self._path)!r} cannot be gone on with: {METADATA!r} is not there.")
        for path in self._path.glob(f"*{UNFINISHED}"):
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

    def read(self, elements: slice) -> Any:
        """Return the values of some directions, one behind the other; ``None`` if they cannot be read."""
        import numpy as np

        try:
            array = self._found()
            if not all(map(self._is_ours, self._pieces(array, elements))):
                return None
            rows = array[self._index(elements)]
        except Exception:  # what unpacks a damaged piece tells of it in many ways
            return None
        return np.ascontiguousarray(rows.T if self._part.fortran_order else rows)

    def opened(self) -> Any:
        """Return the array, which reads what it is asked for."""
        array = self._found()
        if array is None:
            raise not_whole(self._path, f"no {METADATA}")
        are_there = [self._is_ours(path) for path in self._pieces(array, slice(0, array.shape[self._axis]))]
        if not all(are_there):
            raise not_whole(self._path, f"{sum(are_there)} of {len(are_there)} pieces")
        return array

    @property
    def _axis(self) -> int:
        """Return the axis of directions."""
        return 1 if self._part.fortran_order else 0

    def _index(self, elements: slice) -> tuple[slice, slice]:
        """Return where directions are in the array."""
        return (slice(None), elements) if self._part.fortran_order else (elements, slice(None))

    def _found(self, mode: str = "r") -> Any:
        """Return the array, ``None`` if it is not there.

        Raises:
            StoreError: It is something else than what was made.
        """
        if self._array is not None:
            return self._array
        try:
            self._check_link()
            found = json.loads(read_own(self._path / METADATA))
            difference = _difference(_fields(self._part, self._piece_shape), found)
            if difference:
                raise not_as_made(self._path, difference)
            array = library().open_array(self._path, mode=mode, zarr_format=3)
            array = array.with_config({"write_empty_chunks": True})  # pieces of NaN, which Zarr takes for nothing
        except FileNotFoundError:
            return None
        except StoreError:
            raise
        except Exception as error:  # whatever reads damaged metadata raises
            raise StoreError(f"{str(self._path)!r} cannot be read: {error}; compute it at another path.") from error
        self._array = array
        return array

    def _check_link(self) -> None:
        """Refuse a link in a group's place of an array: it may point anywhere.

        Raises:
            StoreError: There is one.
        """
        if self._part.name and self._path.is_symlink():
            raise not_as_made(self._path, "it is a link")

    def _is_ours(self, path: Path) -> bool:
        """Tell whether a piece is there, is no link, and unpacks to what it should and no more."""
        n_bytes = prod(self._piece_shape) * int(self._part.dtype[-1])
        try:
            with open(open_own(path, os.O_RDONLY), "rb") as file:
                is_small = os.fstat(file.fileno()).st_size <= n_bytes + n_bytes // 128 + 1024
                return is_small and _unpacked_bytes(file.read(18)) == n_bytes
        except OSError:
            return False

    def _pieces(self, array: Any, elements: slice) -> Iterator[Path]:
        """Yield the files that hold some directions."""
        size, n_others = array.chunks[self._axis], array.shape[1 - self._axis]
        for i in range(elements.start // size, ceil(elements.stop / size)):
            for j in range(ceil(n_others / array.chunks[1 - self._axis])):
                yield self._path / array.metadata.encode_chunk_key((j, i) if self._part.fortran_order else (i, j))


def _fields(part: Part, piece_shape: tuple[int, int]) -> dict[str, Any]:
    """Return what Zarr reads at the beginning."""
    return {
        "shape": list(part.shape),
        "data_type": _TYPES[int(part.dtype[-1])],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(piece_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": "NaN",
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little" if part.dtype[0] == "<" else "big"}},
            {"name": "zstd", "configuration": {"level": 0, "checksum": False}},
        ],
        "attributes": {"shape": list(part.result_shape)},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def _difference(wanted: dict[str, Any], found: Any) -> str:
    """Say how metadata differ, but for attributes that others may add: Zarr would run whatever else is named there."""
    if not isinstance(found, dict) or not isinstance(found.get("attributes"), dict):
        return f"{METADATA!r} is none of an array"
    found = {**found, "attributes": {"shape": found["attributes"].get("shape")}}
    for name in (*wanted, *found):
        if json.dumps(wanted.get(name)) != json.dumps(found.get(name)):
            return f"its {name} is {found.get(name)!r:.200} instead of {wanted.get(name)!r:.200}"
    return ""


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


def _unpacked_bytes(start: bytes) -> int | None:
    """Return what a piece says it unpacks to, from its first 18 bytes; ``None`` if it does not say it."""
    if len(start) < 5 or not start.startswith(_FRAME):
        return None
    is_single = bool(start[4] & 0x20)
    n_digits = (1 if is_single else 0, 2, 4, 8)[start[4] >> 6]
    at = 5 + (not is_single) + (0, 1, 2, 4)[start[4] & 3]
    return int.from_bytes(start[at : at + n_digits], "little") + (256 if n_digits == 2 else 0) if n_digits else None


def _sync(paths: Iterable[Path]) -> None:
    """Wait until files and their names are on the disk."""
    paths = set(paths)
    for path in (*paths, *{path.parent for path in paths}):
        sync_path(path)
