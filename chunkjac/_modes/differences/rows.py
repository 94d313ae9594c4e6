"""Whether a function of a batch treats each row on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from math import isfinite

import torch
from torch._subclasses.fake_tensor import FakeTensor

from chunkjac._chunker import Segment
from chunkjac._modes.differences.stencil import Stencil
from chunkjac._problem import FixedNumbers, Problem
from chunkjac._programs import SeenByDifferences
from chunkjac._tensors import Tensors

# How many roundings a row of a batch and the same row alone may differ by: kernels go by the size
# of the batch (2 eps between 1 and 16 rows, measured), and networks add up many.
_NOISE = 100

# A sizeable move, as a part of max(abs(x), 1).
_FAR = 0.25


@dataclass(frozen=True, slots=True)
class Known:
    """Hold a point whose value is known, to be a row of every batch: there its value must be the same.

    A function may mix rows only when there are many (it compares their sum with a number, say), which a
    check of a few does not show.

    Attributes:
        point: A step away from the base point in all elements: at the base point itself, other functions may
            have the same value.
        values: What the function gives for it alone.
        tolerances: How far a row may be from that by rounding, for each output.
    """

    point: Tensors
    values: Tensors
    tolerances: tuple[float, ...]

    def is_last_of(self, values: Tensors) -> bool:
        """Tell whether the last row has the value that is known."""
        return _all_near((value[-1] for value in values), self.values, self.tolerances)


@dataclass(frozen=True, slots=True)
class RowCheck:
    """Find out whether ``call`` of several points gives what the function gives for each.

    Two batches of equal shape are evaluated. In the first, the first row is the base point, the last one a step
    away from it and those between are far: the first and the last must be what they are alone. From the first to
    the second all rows are moved but the middle one, some up and some down: its value must be what it was, bit
    for bit. So each row is looked at while those before and after it are elsewhere. The number of rows is odd, and
    no size of any input or output, so that no other axis is taken for that of the batch.

    Attributes:
        call: Evaluates a batch.
        problem: The function, which evaluates one point.
        stencil: Where it is evaluated.
        seen: What is known of it.
        base: What it gives for the base point.
        goes_far: Whether points may be tried that are farther away than a step.
    """

    call: Callable[[Tensors], Tensors]
    problem: Problem
    stencil: Stencil
    seen: SeenByDifferences
    base: Tensors
    goes_far: bool

    @property
    def n_rows(self) -> int:
        """Return how many rows a batch has."""
        shapes = [*(x.shape for x in self.stencil.inputs), *(leaf.shape for leaf in self.seen.outputs.leaves)]
        sizes = {size for shape in shapes for size in shape}
        return next(n for n in count(3, 2) if n not in sizes)

    def verdict(self) -> Known | str:
        """Evaluate two batches, and compare; return a known point, or what is wrong: on fakes only shapes are seen."""
        n_rows, numbers = self.n_rows, FixedNumbers()
        batch = self._first_batch(n_rows, numbers)
        values = self.call(batch)
        fault = self._misshapen(values, n_rows)
        if fault is not None:
            return fault
        values = tuple(value.clone() for value in values)  # some functions write each value into the same memory
        known = self._known(tuple(rows[-1].clone() for rows in batch))
        if not (known.is_last_of(values) and _all_near((rows[0] for rows in values), self.base, known.tolerances)):
            return "a row's value is not that of its point alone"
        middle = n_rows // 2
        still = tuple(value[middle].clone() for value in values)
        del values
        others = self.call(self._moved(batch, middle, numbers))
        fault = self._misshapen(others, n_rows)
        if fault is None and not all(_are_equal(was, now[middle]) for was, now in zip(still, others)):
            fault = "a row's value changes with the other rows"
        return fault or known

    def _known(self, point: Tensors) -> Known:
        """Evaluate a point alone; rounding goes by how large its values are, or what is subtracted to make them."""
        alone = tuple(value.clone() for value in self.problem.flat(*(x.clone() for x in point)))
        far = _FAR * self.seen.eps ** (-1 / 3)  # times what a step changes: about what elements amount to
        sizes = (max(_size(base), far * _size(value - base)) for value, base in zip(alone, self.base))
        return Known(point, alone, tuple(_NOISE * self.seen.eps * size for size in sizes))

    def _misshapen(self, values: Tensors, n_rows: int) -> str | None:
        """Return what does not have one row for each point."""
        if len(values) != len(self.seen.outputs.leaves):
            return f"a batch gives {len(values)} outputs, one point {len(self.seen.outputs.leaves)}"
        for value, leaf in zip(values, self.seen.outputs.leaves):
            if not isinstance(value, torch.Tensor):
                return f"a batch gives {type(value).__name__}"
            if value.shape != (n_rows, *leaf.shape):
                return f"a batch of {n_rows} gives shape {tuple(value.shape)}, not {(n_rows, *leaf.shape)}"
            if not self.stencil.scheme.is_complex and value.dtype != leaf.dtype:
                return f"a batch gives {value.dtype}, one point {leaf.dtype}"
        return None

    def _first_batch(self, n_rows: int, numbers: FixedNumbers) -> Tensors:
        """Return a batch from the base point, by way of some far away, to one a step away."""
        batch = []
        for number, x in enumerate(self.stencil.inputs):
            rows = self._lift(x.expand(n_rows, *x.shape).clone())
            for row in rows[1:-1]:
                self._leap(row, number, "either", numbers)
            self._step(rows[-1], number, numbers)
            batch.append(rows)
        return tuple(batch)

    def _moved(self, batch: Tensors, still: int, numbers: FixedNumbers) -> Tensors:
        """Return a batch in which all rows but one are moved far: up before it, down after it."""
        moved = tuple(rows.clone() for rows in batch)
        for number, rows in enumerate(moved):
            for i, row in enumerate(rows):
                if i != still:
                    self._leap(row, number, "up" if i < still else "down", numbers)
        return moved

    def _reach(self, number: int) -> torch.Tensor:
        """Return how far the elements of an input go in a step."""
        x = self.stencil.inputs[number]
        whole = slice(0, x.numel())
        return self.stencil.steps.of_segment(Segment(number, whole, whole), x.reshape(-1)).view(x.shape)

    def _step(self, row: torch.Tensor, number: int, numbers: FixedNumbers) -> None:
        """Move a row as finite differences do, up or down."""
        if self.stencil.scheme.is_complex:
            row.add_(torch.complex(torch.zeros_like(row.real), self._reach(number)))
        else:
            self._move(row, number, self._reach(number) * _random_part(row, numbers, "either"))

    def _leap(self, row: torch.Tensor, number: int, way: str, numbers: FixedNumbers) -> None:
        """Move a row far, or a step."""
        real = row.real if self.stencil.scheme.is_complex else row
        reach = _FAR * real.abs().clamp_(min=1) if self.goes_far else self._reach(number)
        self._move(real, number, reach * _random_part(real, numbers, way))

    def _move(self, row: torch.Tensor, number: int, by: torch.Tensor) -> None:
        """Move a row within its bounds."""
        row.copy_(row + by if self.stencil.bounds is None else self.stencil.bounds[number].inside(row, row + by))

    def _lift(self, x: torch.Tensor) -> torch.Tensor:
        """Return points in the dtype that the function is given."""
        return torch.complex(x, torch.zeros_like(x)) if self.stencil.scheme.is_complex else x


def _random_part(like: torch.Tensor, numbers: FixedNumbers, way: str) -> torch.Tensor:
    """Return numbers between a third and one, with a sign."""
    part = numbers.signed(like.shape).to(like.device, like.dtype) / 1.5
    return part if way == "either" else part.abs() if way == "up" else -part.abs()


def _are_equal(was: torch.Tensor, now: torch.Tensor) -> bool:
    """Tell whether two tensors are the same to the last bit, NaN included; always so on fakes."""
    are_equal = ((was == now) | (was.isnan() & now.isnan())).all()
    return isinstance(now, FakeTensor) or bool(are_equal)


def same_within_noise(values: Tensors, others: Tensors, eps: float) -> bool:
    """Tell whether the values of two batches differ by rounding only."""
    return _all_near(values, others, noises(others, eps))


def noises(values: Tensors, eps: float) -> tuple[float, ...]:
    """Return by how much rounding may move values of each output."""
    return tuple(_NOISE * eps * _size(value) for value in values)


def _all_near(values: Iterable[torch.Tensor], others: Iterable[torch.Tensor], tolerances: Iterable[float]) -> bool:
    """Tell whether each value is as near to another as is allowed."""
    triples = zip(values, others, tolerances, strict=True)
    return all(distance(value, other) <= allowed for value, other, allowed in triples)


def distance(value: torch.Tensor, alone: torch.Tensor) -> float:
    """Return the largest difference; infinite where only one is a number; 0 on fakes."""
    if alone.shape != value.shape:
        return float("inf")
    off = (value - alone).abs_() if not value.is_complex() else (value - alone).abs()
    largest = _largest(off)
    if isfinite(largest):
        return largest
    is_same = (value == alone) | (value.isnan() & alone.isnan())
    return _largest(off.masked_fill_(is_same, 0.0).nan_to_num_(nan=float("inf"), posinf=float("inf")))


def _size(value: torch.Tensor) -> float:
    """Return the largest finite magnitude; 0 on fakes."""
    return _largest(value.abs().nan_to_num_(0.0, posinf=0.0))


def _largest(value: torch.Tensor) -> float:
    """Return the largest element; 0 on fakes, after making what a real run makes."""
    largest = value.amax() if value.numel() else value.new_zeros(())
    return 0.0 if isinstance(largest, FakeTensor) else float(largest)
