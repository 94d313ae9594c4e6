"""What a direction is: a seed that is one at some elements, and zero at all others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from chunkjac._chunker.slices import Segment, segments
from chunkjac._problem import Leaf


class Directions(Protocol):
    """Be what a mode's blocks have rows for.

    Who makes seeds, or takes blocks apart, asks where directions lie, and knows nothing else of them.

    Attributes:
        leaves: What a seed is like.
        n: How many directions make the whole.
        are_elements: Whether each direction is one element, with the same number: through the leaves in order, each
            leaf in C order.
    """

    @property
    def leaves(self) -> Sequence[Leaf]: ...

    @property
    def n(self) -> int: ...

    @property
    def are_elements(self) -> bool: ...

    def parts(self, chunk: slice) -> Iterator[Segment]:
        """Yield where the seeds of a chunk are one: each row of a part at one element of a leaf.

        A direction of several elements is in several parts. Past the last direction there is nothing.
        """
        ...


@dataclass(frozen=True)
class ElementDirections:
    """Let each direction be one element: seeds are rows of the identity.

    Attributes:
        leaves: The tensors whose elements are meant.
    """

    leaves: Sequence[Leaf]
    are_elements = True

    @cached_property
    def n(self) -> int:
        """Return how many elements there are."""
        return sum(self._sizes)

    def parts(self, chunk: slice) -> Iterator[Segment]:
        """Yield the parts of a chunk, leaf by leaf."""
        return segments(chunk, self._sizes)

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        return tuple(leaf.numel for leaf in self.leaves)
