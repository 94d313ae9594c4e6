"""What all tests share: settings that do not leak in, and a device from the environment."""

from __future__ import annotations

import json
import os

import pytest
import torch
from hypothesis import HealthCheck, settings

from chunkjac._memory import budget
from chunkjac._modes.known_nodes import FILE, RELEASE

# A busy machine is slow, not wrong; and what an earlier run found is no part of this one.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
settings.load_profile("patient")


@pytest.fixture
def device() -> torch.device:
    """Return the device to test on."""
    return torch.device(os.environ.get("TEST_DEVICE", "cpu"))


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the settings of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("CHUNKJAC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("chunkjac._config._FILE", "no-such-chunkjac.toml")
    monkeypatch.setattr("chunkjac._config._process", {})


@pytest.fixture(autouse=True)
def no_reading_of_before() -> None:
    """Let no test use what another has read of free memory."""
    budget._recent.forget()


@pytest.fixture(autouse=True)
def no_program_in_first_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no first call record a linear program because the machine is slow just now."""
    monkeypatch.setattr("chunkjac._programs.worth._LEAST_S", float("inf"))
    monkeypatch.setattr("chunkjac._programs.worth._NO_FASTER", float("inf"))  # nor leave a program that a test looks at


@pytest.fixture
def nodes_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a torch that the list of nodes does not know yet go by the newest that it knows."""
    releases = json.loads(FILE.read_text())["batched"]
    monkeypatch.setattr("chunkjac._modes.known_nodes.RELEASE", RELEASE if RELEASE in releases else max(releases))
