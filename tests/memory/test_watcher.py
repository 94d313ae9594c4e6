"""Watchers rest where they would see nothing new; modes of others, and walls, stay."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

import chunkjac as cj
from chunkjac._memory.tracker import LiveBytes
from chunkjac._memory.watcher import at_rest
from chunkjac._problem.write_watcher import WriteWatcher

CPU = torch.device("cpu")


class Other(TorchDispatchMode):
    """Stand for a mode of somebody else's."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_only_what_may_rest_is_taken_off_and_all_comes_back_in_order() -> None:
    small, limited = LiveBytes(CPU, rests_below_bytes=2**20), LiveBytes(CPU, limit_bytes=2**20)
    with Other() as below, limited, small, WriteWatcher() as watcher, Other() as above:
        torch.ones(8)
        with at_rest():
            assert _get_current_dispatch_mode_stack() == [below, limited, above]
            torch.ones(8)
        assert _get_current_dispatch_mode_stack() == [below, limited, small, watcher, above]
    assert (small.highest_bytes, limited.highest_bytes) == (32, 32)
    assert small.has_rested
    assert not limited.has_rested


def test_what_has_seen_much_does_not_rest() -> None:
    with LiveBytes(CPU, rests_below_bytes=1000) as tracker:
        kept = torch.ones(1000)
        with at_rest():
            more = torch.ones(1000)
    assert tracker.live_bytes == kept.nbytes + more.nbytes
    assert not tracker.has_rested


def test_an_exception_puts_watchers_back_as_well() -> None:
    with WriteWatcher() as watcher:
        try:
            with at_rest():
                raise KeyError
        except KeyError:
            pass
        assert _get_current_dispatch_mode_stack() == [watcher]


def test_checks_are_watched_where_somebody_set_a_limit() -> None:
    """In the check three rows of 1 MiB are alive at once."""

    def func(x: torch.Tensor) -> torch.Tensor:
        return x.unsqueeze(-1).expand(*x.shape, 2**17).exp().sum(-1)

    x = torch.ones(1, dtype=torch.float64)
    _, report = cj.jacobian(func, x, mode="finite-difference", max_memory="1GiB", return_report=True)
    assert report.peak_bytes >= 3 * 2**20
