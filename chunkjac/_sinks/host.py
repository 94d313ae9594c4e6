"""The result on the host: one block is copied while an accelerator computes the next."""

from __future__ import annotations

from collections.abc import Callable

import torch

from chunkjac._modes import Mode, block_leaves
from chunkjac._sinks.sink import arrival, put
from chunkjac._sinks.tensor import TensorSink
from chunkjac._store import Staging
from chunkjac._tensors import Tensors

# A block on its way: what waits until it is there, where it belongs, where it is until then, what gives that back.
_Away = tuple[Callable[[], object], slice, Tensors, Callable[[], None]]


class HostSink(TensorSink):
    """Copy blocks into page-locked buffers, and from there into the result when the next block has been asked for.

    Only copies into page-locked memory run beside kernels; a result of 100 GB cannot be page-locked.

    Args:
        mode: What makes the blocks.
    """

    def __init__(self, mode: Mode) -> None:
        super().__init__(mode, device=torch.device("cpu"))
        self._device = mode.problem.device
        self._staging = Staging(block_leaves(mode), self._device)
        self._largest = 0
        self._away: _Away | None = None

    def places(self, _chunk: slice) -> None:
        """Return nothing: blocks are made on the accelerator."""

    def write(self, chunk: slice, block: Tensors) -> None:
        """Send a block on its way, and put the one before into its place."""
        size = chunk.stop - chunk.start
        if size > self._largest:
            self._arrive()  # larger buffers are made when all are free
            self._largest = size
        buffers = self._staging.take(size)
        for buffer, values in zip(buffers, block):
            put(buffer, values, non_blocking=True)
        before, self._away = self._away, (arrival(self._device), chunk, buffers, self._staging.hand_on())
        self._put_down(before)

    def result(self) -> object:
        """Return the Jacobian in torch.func's tree, once all of it is there."""
        self._arrive()
        return super().result()

    def release(self) -> None:
        """Give the buffers back, once what is in them is in its place."""
        self._arrive()
        self._staging.release()
        self._largest = 0

    def _arrive(self) -> None:
        """Wait for the block that is on its way, if there is one."""
        before, self._away = self._away, None
        self._put_down(before)

    def _put_down(self, away: _Away | None) -> None:
        """Put a block into its place."""
        if away is not None:
            wait, chunk, buffers, release = away
            wait()
            super().write(chunk, buffers)
            release()
