"""What the runs of a plan remember of linear programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import torch

from chunkjac._chunker import Knee
from chunkjac._problem import Outputs
from chunkjac._programs.graph.graph import Graph
from chunkjac._programs.graph.script import Script
from chunkjac._programs.replay.forms import Form
from chunkjac._programs.replay.program import Program
from chunkjac._programs.replay.running import Running
from chunkjac._programs.tracing import Trace

# Whole runs that are shorter are timed both with and without a program: its prologue may take what it saves.
SHORT_S = 0.2

# So often each: others may use the machine. Runs of less than 20 ms are the noisier, and more of them are worth it.
_TURNS, _TURNS_OF_TINY, _TINY_S = 2, 4, 0.02


def why_slower(each_s: float, plain_s: float, most: float = 1.0) -> str:
    """Say that a program takes longer than it may; empty where that is not so.

    Args:
        each_s: How long a direction takes by it.
        plain_s: How long one takes without.
        most: Which part of that it may take.
    """
    if each_s <= most * plain_s:
        return ""
    return f"it takes {each_s * 1e3:.3g} ms for a direction, {plain_s * 1e3:.3g} ms without one"


@dataclass(frozen=True, slots=True)
class SeenByDifferences:
    """Hold what finite differences have seen of a function.

    Attributes:
        outputs: What it returns.
        eps: The largest machine epsilon among the results of its operations.
        n_operations: How many operations it takes.
        has_products: Whether matrix products are among them.
        largest_bytes: The size of the largest tensor among their results.
    """

    outputs: Outputs
    eps: float
    n_operations: int
    has_products: bool
    largest_bytes: int


@dataclass(slots=True)
class ModeRecord:
    """Hold what is remembered of a mode, or of one way through it.

    Attributes:
        trace: The recorded direction.
        batch: The same for a telling number of directions at once, and that number.
        script: The calls of the evaluation of perturbed copies that a program was made of.
        programs: The programs that were made of direction or evaluation, by how many directions they take at once.
        proven: Those sizes of which a block was compared with one direction.
        knee: Which size is fastest.
        running: Programs in memory that are not in use.
        forms: How steps run, where they are compiled.
        weights: How rows are weighed against each other, by how large they were in an earlier run.
        with_s: How long whole runs took by a program.
        without_s: The same for runs without one.
        steps_s: How long a direction took in each run by a program.
        direction_s: The least time that a direction took without one.
        refused: Why no program can be made; empty where that is not so.
        is_fused: Whether it may have layers whose kernels do all at once, which are taken apart to be recorded.
        rung: The way in which perturbed copies were evaluated in the last run, which is only tried first.
    """

    trace: Trace | None = None
    batch: tuple[Graph, int] | None = None
    script: Script | None = None
    programs: dict[int, Program] = field(default_factory=dict)
    proven: set[int] = field(default_factory=set)
    knee: Knee | None = None
    running: dict[int, Running] = field(default_factory=dict)
    forms: dict[int, Form] = field(default_factory=dict)
    weights: torch.Tensor | None = None
    with_s: list[float] = field(default_factory=list)
    without_s: list[float] = field(default_factory=list)
    steps_s: list[float] = field(default_factory=list)
    direction_s: float = inf
    refused: str = ""
    is_fused: bool = False
    rung: str = ""

    def why_slower(self) -> str:
        """Say that programs take longer than what is done without one; empty where that is not so."""
        return why_slower(min(self.steps_s, default=0.0), self.direction_s)

    def note_without(self, seconds: float) -> None:
        """Take in how long a whole run took that nobody meant to time, while that is not known."""
        if len(self.without_s) < _TURNS_OF_TINY:
            self.without_s.append(seconds)

    def keep_only(self, size: int) -> None:
        """Let go of programs of other sizes, which were trials."""
        self.programs = {key: value for key, value in self.programs.items() if key == size}
        self.hold_only(size)

    def hold_only(self, size: int) -> None:
        """Give back the memory of programs of other sizes."""
        self.running = {key: value for key, value in self.running.items() if key == size}

    def forget(self) -> None:
        """Let go of what was recorded: the function has changed."""
        self.trace = self.script = self.batch = self.knee = self.weights = None
        self.programs, self.proven, self.running, self.forms = {}, set(), {}, {}


@dataclass(slots=True)
class Records:
    """Hold the programs of a plan, which all of its runs share.

    Attributes:
        is_kept: Whether another run may follow.
        compiles: Whether steps are compiled, and programs used at once.
        n_runs: How many runs are finished.
        spent_s: What they took, all together.
        records: What is remembered, by mode, and by which graph of autograd's.
        has_told: Whether somebody was told why steps cannot be compiled.
    """

    is_kept: bool = True
    compiles: bool = False
    n_runs: int = 0
    spent_s: float = 0.0
    records: dict[str, ModeRecord] = field(default_factory=dict)
    has_told: bool = False

    def of(self, way: str) -> ModeRecord:
        """Return what is remembered of a way to differentiate."""
        return self.records.setdefault(way, ModeRecord())

    def wants(self, way: str) -> bool:
        """Tell whether a run is to be by a program: from the second on, and in short jobs while that is faster.

        Some runs of a short job are made without one, and timed, after as many with one.
        """
        record = self.of(way)
        if record.refused or self.compiles:
            return not record.refused
        least_s = min(record.with_s, default=SHORT_S)
        n_turns = _TURNS_OF_TINY if least_s < _TINY_S else _TURNS
        if len(record.with_s) < n_turns or least_s > SHORT_S:
            return self.n_runs > 0
        return len(record.without_s) >= n_turns and least_s <= min(record.without_s)

    def records_plainly(self, way: str) -> bool:
        """Tell whether a direction is to be recorded of a function with fused layers."""
        return self.of(way).is_fused and self.wants(way)

    def new_trouble(self) -> str:
        """Say what keeps steps from being compiled, once; empty for nothing."""
        forms = (form for record in self.records.values() for form in record.forms.values())
        trouble = next((form.trouble for form in forms if form.trouble), "")
        is_new, self.has_told = not self.has_told, self.has_told or bool(trouble)
        return trouble if is_new else ""
