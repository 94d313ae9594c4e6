"""How far the work is, for people."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

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
    elif (option or (option is None and _is_terminal())) and sys.stderr is not None:
        told = {"total": total, "initial": before, "unit": "direction", "unit_scale": True, "desc": "jacobian"}
        with tqdm(**told, delay=0.0 if option else _QUIET_S, file=_Forgiving(sys.stderr)) as bar:
            yield bar.update
    else:
        yield lambda _: None


def _is_terminal() -> bool:
    """Tell whether stderr is a terminal; what stands in its place need not know."""
    try:
        return bool(sys.stderr.isatty())
    except Exception:
        return False


class _Forgiving:
    """Write to a stream as far as that can be written to: no job is lost for a bar.

    Args:
        stream: What is written to.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        """Be the stream in all else."""
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        """Write, or not."""
        with suppress(Exception):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush, or not."""
        with suppress(Exception):
            self._stream.flush()


def _caller(function: Callable[[Progress], object], total: int, before: int) -> Callable[[int], object]:
    """Return what adds up directions and tells the user's function."""
    started_s, done = time.perf_counter(), before

    def advance(n_done: int) -> None:
        nonlocal done
        done += n_done
        function(Progress(done, total, time.perf_counter() - started_s, before))

    return advance
