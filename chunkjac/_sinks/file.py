"""Blocks written to files, which outlive the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from chunkjac._chunker import segments
from chunkjac._errors import ArgumentError
from chunkjac._modes import Mode, block_leaves, seed_leaves
from chunkjac._problem import check_computed, facts_of
from chunkjac._sinks.sink import arrival, put
from chunkjac._store import FileLayout, Piece, Staging, Store, Target, open_store
from chunkjac._tensors import Tensors


class FileSink:
    """Write blocks to files while the next ones are computed.

    Args:
        mode: What makes the blocks.
        target: Where they go.

    Raises:
        ArgumentError: A file cannot hold such a result.
        StoreError: The files cannot be made, or gone on with.
    """

    def __init__(self, mode: Mode, target: Target) -> None:
        self._mode, self._target = mode, target
        outputs, inputs = mode.outputs.leaves, mode.problem.leaves
        if target.kind == "file" and len(outputs) * len(inputs) != 1:
            raise ArgumentError(
                f"out={target.given!r} is one file, and there are {len(outputs)} outputs by {len(inputs)} inputs; "
                f"give a folder, such as out={str(Path(target.given).with_suffix(''))!r}."
            )
        specs = mode.outputs.spec, mode.problem.spec
        assert target.chunk_size is not None  # jobs with files are planned first
        layout = FileLayout.of(
            outputs,
            inputs,
            specs,
            by_rows=mode.by_rows,
            kind=target.kind,
            chunk_size=target.chunk_size,
        )
        self._store = Store(target, layout, facts_of(mode.problem, outputs, mode.name, target.settings, target.before))
        self._seeds = seed_leaves(mode)
        self._staging = Staging(block_leaves(mode), mode.problem.device)
        self._is_here = mode.problem.device.type == "cpu"

    def missing(self, _: int) -> list[slice]:
        """Return the directions that are to be computed."""
        return self._store.missing()

    def places(self, chunk: slice) -> Tensors | None:
        """Return where a block may be made: in the buffer that is written next."""
        self._store.raise_failure()
        return self._staging.take(chunk.stop - chunk.start) if self._is_here else None

    def write(self, chunk: slice, block: Tensors) -> None:
        """Hand a block on to be written.

        Raises:
            StoreError: An earlier one could not be written.
        """
        check_computed(block, self._mode.problem.inputs)
        self._store.raise_failure()
        buffers = self._staging.take(chunk.stop - chunk.start)
        for buffer, values in zip(buffers, block):
            put(buffer, values, non_blocking=True)
        wait, release = arrival(self._mode.problem.device), self._staging.hand_on()
        (part,) = segments(
            chunk, self._seeds
        )  # no block has directions of two tensors, and no chunk those of two blocks
        data = [_bytes_of(buffer) for buffer in buffers]
        self._store.put(Piece(part.leaf, part.elements, data, wait, release))

    def result(self) -> Any:
        """Return the Jacobian in torch.func's tree, in mapped memory or as Zarr arrays.

        Raises:
            StoreError: Something could not be written.
        """
        self.close()
        self._store.raise_failure()
        return open_store(self._target.path, (self._mode.outputs.spec, self._mode.problem.spec))

    def release(self) -> None:
        """Give the buffers back, once they are written; the next block takes them again."""
        self._staging.release()

    def close(self) -> None:
        """Bring what was handed on to the disk, and let others write."""
        self._store.close()


def _bytes_of(values: torch.Tensor) -> memoryview:
    """Return the memory under contiguous values."""
    flat: Any = values.view(-1).view(torch.uint8).numpy() if values.numel() else b""
    return memoryview(flat)
