"""Slices of the list of operators, each in a process of its own that may die.

A process appends a JSON line when it begins an operator, and one for each verdict. If it dies, the
operator that it was at has crashed, and another process goes on with the next.
"""

from __future__ import annotations

import faulthandler
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tests.operators.cases import N_SAMPLES, cases, names
from tests.operators.judge import Verdict, judge

ROOT = Path(__file__).parent.parent.parent

# The slowest operator takes 12 s.
LIMIT_S = 150


def slice_of(part: int, n_parts: int) -> list[str]:
    """Return a slice of the operators; neighbours, which are alike, go to different ones."""
    return names()[part::n_parts]


def run_slice(operators: Sequence[str], path: Path, n_samples: int = N_SAMPLES) -> list[Verdict]:
    """Judge operators in processes of their own; return the verdicts, which stand in the file as well."""
    path.unlink(missing_ok=True)
    left = list(operators)
    while left:
        command = [sys.executable, "-m", "tests.operators", "--work", str(path), "--samples", str(n_samples), *left]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode == 0:
            break
        begun = [record["begin"] for record in _records(path) if "begin" in record]
        if not begun or begun[-1] not in left:
            raise RuntimeError(f"the sweep cannot start:\n{done.stderr}")
        how = f"exit status {done.returncode}: {_last_word(done.stderr)}"
        _append(path, asdict(Verdict(begun[-1], -1, "", "all", "crashed", note=how)))
        left = left[left.index(begun[-1]) + 1 :]
    return list(read(path))


def work(operators: Sequence[str], path: Path, n_samples: int) -> None:
    """Judge operators in this process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch's, of deprecated and experimental operators
    for name in operators:
        _append(path, {"begin": name})
        faulthandler.dump_traceback_later(LIMIT_S, exit=True)
        for case in cases(name, n_samples):
            for verdict in judge(case):
                _append(path, asdict(verdict))
    faulthandler.cancel_dump_traceback_later()


def read(path: Path) -> Iterator[Verdict]:
    """Yield the verdicts of a file."""
    return (Verdict(**record) for record in _records(path) if "begin" not in record)


def _records(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file, which may not be there yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _append(path: Path, record: dict[str, Any]) -> None:
    """Add a line."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def _last_word(text: str) -> str:
    """Return the most telling line of what a dead process wrote."""
    lines = [line for line in text.splitlines() if line.strip()]
    fatal = [line for line in lines if "Error" in line or "Fatal" in line or "Timeout" in line]
    return (fatal or lines or ["nothing was written"])[-1][:200]
