"""The directions of one chunk, written out by hand."""

from __future__ import annotations

import weakref

import pytest
import torch

from chunkjac._chunker.copies import PerturbedCopies, PerturbedPoint
from chunkjac._chunker.directions import ElementDirections
from chunkjac._chunker.seeds import Seeds
from chunkjac._chunker.slices import Segment
from chunkjac._memory.tracker import LiveBytes
from chunkjac._problem.leaves import Leaf

CPU = torch.device("cpu")
SHAPES = [(3,), (0, 5), (2, 2)]
LEAVES = [Leaf.of(torch.empty(shape, dtype=torch.float64)) for shape in SHAPES]
N = 7


@pytest.mark.parametrize(
    ("chunk", "parts"),
    [
        (slice(0, 7), [(0, slice(0, 3), slice(0, 3)), (2, slice(3, 7), slice(0, 4))]),
        (slice(0, 3), [(0, slice(0, 3), slice(0, 3))]),
        (slice(3, 7), [(2, slice(0, 4), slice(0, 4))]),
        (slice(2, 5), [(0, slice(0, 1), slice(2, 3)), (2, slice(1, 3), slice(0, 2))]),
        (slice(1, 2), [(0, slice(0, 1), slice(1, 2))]),
        (slice(6, 7), [(2, slice(0, 1), slice(3, 4))]),
        (slice(3, 3), []),
    ],
)
def test_a_chunk_is_cut_where_leaves_meet(chunk: slice, parts: list[tuple[int, slice, slice]]) -> None:
    assert list(ElementDirections(LEAVES).parts(chunk)) == [Segment(*part) for part in parts]


@pytest.mark.parametrize("size", range(1, N + 1))
def test_seeds_are_rows_of_the_identity(size: int) -> None:
    one_hot = Seeds(ElementDirections(LEAVES))
    for start in range(0, N, size):
        chunk = slice(start, min(start + size, N))
        seeds = one_hot.batch(chunk)
        n_rows = chunk.stop - chunk.start
        assert [seed.shape for seed in seeds] == [(n_rows, *shape) for shape in SHAPES]
        assert {seed.dtype for seed in seeds} == {torch.float64}
        beside = torch.cat([seed.reshape(n_rows, leaf.numel) for seed, leaf in zip(seeds, LEAVES)], dim=1)
        assert torch.equal(beside, torch.eye(N, dtype=torch.float64)[chunk])


def test_chunks_may_come_in_any_order_and_size() -> None:
    one_hot = Seeds(ElementDirections([LEAVES[0]]))
    for chunk in (slice(0, 3), slice(2, 3), slice(0, 2), slice(0, 1), slice(1, 3)):
        assert torch.equal(one_hot.batch(chunk)[0], torch.eye(3, dtype=torch.float64)[chunk])


def test_a_leaf_without_dimensions_has_one_direction() -> None:
    leaves = [Leaf.of(torch.tensor(2.0)), Leaf.of(torch.zeros(2, dtype=torch.float64))]
    scalar, vector = Seeds(ElementDirections(leaves)).batch(slice(0, 3))
    assert torch.equal(scalar, torch.tensor([1.0, 0.0, 0.0]))
    assert torch.equal(vector, torch.tensor([[0, 0], [1, 0], [0, 1]], dtype=torch.float64))


def test_buffers_are_reused() -> None:
    one_hot = Seeds(ElementDirections(LEAVES))
    before = [seed.data_ptr() for seed in one_hot.batch(slice(0, 4))]
    with LiveBytes(CPU) as tracker:
        after = [seed.data_ptr() for seed in one_hot.batch(slice(4, 7))]
    assert after == before
    assert tracker.peak_bytes == 0


def test_old_and_new_seeds_are_never_both_alive() -> None:
    one_hot = Seeds(ElementDirections(LEAVES))
    with LiveBytes(CPU) as tracker:
        one_hot.batch(slice(0, 2))
        one_hot.batch(slice(0, 6))
    assert tracker.peak_bytes == 6 * N * 8


def test_old_and_new_copies_are_never_both_alive() -> None:
    copies = PerturbedCopies([torch.zeros(6)], 2, with_base=False)
    points = torch.ones(2, 6)
    with LiveBytes(CPU) as tracker:
        copies.batch(slice(0, 2), [points[:, :2]])
        copies.batch(slice(0, 6), [points])
    assert tracker.peak_bytes == 2 * 6 * 6 * 4


