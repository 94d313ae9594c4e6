"""Each option is listed once, and what shows it agrees: signatures, docstrings, the reference, type checkers."""

from __future__ import annotations

import inspect
import pydoc
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict, get_type_hints

import pytest
import torch

import chunkjac as cj
from chunkjac._planner import reading
from chunkjac._planner.options import Given, GivenForAll, GivenOnce, GivenToJacobian, GivenToPlan, Options
from chunkjac._planner.plan import GivenToRun
from tests.whole.test_docs import API

LISTS = (Given, GivenOnce, GivenForAll, GivenToJacobian, GivenToPlan, GivenToRun)
TAKEN = {
    "jacobian": GivenToJacobian,
    "plan": GivenToPlan,
    "blocks": Given,
    "gram": GivenOnce,
    "norms": GivenOnce,
    "diagonal": GivenOnce,
    "matvec": GivenOnce,
    "rmatvec": GivenOnce,
    "operator": Given,
    "svdvals": Given,
    "scipy_jac": Given,
}
# Those that have the arguments of torch.func's.
SPELLED_OUT = ("jacrev", "jacfwd", "jacfd", "hessian")
X = torch.ones(2)


@dataclass(frozen=True)
class Shown:
    """Hold what is said of one option of a function."""

    annotation: str
    default: Any


def listed(names: Any = None) -> dict[str, Shown]:
    """Return what the list says."""
    return {f.name: Shown(str(f.type), f.default) for f in fields(Options) if names is None or f.name in names}


def signed(function: Callable[..., Any]) -> dict[str, Shown]:
    """Return what a signature says."""
    parameters = inspect.signature(function).parameters
    return {name: Shown(p.annotation, p.default) for name, p in parameters.items() if name in listed()}


def referred(function: str, page: str) -> dict[str, Shown]:
    """Return what a table of the reference says."""
    found = {}
    for row in re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \| .*? \|$", page, re.MULTILINE):
        name, kinds, default, taken = row
        if taken == "all" or f"`{function}`" in taken:
            value = re.split(r"`", default)[1]
            found[name] = Shown(" | ".join(re.findall("`(.*?)`", kinds)), eval(value))
    return found


def differences(one: dict[str, Shown], other: dict[str, Shown]) -> list[str]:
    """Return where two sources differ; the order of alternative types says nothing."""
    told = []
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            told.append(f"{name} is missing")
            continue
        mine, others = one[name], other[name]
        if set(mine.annotation.split(" | ")) != set(others.annotation.split(" | ")):
            told.append(f"{name}: {mine.annotation}, not {others.annotation}")
        if mine.default != others.default:
            told.append(f"{name}: {mine.default!r}, not {others.default!r}")
    return told


def mistyped(taken: type) -> list[str]:
    """Return the options of a list for type checkers that have other types than those of the value."""
    types = get_type_hints(Options)
    return [name for name, kind in get_type_hints(taken).items() if types[name] != kind]


@pytest.mark.parametrize("taken", LISTS, ids=lambda taken: taken.__name__)
def test_type_checkers_see_the_types_of_the_list(taken: type) -> None:
    assert mistyped(taken) == []


def test_type_checkers_see_all_options() -> None:
    assert {name for taken in TAKEN.values() for name in taken.__annotations__} == listed().keys()


@pytest.mark.parametrize("name", TAKEN)
def test_signatures_show_the_options_that_are_taken(name: str) -> None:
    assert differences(signed(getattr(cj, name)), listed(TAKEN[name].__annotations__)) == []


@pytest.mark.parametrize("name", TAKEN)
def test_the_reference_shows_the_options_that_are_taken(name: str) -> None:
    assert differences(referred(name, API), listed(TAKEN[name].__annotations__)) == []


@pytest.mark.parametrize("name", SPELLED_OUT)
def test_arguments_of_transforms_are_those_of_the_list(name: str) -> None:
    shown = signed(getattr(cj, name))
    expected = listed(shown)
    assert differences(shown, expected) == []


@pytest.mark.parametrize("name", [*TAKEN, *SPELLED_OUT, "open"])
def test_the_reference_shows_what_functions_take_beside_options(name: str) -> None:
    signature = inspect.signature(getattr(cj, name))
    hidden = listed() if name in TAKEN else {"_preallocate_and_copy"}
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values() if p.name not in hidden]
    text = str(signature.replace(parameters=bare, return_annotation=signature.empty)).replace("'", '"')
    assert f"| `{name}{text[:-1] + ', ...)' if name in TAKEN else text}` |" in API


