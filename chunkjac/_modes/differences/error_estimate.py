"""How far finite differences are off, told by longer steps on a few columns."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch

from chunkjac._modes.differences.loop import OneByOne
from chunkjac._modes.differences.stencil import Stencil
from chunkjac._tensors import largest_finite

# Columns that are looked at: the largest and smallest elements of each input, and some between.
_N_COLUMNS = 6

# What rounding adds, in units of eps * abs(f) times the sum of the weights' magnitudes.
_ROUNDING = 0.25

# How long the other steps are. Errors go with a power of the step, so that what both differ by tells them.
_OTHER_STEP = 1.5

# A complex step loses to rounding what evaluating the derivative itself would.
_COMPLEX_ROUNDING = 2


def estimate_error(stencil: Stencil, one_by_one: OneByOne, eps: float) -> float:
    """Return the largest error of a few columns: the difference to longer steps, and what rounding adds.

    Args:
        stencil: The formula and its steps.
        one_by_one: Evaluates the function.
        eps: The machine epsilon that the function computes with.

    Memory:
        Six values of the function, whatever the number of columns.
    """
    columns, worst = _columns(stencil.inputs), 0.0
    if stencil.scheme.is_complex:
        found = (one_by_one.column(number, stencil)[0] for number in columns)
        return _COMPLEX_ROUNDING * eps * max(float(largest_finite(value)) for column in found for value in column)
    largest = [float(largest_finite(value)) for value in one_by_one.base_values()]
    longer = replace(stencil, steps=stencil.steps.scaled(_OTHER_STEP))
    share = _OTHER_STEP**stencil.scheme.order - 1
    for number in columns:
        column, amplification = one_by_one.column(number, stencil)
        for value, other, size in zip(column, one_by_one.column(number, longer)[0], largest):
            rounding = _ROUNDING * eps * amplification * size
            worst = max(worst, float(largest_finite(value - other)) / share + rounding)
    return worst


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
