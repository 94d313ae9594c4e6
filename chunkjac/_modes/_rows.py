"""Whether a function of a batch treats each row on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch._subclasses.fake_tensor import FakeTensor

from chunkjac._backoff import first_line, is_out_of_memory
from chunkjac._bounds import Bounds
from chunkjac._modes._mode import Block
from chunkjac._modes._quiet import quiet_trial
from chunkjac._randomness import fixed_generator, fixed_uniform
from chunkjac._types import Leaf

# How many roundings a row of a batch and the same row alone may differ by: kernels go by the size
# of the batch (2 eps between 1 and 16 rows, measured), and networks add up many.
_NOISE = 100

# A sizeable move, as a part of max(abs(x), 1).
_FAR = 0.25

# Of the rows that are moved, one way each time: to find what goes by a maximum, or by a minimum.
_WAYS = ("up", "down", "either")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Hold what a check found.

    Attributes:
        fault: Why rows are not independent; ``None`` if they are, as far as can be seen.
        tolerances: How far a row of a batch may be from its point alone, for each output.
    """

    fault: str | None
    tolerances: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class RowCheck:
    """Find out whether ``call`` of several points gives what ``alone`` gives for each.

    A batch of a few copies is evaluated, then others of equal shape in which one row is as it was
    and the others are moved, some by the steps of finite differences and some far: the row's value
    must be what it was, bit for bit. And in one of the batches each row's value must be what
    ``alone`` gives for it. The number of rows is odd, and no size of any input or output, so that
    no other axis is taken for that of the batch.

    Attributes:
        call: Evaluates a batch.
        alone: Evaluates one point.
        inputs: The base point.
        leaves: What is known of the outputs.
        reaches: How far steps go: for each input a tensor like it.
        bounds: The limits of the inputs, if there are any.
        is_complex: Whether steps go along the imaginary axis.
        eps: The machine epsilon that the function computes with.
    """

    call: Callable[[Block], Block]
    alone: Callable[[Block], Block]
    inputs: Block
    leaves: Sequence[Leaf]
    reaches: Block
    bounds: Sequence[Bounds] | None
    is_complex: bool
    eps: float

    @property
    def n_rows(self) -> int:
        """Return how many rows a batch has."""
        shapes = [*(x.shape for x in self.inputs), *(leaf.shape for leaf in self.leaves)]
        sizes = {size for shape in shapes for size in shape}
        return next(n for n in count(3, 2) if n not in sizes)

    def verdict(self) -> Verdict:
        """Return whether rows are independent. On fake tensors only shapes can be seen."""
        tolerances: list[float] = []
        try:
            with quiet_trial():
                fault = next(self._faults(tolerances), None)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            fault = first_line(error)
        return Verdict(fault, tuple(tolerances))

    def _faults(self, tolerances: list[float]) -> Iterator[str]:
        """Yield what is wrong, in the order in which it is found."""
        n_rows = self.n_rows
        generator = fixed_generator(0)
        batch = self._first_batch(n_rows, generator)
        values = self.call(batch)
        yield from self._misshapen(values, n_rows)
        values = tuple(value.clone() for value in values)  # some functions write each value into the same memory
        for way, still in zip(_WAYS, (0, n_rows // 2, n_rows - 1)):
            moved = self._moved(batch, still, way, generator)
            others = self.call(moved)
            yield from self._misshapen(others, n_rows)
            if not all(_same_bits(was[still], now[still]) for was, now in zip(values, others)):
                yield "a row's value changes with the other rows"
            if still == 0:
                yield from self._unlike_alone(moved, others, tolerances)
            del moved, others

    def _misshapen(self, values: Block, n_rows: int) -> Iterator[str]:
        """Yield what does not have one row for each point."""
        if len(values) != len(self.leaves):
            yield f"a batch gives {len(values)} outputs, one point {len(self.leaves)}"
        for value, leaf in zip(values, self.leaves):
            if not isinstance(value, torch.Tensor):
                yield f"a batch gives {type(value).__name__}"
            elif value.shape != (n_rows, *leaf.shape):
                yield f"a batch of {n_rows} gives shape {tuple(value.shape)}, not {(n_rows, *leaf.shape)}"
            elif not self.is_complex and value.dtype != leaf.dtype:
                yield f"a batch gives {value.dtype}, one point {leaf.dtype}"

    def _unlike_alone(self, batch: Block, values: Block, tolerances: list[float]) -> Iterator[str]:
        """Yield whether a row's value is not that of its point alone; note what is rounding."""
        distances, sizes = [0.0] * len(values), [0.0] * len(values)
        for i in range(len(batch[0])):
            for number, single in enumerate(self.alone(tuple(rows[i].clone() for rows in batch))):
                distances[number] = max(distances[number], distance(values[number][i], single))
                sizes[number] = max(sizes[number], _size(single))
        tolerances += [_NOISE * self.eps * size for size in sizes]
        if any(off > allowed for off, allowed in zip(distances, tolerances)):
            yield "a row's value is not that of its point alone"

    def _first_batch(self, n_rows: int, generator: torch.Generator) -> Block:
        """Return a batch whose first row is the base point, and whose others are a step away."""
        batch = []
        for number, x in enumerate(self.inputs):
            rows = self._lift(x.expand(n_rows, *x.shape).clone())
            for row in rows[1:]:
                self._step(row, number, generator)
            batch.append(rows)
        return tuple(batch)

    def _moved(self, batch: Block, still: int, way: str, generator: torch.Generator) -> Block:
        """Return a batch in which all rows but one are moved: a step, far, a step, far, ..."""
        moved = tuple(rows.clone() for rows in batch)
        for number, rows in enumerate(moved):
            others = [row for i, row in enumerate(rows) if i != still]
            for i, row in enumerate(others):
                if i % 2:
                    self._step(row, number, generator)
                else:
                    self._leap(row, number, way, generator)
        return moved

    def _step(self, row: torch.Tensor, number: int, generator: torch.Generator) -> None:
        """Move a row as finite differences do, up or down."""
        if self.is_complex:
            row.add_(torch.complex(torch.zeros_like(row.real), self.reaches[number]))
        else:
            self._move(row, number, self.reaches[number] * _random_part(row, generator, "either"))

    def _leap(self, row: torch.Tensor, number: int, way: str, generator: torch.Generator) -> None:
        """Move a row far."""
        real = row.real if self.is_complex else row
        self._move(real, number, _FAR * real.abs().clamp_(min=1) * _random_part(real, generator, way))

    def _move(self, row: torch.Tensor, number: int, by: torch.Tensor) -> None:
        """Move a row within its bounds."""
        row.copy_(row + by if self.bounds is None else self.bounds[number].inside(row, row + by))

    def _lift(self, x: torch.Tensor) -> torch.Tensor:
        """Return points in the dtype that the function is given."""
        return torch.complex(x, torch.zeros_like(x)) if self.is_complex else x


def _random_part(like: torch.Tensor, generator: torch.Generator, way: str) -> torch.Tensor:
    """Return numbers between a half and one, with a sign."""
    part = fixed_uniform(like.shape, generator).to(like.device)
    signs = torch.where(part < 0.5, -1.0, 1.0) if way == "either" else (1.0 if way == "up" else -1.0)
    return (((part * 8) % 1 / 2 + 0.5) * signs).to(like.dtype)


def _same_bits(was: torch.Tensor, now: torch.Tensor) -> bool:
    """Tell whether two tensors are the same to the last bit, NaN included; always so on fakes."""
    was, now = (value.contiguous().view(-1).view(torch.uint8) for value in (was, now))
    return isinstance(now, FakeTensor) or torch.equal(was, now)


def distance(value: torch.Tensor, alone: torch.Tensor) -> float:
    """Return the largest difference; infinite where only one is a number; 0 on fakes."""
    if alone.shape != value.shape:
        return float("inf")
    is_same = (value == alone) | (value.isnan() & alone.isnan())
    off = (value - alone).abs().masked_fill_(is_same, 0.0)
    return _largest(off.nan_to_num_(nan=float("inf"), posinf=float("inf")))


def _size(value: torch.Tensor) -> float:
    """Return the largest finite magnitude; 0 on fakes."""
    return _largest(value.abs().nan_to_num_(0.0, posinf=0.0))


def _largest(value: torch.Tensor) -> float:
    """Return the largest element; 0 on fakes, after making what a real run makes."""
    largest = value.amax() if value.numel() else value.new_zeros(())
    return 0.0 if isinstance(largest, FakeTensor) else float(largest)
