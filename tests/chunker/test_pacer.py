"""Chunk sizes against a job whose chunks hold ``fixed + slope * k`` bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkjac._chunker.cost import Cost, choose_chunk, even_chunk
from chunkjac._chunker.counting import Chunks
from chunkjac._chunker.first_guess import first_guess
from chunkjac._chunker.limits import Limits
from chunkjac._chunker.pacer import Pacer
from chunkjac._chunker.turns import Measured

MARGINS = st.sampled_from([1.0, 1.1, 1.35])


def limits_of(n: int, budget: int, *, floor: int = 1, level: int = 0, target: int | None = None, **more: int) -> Limits:
    """Return the limits of a job with no prologue."""
    base = Cost(prologue_bytes=0, kept_bytes=level, result_bytes=0, fixed_bytes=0, direction_bytes=floor)
    return Limits(n_directions=n, base=base, budget_bytes=budget, target_bytes=target, **more)


def line(fixed: int, slope: int) -> Callable[[int], int]:
    """Return what chunks hold."""
    return lambda size: fixed + slope * size


def run(pacer: Pacer, limits: Limits, held: Callable[[int], int]) -> tuple[list[slice], list[int]]:
    """Go through the loop as the executor does; return the chunks done, and how many were when one did not fit."""
    chunks: list[slice] = []
    failures: list[int] = []
    done = 0
    while done < limits.n_directions:
        chunk = pacer.next_chunk(done)
        measured = pacer.measures(chunk, 0)
        size = chunk.stop - chunk.start
        if held(size) > limits.room_bytes:
            failures.append(len(chunks))
            assert pacer.shrink(size), "one direction fits, and yet nothing is left to halve"
            continue
        if measured:
            pacer.learn(chunk, Measured(held(size), grows=False))
        chunks.append(chunk)
        done = chunk.stop
    return chunks, failures


def sizes_of(pacer: Pacer, limits: Limits, held: Callable[[int], int]) -> list[int]:
    """Return the sizes of the chunks done."""
    return [chunk.stop - chunk.start for chunk in run(pacer, limits, held)[0]]


Drawn = tuple[Limits, Chunks, Callable[[int], int]]


@st.composite
def jobs(draw: st.DrawFn) -> Drawn:
    """Draw a job of which one direction fits, which of its chunks are measured, and what its chunks hold."""
    fixed, slope = draw(st.integers(0, 10_000)), draw(st.integers(1, 1000))
    level = draw(st.integers(0, 10_000))
    room = fixed + slope + draw(st.integers(0, 100_000))
    limits = limits_of(
        n=draw(st.integers(1, 300)),
        budget=level + room,
        floor=draw(st.integers(1, slope)),
        level=level,
        target=draw(st.none() | st.integers(1, 100_000)),
    )
    prologue = draw(st.integers(0, limits.budget_bytes))
    limits = replace(limits, base=replace(limits.base, prologue_bytes=prologue), margin=draw(MARGINS))
    return limits, draw(st.sampled_from([Chunks.NEW_SIZES, Chunks.UNSURE])), line(fixed, slope)


@given(jobs())
def test_chunks_cover_all_directions_once_in_order(job: Drawn) -> None:
    limits, counted, held = job
    chunks, _ = run(Pacer(limits, chunks=counted), limits, held)
    directions = [direction for chunk in chunks for direction in range(chunk.start, chunk.stop)]
    assert directions == list(range(limits.n_directions))


@given(jobs())
def test_only_probes_are_ever_refused(job: Drawn) -> None:
    """Once the line is drawn, nothing exceeds the room."""
    limits, counted, held = job
    _, failures = run(Pacer(limits, chunks=counted), limits, held)
    assert all(n_chunks < 3 for n_chunks in failures)


@given(jobs())
def test_the_cost_that_is_learnt_never_lies_below_the_largest_chunk(
    job: Drawn,
) -> None:
    limits, counted, held = job
    pacer = Pacer(limits, chunks=counted)
    largest = max(sizes_of(pacer, limits, held))
    assert pacer.cost.peak_bytes(largest) >= limits.base.level_bytes + held(largest)


@pytest.mark.parametrize(
    ("budget", "sizes"),
    [
        (1000, [100]),  # ample: 100 directions fit
        (999, [50, 50]),  # 99 do: two chunks, evenly filled
        (160, [15, 15, 15, 15, 15, 15, 10]),  # 16 do
        (159, [15, 15, *[14] * 5]),  # fewer than 16 do: tight; 15 fit
        (100, [10] * 10),
        (50, [5] * 20),
        (20, [2] * 50),
        (19, [1] * 100),
    ],
)
def test_a_tight_budget_starts_with_a_careful_chunk_and_an_ample_one_with_a_good_one(
    budget: int, sizes: list[int]
) -> None:
    limits = limits_of(100, budget, floor=10)
    assert sizes_of(Pacer(limits), limits, line(0, 10)) == sizes


@pytest.mark.parametrize(
    ("fixed", "slope", "room", "largest"),
    [
        (900, 1, 1000, 100),  # looks ample
        (9000, 100, 10_000, 10),  # looks tight
    ],
)
def test_a_large_fixed_part_does_not_keep_chunks_small(fixed: int, slope: int, room: int, largest: int) -> None:
    limits = limits_of(1000, room, floor=slope)
    assert fixed + slope * largest == room
    assert max(sizes_of(Pacer(limits), limits, line(fixed, slope))) > largest // 2


def test_a_large_prologue_makes_a_budget_tight() -> None:
    limits = limits_of(100, 1280, floor=10)
    tight = replace(limits, base=replace(limits.base, prologue_bytes=18))  # 16 * (10 + 4 * 18) = 1312
    assert sizes_of(Pacer(limits), limits, line(0, 10)) == [100]
    assert sizes_of(Pacer(tight), tight, line(0, 10)) == [15, 85]  # 85 hold 850


@pytest.mark.parametrize(
    ("fixed", "slope", "sizes"),
    [
        (0, 20, [2, *[14] * 7]),  # 40 bytes for two: 15 fit, which make 7 chunks
        (40, 10, [2, 10, *[22] * 4]),  # 60 for two: 10 fit for sure; then 26 do, which make 4
        (280, 5, [2, *[4] * 24, 2]),  # 290 for two: no more fit for sure, so twice as many are tried
    ],
)
def test_after_the_careful_chunk_come_as_many_as_fit_if_nothing_is_fixed(
    fixed: int, slope: int, sizes: list[int]
) -> None:
    limits = limits_of(100, 300, floor=slope)
    limits = replace(limits, base=replace(limits.base, prologue_bytes=300))
    assert sizes_of(Pacer(limits), limits, line(fixed, slope)) == sizes


@pytest.mark.parametrize("lazy_bytes", [40, 80, 200, 300])
def test_lazy_work_in_the_first_chunk_costs_one_refusal_at_most(lazy_bytes: int) -> None:
    """It makes the line through the first two chunks too flat: in that of 300 bytes, by all of the slope."""
    limits = limits_of(4096, 440, floor=10)
    limits = replace(limits, base=replace(limits.base, prologue_bytes=20))

    def held(size: int) -> int:
        return 10 + 10 * size + (lazy_bytes if pacer.cost == limits.base else 0)

    pacer = Pacer(limits)
    chunks, failures = run(pacer, limits, held)
    assert len(failures) <= 1
    assert chunks[0].stop == 4
    assert max(chunk.stop - chunk.start for chunk in chunks) >= 20  # of 43 that fit


def test_the_first_chunk_counts_where_it_is_the_only_one() -> None:
    pacer = Pacer(limits_of(2, 10_000, floor=100))
    pacer.learn(pacer.next_chunk(0), Measured(7000))
    assert pacer.cost.peak_bytes(2) == 7000


@pytest.mark.parametrize(("took", "margin"), [(1.0, 1.1), (1.05, 1.1), (1.7, 1.7)])
def test_chunks_are_chosen_by_what_they_really_take(took: float, margin: float) -> None:
    pacer = Pacer(replace(limits_of(1000, 10_000, floor=700), margin=1.1))
    careful = pacer.next_chunk(0)
    pacer.learn(careful, Measured(100 * careful.stop, margin=took))
    assert pacer.cost.margin == margin
    large = pacer.next_chunk(careful.stop)
    assert large.stop - large.start == even_chunk(1000 - large.start, int(10_000 / margin / 100))
    pacer.learn(large, Measured(100 * (large.stop - large.start)))
    then = pacer.next_chunk(large.stop)
    assert then.stop - then.start == large.stop - large.start


@given(jobs(), st.integers(1, 400))
def test_an_exact_size_is_obeyed(job: Drawn, size: int) -> None:
    limits, counted, held = job
    limits = replace(limits, exact_size=size, budget_bytes=limits.base.level_bytes + held(size))
    n_full, rest = divmod(limits.n_directions, size)
    assert sizes_of(Pacer(limits, chunks=counted), limits, held) == [size] * n_full + [rest] * (rest > 0)


@given(jobs())
def test_a_known_cost_needs_no_probes(job: Drawn) -> None:
    limits, counted, held = job
    cost = replace(limits.base, fixed_bytes=held(0), direction_bytes=held(1) - held(0), margin=limits.margin)
    size = choose_chunk(cost, limits.n_directions, limits.budget_bytes, limits.target_bytes)
    *full, last = sizes_of(Pacer(limits, cost, size, chunks=counted), limits, held)
    assert set(full) <= {size}
    assert last <= size


@pytest.mark.parametrize(
    ("fixed", "sizes", "measured"),
    [
        (0, [14, 99, 99, 99], [True, True, True, False]),  # the third shows that the level holds
        (500, [14, 21, 49, 49], [True, True, True, False]),
    ],
)
def test_only_probes_and_the_first_full_chunk_are_measured(fixed: int, sizes: list[int], measured: list[bool]) -> None:
    limits, held = limits_of(1000, 1000, floor=70), line(fixed, 10)
    pacer = Pacer(limits)
    done, found = 0, []
    for _ in sizes:
        chunk = pacer.next_chunk(done)
        size, done = chunk.stop - chunk.start, chunk.stop
        found.append((size, pacer.measures(chunk, 0)))
        pacer.learn(chunk, Measured(held(size), grows=False))
    assert found == list(zip(sizes, measured))


@pytest.mark.parametrize(("room", "n_measured"), [(10 * 640, 1), (10 * 640 - 1, 2)])
def test_chunks_are_not_measured_that_would_fit_even_if_all_kept_what_they_hold(room: int, n_measured: int) -> None:
    """1000 directions of 6.4 bytes, 100 at once: 10 chunks."""
    limits = limits_of(1000, room, exact_size=100)
    pacer = Pacer(limits, chunks=Chunks.UNSURE)
    measured = []
    for start in range(0, 500, 100):
        chunk = pacer.next_chunk(start)
        measured.append(pacer.measures(chunk, start // 100))
        if measured[-1]:
            pacer.learn(chunk, Measured(640, grows=False))
    assert measured == [i < n_measured for i in range(5)]


def planned_to_be_50() -> Pacer:
    """Return a pacer that was told 10 bytes a direction, of which 500 are fast."""
    limits = limits_of(1000, 2000, target=500)
    return Pacer(limits, replace(limits.base, direction_bytes=10), 50)


@pytest.mark.parametrize(
    ("held_bytes", "then"),
    [
        (500, 50),
        (510, 50),  # 2 % is no reason to plan anew
        (511, 44),  # 11 each: 45 fit in 500, and 950 by 45 are 22 chunks of 44
        (1000, 25),  # 20 each: 25 make 500
    ],
)
def test_a_full_chunk_that_holds_more_than_predicted_leads_to_smaller_ones(held_bytes: int, then: int) -> None:
    pacer = planned_to_be_50()
    first = pacer.next_chunk(0)
    assert first == slice(0, 50)
    pacer.learn(first, Measured(held_bytes))
    assert pacer.next_chunk(50) == slice(50, 50 + then)


def test_after_a_surprise_the_next_chunk_is_measured_again() -> None:
    pacer = planned_to_be_50()
    pacer.learn(pacer.next_chunk(0), Measured(1000))
    assert pacer.measures(slice(50, 100), 1)
    pacer.learn(pacer.next_chunk(50), Measured(500, grows=False))
    assert not pacer.measures(slice(50, 100), 1)


@pytest.mark.parametrize(("failed_size", "then"), [(8, 4), (7, 4), (3, 2), (2, 1)])
def test_running_out_of_memory_halves_upwards_and_starts_at_the_same_place(failed_size: int, then: int) -> None:
    limits = limits_of(100, 10_000)
    pacer = Pacer(limits, replace(limits.base, direction_bytes=1), failed_size)
    assert pacer.next_chunk(40) == slice(40, 40 + failed_size)
    assert pacer.shrink(failed_size)
    assert pacer.next_chunk(40) == slice(40, 40 + then)
    assert pacer.measures(slice(50, 100), 1)


def test_a_single_direction_cannot_be_halved() -> None:
    assert not Pacer(limits_of(100, 10_000)).shrink(1)


def test_nothing_larger_is_tried_after_running_out_of_memory() -> None:
    limits = limits_of(1000, 100_000)
    pacer = Pacer(limits)
    assert pacer.next_chunk(0) == slice(0, 1000)
    assert pacer.shrink(1000)
    assert sizes_of(pacer, limits, line(0, 1)) == [500] * 2


def test_an_ample_budget_begins_with_the_working_set_that_is_fast() -> None:
    limits = limits_of(1000, 10**6, floor=10, target=1000)
    assert sizes_of(Pacer(limits), limits, line(0, 10)) == [100] * 10
    assert sizes_of(Pacer(limits), limits, line(0, 6)) == [100] * 10  # 166 would be fast: not worth a new shape
    assert sizes_of(Pacer(limits), limits, line(0, 4)) == [100, *[225] * 4]  # 250 are


@pytest.mark.parametrize(
    ("grows", "measured"),
    [
        ([None, False, False, False, False], [True, True, False, False, False]),
        ([None, None, False, False, False], [True, True, True, False, False]),  # it cannot be told at first
        ([None, True, True, False, False], [True, True, True, True, False]),  # a cache, full after three
        ([None, True, True, True, True], [True, True, True, True, True]),
    ],
)
def test_chunks_are_measured_until_one_leaves_no_more_alive_than_it_found(
    grows: list[bool | None], measured: list[bool]
) -> None:
    pacer = Pacer(limits_of(500, 10**6, floor=10, target=1000))
    seen = []
    for start, rise in zip(range(0, 500, 100), grows):
        chunk = pacer.next_chunk(start)
        seen.append(pacer.measures(chunk, 0))
        if seen[-1]:
            pacer.learn(chunk, Measured(1000, grows=rise))
    assert seen == measured


def is_plain(limits: Limits) -> bool:
    """Tell whether nothing need be measured."""
    return first_guess(limits, Chunks.NOW_AND_THEN).is_plain


@pytest.mark.parametrize(("room", "plain"), [(4 * 640, True), (4 * 640 - 1, False)])  # 64 directions of 10
def test_a_trusting_job_is_measured_unless_it_fits_many_times_over(room: int, plain: bool) -> None:
    limits = limits_of(100, room, floor=10, target=501)
    assert Pacer(limits).measures(slice(0, 100), 0)
    assert Pacer(limits, chunks=Chunks.NOW_AND_THEN).measures(slice(0, 100), 0) != plain
    assert is_plain(replace(limits, target_bytes=500))  # 1000 in two chunks
    assert not is_plain(replace(limits, batched=False))
    assert not is_plain(replace(limits, exact_size=100))


def test_where_one_direction_runs_after_the_other_chunks_stay_small() -> None:
    for budget in (10**6, 150):
        limits = replace(limits_of(100, budget, floor=10), batched=False)
        assert max(sizes_of(Pacer(limits), limits, line(0, 10))) == 8


def test_a_plan_that_holds_is_kept_though_one_chunk_alone_would_tell_less() -> None:
    """The plan knows 100 fixed and 1 for each; a single measure of 150 looks like 3 for each."""
    limits = limits_of(500, 1000)
    cost = replace(limits.base, fixed_bytes=100, direction_bytes=1)
    pacer = Pacer(limits, cost, 50)
    pacer.learn(pacer.next_chunk(0), Measured(150, grows=False))
    assert (pacer.cost, pacer.chunk_size, pacer.measures(slice(50, 100), 1)) == (cost, 50, False)


def test_the_first_single_direction_is_measured_wherever_it_comes() -> None:
    """It runs other kernels; here it is what is left over."""
    limits = limits_of(201, 10**6, floor=10, exact_size=50)
    pacer = Pacer(limits)
    measured = []
    for start in range(0, 201, 50):
        chunk = pacer.next_chunk(start)
        measured.append(pacer.measures(chunk, 0))
        pacer.learn(chunk, Measured(10 * (chunk.stop - chunk.start), grows=False))
    assert measured == [True, False, False, False, True]
    assert not Pacer(limits, limits.base, 50, chunks=Chunks.NONE).measures(slice(200, 201), 4)


def test_chunks_are_looked_at_again_ever_more_seldom() -> None:
    pacer = planned_to_be_50()
    pacer.learn(pacer.next_chunk(0), Measured(500, grows=False))
    again = [n_done for n_done in range(1, 300) if pacer.measures(slice(50, 100), n_done)]
    assert again == [9, 16, 33, 64, 129, 256]
    pacer.learn(slice(450, 500), Measured(500, grows=True))
    assert pacer.measures(slice(500, 550), 10)
