"""What every reduction is: a sink that makes something smaller of blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce

import torch

from chunkjac._problem import Leaf
from chunkjac._sinks.sink import Whole


class ReducingSink(Whole, ABC):
    """Take blocks, and keep something smaller.

    A block may come again after memory ran out in ``write``: nothing is added up there before all that takes
    memory is done.
    """

    @abstractmethod
    def write(self, chunk: slice, block: tuple[torch.Tensor, ...]) -> None:
        """Use a block."""

    @abstractmethod
    def result(self) -> object:
        """Return what was made of all blocks."""


def sum_dtype(leaves: Sequence[Leaf]) -> torch.dtype:
    """Return the type that products of leaves' values are added up in: single precision at least."""
    return reduce(torch.promote_types, (leaf.dtype for leaf in leaves), torch.float32)


def starts_of(leaves: Sequence[Leaf]) -> list[int]:
    """Return where each leaf begins among the elements of all, and at last how many there are."""
    starts = [0]
    for leaf in leaves:
        starts.append(starts[-1] + leaf.numel)
    return starts