@pytest.mark.parametrize("name", [*TAKEN, *SPELLED_OUT])
def test_help_says_what_each_argument_is(name: str) -> None:
    text = pydoc.plain(pydoc.render_doc(getattr(cj, name)))
    found = re.findall(r"^ {8}\*{0,2}(\w+): \S", text.partition("Args:")[2].partition("Returns:")[0], re.MULTILINE)
    assert found == list(inspect.signature(getattr(cj, name)).parameters)


def test_help_of_gram_is_complete() -> None:
    text = pydoc.plain(pydoc.render_doc(cj.gram))
    assert "max_memory: 'int | str | None' = None" in text
    assert "chunk_size: Exactly this many directions at a time; ``None`` plans it." in text
    assert "given" not in text.partition("Returns:")[0]


def test_a_disagreement_is_seen() -> None:
    """Rules that cannot fail say nothing."""
    expected = listed(Given.__annotations__)

    def made(func: Any, *, mode: str = "reverse", chunk_size: str | None = None, step: Any = None) -> None: ...

    found = differences(signed(made), listed({"mode", "chunk_size", "step", "verify"}))
    assert found == ["chunk_size: str | None, not int | None", "mode: 'reverse', not 'auto'", "verify is missing"]
    for was, now, told in (
        ("| `chunk_size` | `int`, `None` |", "| `chunk_size` | `int` |", "chunk_size: int, not int | None"),
        ('| `mode` | `str` | `"auto"` |', '| `mode` | `str` | `"reverse"` |', "mode: 'reverse', not 'auto'"),
        ("| `randomness` |", "| `chance` |", "randomness is missing"),
    ):
        assert was in API
        assert told in differences(referred("blocks", API.replace(was, now)), expected)

    class Wrong(TypedDict, total=False):
        mode: int
        step: Any

    assert mistyped(Wrong) == ["mode"]


def test_tables_name_options_that_there_are() -> None:
    assert {*reading._READERS, *(clash.name for clash in reading._CLASHES)} <= listed().keys()


@pytest.mark.parametrize("name", TAKEN)
def test_an_unknown_option_is_an_error_with_the_nearest(name: str) -> None:
    with pytest.raises(cj.ArgumentTypeError, match=f"{name} takes no chunksize; its options are argnums, ") as caught:
        getattr(cj, name)(torch.sin, *([] if name == "scipy_jac" else [X]), chunksize=2)
    assert str(caught.value).endswith("Did you mean chunk_size?")


# One call a line; those that end in "wrong" are refused.
CALLS = """
import torch
import chunkjac as cj

x = torch.ones(3)
cj.jacobian(torch.sin, x, mode="reverse", chunk_size=2, max_memory="1GiB", progress=lambda p: print(p.done))
cj.plan(torch.sin, x, device="cuda", progress=False).run(x, out="J.npy", return_report=True)
cj.gram(torch.sin, x, side="input", return_report=True)
[block.axis for block in cj.blocks(torch.sin, x, argnums=(0,))]
cj.svdvals(torch.sin, x, k=1, batching="loop")
cj.scipy_jac(torch.sin, sparse=True, mode="reverse")
cj.jacobian(torch.sin, x, chunk_size="2")  # wrong
cj.jacobian(torch.sin, x, chunksize=2)  # wrong
cj.jacobian(torch.sin, x, device="cpu")  # wrong
cj.plan(torch.sin, x, progress=3)  # wrong
cj.plan(torch.sin, x).run(chunk_size=2)  # wrong
cj.blocks(torch.sin, x, out=None)  # wrong
cj.gram(torch.sin, x, verify=1)  # wrong
cj.norms(torch.sin, x, mode=1)  # wrong
cj.operator(torch.sin, x, return_report=True)  # wrong
cj.jacfd(torch.sin, step_size=1.0)  # wrong
"""


@pytest.mark.long
def test_type_checkers_refuse_wrong_calls_and_no_others(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    path = tmp_path / "calls.py"
    path.write_text(CALLS)
    settings = ["--strict", "--config-file=", "--follow-imports=silent", f"--cache-dir={tmp_path / 'cache'}"]
    told, trouble, _ = api.run([*settings, str(path)])
    assert not trouble
    refused = {int(line) for line in re.findall(r"calls\.py:(\d+): error", told)}
    assert refused == {n for n, line in enumerate(CALLS.splitlines(), 1) if line.endswith("# wrong")}, told
