"""Files that an older chunkjac wrote are read, checked and gone on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import chunkjac as cj
from chunkjac._cli import main
from chunkjac._store.journal import read_journal
from tests.fixtures import jobs

BEGUN = [name for name in jobs.JOBS if name.startswith("begun")]
FINISHED = [name for name in jobs.JOBS if name.startswith("finished")]


@pytest.fixture
def copied(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a copy of the files of a name."""
    if request.param.endswith(".zarr"):
        pytest.importorskip("zarr")
    for path in jobs.FOLDER.glob(f"{request.param}*"):
        if path.name.removeprefix(request.param) in ("", ".plan.json", ".journal"):
            (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    return tmp_path / request.param


def _beside(path: Path, name: str) -> Path:
    return path.with_name(f"{path.name}.{name}") if path.suffix else path / name


def _plan(path: Path) -> dict[str, Any]:
    return json.loads(_beside(path, "plan.json").read_text())


def _plan_of_today(path: Path) -> dict[str, Any]:
    """Return the plan that this chunkjac writes for the same job."""
    folder = path.parent / "of today"
    folder.mkdir()
    jobs.run(folder / path.name, path.name)
    return _plan(folder / path.name)


def _named_by_versions(facts: dict[str, Any], today: dict[str, Any]) -> set[str]:
    """Return the facts that are others where other versions are installed: they are, and a Python's code is its own."""
    code = {name for name in facts if name.startswith("code of ")} if facts["python"] != today["python"] else set()
    return {"python", "torch", "chunkjac"} | code


@pytest.mark.parametrize("copied", jobs.JOBS, indirect=True)
def test_the_same_job_is_told_in_the_same_words(copied: Path) -> None:
    before, today = _plan(copied), _plan_of_today(copied)
    versions = _named_by_versions(before["facts"], today["facts"])
    for plan in (before, today):
        plan["facts"] = {name: fact for name, fact in plan["facts"].items() if name not in versions}
    assert before == today


@pytest.mark.parametrize("copied", BEGUN, indirect=True)
def test_a_job_that_was_begun_is_finished(copied: Path) -> None:
    plan, today = _plan(copied), _plan_of_today(copied)["facts"]
    plan["facts"] |= {name: today[name] for name in _named_by_versions(plan["facts"], today)}
    _beside(copied, "plan.json").write_text(json.dumps(plan))
    journal = _beside(copied, "journal").read_bytes()
    told: list[cj.Progress] = []
    jobs.run(copied, copied.name, progress=told.append)
    found = _beside(copied, "journal").read_bytes()
    assert found.startswith(journal)
    assert len(found.splitlines()) == len(read_journal(found)) > len(read_journal(journal)) > 0  # none of them twice
    assert {progress.before for progress in told} == {plan["layout"]["chunk_size"] * len(read_journal(journal))}
    _check_values(copied)


@pytest.mark.parametrize("copied", FINISHED, indirect=True)
def test_a_job_that_was_finished_is_read(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _check_values(copied)
    assert main(["verify", str(copied)]) == 0
    assert "all as they were written" in capsys.readouterr().out


def _check_values(path: Path) -> None:
    found = torch.as_tensor(cj.open(path)[...])
    torch.testing.assert_close(found, jobs.expected(), rtol=0, atol=1e-9)
