"""Blocks compared with one direction: a combination of all of their rows.

Theorem: the derivative is linear, so ``sum(v_i J_i)`` over the rows of blocks is ``v J``, one direction alone. For
random ``v``, rows that are wrong anywhere give something else with probability one, up to rounding. (The same for
columns.) Rows are weighed by their own size, so that small ones count.

Source:
    Freivalds, Probabilistic machines can use less running time, 1977.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch._subclasses.fake_tensor import FakeTensor

from chunkjac._chunker import Directions, Seeds
from chunkjac._problem import FixedNumbers, Leaf
from chunkjac._tensors import Tensors, largest_finite, rows_of

# A rule that is wrong is off by more; a float64 function may compute in float32 inside.
_LEAST_TOLERANCE = 1e-4

# How many roundings of the largest elements the smallest may be off by, whatever their own size.
_ROUNDINGS = 30

# So many rows of a block tell how large its columns are.
_SAMPLE = 8

# Weights stay within the range of float32 for any sizes that numbers have.
_LEAST_SIZE = 1e-30


@dataclass(slots=True)
class _Part:
    """Hold what is known of the blocks' values for one leaf.

    Attributes:
        together: The combination of rows.
        largest: The largest weighed magnitude in each column, of some rows.
    """

    together: torch.Tensor
    largest: torch.Tensor

    @classmethod
    def of(cls, leaf: Leaf) -> _Part:
        """Begin with no rows."""
        zeros = leaf.zeros().view(-1)
        return cls(zeros, torch.zeros_like(zeros).abs())


class Witness:
    """Combine rows of blocks, as they are made; then compare.

    Args:
        directions: What blocks have rows for.
        leaves: What a row is like.
        planned: The weights of rows, ``(n,)``, from :meth:`next_weights` of an earlier run. Else each row is weighed by
            its own size.

    Attributes:
        n_noted: How many rows were combined.

    Memory:
        Three numbers for each direction, and two rows; from :meth:`prepare`, or the first rows on.
    """

    def __init__(self, directions: Directions, leaves: Sequence[Leaf], planned: torch.Tensor | None = None) -> None:
        self._directions, self._leaves, self._planned = directions, leaves, planned
        self._seeds = Seeds(directions)
        self._next = 0  # where all directions from the first one on are noted to, each once
        self._parts: list[_Part] = []
        self.n_noted = 0

    @cached_property
    def _sizes(self) -> torch.Tensor:
        """Return how large rows were."""
        return torch.zeros_like(self._signs)

    @cached_property
    def _signs(self) -> torch.Tensor:
        """Return random numbers of both signs, none near zero."""
        n = self._directions.n
        return FixedNumbers(n).signed((n,), torch.float64)

    @cached_property
    def _weights(self) -> torch.Tensor:
        """Return the weights of all rows so far."""
        return torch.zeros(self._directions.n, dtype=torch.float64)

    def prepare(self) -> None:
        """Take all memory."""
        if not self._parts:
            _ = self._weights
            if self._planned is None:
                _ = self._sizes
            self._parts = [_Part.of(leaf) for leaf in self._leaves]

    @property
    def covers_all(self) -> bool:
        """Tell whether each direction was noted once, with the weight that it has in :meth:`planned_seed`."""
        return self._planned is not None and self._next == self.n_noted == self._directions.n

    def most_bytes(self, n_rows: int) -> int:
        """Return what taking in so many rows takes at most: two rows, and twice those that are looked at closely."""
        n_looked_at = len(range(0, n_rows, _step(n_rows)))
        return 2 * (1 + n_looked_at) * sum(leaf.n_bytes for leaf in self._leaves)

    def planned_seed(self) -> Tensors:
        """Return the seed that is the combination of all directions."""
        return self._seeds.combined(self._signs if self._planned is None else self._planned)

    def next_weights(self) -> torch.Tensor:
        """Return weights for another run's rows, which may be as large as these were."""
        return self._signs / _usable(self._sizes, torch.median) if self._planned is None else self._planned

    def like(self) -> Witness:
        """Return another one for the same directions, with no rows."""
        return Witness(self._directions, self._leaves)

    def note(self, start: int, block: Tensors) -> None:
        """Take in the rows of a block, from a direction on."""
        self.prepare()
        rows = [rows_of(values.detach()) for values in block]
        n_rows = len(rows[0])
        chunk = slice(start, start + n_rows)
        if self._planned is not None:
            weights = self._planned[chunk]
        else:
            self._sizes[chunk] = torch.stack([_sizes(values).to(self._sizes) for values in rows]).amax(0)
            weights = self._signs[chunk] / _usable(self._sizes[chunk], torch.amin)
        self._weights[chunk] += weights
        samples = self.n_noted < _SAMPLE * n_rows  # which tell enough
        for part, values in zip(self._parts, rows):
            own = weights.to(values.device, values.dtype)
            part.together += own @ values
            if samples:
                step = _step(n_rows)
                part.largest = torch.maximum(part.largest, (own[::step, None] * values[::step]).abs().amax(0))
        self._next += n_rows if start == self._next else 0
        self.n_noted += n_rows

    def forget(self) -> None:
        """Begin again with no rows."""
        self._weights.zero_()
        for part in self._parts:
            part.together.zero_()
            part.largest.zero_()
        self._next = self.n_noted = 0

    def agrees(self, one: Callable[[Tensors], Tensors], alone: Tensors = (), *, nearer: Nearer | None = None) -> bool:
        """Tell whether the rows are what one direction alone tells; fakes have no values that could differ.

        Args:
            one: Applies the derivative to a single seed.
            alone: What it gave for :meth:`planned_seed`, if that is known.
            nearer: Tells which of two candidates for a seed is nearer to the truth; without it, one direction alone is
                right, and what is not finite there agrees with nothing.
        """
        is_planned = bool(alone) and self.covers_all
        seed = self.planned_seed() if is_planned else self._seeds.combined(self._weights)
        alone = alone if is_planned else one(seed)
        if any(isinstance(part.together, FakeTensor) for part in self._parts):
            return True
        bounds = [self._bound(part) for part in self._parts]
        if _agree(self._parts, alone, bounds, skips=nearer is not None):
            return True
        # A function may compute in a lower precision than its inputs have: how much rounding there is, a third of the
        # seed tells.
        third = one(tuple(values / 3 for values in seed))
        noise = [10 * largest_finite(3 * part - whole) for part, whole in zip(third, alone)]
        bounds = [torch.maximum(bound, n.to(bound)) for bound, n in zip(bounds, noise)]
        if _agree(self._parts, alone, bounds, skips=nearer is not None):
            return True
        together = tuple(part.together.view(values.shape) for part, values in zip(self._parts, alone))
        is_whole = all(bool(values.isfinite().all()) for values in (*together, *alone))
        return nearer is not None and is_whole and nearer(seed, (together, alone)) == 0

    def _bound(self, part: _Part) -> torch.Tensor:
        """Return how far each element of a combination may be off by rounding."""
        eps = torch.finfo(part.together.dtype).eps
        share = max(eps**0.5, _LEAST_TOLERANCE)
        own = torch.maximum(self.n_noted**0.5 * part.largest, part.together.abs())
        return share * torch.maximum(own, min(1.0, _ROUNDINGS * eps / share) * largest_finite(own))


