"""The layers: a file imports only from rows below its own."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import chunkjac

# Top to bottom; a package counts as one.
ROWS = (
    ("__main__",),
    ("_cli",),
    ("_demo",),
    ("__init__",),
    ("_faces", "compat"),
    ("_api", "_scipy"),
    ("_operator",),
    ("_products", "_reductions"),
    ("_through",),
    ("_along", "_calls", "_planning", "_two_points"),
    ("_streams",),
    ("_run",),
    ("_rebuilding", "_refusal"),
    ("_probe",),
    ("_job",),
    ("_estimate", "_gradient", "_verify"),
    ("_executor", "_experience", "_select", "_sinks"),
    ("_level", "_modes", "_restoring"),
    ("_linear", "_lookout"),
    ("_config", "_memory", "_plan", "_stencil", "_store"),
    ("_bounds", "_functional", "_steps"),
    ("_bar", "_chunker", "_files", "_pacer", "_problem", "_schemes"),
    ("_checks", "_closures", "_modules", "_options", "_terms", "_units"),
    ("_witness",),
    (
        "_backoff",
        "_code",
        "_errors",
        "_kernels",
        "_knee",
        "_once",
        "_planner",
        "_progress",
        "_randomness",
        "_tensors",
        "_types",
        "_watching",
        "_zero_tensors",
    ),
)

ROOT = Path(chunkjac.__file__).parent
ROW_OF = {unit: number for number, row in enumerate(ROWS) for unit in row}
FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}
PACKAGES = sorted({name.partition(".")[0] for name in FILES if "." in name})


def imports_of(name: str) -> set[str]:
    """Return the files of chunkjac that a file imports, by names like those of ``FILES``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {resolve(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            found |= {resolve(f"{node.module}.{alias.name}") for alias in node.names}
    return found - {""}


def resolve(dotted: str) -> str:
    """Return the file that a dotted name is, or is in; empty for other libraries."""
    top, _, inside = dotted.partition(".")
    if top != "chunkjac":
        return ""
    candidates = [inside, f"{inside}.__init__"]
    candidates += [inside.rpartition(".")[0], f"{inside.rpartition('.')[0]}.__init__", "__init__"]
    return next(candidate for candidate in candidates if candidate in FILES)


def unit_of(name: str) -> str:
    """Return the module or package of the rows that a file belongs to."""
    return name.partition(".")[0]


def test_every_module_is_in_one_row() -> None:
    listed = [unit for row in ROWS for unit in row]
    assert len(listed) == len(set(listed))
    assert {unit_of(name) for name in FILES} <= set(listed)


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_only_from_rows_below_its_own(name: str) -> None:
    own = unit_of(name)
    outside = {unit_of(imported) for imported in imports_of(name)} - ({own} if own in PACKAGES else set())
    assert not {unit for unit in outside if ROW_OF[unit] <= ROW_OF[own]}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_files_of_a_package_import_each_other_without_cycles(package: str) -> None:
    inner = {name: imports_of(name) for name in FILES if unit_of(name) == package}
    graph = {name: {other for other in imported if other in inner} for name, imported in inner.items()}
    assert any(graph.values())
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert order[-1] == f"{package}.__init__"


def test_imports_are_seen() -> None:
    assert imports_of("__init__") >= {"_api", "_errors"}
    assert imports_of("_calls") >= {"_memory.__init__", "_config"}
    assert "_modes._mode" in imports_of("_modes._ladder")
    assert resolve("chunkjac._memory._tracker.LiveBytes") == "_memory._tracker"
    assert resolve("chunkjac.jacobian") == "__init__"
    assert resolve("torch.func") == ""
