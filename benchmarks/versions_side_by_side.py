"""Another version of chunkjac against this one, in turns in one run: a change that should cost no time.

``python -m benchmarks.versions_side_by_side FOLDER [--quick]``, where FOLDER is a checkout of the other one
(``git worktree add FOLDER COMMIT``). Each version lives in a process of its own and does a round when it is its
turn: ``plan.run(x)`` once the plan has settled on a way, and a first call of ``jacobian``. Medians over rounds, and
their geometric mean over the functions of the zoo.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.record import save
from benchmarks.zoo import SIZES, Entry, functions

HERE = Path(__file__).parents[1]
WAYS = ("plan.run", "first call")

# A plan of a short job tries its runs with and without a program, in turns, before it stays with what is faster.
_N_TO_SETTLE = {"small": 12, "medium": 8, "large": 3}


class Side:
    """A process with one version."""

    def __init__(self, folder: Path) -> None:
        # The package is that of the folder, the benchmarks are those of here.
        code = (
            f"import sys; sys.path.insert(0, {str(folder.resolve())!r}); import chunkjac; sys.path[0] = {str(HERE)!r}; "
            "from benchmarks.versions_side_by_side import serve; serve()"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
        )
        found = Path(self.ask("where"))
        assert found.is_relative_to(folder.resolve()), f"{found} is not in {folder}"

    def ask(self, word: str) -> str:
        """Return the answer to a word."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer.startswith("= "):
            raise RuntimeError(f"no answer to {word!r}: {answer}")
        return answer[2:].rstrip("\n")


def compare(folder: Path, *, quick: bool) -> list[dict[str, Any]]:
    """Measure, print, return the rows."""
    sides = {"other": Side(folder), "this": Side(HERE)}
    rows = []
    for number, entry in enumerate(functions(*SIZES, quick=quick)):
        for way in WAYS:
            row: dict[str, Any] = {"function": entry.name, "size": entry.size, "way": way}
            for side in sides.values():
                side.ask(f"{number} {int(quick)} {way}")
            times_s: dict[str, list[float]] = {name: [] for name in sides}
            for turn in range(_n_rounds(entry, quick=quick)):
                for name in (list(sides), list(sides)[::-1])[turn % 2]:
                    times_s[name].append(float(sides[name].ask("round")))
            row |= {f"{name}_s": statistics.median(values) for name, values in times_s.items()}
            row["ratio"] = row["this_s"] / row["other_s"]
            rows.append(row)
            print(
                f"{entry.name:<24} {entry.size:<7} {way:<11} {row['other_s'] * 1e3:9.2f} ms  "
                f"{row['this_s'] * 1e3:9.2f} ms  {row['ratio']:.3f}",
                flush=True,
            )
    for way in WAYS:
        ratios = [row["ratio"] for row in rows if row["way"] == way]
        print(f"{way}: this / other: geometric mean {statistics.geometric_mean(ratios):.3f} of {len(ratios)}")
    return rows


def _n_rounds(entry: Entry, *, quick: bool) -> int:
    """Return how often both take turns."""
    return {"small": 15, "medium": 9, "large": 3}[entry.size] // (2 if quick else 1)


def serve() -> None:
    """Answer words from the standard input: prepare a function, or do a round."""
    import chunkjac as cj
    from benchmarks.contest import warm_up

    todo: Callable[[], object] = partial(warm_up, "cpu")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        told: object = ""
        if word == "where":
            told = Path(cj.__file__).resolve()
            todo()
        elif word == "round":
            started_s = time.perf_counter()
            todo()
            told = time.perf_counter() - started_s
        else:
            quick, _, way = rest.partition(" ")
            todo = _prepared(list(functions(*SIZES, quick=quick == "1"))[int(word)], way)
        print(f"= {told}", file=answers, flush=True)


def _prepared(entry: Entry, way: str) -> Callable[[], object]:
    """Return what is timed, once it has learnt what it can."""
    import chunkjac as cj

    case = entry.build()
    if way == "first call":
        call = partial(cj.jacobian, case.func, *case.args)
        call()
        return call
    plan = cj.plan(case.func, *case.args)
    for _ in range(_N_TO_SETTLE[entry.size]):
        plan.run(*case.args)
    return partial(plan.run, *case.args)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versions_side_by_side", description=__doc__)
    parser.add_argument("folder", type=Path, help="a checkout of the other version")
    parser.add_argument("--quick", action="store_true", help="fewer functions and rounds")
    options = parser.parse_args()
    rows = compare(options.folder, quick=options.quick)
    print(f"saved in {save('versions_side_by_side', rows, quick=options.quick, packages=('transformers',))}")


if __name__ == "__main__":
    main()