# Returns the number of the candidate that is nearer to the truth, for a seed.
Nearer = Callable[[Tensors, Sequence[Tensors]], int]


def _agree(parts: Sequence[_Part], alone: Tensors, bounds: Sequence[torch.Tensor], *, skips: bool) -> bool:
    """Tell whether combinations are within their bounds.

    Args:
        parts: The combinations.
        alone: What they must be.
        bounds: How far they may be off.
        skips: Whether anything agrees with what is not finite.
    """
    return all(
        bool((((part.together - values).abs() <= bound) | (~values.isfinite() if skips else False)).all())
        for part, values, bound in zip(parts, map(torch.flatten, alone), bounds)
    )


def _sizes(rows: torch.Tensor) -> torch.Tensor:
    """Return the largest magnitude in each row."""
    if not rows.shape[1]:
        return rows.new_zeros(len(rows)).abs()
    return rows.abs().amax(1) if rows.is_complex() else torch.maximum(rows.amax(1), -rows.amin(1))


def _step(n_rows: int) -> int:
    """Return how far those rows of a block are apart that are looked at closely."""
    return max(1, n_rows // _SAMPLE)


def _usable(sizes: torch.Tensor, middle: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return sizes to divide by; rows of zeros might not be zeros, and count as others do.

    Args:
        sizes: The sizes.
        middle: Which of the others is meant.
    """
    is_size = sizes.isfinite() & (sizes > 0)
    usual = middle(torch.where(is_size, sizes, 1.0))
    return torch.where(is_size, sizes, usual).clamp(min=_LEAST_SIZE)
