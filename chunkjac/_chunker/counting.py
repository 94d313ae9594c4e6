"""How closely memory is counted, and each share of the budget."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

# Of a default budget, which is half of what is free: calls may make so much before each operation is looked at.
_UNCOUNTED_SHARE = 1 / 16

# The checks of finite differences evaluate three points at once: by far no more than so many of one.
_RESTING_SHARE = 1 / 64

# A run whose peak is known whatever the values needs no counting in a quarter of the default: a plain graph may keep
# twice as much. Where values may change it, a run has to have been counted, and there must be more room.
_AMPLE_TIMES, _AMPLE_TIMES_BY_EXPERIENCE = 4, 16

# For what is not foreseen, where the budget is a guess itself or an allocator has fragments.
_DEFAULT_MARGIN = 1.10

# Where memory is counted, a program takes no more of the room by what is known of it: some is foreseen by nobody.
_SURE_SHARE = 0.95

# By what one direction needs at once, or before it has run, what a program will take is a guess.
_UNSURE_SHARE = 1 / 2

# A plan holds on to so much between its runs, and no more than a part of the room: taking memory anew takes as long as
# a small step (of 46 functions of 2 to 230 ms, plans take 0.93 of the time that they take with a quarter of it).
_KEPT_BYTES, _KEPT_SHARE = 32 * 2**20, 1 / 4

# A tile of rows takes the first of these parts of its room that leaves enough for a chunk; the last is a single row.
TILE_SHARES = (1 / 2, 1 / 8, 0.0)


class Chunks(Enum):
    """Which chunks are measured; each looks less closely than the one before."""

    NEW_SIZES = "each of a new size, until two have shown nothing new"
    UNSURE = "those, unless all chunks would fit even if each kept all that it holds"
    NOW_AND_THEN = "one now and then, if the first fits many times over; else those that are unsure"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Foreseen:
    """Hold what is known of a run before it begins.

    Attributes:
        planned_bytes: Its peak, if that is the same whatever the values; ``None`` if it is not.
        beside_bytes: The most that a counted run has held beside the result; ``None`` before the first.
        result_bytes: What the result will take.
    """

    planned_bytes: int | None = None
    beside_bytes: int | None = None
    result_bytes: int = 0

    def is_ample(self, budget_bytes: int) -> bool:
        """Tell whether the run fits so many times that nothing need be counted."""
        if self.planned_bytes is not None:
            return 0 < _AMPLE_TIMES * self.planned_bytes <= budget_bytes
        needed_bytes = self.beside_bytes and _AMPLE_TIMES_BY_EXPERIENCE * (self.beside_bytes + self.result_bytes)
        return needed_bytes is not None and 0 < needed_bytes <= budget_bytes

    def fits(self, budget_bytes: int) -> bool:
        """Tell whether such a run was counted, and fits."""
        return self.beside_bytes is not None and self.beside_bytes + self.result_bytes <= budget_bytes


@dataclass(frozen=True, slots=True)
class Counting:
    """Say how closely the memory of a run is counted.

    Attributes:
        budget_bytes: What it may hold.
        limit_bytes: Where it is stopped; ``None`` lets it exceed the budget.
        by_calls: Whether only calls are looked at, which is faster, while the function is evaluated for the first time.
        chunks: Which chunks are measured.
        counts_again: Whether programs are counted that hold what they have held in an earlier run.
        is_timed: Whether a clock may decide how blocks are made; if not, they come out the same in another run.
        is_quick: Whether memory is plenty, and time short.
        is_exact: Whether all that is taken can be foreseen, and the budget is no guess.
    """

    budget_bytes: int
    limit_bytes: int | None
    by_calls: bool
    chunks: Chunks
    counts_again: bool
    is_timed: bool
    is_quick: bool
    is_exact: bool

    @property
    def counts(self) -> bool:
        """Tell whether live bytes are counted at all."""
        return self.chunks is not Chunks.NONE

    @property
    def margin(self) -> float:
        """Return how many times its tensors' bytes a chunk is taken to need, at least."""
        return 1.0 if self.is_exact else _DEFAULT_MARGIN

    @property
    def uncounted_bytes(self) -> int:
        """Return what calls may make before each operation is looked at."""
        return int(_UNCOUNTED_SHARE * self.budget_bytes)

    @property
    def resting_bytes(self) -> int:
        """Return the peak below which a few evaluations more are not looked at; 0 for none."""
        return int(_RESTING_SHARE * self.budget_bytes) if self.chunks in (Chunks.NOW_AND_THEN, Chunks.NONE) else 0

    def allows(self, n_bytes: int) -> bool:
        """Tell whether so much may be held."""
        return self.limit_bytes is None or n_bytes <= self.limit_bytes


@dataclass(frozen=True, slots=True)
class ChunkRoom:
    """Hold what a chunk may hold, and the parts of it that programs may take."""

    n_bytes: int

    @property
    def sure_bytes(self) -> int:
        """Return what a program may take whose need is known."""
        return int(_SURE_SHARE * self.n_bytes)

    @property
    def unsure_bytes(self) -> int:
        """Return what a program may take by what one direction needs, or before it is recorded."""
        return int(_UNSURE_SHARE * self.n_bytes)

    @property
    def kept_bytes(self) -> int:
        """Return what a program may hold on to between two runs."""
        return min(_KEPT_BYTES, int(_KEPT_SHARE * self.n_bytes))


def tile_bytes(left_bytes: int, share: float) -> int:
    """Return what a tile of rows may take of what is left for it and chunks."""
    return int(share * left_bytes)
