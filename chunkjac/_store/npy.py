"""A ``.npy`` file with the values of an output by an input."""

from __future__ import annotations

import errno
import os
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from chunkjac._errors import StoreError
from chunkjac._store.files import open_own
from chunkjac._store.journal import sync, write_all
from chunkjac._store.layout import Part, not_as_made, not_whole


class NpyFile:
    """Write and read directions one behind the other. See :class:`chunkjac._store.values.Values`.

    Args:
        path: The file.
        part: What is in it.
    """

    def __init__(self, path: Path, part: Part) -> None:
        self._path, self._part = path, part
        self._file = -1

    def make(self, made: list[Path] | None) -> None:
        """Make the file, and take room for it: a disk that is too full is an error now."""
        file = open_own(self._path, os.O_RDWR | os.O_CREAT | (os.O_EXCL if made is not None else 0))
        try:
            if made is not None:
                made.append(self._path)
            self._reserve(file)
            write_all(file, self._header, 0)
            sync(file)
        finally:
            os.close(file)

    def is_whole(self) -> bool:
        """Tell whether nothing is missing at the end.

        Raises:
            StoreError: The file is something else than what was made.
        """
        return self._found_bytes() == self._whole_bytes

    def open(self) -> None:
        """Make ready for writing."""
        try:
            self._file = open_own(self._path, os.O_RDWR)
        except OSError as error:
            raise StoreError(f"{str(self._path)!r} cannot be gone on with: {error.strerror}.") from error
        self._found_bytes()

    def write(self, first: int, values: memoryview) -> None:
        """Write directions from one on."""
        write_all(self._file, values, self._end_of(first))

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        sync(self._file)

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def read(self, elements: slice) -> Any:
        """Return the values of some directions, one behind the other; ``None`` if they cannot be read."""
        import numpy as np

        n_directions = elements.stop - elements.start
        try:
            with open(open_own(self._path, os.O_RDONLY), "rb") as file:
                file.seek(self._end_of(elements.start))
                data = file.read(n_directions * self._part.direction_bytes)
        except OSError:
            return None
        is_whole = len(data) == n_directions * self._part.direction_bytes
        return np.frombuffer(data, self._part.dtype).reshape(n_directions, -1) if is_whole else None

    def opened(self) -> torch.Tensor:
        """Return the values as a tensor in mapped memory; what is written to that stays in memory."""
        import numpy as np

        part, n_bytes = self._part, self._found_bytes()
        if n_bytes < self._whole_bytes:
            raise not_whole(self._path, f"{n_bytes} of {self._whole_bytes} bytes")
        order: Any = "F" if part.fortran_order else "C"
        try:
            with open(open_own(self._path, os.O_RDONLY), "rb") as file:
                if prod(part.shape):
                    values: Any = np.memmap(file, part.dtype, "c", len(self._header), part.shape, order)
                else:  # no memory can be mapped to
                    values = np.empty(part.shape, part.dtype, order)
        except (OSError, ValueError) as error:
            raise StoreError(f"{str(self._path)!r} cannot be read: {error}.") from error
        with _disable_current_modes():  # mapped memory is none that a dispatch mode should count
            flat = torch.from_numpy(values)
        if not part.fortran_order or flat.shape == part.result_shape:
            return flat.view(part.result_shape)
        # Columns: directions are outermost in the file, each tensor in C order.
        output_shape, input_shape = part.result_shape[: part.n_output_dims], part.result_shape[part.n_output_dims :]
        by_columns = flat.t().view((*input_shape, *output_shape))
        n_input_dims = len(input_shape)
        return by_columns.permute(*range(n_input_dims, by_columns.dim()), *range(n_input_dims))

    @cached_property
    def _header(self) -> bytes:
        """Return what NumPy reads at the beginning."""
        from io import BytesIO

        from numpy.lib import format as npy

        text, part = BytesIO(), self._part
        fields = {"descr": part.dtype, "fortran_order": part.fortran_order, "shape": part.shape}
        npy.write_array_header_1_0(text, fields)
        return text.getvalue()

    @cached_property
    def _whole_bytes(self) -> int:
        """Return how long the file is."""
        import numpy as np

        return len(self._header) + prod(self._part.shape) * np.dtype(self._part.dtype).itemsize

    def _end_of(self, n_directions: int) -> int:
        """Return where so many directions end, in bytes."""
        return len(self._header) + n_directions * self._part.direction_bytes

    def _found_bytes(self) -> int:
        """Return how long the file is, which may have lost its end, or all of it.

        Raises:
            StoreError: It is something else than what was made.
        """
        try:
            with open(open_own(self._path, os.O_RDONLY), "rb") as file:
                start, n_bytes = file.read(len(self._header)), os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise StoreError(f"{str(self._path)!r} cannot be read: {error.strerror}.") from error
        if not self._header.startswith(start):
            raise not_as_made(self._path, "its header differs")
        if n_bytes > self._whole_bytes:
            raise not_as_made(self._path, f"it has {n_bytes} bytes instead of {self._whole_bytes}")
        return n_bytes

    def _reserve(self, file: int) -> None:
        """Take room on the disk.

        Raises:
            StoreError: There is too little.
        """
        n_bytes = self._whole_bytes
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file, 0, n_bytes)
            else:
                os.ftruncate(file, n_bytes)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise StoreError(
                    f"{str(self._path)!r} needs {n_bytes} bytes, and there is no room for them: {error.strerror}; free "
                    "some, or give another path."
                ) from error
            os.ftruncate(file, n_bytes)  # a file system that cannot reserve
