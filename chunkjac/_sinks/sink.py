"""What sinks have in common: most take all directions, and put values into places."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch

from chunkjac._errors import FunctionError
from chunkjac._tensors import Tensors


class Whole:
    """Be a sink that takes all directions, and holds nothing between blocks."""

    def missing(self, total: int) -> list[slice]:
        """Return the directions that are to be computed: all of them."""
        return [slice(0, total)]

    def places(self, _chunk: slice) -> Tensors | None:
        """Return nothing: a block is used where it was made."""
        return None

    def begin_again(self) -> None:
        """Take no notice of what was written: all of it comes again, to the same places."""

    def release(self) -> None:
        """Give back the memory of buffers: there are none."""

    def close(self) -> None:
        """Let go of what is held between blocks."""
        self.release()


class HandedOn(Whole):
    """Be a sink whose blocks are taken at once."""

    def begin_again(self) -> None:
        """Say that what was taken is wrong."""
        raise FunctionError(
            "the blocks that were given are wrong: an operation in func is differentiated in batches otherwise than "
            "alone, which shows at the end only. Give chunk_size=1, another mode=, or a file or tensor as out=."
        )

    def result(self) -> None:
        """Return nothing: who asked for blocks has had them all."""


def put(place: torch.Tensor, values: torch.Tensor, *, non_blocking: bool = False) -> None:
    """Copy values into their place, unless they were made there."""
    if place.data_ptr() != values.data_ptr():
        place.copy_(values, non_blocking=non_blocking)


def arrival(device: torch.device) -> Callable[[], object]:
    """Return what waits until all copies from a device that were begun so far are done."""
    if device.type == "cpu":
        return _nothing
    event = getattr(torch, device.type).Event()
    event.record()
    wait: Callable[[], object] = event.synchronize
    return wait


def _nothing() -> None:
    """Do nothing."""


def swapped(tensor: torch.Tensor, n_first: int) -> torch.Tensor:
    """Return a view with the first ``n_first`` dimensions moved behind the others."""
    dims = tuple(range(tensor.dim()))
    return tensor.permute(dims[n_first:] + dims[:n_first])


class Sink(Protocol):
    """Take blocks."""

    def places(self, chunk: slice) -> Tensors | None:
        """Return where a block's tensors will be, if they may be made there."""
        ...

    def missing(self, total: int) -> Iterable[slice]:
        """Return the directions that are to be computed, of so many."""
        ...

    def write(self, chunk: slice, block: Tensors) -> None:
        """Write a block into its place, unless it is there."""
        ...

    def begin_again(self) -> None:
        """Let all be missing: the blocks so far were wrong.

        Raises:
            FunctionError: They are gone.
        """
        ...

    def release(self) -> None:
        """Give back the memory of buffers; the next block takes it again."""
        ...


class ResultSink(Sink, Protocol):
    """Take all blocks of a job, and give what they make."""

    def close(self) -> None:
        """Let go of what is held between blocks."""
        ...

    def result(self) -> Any:
        """Return what the blocks make."""
        ...
