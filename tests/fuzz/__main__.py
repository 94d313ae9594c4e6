"""Look for more: ``python -m tests.fuzz [--minutes M] [--seed N] [--keep FOLDER]``.

Each failure is made small, shown, and written to the folder as a script that exits with 1; at the end, what was met.
Where the process itself ends, the folder's ``running.py`` is what it was at.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import sys
import tempfile
from pathlib import Path

from tests.fuzz.fuzzer import Fuzzer


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="how long (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="the first case's seed; the next has the next (default: 0)")
    parser.add_argument("--cases", type=float, default=float("inf"), help="how many at most")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where scripts of failures go (default: a new one)")
    options = parser.parse_args()
    faulthandler.enable()
    gc.collect()
    gc.freeze()  # collections need not pass over torch's modules
    folder = options.keep or Path(tempfile.mkdtemp(prefix="chunkjac-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    fuzzer = Fuzzer(folder)
    fuzzer.run(options.seed, seconds=60 * options.minutes, n_cases=options.cases)
    (folder / "running.py").unlink(missing_ok=True)
    print(fuzzer.coverage)
    print(f"{len(fuzzer.failures)} failures, in {folder}")
    return bool(fuzzer.failures)


sys.exit(main())
