"""The walk in the documentation is the way that a call takes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import chunkjac as cj
from tests.tree import PAGE

ROOT = f"{Path(cj.__file__).parent}/"
PARTS = dict(
    re.findall(r"^\*\*(.+?)\*\*(.*?)\n\n", PAGE.read_text().split("## A walk")[1].split("\n## ")[0], re.M | re.S)
)


def _way() -> list[str]:
    """Return the files that run while the walk's Jacobian is computed, one after the other."""
    net = torch.nn.Sequential(torch.nn.Linear(100, 200), torch.nn.GELU(), torch.nn.Linear(200, 50))
    x = torch.randn(100)
    within: list[str] = []
    found: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if event in ("call", "return") and file.startswith(ROOT):
            within.append(file[len(ROOT) : -len(".py")]) if event == "call" else within.pop()
            found.extend(within[-1:])

    sys.setprofile(note)
    try:
        cj.jacobian(net, x, max_memory="8MiB")
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize("name", PARTS)
def test_the_walk_goes_where_a_call_goes(name: str) -> None:
    ahead = iter(_way())
    for file in re.findall(r"`(_\w+(?:/\w+)*)`", PARTS[name]):
        assert file in ahead, f"{file} does not come next"
