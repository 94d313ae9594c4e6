"""Blocks handed to a function of the user's, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chunkjac._errors import CarriedError
from chunkjac._memory import LiveBytes
from chunkjac._modes import Mode
from chunkjac._sinks.block import Block, block_for_users
from chunkjac._sinks.destination import Allowance, Destination
from chunkjac._sinks.sink import HandedOn
from chunkjac._tensors import Tensors


@dataclass(frozen=True, slots=True)
class Callback(Destination):
    """Call a function with each block.

    Attributes:
        call: Takes a :class:`chunkjac.Block`.
    """

    call: Callable[[Block], object]
    name = "a callback"
    why_no_graph = "needs the whole Jacobian, which out=callback never holds"
    why_unverified = "out=callback never holds"

    def sink(self, mode: Mode, allowance: Allowance) -> CallbackSink:
        """Return what takes the blocks."""
        return CallbackSink(mode, self.call, allowance.tracker)


class CallbackSink(HandedOn):
    """Call a function with each block.

    Args:
        mode: What makes the blocks.
        callback: Takes a :class:`chunkjac.Block`; what it returns is not looked at.
        tracker: What counts live bytes. It does not count what the callback makes, which is no part of the job.
    """

    def __init__(self, mode: Mode, callback: Callable[[Block], object], tracker: LiveBytes) -> None:
        self._callback = callback
        self._tracker = tracker
        self._mode = mode

    def write(self, chunk: slice, block: Tensors) -> None:
        """Hand a block on.

        Raises:
            CarriedError: The callback raised an error. The chunk must not be tried again, also where
                memory ran out in the callback: it may have taken a part of the block.
        """
        handed = block_for_users(self._mode, chunk, block)
        try:
            with self._tracker.paused():
                self._callback(handed)
        except Exception as error:
            raise CarriedError(error) from error
