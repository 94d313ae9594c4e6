"""What every mode is: a way to make the blocks of one problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from chunkjac._chunker import Directions
from chunkjac._problem import Leaf, Outputs, Problem
from chunkjac._programs import Records, Usage
from chunkjac._tensors import Tensors


class OtherWayError(Exception):
    """Say that a block was not made, and is to be asked for again: the mode goes on in another way."""


# A method for each question that planning and running ask of a mode; most have an answer here that suits most modes.
class Mode(Protocol):
    """Make blocks.

    A mode is made by running its prologue, so whatever it keeps is alive from then on. A block is
    ``(k, *leaf.shape)`` for each of ``block_leaves``.

    Attributes:
        name: The mode's name.
        rung: The way in which it runs.
        reasons: Why it runs in no faster way.
        problem: The function and its inputs.
        outputs: What the function returns.
        directions: What blocks have rows for: elements of the outputs, or of the inputs.
        by_rows: Whether directions are rows of the Jacobian (outputs), or columns (inputs).
        flows: Whether any output depends on an input as far as the mode sees.
        fell: Whether it runs in a way that is slower than its first.
    """

    name: ClassVar[str]
    by_rows: ClassVar[bool]
    problem: Problem
    directions: Directions

    @property
    def reasons(self) -> tuple[str, ...]: ...

    @property
    def flows(self) -> bool: ...

    @property
    def fell(self) -> bool: ...

    @property
    def rung(self) -> str: ...

    @property
    def outputs(self) -> Outputs: ...

    @property
    def seeds_per_direction(self) -> int:
        """Return how many seeds, or perturbed copies, a direction takes."""
        ...

    @property
    def largest_bytes(self) -> int:
        """Return what the largest tensor of a direction takes; 0 if only those who count memory can tell."""
        ...

    @property
    def batched(self) -> bool:
        """Tell whether the directions of a chunk are computed together, so that larger chunks are faster."""
        ...

    @property
    def writes_in_place(self) -> bool:
        """Tell whether the next block is made in places that are lent for it."""
        ...

    @property
    def gives_away(self) -> bool:
        """Tell whether the last block's memory is nobody else's, so that whoever asked for it may keep it."""
        ...

    @property
    def is_long(self) -> bool:
        """Tell whether the whole takes long, however fast a direction is: so that preparing for it may pay."""
        ...

    @property
    def is_new(self) -> bool:
        """Tell whether the next block begins another way, which holds other memory than those before."""
        ...

    def program_bytes(self, direction_bytes: int) -> int:
        """Return what the next chunk by a program takes beside what is in memory before it; 0 where none is ready.

        Args:
            direction_bytes: What a direction takes without one: there are chunks that are compared with that.
        """
        ...

    def use_programs(self, programs: Records, usage: Usage) -> None:
        """Let blocks be made in a faster way that is worth preparing, if there is one.

        Args:
            programs: What earlier runs of the plan have recorded; it takes what this one records.
            usage: What this run lets them do.
        """
        ...

    def repeats_what_was_counted(self, n_left: int) -> bool:
        """Tell whether the way in which the mode goes on holds what it has held in an earlier run of the plan."""
        ...

    def wanted_size(self, n_left: int) -> int | None:
        """Return the only chunk size that fits the way in which the mode goes on; ``None`` if any does.

        What that way needs is prepared here.
        """
        ...

    def block(self, chunk: slice, places: Tensors | None = None) -> Tensors:
        """Compute a block. It holds until the next one is asked for.

        Args:
            chunk: The directions.
            places: Tensors like the block's, which may be taken for its own.

        Raises:
            OtherWayError: The way in which the mode ran is given up; the block is to be asked for again.
        """
        ...

    def is_confirmed(self) -> bool:
        """Tell whether all blocks so far are right, as far as numbers tell.

        If not, the mode has given up the way in which it made them, and they are to be asked for again.
        """
        ...

    def release(self) -> None:
        """Give back the memory of buffers; the next block takes it again."""
        ...

    def close(self) -> None:
        """Give back all memory; no block is asked for after that."""
        ...


def block_leaves(mode: Mode) -> Sequence[Leaf]:
    """Return the leaves that a block has values for."""
    return mode.problem.leaves if mode.by_rows else mode.outputs.leaves


def is_empty(mode: Mode) -> bool:
    """Tell whether the Jacobian has no elements: then there is nothing to compute."""
    return not all(sum(leaf.numel for leaf in leaves) for leaves in (mode.problem.leaves, mode.outputs.leaves))


def least_direction_bytes(mode: Mode) -> int:
    """Return the least that a direction can hold: its seed and its block."""
    return sum(leaf.n_bytes for leaf in (*mode.problem.leaves, *mode.outputs.leaves))


def result_bytes(mode: Mode) -> int:
    """Return the bytes of the whole Jacobian."""
    return sum(seed.numel * block.n_bytes for seed in mode.directions.leaves for block in block_leaves(mode))


@dataclass(frozen=True, slots=True)
class ModeSummary:
    """Hold what a plan says of a mode, without the tensors that the mode holds; ``seed_bytes`` are a direction's."""

    name: str
    rung: str
    n_inputs: int
    n_outputs: int
    n_directions: int
    flows: bool
    seed_bytes: int
    result_bytes: int

    @classmethod
    def of(cls, mode: Mode) -> ModeSummary:
        """Describe a mode."""
        return cls(
            name=mode.name,
            rung=mode.rung,
            n_inputs=sum(leaf.numel for leaf in mode.problem.leaves),
            n_outputs=sum(leaf.numel for leaf in mode.outputs.leaves),
            n_directions=mode.directions.n,
            flows=mode.flows,
            seed_bytes=mode.seeds_per_direction * sum(leaf.n_bytes for leaf in mode.directions.leaves),
            result_bytes=result_bytes(mode),
        )


MODES = ("auto", "reverse", "forward", "finite-difference")
