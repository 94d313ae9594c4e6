"""Cases tried, one after the other; failures made small and written down."""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests.fuzz.cases import N_RUNS, Case, Maker
from tests.fuzz.coverage import Coverage
from tests.fuzz.shrinking import run, script, shrunk
from tests.fuzz.truth import Outcome, Truth, UnclearError, outcome_of
from tests.fuzz.ways import Way, some_ways

FAILURES = ("wrong", "crash", "over", "again", "left")
_N_WAYS = 5


@dataclass
class Fuzzer:
    """Try functions.

    Attributes:
        folder: Where scripts of failures go; nowhere if there is none, and then nothing is made small.
        coverage: What was met.
        failures: What failed, in words.
    """

    folder: Path | None = None
    coverage: Coverage = field(default_factory=Coverage)
    failures: list[str] = field(default_factory=list)

    def run(self, first_seed: int, *, seconds: float = float("inf"), n_cases: float = float("inf")) -> None:
        """Try cases from a seed on, for some time or some of them."""
        end_s, seed = time.perf_counter() + seconds, first_seed
        while time.perf_counter() < end_s and seed - first_seed < n_cases:
            self.try_seed(seed)
            seed += 1

    def try_seed(self, seed: int) -> None:
        """Try one case in some ways."""
        torch.manual_seed(seed)
        case = Maker(seed).case()
        try:
            truth = Truth(case.text, case.dtype, case.argnums, N_RUNS)
        except UnclearError as why:
            self.coverage.note_unclear(str(why))
            return
        self.coverage.note(case)
        for way in some_ways(random.Random(seed), _N_WAYS):
            if way.mode == "finite-difference" and truth.is_low:
                continue
            if self.folder is not None:
                (self.folder / "running.py").write_text(script(case, way, f"seed {seed}, running"))
            outcome = outcome_of(truth, way.mode, way.text(case.argnums))
            self.coverage.note_way(way, outcome)
            if outcome.kind in FAILURES:
                self._fail(seed, case, way, outcome)
                return  # other ways would tell the same

    def _fail(self, seed: int, case: Case, way: Way, outcome: Outcome) -> None:
        """Write a failure down."""
        if self.folder is not None:
            wanted = _sort_of(outcome)
            case, way = shrunk(case, way, lambda *smaller: _sort_of(run(*smaller)) == wanted)
        steps = "; ".join(step.text.replace("\n", " | ") for step in case.steps)
        title = f"seed {seed}, {way.mode} by {way.call}: {outcome.kind} {outcome.told.splitlines()[0][:200]}"
        told = f"{title}\n    {steps} -> {', '.join(case.outputs)}"
        self.failures.append(told)
        print(told, flush=True)
        if self.folder is not None:
            (self.folder / f"seed_{seed}_{len(self.failures)}.py").write_text(script(case, way, title))


def _sort_of(outcome: Outcome) -> str:
    """Return what two failures have in common that are of one kind."""
    return outcome.kind + (re.sub("[0-9.]+", "", outcome.told)[:40] if outcome.kind == "crash" else "")
