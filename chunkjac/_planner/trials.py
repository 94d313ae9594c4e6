"""Modes timed against one another."""

from __future__ import annotations

import time

from chunkjac._memory import is_out_of_memory
from chunkjac._modes import Forward, Mode, Reverse
from chunkjac._planner.doubts import Doubt, doubt_about, reasons_of

# A direction of forward mode takes 0.6-7 times as long as one of reverse mode, mostly twice (the best
# of each over 25 functions, torch 2.13): where the counts differ by more than this, they decide; a
# job of seconds is worth a closer look.
_CLOSE, _CLOSE_IF_LONG = 4, 16
_MOSTLY = 2

# Shorter jobs (see `guess_s`) are not timed, since that takes up to a tenth of them; nor those of less than some
# seconds in which forward mode has no fewer directions.
_WORTH_TIMING_S, _LONG_S, _VERY_LONG_S = 0.1, 1.0, 5.0

# A job is short if a 16th of its rows, 64 at most, tells that it takes less than that.
_SHORT_S, _SHORT_SHARE, _LARGEST_TRIAL = 0.3, 16, 64

# So many directions together take as long as the prologue, or so.
_PER_PROLOGUE = 16

# Trials are of a 64th of the directions: four of them take 6 %. One of 2 runs the kernels that larger
# chunks run, and those of 16 tell which mode is faster in large ones.
_TRIAL_SHARE, LEAST_TRIAL, _MOST_TRIAL = 64, 2, 16

Selection = tuple[Mode, tuple[str, ...]]


def judge(n_rows: int, n_columns: int, prologue_s: float) -> str:
    """Return the mode that the counts tell; ``"timed"`` where they are too close for that.

    Args:
        n_rows: The directions of reverse mode.
        n_columns: Those of forward mode.
        prologue_s: How long the function took with its graph; 0 if nothing may be timed.
    """
    guess_s = prologue_s * (1 + min(n_rows, n_columns) / _PER_PROLOGUE)
    close = _CLOSE_IF_LONG if guess_s >= _LONG_S else _CLOSE
    worth_s = _WORTH_TIMING_S if n_columns < n_rows else _VERY_LONG_S
    if guess_s >= worth_s and n_columns < n_rows * _CLOSE and n_rows < n_columns * close:
        return "timed"
    return "reverse" if n_rows <= n_columns * _MOSTLY or not n_columns else "forward"


def is_short(reverse: Reverse) -> bool:
    """Tell whether reverse mode would be done in less time than comparing the modes is worth.

    The prologue tells little of functions of many small operations, whose chunks take the same time
    whatever their size. So a 16th of the rows is computed; that time 16 times over is an upper bound.
    """
    n_trial = max(LEAST_TRIAL, min(_LARGEST_TRIAL, reverse.directions.n // _SHORT_SHARE))
    try:
        return _estimate_s(reverse, n_trial) < _SHORT_S
    except Exception:
        return False  # what is tried next tells why
    finally:
        reverse.release()


def why_untimed(n_rows: int, n_columns: int) -> tuple[str, ...]:
    """Return why reverse mode was taken where the counts are close."""
    if n_rows > n_columns:
        return ("nothing was timed: a column takes twice as long as a row, mostly",)
    return ("nothing was timed: the mode with fewer directions",) if n_rows * _CLOSE > n_columns else ()


def trial_size(n_rows: int, n_columns: int) -> int:
    """Return how many directions are timed."""
    return max(LEAST_TRIAL, min(_MOST_TRIAL, min(n_rows, n_columns) // _TRIAL_SHARE))


def faster(reverse: Reverse, forward: Forward, n_trial: int, counts: str, doubts: dict[str, Doubt]) -> Selection:
    """Return the mode whose directions take less time in all."""
    try:
        reverse.block(_trial(reverse, n_trial))  # the first time does lazy work, as forward's has done
        reverse_s, forward_s = _estimate_s(reverse, n_trial), _estimate_s(forward, n_trial)
    except Exception as error:
        if is_out_of_memory(error):  # of both at once, which says nothing of one alone
            return _fewer(reverse, forward), (counts, "the modes were not timed: both at once do not fit")
        doubts["reverse"] = doubt_about("reverse", error)
        return forward, (counts, *reasons_of(doubts))
    finally:
        reverse.release()
        forward.release()
    mode: Mode = reverse if reverse_s <= forward_s else forward
    return mode, (counts, f"estimated {reverse_s:.2g} s for reverse, {forward_s:.2g} s for forward")


def _fewer(reverse: Mode, forward: Mode) -> Mode:
    """Return the mode with fewer directions."""
    return reverse if reverse.directions.n <= forward.directions.n else forward


def _estimate_s(mode: Mode, n_trial: int) -> float:
    """Return the seconds that all directions would take at the speed of a small chunk."""
    trial = _trial(mode, n_trial)
    started_s = time.perf_counter()
    mode.block(trial)
    return (time.perf_counter() - started_s) / trial.stop * mode.directions.n


def _trial(mode: Mode, n_trial: int) -> slice:
    """Return a small chunk."""
    return slice(0, min(n_trial, mode.directions.n))
