"""A failure made small: fewer statements, outputs, inputs and runs, plainer inputs and options."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from tests.fuzz import truth as truth_module
from tests.fuzz.cases import Case, renamed
from tests.fuzz.truth import Outcome, Truth, UnclearError, outcome_of
from tests.fuzz.ways import Way

_SCRIPT = '''"""{title}"""

import sys

{truth}

CASE = r\'\'\'
{case}
\'\'\'

WAY = r\'\'\'
{way}
\'\'\'

truth = Truth(CASE, {dtype!r}, {argnums!r}, {n_runs})
outcome = outcome_of(truth, {mode!r}, WAY)
print(outcome.kind, outcome.told)
sys.exit(outcome.kind in ("wrong", "crash", "over", "again", "left"))
'''


def run(case: Case, way: Way) -> Outcome:
    """Judge a case in a way."""
    truth = Truth(case.text, case.dtype, case.argnums, way.n_runs)
    return outcome_of(truth, way.mode, way.text(case.argnums))


def script(case: Case, way: Way, title: str) -> str:
    """Return a script that stands alone, and exits with 1 if the failure is there."""
    return _SCRIPT.format(
        title=title.replace('"', "'").replace("\\", "/"),
        truth=Path(truth_module.__file__).read_text().partition('"""\n\n')[2],
        case=case.text,
        way=way.text(case.argnums),
        dtype=case.dtype,
        argnums=case.argnums,
        n_runs=way.n_runs,
        mode=way.mode,
    )


def shrunk(case: Case, way: Way, fails: Callable[[Case, Way], bool], limit_s: float = 60) -> tuple[Case, Way]:
    """Return the smallest that fails alike, as far as that is found in some time."""
    end_s = time.perf_counter() + limit_s
    is_smaller = True
    while is_smaller:
        is_smaller = False
        for smaller in _smaller(case, way):
            if time.perf_counter() > end_s:
                return case, way
            if _still(fails, *smaller):
                (case, way), is_smaller = smaller, True
                break
    return case, way


def _still(fails: Callable[[Case, Way], bool], case: Case, way: Way) -> bool:
    try:
        return fails(case, way)
    except UnclearError:
        return False
    except Exception:  # a statement was needed
        return False


def _smaller(case: Case, way: Way) -> Iterator[tuple[Case, Way]]:
    """Return what is a little smaller, in the order in which it is tried."""
    used, steps = set(case.outputs), []
    for step in reversed(case.steps):
        if step.target in used:
            steps.append(step)
            used.update(re.findall(r"\w+", step.text))
    if len(steps) < len(case.steps):
        yield replace(case, steps=tuple(reversed(steps))), way
    for name in case.outputs:
        if len(case.outputs) > 1:
            yield replace(case, outputs=(name,), wraps="tuple"), way
    for step in reversed(case.steps):
        rest = tuple(other for other in case.steps if other is not step)
        if not any(_uses(other, step.target) for other in rest) and step.target not in case.outputs:
            yield replace(case, steps=rest), way
        for name, shape in [*((s.target, s.shape) for s in rest), *((x.name, x.shape) for x in case.inputs)]:
            if shape == step.shape or step.target in case.outputs:
                yield _without(case, step.target, name), way
    yield from ((case, smaller) for smaller in _smaller_ways(way))
    for step in case.steps:
        if step.change:
            yield _with(case, step, replace(step, change="")), way
    for argument in case.inputs:
        if argument.kind != "plain":
            others = (replace(x, kind="plain") if x is argument else x for x in case.inputs)
            yield replace(case, inputs=tuple(others)), way
        for k, size in enumerate(argument.shape):
            if size > 1:
                shape = (*argument.shape[:k], size - 1, *argument.shape[k + 1 :])
                others = (replace(x, shape=shape) if x is argument else x for x in case.inputs)
                yield replace(case, inputs=tuple(others)), way
    if len(case.argnums) > 1:
        yield from ((replace(case, argnums=(i,)), way) for i in case.argnums)
    last = len(case.inputs) - 1
    if last and last not in case.argnums and not any(_uses(step, f"x{last}") for step in case.steps):
        yield replace(case, inputs=case.inputs[:-1]), way
    if case.dtype == "float32":
        yield replace(case, dtype="float64"), way


def _smaller_ways(way: Way) -> Iterator[Way]:
    if way.patches:
        yield replace(way, patches={})
    if way.budget:
        yield replace(way, budget=0)
    for name in way.options:
        yield replace(way, options={other: value for other, value in way.options.items() if other != name})
    if way.call != "jacobian":
        yield replace(way, call="jacobian", n_runs=1)
    if way.call == "plan, written":
        yield replace(way, call="plan")
    if way.n_runs > 1:
        yield replace(way, n_runs=way.n_runs - 1)


def _uses(step: object, name: str) -> bool:
    text = getattr(step, "text", "")
    return renamed(text, name, "") != text


def _without(case: Case, target: str, name: str) -> Case:
    """Return a case in which another name stands for a statement's result."""
    steps = tuple(replace(step, text=renamed(step.text, target, name)) for step in case.steps if step.target != target)
    return replace(case, steps=steps, outputs=tuple(name if out == target else out for out in case.outputs))


def _with(case: Case, step: object, new: object) -> Case:
    return replace(case, steps=tuple(new if other is step else other for other in case.steps))  # type: ignore[arg-type]
