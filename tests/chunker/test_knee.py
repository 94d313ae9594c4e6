"""The fastest chunk size, found from times that are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkjac._chunker.cost import Cost
from chunkjac._chunker.counting import Chunks
from chunkjac._chunker.knee import Knee
from chunkjac._chunker.limits import Limits
from chunkjac._chunker.pacer import Pacer
from chunkjac._chunker.turns import Learnt, Measured


def fastest_at(best: int) -> Callable[[int], float]:
    """Return the seconds of a chunk, whose directions take longer the farther its size is from the best."""
    return lambda size: size * max(size / best, best / size)


def climb(start: int, seconds: Callable[[int], float], *, n: int = 10**9, most: int = 10**9) -> tuple[list[int], Knee]:
    """Return the sizes tried until one is settled on, or all is done."""
    knee, sizes, done = Knee(start), [], 0
    while done < n and not knee.is_settled:
        size = min(knee.next_size(most, n - done), n - done)
        if not knee.is_settled:
            knee.learn(size, seconds(size))
            sizes.append(size)
            done += size
    return sizes, knee


@pytest.mark.parametrize(
    ("best", "sizes"),
    [
        (64, [16, 32, 64, 128]),
        (32, [16, 32, 64, 16]),  # the first was not timed fairly
        (16, [16, 32, 8]),
        (4, [16, 32, 8, 4, 2]),
        (1, [16, 32, 8, 4, 2, 1]),
    ],
)
def test_twice_as_much_is_tried_while_it_pays_and_half_as_much_where_it_never_did(best: int, sizes: list[int]) -> None:
    tried, knee = climb(16, fastest_at(best))
    assert tried == sizes
    assert knee.size == best


@given(st.integers(0, 12), st.integers(0, 12))
def test_wherever_it_starts_the_fastest_of_a_valley_is_found(start: int, best: int) -> None:
    assert climb(2**start, fastest_at(2**best))[1].size == 2**best


def test_five_percent_are_noise() -> None:
    assert climb(16, lambda size: size * (0.96 if size == 32 else 1.0))[1].size == 16
    assert climb(16, lambda size: size * (0.94 if size == 32 else 1.0))[1].size == 32


def test_the_first_time_of_all_is_not_trusted() -> None:
    """It takes three times as long as the next ones of its size would: lazy work."""
    knee = Knee(16)
    for size, seconds in ((16, 48.0), (32, 40.0), (64, 90.0), (16, 16.0), (8, 12.0)):
        assert knee.next_size(10**9, 10**9) == size
        knee.learn(size, seconds)
    assert (knee.size, knee.is_settled) == (16, True)


@given(st.integers(1, 64), st.integers(1, 200), st.integers(1, 5000), st.integers(1, 64))
def test_nothing_larger_than_the_most_is_tried_nor_what_little_is_left_for(
    start: int, most: int, n: int, best: int
) -> None:
    knee, done = Knee(start), 0
    while done < n and not knee.is_settled:
        size = knee.next_size(most, n - done)
        assert size <= max(start, most)
        assert size == knee.size or 3 * min(size, knee.size) <= n - done
        size = min(size, n - done)
        knee.learn(size, fastest_at(best)(size))
        done += size


def test_a_knee_that_tries_nothing_stays() -> None:
    knee = Knee(16, tries=False)
    assert knee.is_settled
    knee.learn(16, 1.0)
    assert knee.next_size(100, 1000) == 16


def limits(n: int, room: int, **more: object) -> Limits:
    """Return the limits of a job whose directions hold 10 bytes, by the guess as well."""
    base = Cost(prologue_bytes=0, kept_bytes=0, result_bytes=0, fixed_bytes=0, direction_bytes=10)
    return replace(Limits(n, base, room, target_bytes=1000, start_bytes=200), **more)


def run(pacer: Pacer, n: int, seconds: Callable[[int], float]) -> tuple[list[int], list[bool]]:
    """Go through a job as the executor does; return sizes, and which chunks were measured."""
    sizes: list[int] = []
    measured: list[bool] = []
    done = 0
    while done < n:
        chunk = pacer.next_chunk(done)
        size = chunk.stop - chunk.start
        measured.append(pacer.measures(chunk, len(sizes)))
        if measured[-1]:
            pacer.learn(chunk, Measured(10 * size, grows=False))
        else:
            pacer.time(chunk, seconds(size))
        sizes.append(size)
        done = chunk.stop
    return sizes, measured


def test_a_plain_job_is_not_measured_and_finds_its_size() -> None:
    job = limits(4000, 10**6)
    sizes, measured = run(Pacer(job, chunks=Chunks.NOW_AND_THEN), 4000, fastest_at(160))
    assert sizes[:4] == [40, 80, 160, 320]  # twice the start, as the guess is mostly too high by that
    assert len(set(sizes[4:-1])) == 1  # one shape
    assert 150 <= sizes[5] <= 160
    assert not any(measured[:9])  # the tenth is looked at, as ever


def test_under_a_limit_sizes_stay_within_what_fits_and_each_larger_one_is_measured_first() -> None:
    job = limits(4000, 900)
    sizes, measured = run(Pacer(job), 4000, fastest_at(10**6))
    assert max(sizes) <= 90
    assert all(measured[sizes.index(size)] for size in set(sizes) if size > 20)


def test_a_second_run_of_a_plan_begins_with_what_the_first_has_learnt() -> None:
    job, learnt = limits(4000, 10**6), Learnt()
    cost = replace(job.base, direction_bytes=10)
    first, _ = run(Pacer(job, cost, 100, chunks=Chunks.NONE, learnt=learnt), 4000, fastest_at(5))
    assert first[:3] == [20, 40, 10]
    assert learnt == Learnt(5, is_settled=True)
    second, _ = run(Pacer(job, cost, 100, chunks=Chunks.NONE, learnt=learnt), 4000, fastest_at(5))
    assert set(second) == {5}


def test_an_exact_size_is_never_varied() -> None:
    sizes, _ = run(Pacer(limits(1000, 10**6, exact_size=50), chunks=Chunks.NOW_AND_THEN), 1000, fastest_at(5))
    assert set(sizes) == {50}


def test_a_job_of_less_than_two_starts_is_one_chunk() -> None:
    assert run(Pacer(limits(79, 10**6), chunks=Chunks.NOW_AND_THEN), 79, fastest_at(5))[0] == [79]
