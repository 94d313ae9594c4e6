"""A call leaves what it found: generators, modules' buffers, and tensors that the function writes to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from chunkjac._problem import Problem
from chunkjac._randomness import RandomState
from chunkjac._witness import Witness


@contextmanager
def left_as_found(problem: Problem) -> Iterator[Witness]:
    """Put back at the end what evaluations of the function change.

    The function runs once in reverse mode and many times in others; what it leaves behind would
    tell of that. Enter the witness that is given for the first evaluation.
    """
    generators = RandomState.now(problem.devices)
    # Those of compiled modules (torch.jit) are no dictionary, and cannot be replaced.
    found = (module._buffers for module in problem.modules)
    buffers = [(buffers, dict(buffers)) for buffers in found if isinstance(buffers, dict)]
    witness = Witness()
    try:
        yield witness
    finally:
        for current, before in buffers:
            if [*map(id, current.values())] != [*map(id, before.values())] or current.keys() != before.keys():
                current.clear()
                current.update(before)
        witness.restore()
        generators.restore()
