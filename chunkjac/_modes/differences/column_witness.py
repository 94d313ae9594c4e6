"""A random combination of the columns that batches have made, against single points.

Theorem: to first order, ``sum(u_j J_j)`` is the difference along ``u``, which one point after the other tells, however
many columns there are. Columns that are wrong anywhere give something else, with probability one. Kinks and long steps
may do so too: then suspicious columns are looked for, and compared with the very points that they are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_flatten

from chunkjac._chunker import Segment
from chunkjac._memory import is_out_of_memory
from chunkjac._modes.differences.bounds import Bounds
from chunkjac._modes.differences.loop import OneByOne
from chunkjac._modes.differences.stencil import Stencil
from chunkjac._modes.differences.steps import Steps
from chunkjac._problem import FixedNumbers, Problem
from chunkjac._programs import SeenByDifferences
from chunkjac._tensors import Tensors, largest_finite, rows_of

# Which part of the largest a slope may be off by, in units of eps^(1/3): kinks within a step change few of many terms
# (ReLU networks in float32: 0.5 % with steps of 0.005), and one wrong column of n changes 1 / sqrt(n).
_PART = 4

_NUMBER = tree_flatten(0)[1]  # the tree of what is no tree

# So many columns are compared, the most suspicious first.
_N_SUSPECTS = 4


@dataclass(slots=True)
class _Sum:
    """Hold a combination: what elements are moved by, what outputs change by, and of how many columns."""

    along: Tensors
    together: Tensors
    n: int = 0

    @property
    def scale(self) -> float:
        """Return what makes all elements together move as far as one alone."""
        return max(self.n, 1) ** -0.5


class ColumnWitness:
    """Add up columns, each times the step of its element and a random number.

    Args:
        problem: The function.
        stencil: Where it was evaluated.
        seen: What is known of it.
        noises: How far values in a batch may be from those alone by rounding, for each output.

    Memory:
        A number for each input and each output.
    """

    def __init__(self, problem: Problem, stencil: Stencil, seen: SeenByDifferences, noises: Sequence[float]) -> None:
        self._problem, self._stencil, self._seen = problem, stencil, seen
        self._noises = noises
        self._numbers = FixedNumbers()
        self.forget()

    def add(self, chunk: slice, block: Tensors) -> None:
        """Take in columns."""
        self._chunks.append(chunk)
        self._add(self._total, chunk, block)

    def forget(self) -> None:
        """Begin again without columns."""
        self._chunks: list[slice] = []
        self._total = self._nothing()

    def agrees(self) -> bool:
        """Tell whether the combination is what single points tell; always so of fakes, which have no values."""
        excess = self._excess(self._total)  # of fakes as well: that tells what it takes
        return excess <= 1 or any(isinstance(x, FakeTensor) for x in self._total.together)

    def has_wrong_column(self, columns: Callable[[slice], Tensors], one_by_one: OneByOne) -> bool:
        """Tell whether a column is wrong: halve the most suspicious chunks down to single columns.

        Args:
            columns: Makes the columns of a chunk in the same way again.
            one_by_one: Evaluates the function at one point after the other.
        """
        heap: list[tuple[float, int, int, int]] = []  # minus the excess, the number of the chunk, and a part of it

        def suspect(number: int, block: Tensors, start: int, stop: int) -> None:
            begin = self._chunks[number].start
            part = self._nothing()
            self._add(part, slice(begin + start, begin + stop), tuple(rows[start:stop] for rows in block))
            heappush(heap, (-self._excess(part), number, start, stop))

        for number, chunk in enumerate(self._chunks):
            suspect(number, columns(chunk), 0, chunk.stop - chunk.start)
        n_seen = 0
        while heap and n_seen < _N_SUSPECTS:
            excess, number, start, stop = heappop(heap)
            if -excess <= 1:
                break
            block = columns(self._chunks[number])
            if stop - start > 1:
                middle = (start + stop) // 2
                suspect(number, block, start, middle)
                suspect(number, block, middle, stop)
                continue
            n_seen += 1
            if not self._is_right(self._chunks[number].start + start, [rows[start] for rows in block], one_by_one):
                return True
        return False

    def _nothing(self) -> _Sum:
        """Return a combination of no columns."""
        together = tuple(leaf.zeros() for leaf in self._seen.outputs.leaves)
        return _Sum(tuple(map(torch.zeros_like, self._stencil.inputs)), together)

    def _add(self, total: _Sum, chunk: slice, block: Tensors) -> None:
        """Add columns to a combination."""
        for segment in self._stencil.directions.parts(chunk):
            weights = self._weights(segment)
            total.along[segment.leaf].view(-1)[segment.elements] += weights
            for values, rows in zip(total.together, block):
                own = rows_of(rows)[segment.rows]
                values.view(-1).add_(weights.to(own.device, own.dtype) @ own)
        total.n += chunk.stop - chunk.start

    def _weights(self, segment: Segment) -> torch.Tensor:
        """Return random parts of steps, to the side that the formula goes to; of both signs if it goes to both."""
        reach = self._stencil.reach(segment)
        part = self._numbers.signed(reach.shape).to(reach.device, reach.dtype) / 1.5  # no farther than a step
        return (part.abs() if self._stencil.scheme.with_base else part) * reach

    def _excess(self, total: _Sum) -> float:
        """Return how many times what it may be a combination is off."""
        try:
            wanted, amplification = self._slope(total)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return float("inf")  # there is no value along that direction
        return self._apart([values * total.scale for values in total.together], wanted, amplification)

    def _slope(self, total: _Sum) -> tuple[Tensors, float]:
        """Return the slope along a combination's direction, by the same formula, and what its rounding grows by."""
        stencil, scheme = self._stencil, self._stencil.scheme

        def moved(t: torch.Tensor) -> Tensors:
            points = tuple(x + t * total.scale * along for x, along in zip(stencil.inputs, total.along))
            if stencil.bounds is not None and not scheme.is_complex:
                points = tuple(limits.clamp(point) for limits, point in zip(stencil.bounds, points))
            return self._problem.flat(*points)

        t = torch.zeros((), dtype=torch.float64)
        bounds = [Bounds(0.0, float("inf"))] if stencil.bounds is not None else None
        line = Stencil([t], scheme, Steps((1.0,), 1.0), bounds)
        problem = Problem(moved, (t,), 0, has_aux=False, inputs=(t,), spec=_NUMBER)
        return OneByOne(problem, self._seen.outputs, line.base()).column(0, line)

    def _is_right(self, number: int, column: Sequence[torch.Tensor], one_by_one: OneByOne) -> bool:
        """Tell whether a column is what its own points tell, one after the other."""
        wanted, amplification = one_by_one.column(number, self._stencil)
        return self._apart(column, wanted, amplification) <= 1

    def _apart(self, found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], amplification: float) -> float:
        """Return how many times what they may be slopes are apart, each output by its own size."""
        part = _PART * self._seen.eps ** (1 / 3)
        return max(_ratio(*triple, part) for triple in zip(found, wanted, (amplification * n for n in self._noises)))


def _ratio(found: torch.Tensor, wanted: torch.Tensor, noise: float, part: float) -> float:
    """Return how many times what it may be the largest difference is; where neither is finite, there is none."""
    if not found.numel():
        return 0.0
    off = torch.where(found.isfinite() | wanted.isfinite(), (found - wanted).abs(), 0.0).amax()
    off = off.nan_to_num(float("inf"), float("inf"))
    allowed = part * torch.maximum(largest_finite(found), largest_finite(wanted)) + noise
    return float(off / allowed) if float(off) else 0.0
