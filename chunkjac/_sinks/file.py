"""Blocks written to files, which outlive the process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch.utils._pytree import tree_flatten

from chunkjac._arguments import shown
from chunkjac._errors import ArgumentError
from chunkjac._modes import Mode, block_leaves, is_empty, least_direction_bytes
from chunkjac._problem import Leaf
from chunkjac._sinks.destination import Allowance, Destination
from chunkjac._sinks.sink import arrival, put
from chunkjac._sinks.witness import blocks_that_hold, precision_of
from chunkjac._store import N_BUFFERS, FileLayout, Piece, Staging, Store, StoredPlan, Target, open_store
from chunkjac._tensors import Tensors

# Twice as many as were seen.
_N_VECTORS = 8


@dataclass(frozen=True, slots=True)
class Files(Destination):
    """Write to a path.

    Attributes:
        target: What is there.
        settings: What else than function, inputs and mode the values depend on, in words.
        fixed_chunk_size: How many directions are computed at once, once the job has begun: always the same ones, since
            rounding depends on it.
    """

    target: Target
    settings: tuple[tuple[str, str], ...]
    fixed_chunk_size: int | None = None
    is_repeatable = True
    why_unverified = "a file holds on disk"

    @classmethod
    def at(cls, path: str | os.PathLike[str], resume: bool, settings: Mapping[str, Any]) -> Files:
        """Look at a path.

        Args:
            path: As the user gave it.
            resume: Whether what is there is gone on with.
            settings: As the user gave them.

        Raises:
            ArgumentError, StoreError: Nothing can be written there.
        """
        target = Target.of(path, resume)
        target.check()
        return cls(target, tuple((name, _told(value)) for name, value in settings.items()))

    @property
    def name(self) -> str:
        """Return what a plan calls it."""
        return f"the {'file' if self.target.kind == 'file' else 'folder'} {self.target.given}"

    @property
    def known_mode(self) -> str | None:
        """Return what was chosen when the file was made."""
        plan = self.target.written_plan
        return None if plan is None else str(plan.facts["mode"])

    def resumed(self, resume: bool) -> Files:
        """Return the same with another answer to whether what is there is gone on with.

        Raises:
            ArgumentError, StoreError: Nothing can be written there.
        """
        target = Target.of(self.target.path, resume)
        target.check()
        return replace(self, target=target)

    def begun(self, size: int) -> Files:
        """Return that of a job that begins now, with the chunk size of what is there, or this one if nothing is."""
        known = self.target.written_plan
        target = replace(self.target)  # which reads the plan anew
        return replace(self, target=target, fixed_chunk_size=size if known is None else known.layout.chunk_size)

    def sink(self, mode: Mode, _allowance: Allowance) -> FileSink:
        """Return what takes the blocks.

        Raises:
            ArgumentError: A file cannot hold such a result.
            StoreError: The files cannot be made, or gone on with.
        """
        target, outputs, inputs = self.target, mode.outputs.leaves, mode.problem.leaves
        if target.kind == "file" and len(outputs) * len(inputs) != 1:
            raise ArgumentError(
                f"out={target.given!r} is one file, and there are {len(outputs)} outputs by {len(inputs)} inputs; "
                f"give a folder, such as out={str(Path(target.given).with_suffix(''))!r}."
            )
        assert self.fixed_chunk_size is not None  # jobs with files are planned first
        layout = FileLayout.of(
            outputs,
            inputs,
            (mode.outputs.spec, mode.problem.spec),
            by_rows=mode.by_rows,
            kind=target.kind,
            chunk_size=self.fixed_chunk_size,
        )
        eps = 0.0 if is_empty(mode) else precision_of(mode)
        store = Store(target, StoredPlan(_facts(mode, eps, self.settings), layout))
        try:
            finished = blocks_that_hold(mode, store, eps)
        except BaseException:
            store.abandon()
            raise
        store.begin([*finished])
        return FileSink(mode, target.path, store, sum(finished.values()))


def _facts(mode: Mode, eps: float, settings: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return what tells another Jacobian at once, in words: all else, values tell."""
    problem = mode.problem
    return {
        "mode": mode.name,
        "argnums": list(problem.argnums) if isinstance(problem.argnums, tuple) else problem.argnums,
        "inputs": _looks(problem.leaves),
        "outputs": _looks(mode.outputs.leaves),
        **dict(settings),
        "precision": f"{eps:.2g}",
        "float32 products": torch.get_float32_matmul_precision(),
    }


def _looks(leaves: Sequence[Leaf]) -> list[str]:
    """Return types and shapes in words."""
    return [f"{leaf.dtype} {list(leaf.shape)}" for leaf in leaves]


def _told(value: Any) -> str:
    """Return an option in words; a tensor by its checksum."""
    parts = tree_flatten(value)[0]
    return ", ".join(_tensor_told(part) if isinstance(part, torch.Tensor) else shown(part).strip("'") for part in parts)


def _tensor_told(tensor: torch.Tensor) -> str:
    """Return a tensor in words."""
    data: Any = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return f"{tensor.dtype} {list(tensor.shape)} {crc32(data):08x}"


def buffer_bytes(mode: Mode) -> int:
    """Return what a direction takes in the buffers that wait until they are written."""
    return N_BUFFERS * sum(leaf.n_bytes for leaf in block_leaves(mode))


def witness_bytes(mode: Mode) -> int:
    """Return what telling a file's precision, and its witness, keep at most: vectors like inputs and outputs."""
    return _N_VECTORS * least_direction_bytes(mode)


class FileSink:
    """Write blocks to files while the next ones are computed.

    Args:
        mode: What makes the blocks.
        path: Where they go.
        store: What takes them there.
        n_nan: How many elements of what was there before are no numbers.
    """

    def __init__(self, mode: Mode, path: Path, store: Store, n_nan: int = 0) -> None:
        self._mode, self._path, self._store = mode, path, store
        self._staging = Staging(block_leaves(mode), mode.problem.device)
        self._is_here = mode.problem.device.type == "cpu"
        self._n_nan = self._n_nan_before = n_nan

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
        self._store.raise_failure()
        buffers = self._staging.take(chunk.stop - chunk.start)
        for buffer, values in zip(buffers, block):
            put(buffer, values, non_blocking=True)
        wait, release = arrival(self._mode.problem.device), self._staging.hand_on()
        # No block has directions of two tensors, and no chunk those of two blocks.
        (part,) = self._mode.directions.parts(chunk)
        data = [_bytes_of(buffer) for buffer in buffers]
        self._store.put(Piece(part.leaf, part.elements, data, partial(self._arrive, wait, buffers), release))

    def _arrive(self, wait: Callable[[], object], buffers: Tensors) -> None:
        """Return once values are there, and count those that are no numbers: the writer's thread has time for it."""
        wait()
        for values in buffers:
            if not isfinite(values.sum()):
                self._n_nan += sum(int(row.isnan().sum()) for row in values)

    def count_nan(self) -> int:
        """Return how many elements are no numbers, once all are on the disk."""
        self.close()
        return self._n_nan

    def begin_again(self) -> None:
        """Take back what was written: it is missing again. What was there before stays."""
        self._store.begin_again()
        self._n_nan = self._n_nan_before

    def result(self) -> Any:
        """Return the Jacobian in torch.func's tree, in mapped memory or as Zarr arrays.

        Raises:
            StoreError: Something could not be written.
        """
        self.close()
        self._store.raise_failure()
        return open_store(self._path, (self._mode.outputs.spec, self._mode.problem.spec), check=False)

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
