"""Blocks handed over one by one, in a buffer that all of them share."""

from __future__ import annotations

import torch
from torch.utils._pytree import tree_unflatten

from chunkjac import _types
from chunkjac._checks import check_computed
from chunkjac._modes import Block, Mode, block_leaves


class Stream:
    """Be where the last block is found.

    Attributes:
        block: The last block; ``None`` before the first.
    """

    def __init__(self) -> None:
        self.block: _types.Block | None = None


class StreamSink:
    """Leave each block in a stream.

    What is done with a block until the next one is asked for is not known: its memory may be held. So there is one
    buffer, which is counted and is always the same, and the values in it hold until then.

    Args:
        mode: What makes the blocks.
        stream: Where they are found.
    """

    def __init__(self, mode: Mode, stream: Stream) -> None:
        self._stream = stream
        self._leaves = block_leaves(mode)
        self._inputs = mode.problem.inputs
        self._axis = "output" if mode.by_rows else "input"
        self._spec = mode.problem.spec if mode.by_rows else mode.outputs.spec
        self._buffers: Block = ()
        self._n_rows = 0

    @property
    def n_done(self) -> int:
        """Return that no direction is finished before."""
        return 0

    def missing(self, total: int) -> list[slice]:
        """Return the directions that are to be computed: all of them."""
        return [slice(0, total)]

    def places(self, chunk: slice) -> Block:
        """Return where a block may be made."""
        n_rows = chunk.stop - chunk.start
        if n_rows > self._n_rows:
            self.release()  # first, so that old and new are never both alive
            self._buffers = tuple(
                torch.empty((n_rows, *leaf.shape), dtype=leaf.dtype, device=leaf.device) for leaf in self._leaves
            )
            self._n_rows = n_rows
        return tuple(buffer[:n_rows] for buffer in self._buffers)

    def write(self, chunk: slice, block: Block) -> None:
        """Leave a block where it is found."""
        check_computed(block, self._inputs)
        places = self.places(chunk)
        for place, values in zip(places, block):
            if place.data_ptr() != values.data_ptr():
                place.copy_(values)
        self._stream.block = _types.Block(self._axis, chunk, tree_unflatten(list(places), self._spec))

    def release(self) -> None:
        """Let go of the buffer; who has the last block holds it."""
        self._stream.block, self._buffers, self._n_rows = None, (), 0

    def close(self) -> None:
        """Let go of the buffer."""
        self.release()

    def result(self) -> None:
        """Return nothing: who asked for blocks has had them all."""
