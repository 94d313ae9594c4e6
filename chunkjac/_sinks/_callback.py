"""Blocks handed to a function of the user's, one after the other: the Jacobian is never held."""

from __future__ import annotations

from collections.abc import Callable

from torch.utils._pytree import tree_unflatten

from chunkjac import _types
from chunkjac._checks import check_computed
from chunkjac._errors import CarriedError
from chunkjac._memory import LiveBytes
from chunkjac._modes import Block, Mode


class CallbackSink:
    """Call a function with each block.

    Args:
        mode: What makes the blocks.
        callback: Takes a :class:`chunkjac.Block`; what it returns is not looked at.
        tracker: What counts live bytes. It does not count what the callback makes, which is no part of the job.
    """

    def __init__(self, mode: Mode, callback: Callable[[_types.Block], object], tracker: LiveBytes) -> None:
        self._callback = callback
        self._tracker = tracker
        self._inputs = mode.problem.inputs
        self._axis = "output" if mode.by_rows else "input"
        self._spec = mode.problem.spec if mode.by_rows else mode.outputs.spec

    def places(self, chunk: slice) -> None:
        """Return nothing: a block goes from hand to hand."""

    def write(self, chunk: slice, block: Block) -> None:
        """Hand a block on.

        Raises:
            CarriedError: The callback raised an error. The chunk must not be tried again, also where
                memory ran out in the callback: it may have taken a part of the block.
        """
        check_computed(block, self._inputs)
        handed = _types.Block(self._axis, chunk, tree_unflatten(list(block), self._spec))
        try:
            with self._tracker.paused():
                self._callback(handed)
        except Exception as error:
            raise CarriedError(error) from error

    @property
    def n_done(self) -> int:
        """Return that no direction is finished before."""
        return 0

    def missing(self, total: int) -> list[slice]:
        """Return the directions that are to be computed: all of them."""
        return [slice(0, total)]

    def release(self) -> None:
        """Do nothing: there are no buffers."""

    def close(self) -> None:
        """Do nothing: nothing is held."""

    def result(self) -> None:
        """Return nothing: the callback has it all."""