def test_release_gives_the_memory_back() -> None:
    inputs = [torch.ones(3), torch.ones(2)]
    one_hot, copies = Seeds(ElementDirections(LEAVES)), PerturbedCopies(inputs, 2, with_base=True)
    rows = [*one_hot.batch(slice(2, 5)), *copies.batch(slice(2, 4), [torch.ones(2, 1), torch.ones(2, 1)])]
    storages = [weakref.ref(row.untyped_storage()) for row in rows]
    del rows
    assert all(storage() is not None for storage in storages)
    one_hot.release()
    copies.release()
    assert all(storage() is None for storage in storages)


def test_seeds_are_right_after_a_release() -> None:
    one_hot = Seeds(ElementDirections([LEAVES[0]]))
    one_hot.batch(slice(0, 2))
    one_hot.release()
    assert torch.equal(one_hot.batch(slice(2, 3))[0], torch.tensor([[0, 0, 1]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("points", "with_base", "rows"),
    [
        ([[2.5, 3.25]], False, [[1, 2.5, 3], [1, 2, 3.25]]),
        ([[2.5, 3.25]], True, [[1, 2.5, 3], [1, 2, 3.25], [1, 2, 3]]),
        ([[2.5, 3.25], [1.5, 2.75]], False, [[1, 2.5, 3], [1, 2, 3.25], [1, 1.5, 3], [1, 2, 2.75]]),
        ([[2.5, 3.25], [1.5, 2.75]], True, [[1, 2.5, 3], [1, 2, 3.25], [1, 1.5, 3], [1, 2, 2.75], [1, 2, 3]]),
    ],
)
def test_each_copy_has_one_element_moved(points: list[list[float]], with_base: bool, rows: list[list[float]]) -> None:
    copies = PerturbedCopies([torch.tensor([1.0, 2.0, 3.0])], len(points), with_base)
    (batch,) = copies.batch(slice(1, 3), [torch.tensor(points)])
    assert torch.equal(batch, torch.tensor(rows))


def test_a_chunk_across_leaves_moves_one_element_of_one_leaf_in_each_row() -> None:
    first, second = torch.tensor([1.0, 2.0]), torch.tensor([[3.0], [4.0]])
    copies = PerturbedCopies([first, second], 2, with_base=False)
    points = [torch.tensor([[2.5], [1.5]]), torch.tensor([[3.25, 4.125], [2.75, 3.875]])]
    of_first, of_second = copies.batch(slice(1, 4), points)
    assert torch.equal(of_first, torch.tensor([[1, 2.5], [1, 2], [1, 2], [1, 1.5], [1, 2], [1, 2]]))
    moved = torch.tensor([[3, 4], [3.25, 4], [3, 4.125], [3, 4], [2.75, 4], [3, 3.875]])
    assert torch.equal(of_second, moved.view(6, 2, 1))


def test_the_base_point_is_restored_exactly_and_the_input_untouched() -> None:
    x = torch.tensor([0.1, 1e8, 0.3])
    points = torch.tensor([[7.0, 8.0, 9.0], [-1e9, 1e-9, 0.0]])
    copies = PerturbedCopies([x], 2, with_base=True)
    copies.batch(slice(0, 3), [points])
    (batch,) = copies.batch(slice(1, 2), [points[:, 1:2]])
    assert torch.equal(batch, torch.tensor([[0.1, 8.0, 0.3], [0.1, 1e-9, 0.3], [0.1, 1e8, 0.3]]))
    assert torch.equal(x, torch.tensor([0.1, 1e8, 0.3]))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_copies_are_the_same_whatever_came_before(size: int) -> None:
    x, points = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([[0.7, 0.8, 0.9], [-0.7, -0.8, -0.9]])
    used = PerturbedCopies([x], 2, with_base=True)
    for start in range(0, 3, size):
        chunk = slice(start, min(start + size, 3))
        fresh = PerturbedCopies([x], 2, with_base=True)
        assert torch.equal(used.batch(chunk, [points[:, chunk]])[0], fresh.batch(chunk, [points[:, chunk]])[0])


def test_a_single_copy_has_one_element_moved_at_a_time() -> None:
    first, second = torch.tensor([0.1, 2.0]), torch.tensor([[3.0], [4.0]])
    point = PerturbedPoint([first, second])
    assert [x.tolist() for x in point.at(1, 1, torch.tensor(9.0))] == [first.tolist(), [[3], [9]]]
    assert [x.tolist() for x in point.at(0, 0, torch.tensor(7.0))] == [[7, 2], [[3], [4]]]
    assert all(torch.equal(*pair) for pair in zip(point.base(), [first, second]))
    with LiveBytes(CPU) as tracker:
        point.at(0, 1, torch.tensor(5.0))
    assert tracker.peak_bytes <= 4  # the number itself
