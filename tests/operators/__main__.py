"""Run the sweep: ``python -m tests.operators [--slice I/N] [--samples S] [--jobs J] [OPERATOR ...]``.

All operators without arguments; then ``tests/operators.json`` and ``docs/operators.md`` are written
anew. With ``--slice`` or names, the page and the faults are only printed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.operators import slices, table
from tests.operators.cases import N_SAMPLES
from tests.operators.judge import FAULTS
from tests.operators.known import unknown


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.operators", description=__doc__)
    parser.add_argument("operators", nargs="*", metavar="OPERATOR")
    parser.add_argument("--slice", metavar="I/N", help="only part I (from 0) of N of the operators")
    parser.add_argument("--samples", type=int, default=N_SAMPLES, help=f"of each operator (default: {N_SAMPLES})")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default: 2)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep all verdicts, as JSON lines, in a folder")
    parser.add_argument("--work", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        slices.work(options.operators, options.work, options.samples)
        return
    number, n_slices = map(int, (options.slice or "0/1").split("/"))
    chosen = options.operators or slices.slice_of(number, n_slices)
    parts = [chosen[at :: options.jobs] for at in range(options.jobs) if chosen[at :: options.jobs]]
    started_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(options.jobs) as pool:
        folder = options.keep or Path(temporary)
        folder.mkdir(exist_ok=True, parents=True)
        paths = [folder / f"{number}.jsonl" for number in range(len(parts))]
        runs = [pool.submit(slices.run_slice, part, path, options.samples) for part, path in zip(parts, paths)]
        verdicts = [verdict for run in runs for verdict in run.result()]
    summary = table.summarise(verdicts, chosen, options.samples)
    print(table.markdown(summary))
    for fault in (verdict for verdict in verdicts if verdict.outcome in FAULTS):
        print(f"{fault.operator} {fault.mode}: {fault.outcome} {fault.note} at sample {fault.sample}, {fault.what}")
    print(f"faults that are not known: {unknown(table.faults(summary)) or 'none'}")
    print(f"{time.perf_counter() - started_s:.0f} s")
    if not options.operators and not options.slice:
        table.save(summary)


main()
