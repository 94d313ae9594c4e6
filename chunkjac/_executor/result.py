"""What a job gives."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from chunkjac._planner import Job, Report
from chunkjac._problem import Outputs
from chunkjac._sinks import ResultSink


@dataclass(frozen=True, slots=True)
class Result:
    """Hold what a job gives.

    Attributes:
        jacobian: The tree of tensors; ``None`` where a callback has had it.
        aux: The function's auxiliary result.
        report: What happened, if it is wanted.
        sink: Where the Jacobian is.
        outputs: What the function returns.
    """

    jacobian: Any
    aux: Any
    report: Report | None
    sink: ResultSink
    outputs: Outputs

    def deliver(self, job: Job) -> Any:
        """Return what the user gets: the Jacobian, and what else the job asks for."""
        aux = [self.aux] if job.problem.has_aux else []
        parts = (self.jacobian, *aux, *([self.report] if job.return_report else []))
        return parts if len(parts) > 1 else self.jacobian


# A job step by step: what was written last is yielded; nothing is computed before it is asked for.
Writing = Generator[slice, None, Result]
