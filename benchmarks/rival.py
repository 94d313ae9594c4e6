"""The rival: the fastest that a user can find by hand with ``torch.func``."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from benchmarks.architectures import Architecture
from benchmarks.record import medians_s, synchronize
from chunkjac._memory.out_of_memory import OverBudget
from chunkjac._memory.tracker import LiveBytes

CHUNK_SIZES = (64, 16, 256, 1024, None)  # moderate ones first, so that a bound of the time is known
_HOPELESS = 3  # a side that takes this many times the best is stopped
_CLOSE = 1.3  # one run tells apart what differs by more than this
_LEAST_S = 0.5  # nothing is stopped earlier
_HOPELESS_DIRECTIONS = 8  # so many times the other mode's, as a direction is no 8 times cheaper here than there
_AGAIN_S = 1.0  # an exception that is raised in a weak reference's callback is lost: raise it once more
_LONG_S = 1.0  # one run of a longer side is enough to tell it from others

# No room, or no derivative or batching rule of an operation.
_FAILURES = (OverBudget, RuntimeError, NotImplementedError, ValueError)


@dataclass(frozen=True, slots=True)
class Side:
    """Hold one way to call torch.func.

    Attributes:
        name: Which transform, and its chunk size.
        call: Takes the point, returns the Jacobian by the first argument.
        with_graph: Whether gradients stay on, without which ``nn.LSTM`` on the CPU has no backward pass.
    """

    name: str
    call: Callable[..., Any]
    with_graph: bool = False

    @property
    def is_greedy(self) -> bool:
        """Tell whether it may hold more than the machine has."""
        return self.name in ("jacfwd", "jacrev, all", "jacrev, 1024")

    def __call__(self, *args: Any) -> Any:
        """Compute, without a graph of the parameters if that is possible."""
        with torch.set_grad_enabled(self.with_graph):
            return self.call(*args)


class Hopeless(Exception):  # noqa: N818 - nothing is wrong, it takes too long
    """Say that a side was stopped."""


def sides(func: Callable[..., Any], n_outputs: int, n_inputs: int, *, with_graph: bool = False) -> list[Side]:
    """Return the ways that there are, the likely ones first."""
    sizes = [size for size in CHUNK_SIZES if size is None or size < n_outputs]
    reverse = [Side(f"jacrev, {size or 'all'}", torch.func.jacrev(func, chunk_size=size), with_graph) for size in sizes]
    forward = Side("jacfwd", torch.func.jacfwd(func), with_graph)
    return [forward, *reverse] if n_inputs < n_outputs else [*reverse, forward]


def trial_times_s(case: Architecture, n_outputs: int, n_inputs: int) -> dict[Side, float]:
    """Time each way once, and leave out what fails, what takes too long and what has no room."""
    for with_graph in (False, True):
        times_s: dict[Side, float] = {}
        for side in sides(case.func, n_outputs, n_inputs, with_graph=with_graph):
            best_s = min(times_s.values(), default=None)
            n_directions, n_others = (n_inputs, n_outputs) if side.name == "jacfwd" else (n_outputs, n_inputs)
            if best_s and best_s > _LEAST_S and n_directions >= _HOPELESS_DIRECTIONS * n_others:
                continue
            time_s = _trial_s(side, case, best_s and max(_LEAST_S, _HOPELESS * best_s))
            if time_s is not None:
                times_s[side] = time_s
        if times_s:
            break
    return dict(sorted(times_s.items(), key=lambda item: item[1]))


def find_rival(case: Architecture, n_outputs: int, n_inputs: int) -> Side:
    """Return the fastest way; where several are close and short, they take turns."""
    times_s = trial_times_s(case, n_outputs, n_inputs)
    best_s = min(times_s.values())
    close = [side for side, time_s in times_s.items() if time_s <= max(_CLOSE * best_s, 0.010)]
    if best_s > _LONG_S or len(close) == 1:
        return close[0]
    medians = medians_s({side: lambda side=side: side(*case.args) for side in close}, 3, device=case.device)
    return min(medians, key=medians.__getitem__)


def find_rival_within(case: Architecture, n_outputs: int, n_inputs: int, budget_bytes: int) -> tuple[Side, int] | None:
    """Return the fastest way by rows whose tracked peak keeps under a budget, and that peak.

    What exceeds the budget is stopped there, and not timed.
    """
    for with_graph in (False, True):
        ways = sides(case.func, n_outputs, n_inputs, with_graph=with_graph)
        peaks = {way: tracked_peak_bytes(way, case, budget_bytes) for way in ways if way.name.startswith("jacrev")}
        times_s: dict[Side, float] = {}
        for way in (way for way, peak_bytes in peaks.items() if peak_bytes is not None):
            time_s = _trial_s(way, case, (times_s and max(_LEAST_S, _HOPELESS * min(times_s.values()))) or None)
            if time_s is not None:
                times_s[way] = time_s
        if times_s:
            best = min(times_s, key=times_s.__getitem__)
            return best, peaks[best] or 0
    return None


def tracked_peak_bytes(side: Callable[..., Any], case: Architecture, limit_bytes: int | None = None) -> int | None:
    """Return the most live bytes of a call; None where it fails, or needs more than there is room for."""
    try:
        with LiveBytes(case.device, limit_bytes=limit_bytes or _room_bytes(case.device)) as live:
            side(*case.args)
    except _FAILURES:
        _leave_functorch()
        return None
    return live.peak_bytes


def _trial_s(side: Side, case: Architecture, limit_s: float | None) -> float | None:
    """Return the time of one call; None if it fails, takes too long or would exhaust the machine."""
    try:
        with _stopped_after(limit_s):
            if side.is_greedy:
                with LiveBytes(case.device, limit_bytes=_room_bytes(case.device)):
                    time_s = _time_s(side, case)
                if time_s > _LONG_S:  # a few large operations, beside which counting them is nothing
                    return time_s
            return _time_s(side, case)
    except (Hopeless, *_FAILURES):
        _leave_functorch()
        return None


def _time_s(side: Side, case: Architecture) -> float:
    """Return the time of one call."""
    started_s = time.perf_counter()
    side(*case.args)
    synchronize(case.device)
    return time.perf_counter() - started_s


def _room_bytes(device: torch.device) -> int:
    """Return what a call may hold: half of what is free, as others may be at work."""
    if device.type == "cpu":
        return psutil.virtual_memory().available // 2
    torch.cuda.empty_cache()  # what the allocator keeps for later is free as well
    return torch.cuda.mem_get_info(device)[0] // 2


def _leave_functorch() -> None:
    """Close the levels of functorch that an interruption may have left open."""
    torch._C._functorch.pop_dynamic_layer_stack_and_undo_to_depth(0)


@contextmanager
def _stopped_after(limit_s: float | None) -> Iterator[None]:
    """Interrupt what takes longer, between two operations."""
    if limit_s is None or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: Any) -> None:
        raise Hopeless

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit_s, _AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
