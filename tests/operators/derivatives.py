"""Which operations torch differentiates rightly: ``python -m tests.operators.derivatives`` writes the list anew.

Each sample of each operator, at torch's points and at those where formulas fail, is differentiated in both modes, once
and twice, and judged by differences along a random direction. The nodes of autograd's graph that took part are right
if no sample speaks against them; where one does, the node of the operator's own name is left out, or those that are in
no sample that is right. It takes half an hour; ``--keep FILE`` writes down what each sample told, ``--from FILE ...``
goes by that.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import Any

import torch

from chunkjac._modes.derivatives.pullbacks import VmapGrad
from chunkjac._modes.derivatives.pushforwards import VmapJvp
from chunkjac._modes.referee import random_tangent
from chunkjac._modes.referees.claims import ByColumns, ByRows, judged
from chunkjac._modes.referees.evaluation import evaluated
from chunkjac._modes.referees.slopes import slopes_along
from chunkjac._problem.problem import Problem
from tests.operators.batching import extra_cases, write_known
from tests.operators.cases import EDGES, Case, cases, names, seed

WAYS = ("backward", "forward", "second backward", "second forward")

# Points where formulas fail are tried with fewer samples.
_N_SAMPLES, _N_AT_EDGES = 8, 2

# A node that is right in so many samples is not to blame where one is wrong that bears another name.
_FEW = 25

# Slopes that are smaller beside the direction are rounding.
_FLAT = 1e-9


@dataclass(frozen=True, slots=True)
class Told:
    """Hold what a sample told: whether its derivative is right, the function's own nodes, and all that took part.

    A derivative that is no number is seen wherever it comes up.
    """

    way: str
    operator: str
    sample: int
    edge: str
    is_right: bool
    is_number: bool
    own: list[str]
    nodes: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.operators.derivatives", description=__doc__)
    parser.add_argument("operators", nargs="*", metavar="OPERATOR")
    parser.add_argument("--slice", metavar="I/N", default="0/1", help="only part I (from 0) of N of the operators")
    parser.add_argument("--keep", type=Path, metavar="FILE")
    parser.add_argument("--from", type=Path, metavar="FILE", nargs="*", dest="files", default=[])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    number, n_slices = map(int, options.slice.split("/"))
    chosen = options.operators or names()[number::n_slices]
    told = [Told(**json.loads(line)) for path in options.files for line in path.read_text().splitlines()]
    told = told or list(_told_by(chosen, is_first=number == 0))
    if options.keep:
        options.keep.write_text("".join(json.dumps(asdict(each)) + "\n" for each in told))
    right = {}
    for way in WAYS:
        found = Found([each for each in told if each.way == way])
        right[way] = found.right
        for each in found.bad:
            print(f"{way}: {each.operator} {each.sample} {each.edge or 'plain'}: {sorted(found.to_blame(each))}")
        print(f"{way}: {len(found.right)} nodes right, wrong: {sorted(found.wrong)}")
    if not options.operators and n_slices == 1:
        samples = {(each.operator, each.sample, each.edge) for each in told}
        counts = {"n_samples": len(samples), "n_edges": sum(bool(edge) for _, _, edge in samples)}
        write_known("differentiated", n_operators=len({name for name, _, _ in samples}), **counts, **right)


def _told_by(chosen: Iterable[str], *, is_first: bool) -> Iterator[Told]:
    """Judge operators, and at last what is no operator of torch's list."""
    for name in chosen:
        for edge in ("", *EDGES):
            for case in cases(name, _N_AT_EDGES if edge else _N_SAMPLES, edge):
                yield from verdicts(case, edge)
    for case in (*extra_cases(), *more_cases()) if is_first else ():
        yield from verdicts(case, "")


def more_cases() -> Iterator[Case]:
    """Yield what torch's samples leave out, and people have reported."""
    x = torch.tensor([0.5, 0.7, -1.0, 2.0], dtype=torch.float64)
    exponents = torch.tensor([-1, -2, 3, 0], dtype=torch.int32)
    index = torch.tensor([0, 0, 2, 2])
    functions = {
        "ldexp": (lambda x: torch.ldexp(x * x, exponents), x),
        "index_put": (lambda x: torch.zeros(3, dtype=x.dtype).index_put((index,), x), x),
        "index_copy": (lambda x: torch.zeros(3, dtype=x.dtype).index_copy(0, index, x), x),
        "put": (lambda x: torch.zeros(3, dtype=x.dtype).put(index, x), x),
        "scatter": (lambda x: torch.zeros(3, dtype=x.dtype).scatter(0, index, x), x),
        "x - number": (lambda x: x - 2, x),
        "zero_": (lambda x: x.clone().zero_() + x, x),
    }
    for name, (func, point) in functions.items():
        yield Case(name, -1, "", lambda *inputs, func=func: (func(*inputs),), (point,))


