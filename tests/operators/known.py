"""Faults that are known, and why they stand; any other fails the tests, and so does one that is gone."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Patterns of "operator mode: outcome ...".
KNOWN = {
    r"as_strided\.partial_views forward: missing: .*": "reads memory beside its input, of which a copy is evaluated",
}


def unknown(faults: Iterable[str]) -> list[str]:
    """Return the faults that nobody knows."""
    return [fault for fault in faults if not any(re.fullmatch(pattern, fault) for pattern in KNOWN)]


def gone(faults: Iterable[str]) -> list[str]:
    """Return the patterns that nothing fits any more."""
    found = list(faults)
    return [pattern for pattern in KNOWN if not any(re.fullmatch(pattern, fault) for fault in found)]
