"""What the runs of a plan remember of linear programs."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from chunkjac._linear._batching import Batch
from chunkjac._linear._contest import Form
from chunkjac._linear._fingerprint import fingerprint
from chunkjac._linear._tracing import Trace
from chunkjac._problem import Problem

# Whole runs that are shorter are timed both with and without a program: its prologue may take what it saves.
SHORT_S = 0.2

# A comparison with one direction is made in each run in which it takes no more than that of its time.
_CHECK_SHARE = 0.05


@dataclass(slots=True)
class Programs:
    """Hold the programs of a plan, which all of its runs share.

    Attributes:
        is_kept: Whether another run may follow.
        compiles: Whether steps are compiled, and programs used at once.
        n_runs: How many runs are finished.
        traces: The recorded direction of each mode.
        batches: The steps that were made of it, by mode and chunk size.
        forms: How those steps run, where they are compiled.
        trusted: What the functions looked like when their programs were compared with one direction.
        plain: The rungs whose batches were compared with one direction, and what the function looked like then.
        timings_s: How long whole runs took, by mode: by a program, and without one.
        direction_s: The least time that a direction took without a program, by mode.
        refused: Why no program can be made of a mode, where that is so.
        has_told: Whether somebody was told why steps cannot be compiled.
        check_s: How long that comparison took, with all that it needs.
        step_s: How long all chunks took.
    """

    is_kept: bool = True
    compiles: bool = False
    n_runs: int = 0
    traces: dict[str, Trace] = field(default_factory=dict)
    batches: dict[tuple[str, int], Batch] = field(default_factory=dict)
    forms: dict[tuple[str, int], Form] = field(default_factory=dict)
    trusted: dict[str, Hashable] = field(default_factory=dict)
    plain: dict[str, tuple[str, Hashable]] = field(default_factory=dict)
    timings_s: dict[tuple[str, bool], float] = field(default_factory=dict)
    direction_s: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    has_told: bool = False
    check_s: dict[str, float] = field(default_factory=dict)
    step_s: dict[str, float] = field(default_factory=dict)

    def wants(self, mode: str) -> bool:
        """Tell whether the next run is to be by a program: from the second on, and in short jobs while that is faster.

        The fourth run of a short job is made without one, and timed.
        """
        if mode in self.refused or self.compiles:
            return mode not in self.refused
        with_s, without_s = self.timings_s.get((mode, True)), self.timings_s.get((mode, False))
        if with_s is None or with_s > SHORT_S:
            return self.n_runs > 0
        return without_s is not None and with_s <= without_s

    def trusts_batches(self, mode: str, rung: str, problem: Problem) -> bool:
        """Tell whether a rung's batches were compared with one direction in an earlier run, and nothing has changed."""
        return mode in self.plain and self.plain[mode] == (rung, fingerprint(problem))

    def trusts(self, mode: str, problem: Problem) -> bool:
        """Tell whether a program need not be compared with one direction again, but only its values.

        It was before, nothing that can be seen of the function has changed, and the comparison
        would take more than a small part of the job.
        """
        known = self.traces.get(mode)
        if known is None or not known.fits(problem) or mode not in self.trusted or not self.wants(mode):
            return False
        is_dear = self.check_s.get(mode, 0.0) > _CHECK_SHARE * self.step_s.get(mode, 0.0)
        return is_dear and self.trusted[mode] == fingerprint(problem)

    def forget(self, mode: str) -> None:
        """Let go of a mode's programs: the function has changed."""
        self.traces.pop(mode, None)
        self.trusted.pop(mode, None)
        self.batches = {key: value for key, value in self.batches.items() if key[0] != mode}
        self.forms = {key: value for key, value in self.forms.items() if key[0] != mode}

    def new_trouble(self) -> str:
        """Say what keeps steps from being compiled, once; empty for nothing."""
        trouble = next((form.trouble for form in self.forms.values() if form.trouble), "")
        is_new, self.has_told = not self.has_told, self.has_told or bool(trouble)
        return trouble if is_new else ""