class Found:
    """Hold what samples told of nodes, for one way to a derivative."""

    def __init__(self, told: Iterable[Told]) -> None:
        told = list(told)
        self.bad = [each for each in told if not each.is_right]
        self._good = Counter(node for each in told if each.is_right for node in each.nodes)
        self.wrong = {node for each in self.bad for node in self.to_blame(each)}
        self.right = sorted(node for node in {*self._good} - self.wrong if node.isidentifier())

    def to_blame(self, told: Told) -> set[str]:
        """Return which nodes are the likely cause: the operator's own, those never right, or the rarest.

        Those that are right nearly everywhere are not to blame for what is composed of them.
        """
        operator = _plain(told.operator)
        named = [node for node in told.own if _names(_stem(node), operator)]
        longest = max((len(_stem(node)) for node in named), default=0)
        never = {node for node in told.nodes if not self._good[node]}
        blamed = {node for node in named if len(_stem(node)) == longest} | never
        if not blamed & {*told.own} and told.is_number:
            blamed |= {node for node in told.own if self._good[node] < _FEW}
        return blamed


def verdicts(case: Case, edge: str) -> Iterator[Told]:
    """Yield what a sample tells in each way, at the points where formulas fail for squares as well."""
    found: dict[int | None, Any] = {}
    squared = [(way, 0) for way in WAYS if edge and way.startswith("second")]
    for way, constant in [*((way, 1 if way.startswith("second") else None) for way in WAYS), *squared]:
        try:
            if constant not in found:
                found[constant] = _judged(case, constant)
            problem, own, nodes, slopes, is_flat = found[constant]
            with torch.no_grad():
                gap = judged(_claim(problem, way.endswith("backward")), problem, slopes)
        except Exception:
            continue  # nobody can tell
        is_number = not isnan(gap.error)
        # Where it agrees, an output that differences do not know may be all of it; where not, rounding, if all is flat.
        if is_number if gap.agrees else not is_flat:
            yield Told(way, case.operator, case.sample, edge, gap.agrees, is_number, sorted(own), sorted(nodes))


def _judged(case: Case, constant: int | None) -> tuple[Problem, frozenset[str], frozenset[str], Any, bool]:
    """Return the function or its derivative, its own nodes, all, differences that know something, if all is flat.

    Args:
        case: The sample.
        constant: What is added to the outputs in their weighted squares; ``None`` for the function.
    """

    def func(*inputs: torch.Tensor) -> Any:
        seed()  # the same random numbers each time
        return case.func(*inputs)

    problem = Problem.of(func, case.inputs, case.argnums, False)
    outputs = VmapGrad(problem).outputs  # by what it has saved some nodes are told apart
    own = nodes = outputs.nodes or frozenset()
    if constant is not None:
        row = _row(problem, random_tangent(outputs.leaves), constant)
        problem = Problem.of(row, case.inputs, case.argnums, False)
        nodes |= VmapGrad(problem).outputs.nodes or frozenset()
    slopes = slopes_along(problem)
    is_finite = all(bool(value.isfinite().all()) for value in problem.evaluate()[0])
    steepest = max((float(v.nan_to_num(0.0).abs().max()) for v in slopes.values if v.numel()), default=0.0)
    longest = max((float(t.abs().max()) for t in slopes.tangent if t.numel()), default=0.0)
    is_flat = steepest < _FLAT * longest
    # Where all is flat, anything before may be wrong unseen, but not what is there alone.
    if not (own and slopes.tell and is_finite) or (is_flat and len(own) > 1):
        raise ValueError("nothing to be told")
    return problem, own, nodes, slopes, is_flat


def _claim(problem: Problem, is_backward: bool) -> ByRows | ByColumns:
    if is_backward:
        pullback = VmapGrad(problem)
        return ByRows(pullback.one, pullback.outputs.leaves)
    return ByColumns(VmapJvp(problem, evaluated(problem)).one, problem)


def _row(problem: Problem, weights: Any, constant: int) -> Callable[..., Any]:
    """Return the derivative of a weighted sum of the outputs and their squares, so that linear ones have a second.

    Squares alone (of which the constant is 0) may be smooth where a function is not: norms at 0.
    """

    def row(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.enable_grad():
            outputs, pullback = torch.func.vjp(problem.flat, *inputs)
            return tuple(pullback(tuple(weight * (constant + output) for weight, output in zip(weights, outputs))))

    return row


def _names(stem: str, operator: str) -> bool:
    """Tell whether a node bears an operator's name, or a part of it; one letter ("t") is a part of most."""
    return operator in stem or (len(stem) > 1 and stem in operator)


def _stem(node: str) -> str:
    return _plain(node.partition("Backward")[0])


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


if __name__ == "__main__":
    main()
