"""How far finite differences are off, told by a better formula on a few columns."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch

from chunkjac._modes.differences.loop import Direction, OneByOne
from chunkjac._modes.differences.slopes import limit_of
from chunkjac._modes.differences.stencil import Stencil
from chunkjac._problem import Leaf
from chunkjac._tensors import Tensors, largest_finite

# Columns that are looked at: the largest and smallest elements of each input, and some between.
_N_COLUMNS = 6

# What rounding adds, in units of eps * abs(f) times the sum of the weights' magnitudes.
_ROUNDING = 0.25

# Extrapolated differences are compared with those of another step: their own estimates are those of
# the entries before the last, up to 200 times too large (measured on sin(3x)).
_OTHER_STEP = 0.6

# A complex step loses to rounding what evaluating the derivative itself would.
_COMPLEX_ROUNDING = 2


def estimate_error(stencil: Stencil, one_by_one: OneByOne, leaves: Sequence[Leaf], eps: float) -> float:
    """Return the largest error of a few columns: the difference to a better formula, and what rounding adds.

    Args:
        stencil: The formula and its steps.
        one_by_one: Evaluates the function.
        leaves: What is known of the outputs.
        eps: The machine epsilon that the function computes with.

    Memory:
        Six values of the function, whatever the number of columns.
    """
    columns = _columns(stencil.inputs)
    if stencil.scheme.is_complex:
        return _COMPLEX_ROUNDING * eps * max(_largest_of(_limits(stencil, one_by_one, column)) for column in columns)
    if len(stencil.scheme.levels) > 1:
        shorter = replace(stencil, steps=stencil.steps.scaled(_OTHER_STEP))
        return max(_change(stencil, shorter, one_by_one, column) for column in columns)
    better = replace(stencil, scheme=stencil.scheme.improved())
    base = one_by_one.base_values()
    largest = [float(largest_finite(value)) for value in base]
    kept = base if stencil.scheme.with_base else None
    return max(_column_error(stencil, better, one_by_one, leaves, column, kept, largest, eps) for column in columns)


def _columns(inputs: Sequence[torch.Tensor]) -> list[int]:
    """Return the numbers of a few directions: those of the largest and least elements, others evenly spread."""
    total = sum(x.numel() for x in inputs)
    if total <= _N_COLUMNS:
        return list(range(total))
    starts = itertools.accumulate((x.numel() for x in inputs), initial=0)
    ends = [
        (float(x.reshape(-1)[at]), start + at)
        for x, start in zip(inputs, starts)
        if x.numel()
        for at in (int(x.argmax()), int(x.argmin()))
    ]
    spread = [(2 * i + 1) * total // (2 * _N_COLUMNS) for i in range(_N_COLUMNS)]
    return list(dict.fromkeys([max(ends)[1], min(ends)[1], *spread]))[:_N_COLUMNS]


def _column_error(
    stencil: Stencil,
    better: Stencil,
    one_by_one: OneByOne,
    leaves: Sequence[Leaf],
    column: int,
    base: Tensors | None,
    largest: Sequence[float],
    eps: float,
) -> float:
    """Return the estimated error of one column.

    The difference of two formulas is a formula: both are added up in the same memory, point by point.
    """
    wide = [torch.promote_types(leaf.dtype, torch.float32) for leaf in leaves]
    error = [[torch.zeros(leaf.shape, dtype=dtype, device=leaf.device)] for leaf, dtype in zip(leaves, wide)]
    own = _direction(stencil, one_by_one, column)
    one_by_one.add(error, own, stencil.scheme, base)
    one_by_one.add(error, _direction(better, one_by_one, column), better.scheme, base, factor=-1)
    (weights,) = own.weights
    amplification = sum(map(abs, weights)) + abs(sum(weights))  # the weight left out is minus the sum
    return max(
        float(largest_finite(difference)) + _ROUNDING * eps * amplification * size
        for (difference,), size in zip(error, largest)
    )


def _direction(stencil: Stencil, one_by_one: OneByOne, column: int) -> Direction:
    """Return one direction of a stencil."""
    chunk = slice(column, column + 1)
    return one_by_one.directions(chunk, stencil.place(chunk))[0]


def _change(stencil: Stencil, other: Stencil, one_by_one: OneByOne, column: int) -> float:
    """Return how far a column differs between two stencils."""
    columns = zip(_limits(stencil, one_by_one, column), _limits(other, one_by_one, column))
    return _largest_of([one - another for one, another in columns])


def _limits(stencil: Stencil, one_by_one: OneByOne, column: int) -> list[torch.Tensor]:
    """Return a column, a tensor for each output."""
    chunk = slice(column, column + 1)
    placed = stencil.place(chunk)
    return [limit_of(levels, placed.powers) for levels in one_by_one.slopes(chunk, placed, stencil.scheme)]


def _largest_of(values: Sequence[torch.Tensor]) -> float:
    """Return the largest finite magnitude in any of them."""
    return max(float(largest_finite(value)) for value in values)
