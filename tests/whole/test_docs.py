"""The documentation names what there is, and nothing else. (Its examples run as doctests.)"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import chunkjac as cj

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
API = (ROOT / "docs" / "api.md").read_text()
FUNCTIONS = ("jac", "hessian", "plan", "blocks", "open", "gram", "norms", "diagonal", "matvec", "rmatvec")
FUNCTIONS += ("operator", "svdvals", "scipy_jac")


def rows(section: str) -> dict[str, str]:
    """Return the table of a section of the reference: first cell to the rest."""
    text = API.split(f"## {section}\n")[1].split("\n## ")[0]
    found = re.findall(r"^\| `(\w+)[^|`]*` \| (.*) \|$", text, re.MULTILINE)
    return dict(found)


def test_the_reference_names_exactly_what_is_public() -> None:
    documented = [*rows("Values"), *rows("Settings"), *rows("Errors")]
    functions = [name for name in rows("Compute") if name.startswith(FUNCTIONS)]
    assert sorted(documented + functions) == sorted(cj.__all__)


def test_everything_public_exists_and_has_a_docstring() -> None:
    for name in cj.__all__:
        assert inspect.getdoc(getattr(cj, name)), name


def test_the_reference_lists_the_options_that_there_are() -> None:
    options = [name for name in rows("Compute") if not name.startswith(FUNCTIONS)]
    of_jacobian = inspect.signature(cj.jacobian).parameters
    of_plan = inspect.signature(cj.plan).parameters
    assert set(options) == {*of_jacobian, *of_plan} - {"func", "args"}
    assert set(of_jacobian) - set(of_plan) == {"return_report"}
    assert set(of_plan) - set(of_jacobian) == {"device"}


@pytest.mark.parametrize("name", ["Plan", "Report", "Progress"])
def test_the_reference_lists_the_fields_that_there_are(name: str) -> None:
    named = set(re.findall(r"`(\w+)[(`]", rows("Values")[name]))
    public = {field for field in dir(getattr(cj, name)) if not field.startswith("_")}
    assert named == public


def test_docstrings_name_all_arguments() -> None:
    for name in ("jacobian", "plan", "jacrev", "jacfwd", "jacfd"):
        function = getattr(cj, name)
        text = inspect.getdoc(function) or ""
        for parameter in inspect.signature(function).parameters:
            assert re.search(rf"^ +\*?{parameter}: ", text, re.MULTILINE), f"{name}: {parameter}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).stat().st_size > 0, f"{page.name}: {target}"


def test_files_that_are_named_are_there() -> None:
    for page in PAGES:
        for name in re.findall(r"`([a-z_]+/[\w/.]*)`", page.read_text()):
            places = [folder / f"{name}{suffix}" for folder in (ROOT, ROOT / "chunkjac") for suffix in ("", ".py")]
            assert any(place.exists() for place in places), f"{page.name}: {name}"
