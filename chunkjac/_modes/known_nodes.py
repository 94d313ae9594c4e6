"""Nodes of autograd's graph that are known to be right: differentiated, or batched.

``known_nodes.json`` holds them, and how many samples tell it: ``python -m tests.operators.derivatives`` and
``python -m tests.operators.batching`` write it. ``second`` is of functions that differentiate something themselves;
there stand nodes of what they differentiate, and of the derivative.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

RELEASE = ".".join(torch.__version__.split(".")[:2])
FILE = Path(__file__).with_suffix(".json")


def known_nodes(what: str, mode: str) -> frozenset[str]:
    """Return the nodes that are right in a mode; none where this release of torch was not looked at.

    Args:
        what: ``"differentiated"``, or ``"batched"`` by ``vmap``.
        mode: ``"backward"`` or ``"forward"``, and ``"second "`` before it.
    """
    return _found(what, RELEASE).get(mode, frozenset())


@cache
def _found(what: str, release: str) -> dict[str, frozenset[str]]:
    """Read what was found for a release of torch."""
    told: dict[str, Any] = json.loads(FILE.read_text())[what].get(release, {})
    return {mode: frozenset(nodes) for mode, nodes in told.items() if isinstance(nodes, list)}
