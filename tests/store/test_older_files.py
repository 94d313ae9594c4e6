"""Files that an older chunkjac wrote are read, checked and gone on with."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import chunkjac as cj
from chunkjac._cli import main
from chunkjac._store.journal import read_journal
from chunkjac._store.target import Target
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


@pytest.mark.parametrize("copied", jobs.JOBS, indirect=True)
def test_the_same_job_is_laid_out_as_it_was(copied: Path) -> None:
    folder = copied.parent / "of today"
    folder.mkdir()
    jobs.run(folder / copied.name, copied.name)
    before, today = Target.of(copied).written_plan, Target.of(folder / copied.name).written_plan
    assert before is not None
    assert today is not None
    assert (before.format, today.format) == (1, 2)
    assert before.layout == today.layout
    assert not before.differences(today)


@pytest.mark.parametrize("copied", BEGUN, indirect=True)
def test_a_job_that_was_begun_is_finished(copied: Path) -> None:
    journal = _beside(copied, "journal").read_bytes()
    told: list[cj.Progress] = []
    jobs.run(copied, copied.name, progress=told.append)
    found = _beside(copied, "journal").read_bytes()
    assert found.startswith(journal)
    assert len(found.splitlines()) == len(read_journal(found)) > len(read_journal(journal)) > 0  # none of them twice
    assert {progress.before for progress in told} == {2 * len(read_journal(journal))}  # blocks of a chunk each
    _check_values(copied)


@pytest.mark.parametrize("copied", BEGUN, indirect=True)
def test_a_job_that_was_begun_with_another_function_is_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in copied.parent.rglob("*") if path.is_file()}
    monkeypatch.setattr(jobs, "POWER", 3)
    with pytest.raises(cj.StoreError, match="are not those of func as it is now"):
        jobs.run(copied, copied.name)
    assert {path: path.read_bytes() for path in copied.parent.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("copied", ["finished"], indirect=True)
def test_a_class_that_an_older_plan_names_is_not_looked_up(copied: Path) -> None:
    context = json.dumps([{"__enum__": True, "fqn": "chunkjac_never_there:X", "name": "A"}])
    leaf = {"type": None, "context": None, "children_spec": []}
    factory = {"default_factory_module": "builtins", "default_factory_name": "breakpoint", "dict_context": ["a"]}
    plan = _beside(copied, "plan.json")
    whole = json.loads(plan.read_text())
    for kind, told, is_refused in (
        ("builtins.dict", context, True),
        ("collections.defaultdict", factory, False),
        ("chunkjac_never_there.X", "null", False),
    ):
        whole["layout"]["trees"][0] = json.dumps([1, {"type": kind, "context": told, "children_spec": [leaf]}])
        plan.write_text(json.dumps(whole))
        with pytest.raises(cj.StoreError, match=r"plan\.json") if is_refused else nullcontext():
            (found,) = cj.open(copied)
            torch.testing.assert_close(found, jobs.expected(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("copied", FINISHED, indirect=True)
def test_a_job_that_was_finished_is_read(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _check_values(copied)
    assert main(["verify", str(copied)]) == 0
    assert "all as they were written" in capsys.readouterr().out


def _beside(path: Path, name: str) -> Path:
    return path.with_name(f"{path.name}.{name}") if path.suffix else path / name


def _check_values(path: Path) -> None:
    found = torch.as_tensor(cj.open(path)[...])
    torch.testing.assert_close(found, jobs.expected(), rtol=0, atol=1e-9)
