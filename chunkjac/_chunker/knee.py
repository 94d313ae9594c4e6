"""Which chunk size is fastest, found while the job runs.

Larger chunks spread over more directions what a chunk costs whatever its size, and reading the
weights; smaller ones stay in the caches. Which weighs more is told by time alone.
"""

from __future__ import annotations

# Less than that is noise: another size is not worth a new shape.
_PAYS = 0.95

# So many times a size must be left for twice as much to be tried, or half: a trial that turns out slow must not cost
# much, and the one above may be 2.5 times as slow (its tensors are too large for the caches).
_WORTH_DOUBLING, _WORTH_HALVING = 16, 3


class Knee:
    """Climb from a size: twice as much while that pays, and half as much where it never did.

    The first time of all has lazy work in it, so the size that it is of is tried once more
    before the one above it is settled on.

    Args:
        start: The size to begin with.
        tries: Whether any other size is tried.

    Attributes:
        size: The fastest size so far.
        is_settled: Whether no other size is to be tried.
    """

    def __init__(self, start: int, *, tries: bool = True) -> None:
        self.size = start
        self.is_settled = not tries
        self._start = start
        self._step_s: dict[int, float] = {}  # seconds of a direction, by size
        self._goes_up = True

    @property
    def step_s(self) -> float:
        """Return the seconds that a direction takes at the fastest size; 0 before that is known."""
        return self._step_s.get(self.size, 0.0)

    def next_size(self, most: int, n_left: int) -> int:
        """Return the size of the next chunk.

        Args:
            most: The largest that may be tried.
            n_left: How many directions are left.
        """
        if self.is_settled or self.size not in self._step_s:
            return self.size
        if self._goes_up and (2 * self.size > most or n_left < _WORTH_DOUBLING * self.size):
            self._turn()
        if not self._goes_up and (self.size == 1 or n_left < _WORTH_HALVING * self.size):
            self.is_settled = True
        if self.is_settled:
            return self.size
        return 2 * self.size if self._goes_up else self.size // 2

    def learn(self, size: int, seconds: float) -> None:
        """Take in how long a chunk took; only the size that was asked for tells anything.

        Args:
            size: Its directions.
            seconds: Its time.
        """
        if self.is_settled or size < 1:
            return
        each_s, is_first = seconds / size, not self._step_s
        best_s = self._step_s.get(self.size)
        self._step_s[size] = each_s
        if is_first or best_s is None or size == self.size:
            return
        if each_s < _PAYS * best_s:
            self.size = size
        elif self._goes_up:
            self._turn()
        else:
            self.is_settled = True

    def _turn(self) -> None:
        """Go down, unless the size below was timed, and fairly: not as the very first."""
        self._goes_up = False
        below = self.size // 2
        self.is_settled = below in self._step_s and below != self._start
