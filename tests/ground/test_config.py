"""Settings come from the strongest place that has them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest
import torch

import chunkjac as cj
from chunkjac._config import _FILE as FILE  # as it is before the fixture of all tests hides it


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder, and take back what was set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("chunkjac._config._FILE", FILE)
    yield tmp_path
    cj.set_config(max_memory=None, progress=None)


def write_settings(text: str, name: str = "chunkjac.toml") -> None:
    """Write a settings file into the working directory."""
    Path(name).write_text(text)


def in_another_thread() -> cj.Config:
    """Return the settings that another thread sees."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(cj.get_config).result()


def budget_of_a_call(**options: Any) -> int:
    """Return the budget that a call ends up with."""
    return cj.plan(torch.sin, torch.zeros(2), mode="reverse", **options).budget_bytes


def test_each_place_overrides_the_weaker_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cj.get_config() == cj.Config(max_memory=None, progress=None)
    write_settings('max_memory = "1MB"')
    assert budget_of_a_call() == 1_000_000
    monkeypatch.setenv("CHUNKJAC_MAX_MEMORY", "2MB")
    assert budget_of_a_call() == 2_000_000
    cj.set_config(max_memory="3MB")
    assert budget_of_a_call() == 3_000_000
    with cj.config_context(max_memory="4MB"):
        assert budget_of_a_call() == 4_000_000
        assert budget_of_a_call(max_memory="5MB") == 5_000_000
    assert budget_of_a_call() == 3_000_000
    cj.set_config(max_memory=None)
    assert budget_of_a_call() == 2_000_000
    monkeypatch.delenv("CHUNKJAC_MAX_MEMORY")
    assert budget_of_a_call() == 1_000_000


def test_a_place_hides_only_the_settings_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    write_settings("max_memory = 1000\nprogress = true")
    monkeypatch.setenv("CHUNKJAC_PROGRESS", "false")
    assert cj.get_config() == cj.Config(max_memory=1000, progress=False)
    with cj.config_context(max_memory=2000):
        assert cj.get_config() == cj.Config(max_memory=2000, progress=False)


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("true", True), ("TRUE", True), ("0", False), ("False", False)]
)
def test_progress_is_read_from_the_environment(text: str, value: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUNKJAC_PROGRESS", text)
    assert cj.get_config().progress is value


def test_none_in_a_context_hides_the_weaker_places() -> None:
    cj.set_config(max_memory="3MB")
    with cj.config_context(max_memory=None):
        assert cj.get_config().max_memory is None
    assert cj.get_config().max_memory == "3MB"


def test_nested_contexts_restore_step_by_step() -> None:
    with cj.config_context(max_memory=1000):
        with cj.config_context(progress=True):
            assert cj.get_config() == cj.Config(max_memory=1000, progress=True)
            with suppress(KeyError), cj.config_context(max_memory=2000):
                assert cj.get_config().max_memory == 2000
                raise KeyError
            assert cj.get_config() == cj.Config(max_memory=1000, progress=True)
        assert cj.get_config() == cj.Config(max_memory=1000)
    assert cj.get_config() == cj.Config()


def test_a_setting_holds_for_other_threads_and_a_context_does_not() -> None:
    cj.set_config(max_memory=1000)
    with cj.config_context(max_memory=2000, progress=True):
        assert in_another_thread() == cj.Config(max_memory=1000)
        assert Context().run(cj.get_config) == cj.Config(max_memory=1000)


@pytest.mark.parametrize(
    ("place", "settings", "fault"),
    [
        ("set_config", {"potato": 1}, "'potato' is not a setting; known are max_memory, progress"),
        ("set_config", {"max_memory": "4G"}, "ambiguous unit 'G'"),
        ("set_config", {"max_memory": 0}, "at least 1 byte"),
        ("set_config", {"max_memory": 1.5}, "found 1.5"),
        ("set_config", {"progress": 1}, "progress must be a bool, found 1"),
        ("config_context", {"potato": 1}, "'potato' is not a setting"),
        ("config_context", {"max_memory": True}, "found True"),
        ("config_context", {"progress": "yes"}, "progress must be a bool, found 'yes'"),
    ],
)
def test_what_cannot_be_set_is_refused_and_changes_nothing(place: str, settings: dict[str, Any], fault: str) -> None:
    cj.set_config(max_memory=1000, progress=True)
    with pytest.raises(cj.ConfigError, match=f"^{place}: .*{fault}"):
        set_in(place, settings)
    with pytest.raises(cj.ConfigError):
        set_in(place, {"max_memory": 2000, "progress": False} | settings)  # a good key beside the bad one
    assert cj.get_config() == cj.Config(max_memory=1000, progress=True)


def set_in(place: str, settings: dict[str, Any]) -> None:
    """Set settings in a place, which is left at once."""
    if place == "set_config":
        cj.set_config(**settings)
    else:
        with cj.config_context(**settings):
            pass


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("CHUNKJAC_POTATO", "1", "'potato' is not a setting; known are CHUNKJAC_MAX_MEMORY, CHUNKJAC_PROGRESS"),
        ("CHUNKJAC_MAX_MEMORY", "12 potatoes", "unknown unit 'potatoes'"),
        ("CHUNKJAC_PROGRESS", "maybe", "must be 1, true, 0 or false, found 'maybe'"),
    ],
)
def test_a_fault_in_the_environment_names_the_variable(
    name: str, text: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(cj.ConfigError, match=f"the environment variable {name}.*{fault}"):
        cj.get_config()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"potato = 1", "'potato' is not a setting; known are max_memory, progress"),
        (b"[chunkjac]\nprogress = true", "'chunkjac' is not a setting"),
        (b"max_memory = 1.5", "found 1.5"),
        (b'progress = "yes"', "progress must be a bool, found 'yes'"),
        (b"max_memory 1", "cannot be read"),
        (b"# caf\xe9", "cannot be read"),
    ],
)
@pytest.mark.parametrize("name", ["chunkjac.toml", "settings.toml"])
def test_a_fault_in_a_file_names_the_file(
    name: str, content: bytes, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(name).write_bytes(content)
    if name != "chunkjac.toml":
        monkeypatch.setenv("CHUNKJAC_CONFIG", name)
    with pytest.raises(cj.ConfigError, match=f"the file {name}.*{fault}"):
        cj.get_config()


def test_a_named_file_stands_for_the_one_in_the_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    write_settings("max_memory = 1000\nprogress = true")
    write_settings("max_memory = 2000", "other.toml")
    monkeypatch.setenv("CHUNKJAC_CONFIG", "other.toml")
    assert cj.get_config() == cj.Config(max_memory=2000)


def test_a_named_file_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUNKJAC_CONFIG", "nowhere.toml")
    with pytest.raises(cj.ConfigError, match=r"CHUNKJAC_CONFIG names 'nowhere\.toml', which does not exist"):
        cj.get_config()


def test_a_folder_in_the_place_of_the_file_is_an_error(folder: Path) -> None:
    (folder / "chunkjac.toml").mkdir()
    with pytest.raises(cj.ConfigError, match=r"the file chunkjac\.toml cannot be read"):
        cj.get_config()


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUNKJAC_MAX_MEMORY", "")
    assert cj.get_config().max_memory is None


def test_a_wrong_setting_is_told_also_where_a_call_says_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUNKJAC_PROGRESS", "perhaps")
    with pytest.raises(cj.ConfigError, match="CHUNKJAC_PROGRESS"):
        cj.jacobian(torch.sin, torch.ones(2), max_memory="1MiB", progress=False)
