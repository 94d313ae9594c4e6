"""What is right: three referees, and what they say together."""

from __future__ import annotations

from functools import cached_property

import torch

from tests.operators import referees
from tests.operators.answers import Answer, ask
from tests.operators.cases import Case
from tests.operators.compare import agree, distance, equal, near, same_shapes
from tests.operators.referees import Differences, Jacobian


class Truth:
    """Know the Jacobian of one case. What a referee says is computed when it is asked for."""

    def __init__(self, case: Case) -> None:
        self.case = case

    @cached_property
    def rows(self) -> Answer:
        """Return what plain backward passes give."""
        return ask(lambda: referees.by_rows(self.case))

    @cached_property
    def columns(self) -> Answer:
        """Return what plain forward derivatives give."""
        return ask(lambda: referees.by_columns(self.case))

    @cached_property
    def differences(self) -> Differences | None:
        """Return central differences; nothing where the function cannot be evaluated near its point."""
        try:
            return referees.by_differences(self.case)
        except Exception:
            return None

    @property
    def is_smooth_somewhere(self) -> bool:
        """Tell whether differences can tell anything."""
        return self.differences is not None and any(bool(part.any()) for part in self.differences.smooth)

    def is_right(self, found: Jacobian) -> bool | None:
        """Tell whether each entry is right; ``None`` if nobody knows.

        An entry must be that of plain backward passes or of plain forward derivatives, which may take
        different sides of a kink; and it must be that of differences where the function is smooth.
        """
        if self.rows.parts is not None and equal(found, self.rows.parts):
            return self.fits_differences(found)
        plain = [answer.parts for answer in (self.rows, self.columns) if answer.parts is not None]
        if not plain:
            return self.fits_differences(found) if self.is_smooth_somewhere else None
        if not all(same_shapes(found, parts) for parts in plain):
            return False
        plainly = all(
            bool(torch.stack([agree(a, b) for b in others]).any(0).all()) for a, *others in zip(found, *plain)
        )
        return plainly and self.fits_differences(found)

    def fits_differences(self, found: Jacobian) -> bool:
        """Tell whether entries are those of differences wherever the function is smooth."""
        known = self.differences
        if known is None:
            return True
        triples = zip(found, known.values, known.smooth)
        return same_shapes(found, known.values) and all(bool((near(a, b) | ~smooth).all()) for a, b, smooth in triples)

    def how_wrong(self, found: Jacobian) -> str:
        """Return the distance from the first referee that there is, for people."""
        known = {
            "plain backward passes": self.rows.parts,
            "plain forward derivatives": self.columns.parts,
            "differences": None if self.differences is None else self.differences.values,
        }
        words = [f"{distance(found, parts):.1e} from {name}" for name, parts in known.items() if parts is not None]
        return "off by " + ", ".join(words)
