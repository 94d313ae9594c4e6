"""Blocks handed over one by one, in a buffer that all of them share."""

from __future__ import annotations

from chunkjac._modes import Mode, block_leaves
from chunkjac._sinks.block import Block, block_for_users
from chunkjac._sinks.destination import Allowance, Destination
from chunkjac._sinks.sink import HandedOn, put
from chunkjac._tensors import Tensors


class Stream(Destination):
    """Be where the last block is found.

    Attributes:
        block: The last block; ``None`` before the first.
    """

    name = "a loop"

    def __init__(self) -> None:
        self.block: Block | None = None

    def sink(self, mode: Mode, _allowance: Allowance) -> StreamSink:
        """Return what takes the blocks."""
        return StreamSink(mode, self)


class StreamSink(HandedOn):
    """Leave each block in a stream.

    What is done with a block until the next one is asked for is not known: its memory may be held. So there is one
    buffer, which is counted and is always the same, and the values in it hold until then.

    Args:
        mode: What makes the blocks.
        stream: Where they are found.
    """

    def __init__(self, mode: Mode, stream: Stream) -> None:
        self._mode, self._stream = mode, stream
        self._buffers: Tensors = ()
        self._n_rows = 0

    def places(self, chunk: slice) -> Tensors:
        """Return where a block may be made."""
        n_rows = chunk.stop - chunk.start
        if n_rows > self._n_rows:
            self.release()  # first, so that old and new are never both alive
            self._buffers = tuple(leaf.empty(n_rows) for leaf in block_leaves(self._mode))
            self._n_rows = n_rows
        return tuple(buffer[:n_rows] for buffer in self._buffers)

    def write(self, chunk: slice, block: Tensors) -> None:
        """Leave a block where it is found."""
        places = self.places(chunk)
        for place, values in zip(places, block):
            put(place, values)
        self._stream.block = block_for_users(self._mode, chunk, places)

    def release(self) -> None:
        """Let go of the buffer; who has the last block holds it."""
        self._stream.block, self._buffers, self._n_rows = None, (), 0
