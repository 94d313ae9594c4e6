"""Perturbed copies in a buffer that is reused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from chunkjac._chunker.seeds import Rows
from chunkjac._chunker.slices import segments
from chunkjac._problem import Leaf


class PerturbedCopies(Rows):
    """Give copies of the inputs in which each direction's element is moved.

    A chunk of k directions with p points each is a batch of ``k * p`` copies, and a few more: the first
    point of all directions, then the second, then the base point, at last a point of its own. Only what is
    moved is written and erased.

    Args:
        inputs: The base point, a contiguous tensor for each leaf.
        n_points: How many points a direction has.
        with_base: Whether there is a row with the base point.
        last: The point of the last row, if there is one.
    """

    def __init__(
        self,
        inputs: Sequence[torch.Tensor],
        n_points: int,
        with_base: bool,
        last: Sequence[torch.Tensor] | None = None,
    ) -> None:
        super().__init__([Leaf.of(tensor) for tensor in inputs])
        self._sizes = [tensor.numel() for tensor in inputs]
        self._inputs = inputs
        self._n_points = n_points
        self._with_base = with_base
        self._last = last
        self._last_row: int | None = None  # where that point is
        self._moved: list[tuple[torch.Tensor, torch.Tensor]] = []

    def batch(self, chunk: slice, points: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return the copies for a chunk, ``(rows, *leaf.shape)`` for each leaf.

        Args:
            chunk: The directions.
            points: What the elements become, ``(n_points, elements)`` for each segment of the chunk.
        """
        self._restore()
        k = chunk.stop - chunk.start
        n_rows = self.layout(k).n_rows
        self._reserve(n_rows)
        if self._last is not None and self._last_row != n_rows - 1:
            self._put_last(n_rows - 1, self._last)
        for segment, values in zip(segments(chunk, self._sizes), points, strict=True):
            moved = self._diagonal(segment, self._n_points, k)
            moved.copy_(values)
            self._moved.append((moved, self._inputs[segment.leaf].view(-1)[segment.elements]))
        return tuple(buffer[:n_rows] for buffer in self._buffers)

    def layout(self, n_directions: int) -> BatchLayout:
        """Return how a batch for so many directions is made up."""
        return BatchLayout(n_directions, self._n_points, self._with_base, self._last is not None)

    def release(self) -> None:
        """Give the memory back."""
        self._moved, self._last_row = [], None
        super().release()

    def _put_last(self, row: int, last: Sequence[torch.Tensor]) -> None:
        """Let a row be the point of its own, and the one that was, the base point again."""
        for rows, base, point in zip(self._buffers, self._inputs, last, strict=True):
            if self._last_row is not None:
                rows[self._last_row].copy_(base)
            rows[row].copy_(point)
        self._last_row = row

    def _restore(self) -> None:
        """Let all rows be the base point again, and let go of the buffers."""
        for elements, base in self._moved:
            elements.copy_(base)
        self._moved = []

    def _blank(self, number: int, n_rows: int) -> torch.Tensor:
        """Make rows that are all the base point."""
        rows = self._leaves[number].empty(n_rows)
        return rows.copy_(self._inputs[number].expand_as(rows))


class PerturbedPoint:
    """Give the inputs with one element moved: one copy of them, whatever the chunk.

    Args:
        inputs: The base point, a contiguous tensor for each leaf.
    """

    def __init__(self, inputs: Sequence[torch.Tensor]) -> None:
        self._inputs = inputs
        self._copies: tuple[torch.Tensor, ...] = ()
        self._flat: list[torch.Tensor] = []
        self._flat_inputs = [tensor.view(-1) for tensor in inputs]
        self._moved: tuple[int, int] | None = None

    def base(self) -> tuple[torch.Tensor, ...]:
        """Return the base point; it holds until another is asked for."""
        if not self._copies:
            self._copies = tuple(tensor.clone() for tensor in self._inputs)
            self._flat = [tensor.view(-1) for tensor in self._copies]
        if self._moved is not None:
            self._restore(*self._moved)
        return self._copies

    def at(self, leaf: int, element: int, value: Any) -> tuple[torch.Tensor, ...]:
        """Return the base point with one element moved; it holds until another is asked for."""
        copies = self._copies if self._moved == (leaf, element) else self.base()
        self._flat[leaf][element] = value
        self._moved = leaf, element
        return copies

    def release(self) -> None:
        """Give the memory back."""
        self._copies, self._flat, self._moved = (), [], None

    def _restore(self, leaf: int, element: int) -> None:
        """Move an element back."""
        self._flat[leaf][element] = self._flat_inputs[leaf][element]
        self._moved = None


@dataclass(frozen=True, slots=True)
class BatchLayout:
    """Hold how a batch of perturbed copies is made up: the first point of all directions, then the second, ...

    Attributes:
        n_directions: How many directions.
        n_points: How many points each has.
        with_base: Whether the base point comes behind them.
        with_last: Whether another point comes at last.
    """

    n_directions: int
    n_points: int
    with_base: bool
    with_last: bool

    @property
    def n_rows(self) -> int:
        """Return how many copies there are."""
        return self.n_directions * self.n_points + self.with_base + self.with_last
