"""Blocks of directions, by hand and by what must hold whatever the sizes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from chunkjac._chunker.partition import Partition
from chunkjac._chunker.slices import Segment

SIZES = [(), (0,), (1,), (7,), (5, 0, 3), (0, 0, 130), (1000, 1)]


def test_blocks_by_hand() -> None:
    partition = Partition((5, 0, 3), (2, 4, 4))
    assert partition.n_blocks == 4
    assert list(partition.blocks()) == [slice(0, 2), slice(2, 4), slice(4, 5), slice(5, 8)]
    assert partition.block(2) == slice(4, 5)
    assert partition.part(2) == Segment(0, slice(0, 1), slice(4, 5))
    assert partition.part(3) == Segment(2, slice(0, 3), slice(0, 3))
    assert list(partition.missing({0, 2, 9})) == [1, 3]
    assert list(partition.missing(dict.fromkeys(range(4), ()))) == []


@pytest.mark.parametrize(
    ("size", "chunk_size", "most", "block_size"),
    [
        (640, 1, 100, 10),  # 64 blocks
        (641, 1, 100, 11),
        (640, 1, 4, 4),
        (640, 3, 100, 9),  # whole chunks
        (640, 3, 2, 3),  # one at least
        (640, 50, 100, 50),
        (10, 4, 100, 4),
        (0, 4, 100, 4),
    ],
)
def test_a_block_is_a_few_chunks(size: int, chunk_size: int, most: int, block_size: int) -> None:
    assert Partition.of([size], chunk_size, most) == Partition((size,), (block_size,))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7])
@pytest.mark.parametrize("most", [1, 4, 1000])
def test_each_direction_is_in_one_block(sizes: tuple[int, ...], chunk_size: int, most: int) -> None:
    partition = Partition.of(sizes, chunk_size, most)
    blocks = list(partition.blocks())
    assert len(blocks) == partition.n_blocks
    assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(sum(sizes)))
    assert all(block.stop > block.start for block in blocks)
    ends = {sum(sizes[: i + 1]) for i in range(len(sizes))}
    for number, block in enumerate(blocks):
        assert partition.block(number) == block
        assert (block.stop - block.start) % chunk_size == 0 or block.stop in ends
        part = partition.part(number)
        before = sum(sizes[: part.leaf])
        assert (before + part.elements.start, before + part.elements.stop) == (block.start, block.stop)
        assert part.elements.stop <= sizes[part.leaf]
    assert all(before.stop == after.start for before, after in pairwise(blocks))
    for finished in (set(), {0}, set(range(0, len(blocks), 2)), set(range(len(blocks)))):
        assert {*partition.missing(finished)} == {*range(len(blocks))} - finished
