"""How far the work is, for people."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tqdm import tqdm

# Shorter work needs no bar.
_QUIET_S = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Hold how far a job is.

    Attributes:
        done: Directions finished.
        total: Directions in all.
        elapsed_s: Seconds since the first chunk began.
        before: Those of the finished directions that an earlier run had done.
    """

    done: int
    total: int
    elapsed_s: float
    before: int = 0

    @property
    def directions_per_s(self) -> float:
        """Return the mean speed so far."""
        return (self.done - self.before) / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def remaining_s(self) -> float:
        """Return the seconds left at that speed; infinite before the first chunk."""
        return (self.total - self.done) / self.directions_per_s if self.directions_per_s else float("inf")


ProgressOption = bool | Callable[[Progress], object] | None


@contextmanager
def show_progress(option: ProgressOption, total: int, before: int = 0) -> Iterator[Callable[[int], object]]:
    """Yield what is to be called with the number of directions that each chunk finished.

    Args:
        option: ``True`` for a bar on stderr, ``False`` for none, a callable that gets a
            :class:`Progress` after each chunk, or ``None`` for a bar if stderr is a terminal
            and the work takes over a second.
        total: Directions in all.
        before: Those that an earlier run has finished.
    """
    if callable(option):
        yield _caller(option, total, before)
    elif option or (option is None and sys.stderr.isatty()):
        delay_s = 0.0 if option else _QUIET_S
        with tqdm(
            total=total, initial=before, unit="direction", unit_scale=True, delay=delay_s, desc="jacobian"
        ) as bar:
            yield bar.update
    else:
        yield lambda _: None


def _caller(function: Callable[[Progress], object], total: int, before: int) -> Callable[[int], object]:
    """Return what adds up directions and tells the user's function."""
    started_s, done = time.perf_counter(), before

    def advance(n_done: int) -> None:
        nonlocal done
        done += n_done
        function(Progress(done, total, time.perf_counter() - started_s, before))

    return advance
