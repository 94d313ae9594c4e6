"""Memory as the system counts it, read from stand-ins and from this process."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest
import torch

import chunkjac as cj
from chunkjac._memory.gauge import Gauge
from chunkjac._memory.tracker import LiveBytes

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)
MIB = 2**20


class Readings:
    """Be a device whose level and peak are set by hand."""

    def __init__(self, current: int, peak: int) -> None:
        self.now = (current, peak)

    def __call__(self) -> tuple[int, int]:
        return self.now


def test_a_new_peak_is_known_exactly() -> None:
    read = Readings(100, 500)
    gauge = Gauge(read)
    read.now = (120, 700)
    assert gauge.sample() == 600
    assert gauge.highest_bytes == 600


def test_below_an_old_peak_only_the_level_is_known() -> None:
    read = Readings(100, 500)
    gauge = Gauge(read)
    for current, rise in ((300, 200), (150, 50), (90, 0)):
        read.now = (current, 500)
        assert gauge.sample() == rise
    assert gauge.highest_bytes == 200


def test_a_peak_counts_for_the_sample_that_sees_it_first() -> None:
    read = Readings(100, 500)
    gauge = Gauge(read)
    read.now = (100, 800)
    assert gauge.sample() == 700
    assert gauge.sample() == 0


def test_the_process_rises_by_what_it_touches() -> None:
    gauge = Gauge.of(CPU)
    before = gauge.sample()
    held = torch.ones(64 * MIB, dtype=torch.uint8)
    assert gauge.sample() - before == pytest.approx(64 * MIB, rel=0.1)
    del held


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_a_caching_allocator_tells_its_peak(kind: str) -> None:
    statistics = {"allocated_bytes.all.current": 10, "allocated_bytes.all.peak": 40}
    gauge = Gauge.of(torch.device(kind, 0), SimpleNamespace(memory_stats=lambda device: statistics))
    statistics.update({"allocated_bytes.all.current": 20, "allocated_bytes.all.peak": 70})
    assert gauge.sample() == 60


def test_an_allocator_that_was_never_used_holds_nothing() -> None:
    assert Gauge.of(CUDA, SimpleNamespace(memory_stats=lambda device: {})).sample() == 0


def test_metal_tells_its_level() -> None:
    level = 10
    gauge = Gauge.of(torch.device("mps", 0), SimpleNamespace(current_allocated_memory=lambda: level))
    level = 25
    assert gauge.sample() == 15


def test_on_an_accelerator_the_allocators_peak_counts_where_it_is_higher() -> None:
    """A kernel's workspace comes from the allocator, and no tensor shows it."""
    read = Readings(1000, 1000)
    tracker = LiveBytes(CPU, gauge=Gauge(read))
    with tracker:
        kept = torch.zeros(100, dtype=torch.uint8)
        read.now = (1100, 1700)
    assert (tracker.peak_bytes, tracker.highest_bytes) == (700, 700)
    tracker.restart_peak()
    with tracker:
        read.now = (1100, 1700)
    assert tracker.peak_bytes == 100  # no new peak of the allocator
    del kept


def test_an_allocator_of_blocks_gives_multiples_of_512_bytes() -> None:
    with LiveBytes(CPU, stands_for=CUDA) as tracker:
        held = [torch.zeros(1), torch.zeros(128), torch.zeros(129)]
        assert tracker.live_bytes == 512 + 512 + 1024
        del held
    assert tracker.live_bytes == 0


def test_the_report_says_how_far_the_process_rose() -> None:
    # 144 MB, written to: malloc maps what is over 32 MiB anew, whatever an earlier test has left on the heap; and what
    # is freed meanwhile should have been freed before.
    gc.collect()
    x = torch.zeros(6000)
    _, report = cj.jacobian(torch.sin, x, mode="reverse", return_report=True, chunk_size=1000)
    assert report.process_rise_bytes >= 0.5 * report.plan.result_bytes
    assert "process rise" in str(report)
