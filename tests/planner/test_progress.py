"""A bar is for people; no job depends on it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

import chunkjac as cj


class Logger:
    """What many programs put in the place of stderr."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


class Broken(Logger):
    """A pipe that nobody reads any more, or a full disk."""

    def write(self, text: str) -> int:
        raise OSError(28, "no space")

    def flush(self) -> None:
        raise OSError(28, "no space")


def closed() -> Any:
    stream = io.StringIO()
    stream.close()
    return stream


STREAMS: dict[str, Callable[[], Any]] = {"none": lambda: None, "logger": Logger, "broken": Broken, "closed": closed}


@pytest.mark.parametrize("progress", [None, True])
@pytest.mark.parametrize("name", STREAMS)
def test_without_a_usable_stderr_there_is_no_bar_but_a_jacobian(
    name: str, progress: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", STREAMS[name]())
    x = torch.zeros(3)
    for call in (cj.jacobian, cj.gram, lambda f, x, **given: cj.plan(f, x, **given).run()):
        assert torch.equal(call(torch.sin, x, progress=progress), torch.eye(3))


def test_a_bar_is_written_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    cj.jacobian(torch.sin, torch.zeros(3), progress=True)
    assert "3.00/3.00" in sys.stderr.getvalue()
