"""Where blocks are to go: one value with a name, its bytes, what it refuses, and its sink."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from chunkjac._errors import ArgumentError
from chunkjac._memory import LiveBytes
from chunkjac._modes import Mode
from chunkjac._sinks.sink import ResultSink


@dataclass(frozen=True, slots=True)
class Allowance:
    """Say what a sink may take.

    Attributes:
        n_bytes: What it and chunks may hold together.
        tracker: What counts live bytes.
        keeps: Whether a block that is the whole result may be kept as it is.
    """

    n_bytes: int
    tracker: LiveBytes
    keeps: bool = False


class Destination(ABC):
    """Say where blocks are to go. There is one kind for each that ``out`` may be, beside its sink.

    Attributes:
        allocates_result: Whether the Jacobian is allocated where the function runs.
        is_repeatable: Whether blocks must come out the same in another run: the job is planned first, and no clock
            decides how they are made.
        fixed_chunk_size: The size that all chunks have for that, once the job has begun.
        why_no_graph: Why its result cannot be differentiated, for people.
        why_unverified: Why it cannot be checked.
    """

    allocates_result = False
    is_repeatable = False
    fixed_chunk_size: int | None = None
    why_no_graph = "cannot write into out=, which has no graph"
    why_unverified = ""

    @property
    @abstractmethod
    def name(self) -> str:
        """Return what a plan calls it."""

    @property
    def known_mode(self) -> str | None:
        """Return the mode of what is there already."""
        return None

    def held_bytes(self, _mode: Mode, _left_bytes: int) -> int:
        """Return what its sink allocates where the function runs, for as long as the job runs.

        Args:
            mode: What makes the blocks.
            left_bytes: What sink and chunks may hold together.
        """
        return 0

    def refuse(self, *, create_graph: bool, verify: int) -> None:
        """Refuse what would need a Jacobian that is not there, or one with a graph.

        Raises:
            ArgumentError: The message names both options.
        """
        if create_graph and self.why_no_graph:
            raise ArgumentError(f"create_graph=True {self.why_no_graph}; leave one of the two out.")
        if verify and self.why_unverified:
            raise ArgumentError(
                f"verify checks the finished Jacobian, which {self.why_unverified}; leave one of the two out."
            )

    def check(self, _mode: Mode) -> None:  # noqa: B027 - most take any
        """Refuse a result that cannot be taken, before there is one.

        Raises:
            ArgumentTypeError, ArgumentError: It says why.
        """

    def resumed(self, resume: bool) -> Destination:
        """Return the same with another answer to whether what is there is gone on with.

        Raises:
            ArgumentError: Nothing outlives a job there.
        """
        if resume:
            raise ArgumentError("resume=True goes on with a file; give its path as out.")
        return self

    def begun(self, _size: int) -> Destination:
        """Return that of a job that begins now.

        Args:
            size: The chunk size, if all chunks have one.
        """
        return self

    @abstractmethod
    def sink(self, mode: Mode, allowance: Allowance) -> ResultSink:
        """Return what takes the blocks.

        Args:
            mode: What makes them.
            allowance: What the sink may take.

        Raises:
            ArgumentTypeError, ArgumentError, StoreError: It cannot take the result.
        """
