"""What every reduction is: a sink that makes something smaller of blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce

import torch

from chunkjac._modes import Mode
from chunkjac._problem import Leaf
from chunkjac._sinks.sink import Whole


class ReducingSink(Whole, ABC):
    """Take blocks, and keep something smaller.

    A block may come again after memory ran out in ``write``: nothing is added up there before all that takes
    memory is done.
    """

    def places(self, _chunk: slice) -> tuple[torch.Tensor, ...] | None:
        """Return nothing, mostly: a block is used where it was made."""
        return None

    @abstractmethod
    def write(self, chunk: slice, block: tuple[torch.Tensor, ...]) -> None:
        """Use a block."""

    @abstractmethod
    def result(self) -> object:
        """Return what was made of all blocks."""


class Reduction(ABC):
    """Say what is made of blocks; stand where ``out`` stands in other jobs.

    Attributes:
        name: What a plan calls the place that blocks go to.
    """

    name: str

    @abstractmethod
    def held_bytes(self, mode: Mode, room_bytes: int) -> int:
        """Return what its sink holds.

        Args:
            mode: What makes the blocks.
            room_bytes: What sink and chunks may hold together.
        """

    @abstractmethod
    def sink(self, mode: Mode, room_bytes: int) -> ReducingSink:
        """Return what takes the blocks; the arguments are those of :meth:`held_bytes`."""


def sum_dtype(leaves: Sequence[Leaf]) -> torch.dtype:
    """Return the type that products of leaves' values are added up in: single precision at least."""
    return reduce(torch.promote_types, (leaf.dtype for leaf in leaves), torch.float32)


def starts_of(leaves: Sequence[Leaf]) -> list[int]:
    """Return where each leaf begins among the elements of all, and at last how many there are."""
    starts = [0]
    for leaf in leaves:
        starts.append(starts[-1] + leaf.numel)
    return starts
