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

_RELEASE = ".".join(torch.__version__.split(".")[:2])


def known_nodes(what: str, mode: str) -> frozenset[str]:
    """Return the nodes that are right in a mode; none where another release of torch was looked at.

    Args:
        what: ``"differentiated"``, or ``"batched"`` by ``vmap``.
        mode: ``"backward"`` or ``"forward"``, and ``"second "`` before it.
    """
    told = _told()[what]
    nodes: frozenset[str] = told[mode] if told["release"] == _RELEASE else frozenset()
    return nodes


@cache
def _told() -> dict[str, dict[str, Any]]:
    """Read the file."""
    told = json.loads(Path(__file__).with_suffix(".json").read_text())
    return {
        what: {name: frozenset(part) if isinstance(part, list) else part for name, part in parts.items()}
        for what, parts in told.items()
    }
