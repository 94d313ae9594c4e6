"""The arithmetic of memory, against brute force and by hand."""

from __future__ import annotations

import ast
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chunkjac
from chunkjac._chunker.cost import Cost, choose_chunk, even_chunk, fit_chunks, largest_chunk

N_BYTES = st.integers(0, 10**6)
POSITIVE_BYTES = st.integers(1, 10**4)
BUDGETS = st.integers(1, 10**7)

COSTS = st.builds(Cost, N_BYTES, N_BYTES, N_BYTES, N_BYTES, POSITIVE_BYTES)
COSTS_WITH_MARGIN = st.builds(Cost, N_BYTES, N_BYTES, N_BYTES, N_BYTES, POSITIVE_BYTES, st.sampled_from([1, 1.1, 1.35]))


@pytest.mark.parametrize(
    ("chunk_size", "peak_bytes"),
    [(1, 100), (13, 100), (14, 103), (20, 133)],  # 20 + 10 + 3 + 5 * 14 = 103
)
def test_the_peak_is_that_of_the_worse_phase(chunk_size: int, peak_bytes: int) -> None:
    cost = Cost(prologue_bytes=100, kept_bytes=10, result_bytes=20, fixed_bytes=3, direction_bytes=5)
    assert cost.peak_bytes(chunk_size) == peak_bytes
    assert cost.level_bytes == 30
    assert cost.smallest_bytes == 100


@given(COSTS, BUDGETS)
def test_the_largest_chunk_fits_and_one_more_does_not(cost: Cost, budget_bytes: int) -> None:
    size = largest_chunk(cost, budget_bytes)
    assert size == 0 or cost.peak_bytes(size) <= budget_bytes
    assert cost.peak_bytes(size + 1) > budget_bytes


@given(COSTS_WITH_MARGIN, st.integers(-1, 0))
def test_one_direction_is_refused_only_where_it_does_not_fit(cost: Cost, more_bytes: int) -> None:
    budget_bytes = cost.smallest_bytes + more_bytes
    assert (largest_chunk(cost, budget_bytes) > 0) == (more_bytes == 0)


def test_a_margin_multiplies_all_but_the_result() -> None:
    cost = Cost(prologue_bytes=0, kept_bytes=10, result_bytes=100, fixed_bytes=20, direction_bytes=7, margin=1.5)
    # 1.5 * (10 + 20 + 7 * 10) = 150 and 1.5 * (10 + 20 + 7 * 11) = 160.5
    assert largest_chunk(cost, 100 + 150) == 10
    assert largest_chunk(cost, 100 + 160) == 10
    assert largest_chunk(cost, 100 + 161) == 11


@given(st.integers(1, 300), st.integers(1, 400))
def test_even_chunks_are_the_fewest_with_the_least_left_over(n_directions: int, chunk_size: int) -> None:
    def chunks_and_rest(size: int) -> tuple[int, int]:
        n_chunks = ceil(n_directions / size)
        return n_chunks, n_chunks * size - n_directions

    best = min(range(1, min(chunk_size, n_directions) + 1), key=chunks_and_rest)
    assert even_chunk(n_directions, chunk_size) == best


@pytest.mark.parametrize(
    ("n_directions", "chunk_size", "even"),
    [(18, 12, 9), (18, 18, 18), (18, 100, 18), (19, 18, 10), (1, 1, 1), (7, 1, 1), (1024, 1023, 512)],
)
def test_chunks_of_18_by_12_are_9_and_9(n_directions: int, chunk_size: int, even: int) -> None:
    assert even_chunk(n_directions, chunk_size) == even


@given(st.sets(st.integers(2, 1000), min_size=2, max_size=4), N_BYTES, POSITIVE_BYTES)
def test_a_line_is_recovered_exactly(sizes: set[int], fixed: int, slope: int) -> None:
    assert fit_chunks({size: fixed + slope * size for size in sizes}) == (fixed, slope)


@given(st.dictionaries(st.integers(1, 100), st.integers(0, 10**6), min_size=1, max_size=4))
def test_the_fit_never_lies_below_the_largest_chunk(samples: dict[int, int]) -> None:
    fixed, slope = fit_chunks(samples)
    largest = max(samples)
    assert fixed >= 0
    assert slope >= 0
    assert fixed + slope * largest >= samples[largest]


@pytest.mark.parametrize(
    ("samples", "fixed_and_slope"),
    [
        ({8: 80}, (0, 10)),
        ({8: 81}, (0, 11)),
        ({1: 999, 2: 30, 8: 90}, (10, 10)),  # size 1 runs other kernels
        ({8: 90, 2: 30}, (10, 10)),
        ({2: 30, 8: 91}, (3, 11)),  # 61 / 6, upwards
        ({2: 90, 8: 30}, (30, 0)),  # what falls has no slope
        ({2: 2, 8: 80}, (0, 13)),
    ],
)
def test_the_line_goes_through_the_two_largest_chunks(
    samples: dict[int, int], fixed_and_slope: tuple[int, int]
) -> None:
    assert fit_chunks(samples) == fixed_and_slope


@given(COSTS_WITH_MARGIN, st.integers(1, 2000), BUDGETS, st.none() | N_BYTES)
def test_a_chosen_chunk_exceeds_neither_budget_nor_target(
    cost: Cost, n_directions: int, budget_bytes: int, target_bytes: int | None
) -> None:
    size = choose_chunk(cost, n_directions, budget_bytes, target_bytes)
    held_bytes = cost.fixed_bytes + cost.direction_bytes * size
    assert 1 <= size <= n_directions
    if size > 1:
        assert cost.prologue_bytes <= budget_bytes
        assert cost.result_bytes + cost.margin * (cost.kept_bytes + held_bytes) <= budget_bytes + 1e-3
        assert target_bytes is None or held_bytes <= target_bytes


@pytest.mark.parametrize(
    ("budget_bytes", "target_bytes", "size"),
    [
        (10_000, None, 18),  # all at once
        (160, None, 9),  # 12 fit
        (160, 100, 6),  # 8 are fast, and 3 chunks are 6 each
        (160, 5, 1),  # one direction is more than the target, and still one
        (40, None, 1),
    ],
)
def test_a_chunk_is_what_fits_then_what_is_fast_then_even(
    budget_bytes: int, target_bytes: int | None, size: int
) -> None:
    cost = Cost(prologue_bytes=0, kept_bytes=10, result_bytes=10, fixed_bytes=20, direction_bytes=10)
    assert choose_chunk(cost, 18, budget_bytes, target_bytes) == size


@pytest.mark.parametrize("name", ["cost", "counting", "first_guess", "knee", "limits", "pacer", "turns"])
def test_the_arithmetic_imports_no_torch(name: str) -> None:
    tree = ast.parse((Path(chunkjac.__file__).parent / "_chunker" / f"{name}.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module.partition(".")[0] for module in imported} <= {
        "__future__",
        "collections",
        "dataclasses",
        "enum",
        "chunkjac",
    }
    assert {module for module in imported if module.startswith("chunkjac")} <= {
        "chunkjac._chunker.counting",
        "chunkjac._chunker.first_guess",
        "chunkjac._chunker.knee",
        "chunkjac._chunker.cost",
        "chunkjac._chunker.limits",
        "chunkjac._chunker.turns",
    }
