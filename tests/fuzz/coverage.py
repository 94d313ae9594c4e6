"""What was met, and how often."""

from __future__ import annotations

import re
from collections import Counter

from tests.fuzz.cases import Case
from tests.fuzz.grammar import GROUPS
from tests.fuzz.truth import Outcome
from tests.fuzz.ways import Way


class Coverage:
    """Count operators, modes, rungs, budgets and outcomes."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.n_cases = self.n_ways = 0

    def note(self, case: Case) -> None:
        """Take in a case that is tried."""
        self.n_cases += 1
        for step in case.steps:
            self._add("statements", step.name)
        for argument in case.inputs:
            self._add("inputs", argument.kind)
        self._add("precision", case.dtype)

    def note_way(self, way: Way, outcome: Outcome) -> None:
        """Take in what came of a way."""
        self.n_ways += 1
        self._add("calls", way.call)
        self._add("modes", way.mode)
        self._add("chunk sizes", str(way.options.get("chunk_size", "planned")))
        self._add("budgets", f"{way.budget:g} times what is needed" if way.budget else "none")
        self._add("outcomes", outcome.kind)
        for rung in outcome.rungs:
            self._add("runs by rung", rung)
        if outcome.kind in ("refused", "cannot"):
            self._add("errors", f"{outcome.kind}: {re.sub('[0-9]+', 'N', outcome.told)[:110]}")

    def note_unclear(self, why: str) -> None:
        """Take in a case that tells nothing."""
        self._add("cases that tell nothing", why[:60])

    def __str__(self) -> str:
        kinds = [kind for kinds, _ in GROUPS.values() for kind in kinds]
        met = self.counts.get("statements", Counter())
        lines = [f"{self.n_cases} functions in {self.n_ways} ways; {len(met)} of {len(kinds)} kinds of statements"]
        for title, counted in sorted(self.counts.items()):
            lines.append(f"{title}:")
            lines += [f"  {n:6}  {name}" for name, n in counted.most_common()]
        missed = [kind.name for kind in kinds if kind.name not in met]
        return "\n".join([*lines, "never met:", *(f"          {name}" for name in missed)])

    def _add(self, title: str, name: str) -> None:
        self.counts.setdefault(title, Counter())[name] += 1
