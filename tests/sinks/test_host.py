"""Blocks from an accelerator to the host, with a stand-in for one: the copies' order, and that nothing is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import chunkjac as cj
from chunkjac._modes.derivatives.forward import Forward
from chunkjac._modes.derivatives.reverse import Reverse
from chunkjac._modes.mode import Mode
from chunkjac._problem.problem import Problem
from chunkjac._sinks import host

D = torch.float64


def _func(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.sin() * x.sum(), x[:2].exp()


def _mode(kind: type[Reverse] | type[Forward]) -> tuple[Mode, Any]:
    x = torch.linspace(0, 1, 7, dtype=D)
    return kind(Problem.of(_func, (x,), 0, False)), torch.func.jacrev(_func)(x)


@pytest.mark.parametrize("kind", [Reverse, Forward])
@pytest.mark.parametrize("sizes", [[1], [2], [3, 1], [1, 3], [2, 5], [100]])
def test_blocks_on_their_way_all_arrive(kind: type[Reverse] | type[Forward], sizes: list[int]) -> None:
    mode, expected = _mode(kind)
    sink = host.HostSink(mode)
    total = 9 if kind is Reverse else 7
    start, turn = 0, 0
    while start < total:
        chunk = slice(start, min(total, start + sizes[turn % len(sizes)]))
        sink.write(chunk, mode.block(chunk, sink.places(chunk)))
        start, turn = chunk.stop, turn + 1
    sink.close()
    torch.testing.assert_close(sink.result(), expected)


def test_a_block_is_waited_for_when_the_next_one_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    def arrival(_: torch.device) -> Callable[[], object]:
        number = sum(event.startswith("sent") for event in events)
        events.append(f"sent {number}")
        return lambda: events.append(f"waited for {number}")

    monkeypatch.setattr(host, "arrival", arrival)
    mode, expected = _mode(Reverse)
    sink = host.HostSink(mode)
    for start in range(0, 9, 3):
        events.append(f"computed {start // 3}")
        sink.write(slice(start, start + 3), mode.block(slice(start, start + 3)))
    torch.testing.assert_close(sink.result(), expected)
    assert events == [
        *("computed 0", "sent 0"),
        *("computed 1", "sent 1", "waited for 0"),
        *("computed 2", "sent 2", "waited for 1"),
        "waited for 2",
    ]


def test_blocks_that_were_on_their_way_stay_when_memory_runs_out() -> None:
    mode, expected = _mode(Reverse)
    sink = host.HostSink(mode)
    sink.write(slice(0, 4), mode.block(slice(0, 4)))
    sink.release()
    for start in range(4, 9):
        sink.write(slice(start, start + 1), mode.block(slice(start, start + 1)))
    torch.testing.assert_close(sink.result(), expected)


def test_the_host_is_a_device_like_any_other_here() -> None:
    x = torch.linspace(0, 1, 7, dtype=D)
    torch.testing.assert_close(cj.jacobian(_func, x, out="cpu"), torch.func.jacrev(_func)(x))
