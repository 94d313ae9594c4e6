"""Blocks on their way to the disk, while the next ones are computed.

A block is noted in the journal once it is on the disk, never before: values are written, synchronised, and
then told of. Several blocks that arrive while the disk is busy are synchronised together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Thread
from zlib import crc32

from chunkjac._chunker import Segment
from chunkjac._store.journal import append, lines_of
from chunkjac._store.values import Values


@dataclass(frozen=True, slots=True)
class Piece:
    """Hold values on their way.

    Attributes:
        leaf: The tensor whose elements are the directions.
        elements: Which of them: no more than a block's, and in order.
        values: Their bytes for each file.
        wait: Returns once the values are there.
        release: Is called when they are no longer needed.
    """

    leaf: int
    elements: slice
    values: Sequence[memoryview]
    wait: Callable[[], object]
    release: Callable[[], object]


@dataclass(slots=True)
class _Growing:
    """Hold a block that is written in part."""

    number: int
    stop: int
    sums: list[int]


class Writer:
    """Write pieces in a thread, in order.

    Args:
        parts: Where the blocks lie that are to be written, by number.
        files: For each tensor, its files.
        journal: The journal's descriptor.
        tie: What ties it to its plan.
        close: Is called in the thread when all is written: also where who waits for that is interrupted.
    """

    def __init__(
        self,
        parts: Mapping[int, Segment],
        files: Sequence[Sequence[Values]],
        journal: int,
        tie: int,
        close: Callable[[], object],
    ) -> None:
        self.error: BaseException | None = None
        self._files, self._journal, self._tie, self._close = files, journal, tie, close
        self._noted: set[int] = set()
        self._begins = {(part.leaf, part.elements.start): (number, part) for number, part in parts.items()}
        self._growing: _Growing | None = None
        self._queue: SimpleQueue[Piece | Event | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="chunkjac-writer", daemon=True)
        self._thread.start()

    def put(self, piece: Piece) -> None:
        """Take a piece."""
        self._queue.put(piece)

    def take_back(self) -> None:
        """Note that what was taken so far is not finished; return once that is on the disk, or could not be."""
        is_done = Event()
        self._queue.put(is_done)
        is_done.wait()

    def finish(self) -> None:
        """Return once all that was taken is on the disk, or could not be brought there, and all is closed."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        """Write until there is nothing more to come, and close."""
        try:
            try:
                self._write_all()
            finally:
                self._close()
        except BaseException as error:
            self.error = self.error or error

    def _write_all(self) -> None:
        """Write until there is nothing more to come; after an error, only let go."""
        while True:
            pieces, taken = self._next_pieces()
            try:
                if self.error is None:
                    self._write(pieces)
                    if isinstance(taken, Event):
                        self._take_back()
            except BaseException as error:
                self.error = error
            finally:
                for piece in pieces:
                    piece.release()
                if isinstance(taken, Event):
                    taken.set()
            if taken is None:
                return

    def _next_pieces(self) -> tuple[list[Piece], Event | bool | None]:
        """Return all pieces that are there, and what came behind them: ``None`` at the end."""
        pieces: list[Piece] = []
        taken = self._queue.get()
        while isinstance(taken, Piece):
            pieces.append(taken)
            try:
                taken = self._queue.get_nowait()
            except Empty:
                return pieces, True
        return pieces, taken

    def _take_back(self) -> None:
        """Strike the blocks that were noted."""
        noted, self._noted, self._growing = self._noted, set(), None
        if noted:
            append(self._journal, lines_of(dict.fromkeys(sorted(noted)), self._tie))

    def _write(self, pieces: Sequence[Piece]) -> None:
        """Write pieces, wait for the disk, and note the blocks that are finished with them."""
        finished: dict[int, tuple[int, ...] | None] = {}
        touched: set[Values] = set()
        for piece in pieces:
            piece.wait()
            touched.update(self._files[piece.leaf])
            self._write_piece(piece, finished)
        for file in touched:
            file.sync()
        if finished:
            append(self._journal, lines_of(finished, self._tie))
            self._noted |= finished.keys()

    def _write_piece(self, piece: Piece, finished: dict[int, tuple[int, ...] | None]) -> None:
        """Write a piece; add its block to those that are finished, if it ends with it."""
        first = piece.elements.start
        begun = self._begins.get((piece.leaf, first))
        if begun is not None:
            number, part = begun
            self._growing = _Growing(number, part.elements.stop, [0] * len(piece.values))
        growing = self._growing
        assert growing is not None
        for i, (values, file) in enumerate(zip(piece.values, self._files[piece.leaf])):
            file.write(first, values)
            growing.sums[i] = crc32(values, growing.sums[i])
        if piece.elements.stop == growing.stop:
            finished[growing.number] = tuple(growing.sums)
