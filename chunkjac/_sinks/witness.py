"""Finished blocks of a file compared with the function as it is now: one combination of all.

The derivative is linear: what combines the rows on the disk must come out where the seeds are combined alike. It takes
one reading and one direction, and does not care what has changed. Rows have weights by their size, so that small ones
count; what is not finite must be so on both sides, and is looked at row by row where rows differ in that.

Columns of differences are compared with a difference along all of them, as in the run itself. They are less exact, so
that some are computed again as the mode does it; so are all of a block that seems to be another.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate
from typing import Any

import torch

from chunkjac._chunker import Segment
from chunkjac._errors import StoreError
from chunkjac._memory import OverBudget, is_out_of_memory
from chunkjac._modes import FiniteDifference, Forward, Mode, Reverse, random_tangent
from chunkjac._problem import PrecisionWatcher
from chunkjac._sinks.combination import Combination, Sums, apart_by, doubles_of, finite, largest_of, n_nan
from chunkjac._sinks.reductions.reduction import starts_of
from chunkjac._store import FileLayout, Store
from chunkjac._tensors import Tensors

# So many elements are read at once, as tensors: they count.
_N_ELEMENTS = 2**13

# What a combination of derivatives may be off by where a third of it says that it is rounding.
_ROUGH = 1e-3

# A value that is smaller than this part of the others is small by itself, and no difference of large numbers; of
# those that are not small by themselves, this part may be off by the rounding of the others.
_CANCELLED, _FEW = 1e-6, 1e-2

# A row of nothing but rounding differs where its seed is so many times smaller.
_FACTORS = (3, 7, 11, 13, 19)


def blocks_that_hold(mode: Mode, store: Store, eps: float) -> dict[int, int]:
    """Return finished blocks, if they are of this function's Jacobian: by number, how many elements are NaN.

    Args:
        mode: What makes blocks of the function as it is now.
        store: Where those are that were made before.
        eps: The machine epsilon that the derivative computes with.

    Raises:
        StoreError: They are not; it says which ones.
    """
    witness = _Differences(mode, store.layout) if isinstance(mode, FiniteDifference) else _Derivatives(mode, eps)
    whole, found = witness.sums(), {}
    for number, part, values in store.finished():
        whole.add(part, values)
        found[number] = n_nan(values)
    numbers = [*found]
    some = {*numbers[:1], *numbers[-1:], *numbers[len(numbers) // 2 :][:1]} if witness.is_coarse else set()
    some_differ = bool(_differing(witness, store, some, n_rows=1))
    is_right = not numbers or (whole.agrees() and not some_differ)
    if differing := [] if is_right else _differing(witness, store, numbers, n_rows=int(some_differ)):
        raise StoreError(
            f"resume=True found another Jacobian in {store.given!r}: {store.layout.told(differing)} are not those of "
            "func as it is now at these inputs (something that it depends on has changed: weights, settings, random "
            "numbers, or what it reads). Give what was given when they were written, or another path."
        )
    return found


def precision_of(mode: Mode) -> float:
    """Return the machine epsilon that a mode computes with: of types, the coarsest that it meets in one direction."""
    if isinstance(mode, FiniteDifference):
        return mode.eps
    seed = random_tangent(mode.directions.leaves)
    with PrecisionWatcher() as seen:
        _derivative(mode).apply(seed)
    return seen.eps


def _differing(
    witness: _Derivatives | _Differences, store: Store, numbers: Collection[int], n_rows: int = 0
) -> list[int]:
    """Return which blocks differ: a combination of each tells, and rows of those that it does not clear.

    Args:
        witness: What compares.
        store: Where blocks are.
        numbers: Which of them.
        n_rows: Compare so many rows, whatever a combination says.
    """
    differing = []
    for number, part, values in store.finished(numbers):
        block = witness.sums()
        block.add(part, values)
        if n_rows or not block.agrees():
            first = store.layout.partition.block(number).start
            rows = ([array[i] for array in values] for i in range(n_rows or len(values[0])))
            if not all(witness.has_row(first + i, row) for i, row in enumerate(rows)):
                differing.append(number)
    return differing


class _Derivatives:
    """Compare with what a mode gives that is linear to rounding."""

    is_coarse = False

    def __init__(self, mode: Mode, eps: float) -> None:
        leaves = (*mode.problem.leaves, *mode.outputs.leaves)
        self.mode, self._eps = mode, max(eps, *(torch.finfo(leaf.dtype).eps for leaf in leaves))
        self._part = self._eps ** (2 / 3)  # of its size, what a sum may be off by

    def sums(self) -> Sums:
        """Return a combination of no rows."""
        return Combination(self.mode, self._agrees)

    def _agrees(self, seed: Tensors, sums: Sequence[Any], sizes: Sequence[Any]) -> bool:
        """Tell whether combined rows are the derivative at a combined seed."""
        now = self._applied(seed)
        errors = [apart_by(values, wanted) for values, wanted in zip(now, sums)]
        bounds = [self._part * size + self._floor(size, size) for size in sizes]
        if _are_within(errors, bounds):
            return True
        thirds = [3 * values for values in self._applied(tuple(values / 3 for values in seed))]
        noise = [10 * apart_by(a, b) for a, b in zip(thirds, now)]
        rough = [(bound.clip(min=(_ROUGH * size).clip(max=n))) for bound, size, n in zip(bounds, sizes, noise)]
        return _are_within(errors, rough)

    def has_row(self, number: int, rows: Sequence[Any]) -> bool:
        """Tell whether a row is that of the function as it is now."""
        now = _row(self.mode, number)
        errors = [apart_by(values, row) for values, row in zip(now, rows)]
        bounds = [self._part * finite(row) + self._floor(row, values) for values, row in zip(now, rows)]
        if _are_within(errors, bounds):
            return True
        ((part,), leaves) = [*self.mode.directions.parts(slice(number, number + 1))], self.mode.directions.leaves
        for factor in _FACTORS:
            seed = tuple(leaf.zeros() for leaf in leaves)
            seed[part.leaf].view(-1)[part.elements] = 1 / factor
            again = [factor * values for values in self._applied(seed)]
            bounds = [bound + 10 * apart_by(a, b) for a, b, bound in zip(again, now, bounds)]
        return _are_within(errors, bounds)

    def _floor(self, these: Any, those: Any) -> Any:
        """Return what may be where the one or the other is zero: rounding of the largest."""
        return 10 * self._eps * max(largest_of(these), largest_of(those)) * ((these == 0) | (those == 0))

    def _applied(self, seed: Tensors) -> list[Any]:
        return [doubles_of(values) for values in _derivative(self.mode).apply(seed)]


class _Differences:
    """Compare with differences, of which many are less exact than rounding."""

    is_coarse = True

    def __init__(self, mode: FiniteDifference, layout: FileLayout) -> None:
        self.mode, self._layout, self._eps = mode, layout, mode.eps
        self._known: tuple[slice, list[Any]] | None = None  # a chunk of columns

    def sums(self) -> Sums:
        """Return a combination of no columns."""
        return _Columns(self.mode)

    def has_row(self, number: int, rows: Sequence[Any]) -> bool:
        """Tell whether a column is that of the function as it is now: to the last bit, or to rounding."""
        chunk = _chunk_of(number, self._layout)
        if self._known is None or self._known[0] != chunk:
            self._known = None
            try:
                self._known = chunk, [doubles_of(values, 1) for values in self.mode.block(chunk)]
            except Exception as error:
                if not (isinstance(error, OverBudget) or is_out_of_memory(error)):
                    raise
        if self._known is not None:
            pairs = zip(self._known[1], rows)
            if all((apart_by(block[number - chunk.start], row) == 0).all() for block, row in pairs):
                return True
        column, amplification, here = self.mode.column_alone(number)
        rounding = [20 * self._eps * amplification * finite(doubles_of(values)) for values in here]
        return all(self._is_near(doubles_of(values), row, noise) for values, row, noise in zip(column, rows, rounding))

    def _is_near(self, values: Any, row: Any, rounding: Any) -> bool:
        """Tell whether a column is another to rounding, which is that of others where a value may be their difference.

        Of a hundredth of the values it may be that to any part of the others, and to a hundredth of them of all.
        """
        import numpy as np

        error, least = apart_by(values, row), self._eps**0.5 * finite(row)
        middle = np.median(rounding) if rounding.size else 0.0
        is_off = error > least + np.clip(middle, rounding, 100 * rounding)
        may_cancel = np.where(rounding > _CANCELLED * middle, rounding.clip(min=middle), rounding)
        return int(is_off.sum()) <= _FEW * is_off.size and _are_within([error], [least + may_cancel])


class _Columns:
    """Add up columns of differences; what is not finite in some of them hides the others."""

    def __init__(self, mode: FiniteDifference) -> None:
        self._witness, self._starts = mode.witness(), starts_of(mode.directions.leaves)
        self._outputs = mode.outputs.leaves
        self._some = [torch.zeros(leaf.numel, dtype=torch.bool, device=leaf.device) for leaf in self._outputs]
        self._all = [~some for some in self._some]

    def add(self, part: Segment, values: Sequence[Any]) -> None:
        """Add some columns; see :class:`Sums`."""
        first = self._starts[part.leaf] + part.elements.start
        n_at_once = max(1, _N_ELEMENTS // max(1, *(array.shape[1] for array in values)))
        for start in range(0, len(values[0]), n_at_once):
            few = [array[start : start + n_at_once].copy() for array in values]
            block = [torch.from_numpy(array).to(leaf.device) for array, leaf in zip(few, self._outputs)]
            for rows, some, every in zip(block, self._some, self._all):
                some |= rows.isfinite().any(0)
                every &= rows.isfinite().all(0)
            self._witness.add(slice(first + start, first + start + len(few[0])), tuple(block))

    def agrees(self) -> bool:
        """Tell whether the function gives the same; see :class:`Sums`."""
        is_mixed = any(bool((some & ~every).any()) for some, every in zip(self._some, self._all))
        return not is_mixed and self._witness.agrees()


def _are_within(errors: Iterable[Any], bounds: Iterable[Any]) -> bool:
    """Tell whether errors are within bounds, of which those that are not finite tell nothing."""
    return all((error <= finite(bound)).all() for error, bound in zip(errors, bounds))


def _chunk_of(direction: int, layout: FileLayout) -> slice:
    """Return the chunk in which a direction was computed, unless memory was short."""
    ends = [*accumulate(layout.sizes)]
    leaf = bisect_right(ends, direction)
    first = ends[leaf] - layout.sizes[leaf]
    start = direction - (direction - first) % layout.chunk_size
    return slice(start, min(start + layout.chunk_size, ends[leaf]))


def _derivative(mode: Mode) -> Reverse | Forward:
    """Return a mode that is none of differences."""
    assert isinstance(mode, (Reverse, Forward))
    return mode


def _row(mode: Mode, number: int) -> list[Any]:
    """Return a row of the Jacobian as the mode makes it."""
    return [doubles_of(values[0]) for values in mode.block(slice(number, number + 1))]
