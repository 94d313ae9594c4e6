"""How closely memory is counted: decided in one place, from what was asked for and what is known."""

from __future__ import annotations

import pytest
import torch

from chunkjac._chunker.counting import ChunkRoom, Chunks, Foreseen, tile_bytes
from chunkjac._memory.budget import Budget
from chunkjac._planner.job import Job
from chunkjac._planner.options import Options
from chunkjac._problem.problem import Problem

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
BYTES = 6400


def job(*, is_set: bool = False, report: bool = False, device: torch.device = CPU, **options: object) -> Job:
    """Return a job in a budget of 6400 bytes."""
    problem = Problem.of(torch.sin, (torch.zeros(3),), 0, False)
    return Job(problem, Options(**options), device, Budget(BYTES, is_set, ""), return_report=report)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made", "by_calls", "chunks", "limit_bytes", "margin"),
    [
        (job(), True, Chunks.NOW_AND_THEN, BYTES, 1.1),
        (job(device=CUDA), False, Chunks.NOW_AND_THEN, BYTES, 1.1),
        (job(chunk_size=2), True, Chunks.NOW_AND_THEN, None, 1.1),  # a size may exceed a default
        (job(chunk_size=2, is_set=True), False, Chunks.UNSURE, BYTES, 1.0),
        (job(is_set=True), False, Chunks.UNSURE, BYTES, 1.0),
        (job(is_set=True, device=CUDA), False, Chunks.UNSURE, BYTES, 1.1),
        (job(create_graph=True), False, Chunks.NOW_AND_THEN, BYTES, 1.1),
        (job(report=True), False, Chunks.NEW_SIZES, BYTES, 1.1),
        (job(report=True, is_set=True), False, Chunks.NEW_SIZES, BYTES, 1.0),
    ],
)
def test_a_limit_is_kept_and_figures_are_exact(
    made: Job, by_calls: bool, chunks: Chunks, limit_bytes: int | None, margin: float
) -> None:
    counting = made.counting()
    assert (counting.by_calls, counting.chunks, counting.limit_bytes) == (by_calls, chunks, limit_bytes)
    assert counting.margin == margin
    assert counting.counts
    assert counting.counts_again
    assert counting.resting_bytes == (100 if chunks is Chunks.NOW_AND_THEN else 0)


@pytest.mark.parametrize(
    ("foreseen", "is_ample"),
    [
        (Foreseen(planned_bytes=1600), True),
        (Foreseen(planned_bytes=1601), False),
        (Foreseen(planned_bytes=0), False),
        (Foreseen(beside_bytes=300, result_bytes=100), True),
        (Foreseen(beside_bytes=300, result_bytes=101), False),
        (Foreseen(beside_bytes=None, result_bytes=1), False),  # no run was counted
        (Foreseen(), False),
    ],
)
def test_what_fits_many_times_over_is_not_counted(foreseen: Foreseen, is_ample: bool) -> None:
    counting = job().counting(foreseen)
    assert counting.chunks is (Chunks.NONE if is_ample else Chunks.NOW_AND_THEN)
    assert counting.counts != is_ample
    assert counting.counts_again != is_ample
    for closer in (job(is_set=True), job(report=True)):
        assert closer.counting(foreseen).counts


def test_under_a_limit_what_was_counted_and_fits_is_not_counted_again() -> None:
    fits, exceeds = Foreseen(None, 6300, 100), Foreseen(None, 6300, 101)
    assert not job(is_set=True).counting(fits).counts_again
    assert job(is_set=True).counting(exceeds).counts_again
    assert job(is_set=True, report=True).counting(fits).counts_again
    assert job().counting(fits).counts_again


def test_shares_of_the_budget_and_of_the_room() -> None:
    room = ChunkRoom(1000)
    assert job().counting().uncounted_bytes == BYTES // 16
    assert (room.sure_bytes, room.unsure_bytes, room.kept_bytes) == (950, 500, 250)
    assert ChunkRoom(2**40).kept_bytes == 32 * 2**20
    assert [tile_bytes(1000, share) for share in (1 / 2, 1 / 8, 0.0)] == [500, 125, 0]
    assert job(chunk_size=2).counting().allows(10 * BYTES)
    assert not job().counting().allows(BYTES + 1)
