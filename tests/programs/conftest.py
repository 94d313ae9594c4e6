"""Here programs are what is looked at: short runs do not go without."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_shortcut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all runs go the long way."""
    monkeypatch.setattr("chunkjac._executor.shortcut._SHORT_S", -1.0)
