"""Directions that are no single elements: blocks are the same combinations of the Jacobian's rows or columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from chunkjac._chunker.counting import ChunkRoom
from chunkjac._chunker.directions import Directions, ElementDirections
from chunkjac._chunker.seeds import Seeds
from chunkjac._chunker.slices import Segment, segments
from chunkjac._modes.derivatives.derivative import Derivative
from chunkjac._modes.derivatives.forward import Forward
from chunkjac._modes.derivatives.reverse import Reverse
from chunkjac._problem.leaves import Leaf
from chunkjac._problem.problem import Problem
from chunkjac._programs.records import Records
from chunkjac._programs.usage import Usage
from chunkjac._sinks.tensor import TensorSink
from tests.hard import OldSine

D = torch.float64
Make = Callable[[Sequence[Leaf]], Directions]


@dataclass(frozen=True)
class Colours:
    """Let element i be of the colour i modulo three."""

    leaves: Sequence[Leaf]
    n = 3
    are_elements = False

    def parts(self, chunk: slice) -> Iterator[Segment]:
        sizes = [leaf.numel for leaf in self.leaves]
        for row, colour in enumerate(range(3)[chunk]):
            for element in range(colour, sum(sizes), 3):
                (own,) = segments(slice(element, element + 1), sizes)
                yield Segment(own.leaf, slice(row, row + 1), own.elements)


@dataclass(frozen=True)
class Neighbours:
    """Let direction i be the elements 2 i and 2 i + 1 of the first leaf: every second one of a slice."""

    leaves: Sequence[Leaf]
    are_elements = False

    @property
    def n(self) -> int:
        return self.leaves[0].numel // 2

    def parts(self, chunk: slice) -> Iterator[Segment]:
        stop = min(chunk.stop, self.n)
        for first in (0, 1):
            yield Segment(0, slice(0, stop - chunk.start), slice(2 * chunk.start + first, 2 * stop, 2))


@dataclass(frozen=True)
class Samples:
    """Let direction i be element i of all samples: those of the first leaf's first dimension."""

    leaves: Sequence[Leaf]
    are_elements = False

    @property
    def n(self) -> int:
        return self.leaves[0].numel // self.leaves[0].shape[0]

    def parts(self, chunk: slice) -> Iterator[Segment]:
        stop = min(chunk.stop, self.n)
        for start in range(0, self.leaves[0].numel, self.n):
            yield Segment(0, slice(0, stop - chunk.start), slice(start + chunk.start, start + stop))


KINDS: tuple[Make, ...] = (ElementDirections, Colours, Neighbours, Samples)
MODES: tuple[type[Reverse] | type[Forward], ...] = (Reverse, Forward)

_NET = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4)).to(D)


def _pair(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Map two inputs, of 2 by 4 and of 3 elements, to two outputs, of 2 by 4 and of 3."""
    made = _NET(a)
    return made.sin() * b.sum(), b * made.sum(0)[:3]


def _curved(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Do that, and a sine more."""
    first, second = _pair(a, b)
    return first.sin(), second


def _old(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Do the same with an operation that no ``vmap`` takes."""
    first, second = _pair(a, b)
    return OldSine.apply(first), second


def _problem(func: Callable[..., Any]) -> Problem:
    generator = torch.Generator().manual_seed(0)
    args = tuple(torch.randn(shape, dtype=D, generator=generator) for shape in [(2, 4), (3,)])
    return Problem.of(func, args, (0, 1), has_aux=False)


def _combined(made: Derivative) -> torch.Tensor:
    """Return all blocks as they should be, beside one another: combinations of what torch.func tells."""
    func = _curved if made.problem.func is _old else made.problem.func
    whole = torch.func.jacrev(func, (0, 1))(*made.problem.inputs)
    jacobian = _matrix(whole, made)
    return torch.stack([jacobian[elements].sum(0) for elements in _elements(made.directions)])


def _matrix(tree: Any, made: Derivative) -> torch.Tensor:
    """Return a Jacobian with a row for each element that directions are made of."""
    rows = torch.cat([torch.cat([x.reshape(m, -1) for x in row], 1) for m, row in zip((8, 3), tree)])
    return rows if made.by_rows else rows.mT


def _elements(directions: Directions) -> list[list[int]]:
    """Return the numbers of the elements of each direction."""
    found: list[list[int]] = [[] for _ in range(directions.n)]
    for part in directions.parts(slice(0, directions.n)):
        own = (range(8), range(8, 11))[part.leaf][part.elements]
        for row, element in zip(range(part.rows.start, part.rows.stop), own, strict=True):
            found[row].append(element)
    return found


def _chunks(made: Derivative, size: int) -> list[slice]:
    n = made.directions.n
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _beside(block: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return what a block has for several leaves as one matrix."""
    return torch.cat([values.flatten(1) for values in block], 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 5, 20])
def test_seeds_are_one_where_directions_lie(kind: Make, size: int) -> None:
    directions = kind([Leaf.of(torch.zeros(2, 4, dtype=D)), Leaf.of(torch.zeros(3, dtype=D))])
    seeds = Seeds(directions)
    expected = {ElementDirections: 11, Colours: 11, Neighbours: 8, Samples: 8}[kind]
    found = torch.zeros(0, 11, dtype=D)
    for start in range(0, directions.n, size):  # the last one goes on behind the last direction, where all is zero
        rows = _beside(seeds.batch(slice(start, start + size)))
        assert len(rows) == size
        found = torch.cat([found, rows])
    assert found.sum() == expected
    assert torch.equal(found.sum(0), (torch.arange(11) < expected).to(D))
    assert not found[directions.n :].any()
    if kind is ElementDirections:
        assert torch.equal(found[:11], torch.eye(11, dtype=D))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [1, 2, 20])
@pytest.mark.parametrize("func", [_pair, _old])
def test_blocks_are_combinations_on_every_rung(kind: Make, mode: Any, size: int, func: Callable[..., Any]) -> None:
    made = mode(_problem(func), directions=kind)
    found = torch.cat([_beside(made.block(chunk)) for chunk in _chunks(made, size)])
    assert made.fell == (func is _old)
    torch.testing.assert_close(found, _combined(made))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [2, 3])
def test_a_linear_program_makes_the_same_combinations(kind: Make, mode: Any, size: int) -> None:
    made = mode(_problem(_pair), directions=kind)
    usage = Usage(exact_size=size, room=ChunkRoom(2**62), counts_again=False, is_counted=False, is_timed=False)
    made.use_programs(Records(), usage)
    done, blocks = 0, []
    while done < made.directions.n:
        size = made.wanted_size(made.directions.n - done)
        blocks.append(_beside(made.block(slice(done, done + size))).clone())
        done += size
        assert made.rung == "linear program"
    torch.testing.assert_close(torch.cat(blocks), _combined(made))
    made.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_a_sink_puts_each_row_where_its_direction_lies(kind: Make, mode: Any) -> None:
    made = mode(_problem(_pair), directions=kind)
    sink = TensorSink(made, keeps=True)
    for chunk in _chunks(made, 2):
        sink.write(chunk, made.block(chunk, sink.places(chunk)))
    found, combined = _matrix(sink.result(), made), _combined(made)
    for row, (element, *others) in enumerate(_elements(made.directions)):
        for each in (element, *others):
            torch.testing.assert_close(found[each], combined[row])
