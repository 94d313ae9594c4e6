"""Put faults into copies of the package, and tell whether tests notice: ``python -m tests.mutants [--only NAME]``.

Without faults the tests must pass: that is looked at, too, unless only some are asked for.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import pytest
import torch  # noqa: F401 - once, for all children

from tests.mutants.faults import FAULTS, Fault

ROOT = Path(__file__).parents[2]
_NEEDED = ("chunkjac", "tests", "docs", "benchmarks", "conftest.py", "pyproject.toml", "README.md", "CONTRIBUTING.md")

# What pytest's exit codes say.
_SAID = {0: "missed", 1: "noticed"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", metavar="NAME", help="only faults with this in their name")
    options = parser.parse_args()
    chosen = [fault for fault in FAULTS if (options.only or "") in fault.name]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in _NEEDED:
            _copied(ROOT / name, copy / name)
        said = [_said_of(copy, fault, is_sure=not options.only) for fault in chosen]
    n_noticed = said.count("noticed")
    print(f"{n_noticed} of {len(chosen)} noticed")
    return n_noticed < len(chosen)


def broken(fault: Fault, text: str) -> str:
    """Return a file's text with a fault in it.

    Raises:
        ValueError: What it replaces is not there, or more than once.
    """
    if text.count(fault.old) != 1:
        raise ValueError(f"{fault.name}: {fault.file} has {text.count(fault.old)} times {fault.old!r}")
    return text.replace(fault.old, fault.new)


def _said_of(copy: Path, fault: Fault, *, is_sure: bool) -> str:
    """Put a fault in, run the tests, and take it out; say what came of it."""
    file, started_s = copy / "chunkjac" / fault.file, time.perf_counter()
    try:
        text = file.read_text()
        file.write_text(broken(fault, text))
    except (OSError, ValueError) as error:
        said = f"cannot be put in: {error}"
    else:
        said = _tested(copy, fault.selection)
        file.write_text(text)
        if said == "noticed" and is_sure and _tested_whole(copy, fault.selection) != "missed":
            said = "fails without the fault"
    print(f"{said:8} {time.perf_counter() - started_s:4.0f} s  {fault.name}", flush=True)
    return said


@cache
def _tested_whole(copy: Path, selection: tuple[str, str]) -> str:
    """Run tests without a fault."""
    return _tested(copy, selection)


def _tested(copy: Path, selection: tuple[str, str]) -> str:
    """Run tests until one fails, in a child that has imported what is large; say what pytest ends with."""
    files, chosen = selection
    child = os.fork()
    if not child:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        os.chdir(copy)
        os.environ["PYTHONPATH"] = sys.path[0] = str(copy)
        for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "chunkjac")]:
            del sys.modules[name]
        os._exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *files.split(), "-k", chosen]))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return _SAID.get(code, f"pytest ended with {code}")


def _copied(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    elif source.exists():
        shutil.copy(source, target)


if __name__ == "__main__":
    sys.exit(main())
