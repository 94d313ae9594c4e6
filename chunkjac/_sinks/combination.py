"""A random combination of a Jacobian's rows or columns, added up from their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from chunkjac._chunker import Segment
from chunkjac._modes import Mode, block_leaves
from chunkjac._problem import FixedNumbers
from chunkjac._tensors import Tensors

# So many elements are converted at once.
_N_ELEMENTS = 2**20


class Sums(Protocol):
    """Add up rows with random weights, and compare that with the function as it is now."""

    def add(self, part: Segment, values: Sequence[Any]) -> None:
        """Add some rows of one tensor, an array for each at the other end."""
        ...

    def agrees(self) -> bool:
        """Tell whether the function gives the same."""
        ...


class Combination:
    """Add up rows with weights by their size, in double precision on the host.

    Args:
        mode: What makes rows.
        judge: Tells whether combined rows are the derivative at a combined seed. It is given the seed, what the rows
            add up to (NaN where none of them is finite), and the root of what their squares do.
    """

    def __init__(self, mode: Mode, judge: Callable[[Tensors, Sequence[Any], Sequence[Any]], bool]) -> None:
        import numpy as np

        self._judge, self._seeds = judge, mode.directions.leaves
        self._numbers = FixedNumbers(len(mode.directions.leaves))
        self._weights = [np.zeros(leaf.numel) for leaf in self._seeds]
        self._sums, self._squares, self._n_bad = (
            [np.zeros(leaf.numel) for leaf in block_leaves(mode)] for _ in range(3)
        )
        self._n, self._size = 0, 1.0

    def add(self, part: Segment, values: Sequence[Any]) -> None:
        """Add some rows; see :class:`Sums`."""
        import numpy as np

        n_rows, n_elements = len(values[0]), max(1, *(array.shape[1] for array in values))
        step = max(1, _N_ELEMENTS // n_elements)
        for start in range(0, n_rows, step):
            rows = [array[start : start + step].astype(np.float64) for array in values]
            for array, n_bad in zip(rows, self._n_bad):
                is_bad = ~np.isfinite(array)
                n_bad += is_bad.sum(0)
                array[is_bad] = 0
            weights = self._weights_of(part, start, rows)
            for array, total, squares in zip(rows, self._sums, self._squares):
                array *= weights[:, None]
                total += array.sum(0)
                squares += (array**2).sum(0)
        self._n += n_rows

    def agrees(self) -> bool:
        """Tell whether the function gives the same; see :class:`Sums`."""
        import numpy as np

        found = [np.log2(np.abs(weights[weights != 0])) for weights in self._weights]
        ends = [f(each) for each in found if each.size for f in (np.min, np.max)]
        scale = 2.0 ** -round((min(ends) + max(ends)) / 2) if ends else 1.0
        if any(((n_bad > 0) & (n_bad < self._n)).any() for n_bad in self._n_bad):
            return False  # what is not finite hides the others in its column
        sums = [np.where(n_bad > 0, np.nan, scale * total) for total, n_bad in zip(self._sums, self._n_bad)]
        sizes = [scale * squares**0.5 for squares in self._squares]
        seed = tuple(
            torch.from_numpy(scale * weights).to(leaf.device, leaf.dtype).view(leaf.shape)
            for weights, leaf in zip(self._weights, self._seeds)
        )
        return self._judge(seed, sums, sizes)

    def _weights_of(self, part: Segment, start: int, rows: Sequence[Any]) -> Any:
        """Return the weights of some rows, as the seed's type has them."""
        import numpy as np

        n_rows, dtype = len(rows[0]), self._seeds[part.leaf].dtype
        at = slice(part.elements.start + start, part.elements.start + start + n_rows)
        sizes = np.max([abs(array).max(1, initial=0) for array in rows], axis=0)
        sizes = np.where(sizes > 0, sizes, self._size).clip(1e-300)  # zeros as if they were like those before them
        self._size = sizes[-1]
        digits, powers = np.frexp(self._numbers.signed((n_rows,), torch.float64).numpy() / sizes)
        rounded = np.ldexp(torch.from_numpy(digits).to(dtype).double().numpy(), powers)
        self._weights[part.leaf][at] = rounded
        return rounded


def doubles_of(values: torch.Tensor, n_dims: int = 0) -> Any:
    """Return values in double precision, as an array that is flat but for the first dimensions."""
    return values.detach().reshape(*values.shape[:n_dims], -1).cpu().double().numpy()


def apart_by(these: Any, those: Any) -> Any:
    """Return how far apart numbers are: nothing where neither is finite, infinitely where one is not."""
    import numpy as np

    finite = np.isfinite(these), np.isfinite(those)
    with np.errstate(all="ignore"):
        apart = abs(these - those)
    return np.where(finite[0] & finite[1], apart, np.where(finite[0] == finite[1], 0.0, np.inf))


def finite(values: Any) -> Any:
    """Return magnitudes, and nothing for those that are not finite."""
    import numpy as np

    return np.where(np.isfinite(values), np.abs(values), 0.0)


def largest_of(values: Any) -> float:
    """Return the largest finite magnitude of some numbers."""
    return float(finite(values).max(initial=0))


def n_nan(values: Sequence[Any]) -> int:
    """Return how many elements of some rows are no numbers."""
    import numpy as np

    with np.errstate(all="ignore"):
        return sum(int(np.isnan(row).sum()) for array in values if np.isnan(array.sum()) for row in array)
