"""The tree of files in ``docs/how_it_works.md``, by first lines of docstrings; ``python -m tests.tree`` writes it."""

from __future__ import annotations

import ast
from pathlib import Path

import chunkjac
from tests.house import House, wing_of

PAGE = Path(__file__).parent.parent / "docs" / "how_it_works.md"
BEGIN = "<!-- written by `python -m tests.tree`, from the first lines of docstrings -->\n"
END = "<!-- end of the tree -->\n"

MOST_LETTERS = 120


def lines_of_files(house: House) -> dict[str, str]:
    """Return what files say of themselves."""
    return {name: (ast.get_docstring(tree) or "").partition("\n")[0] for name, tree in house.trees.items()}


def tree_of(house: House) -> list[str]:
    """Return the tree: rooms in the order of the table of contents, in each its own files first, then its folders."""
    said = lines_of_files(house)
    rows: list[tuple[str, str]] = []
    for room in house.contents:
        inside = sorted(_ranked(name, said) for name in house.files if wing_of(name) == room.name)
        rows += [(_shown(name), said[name]) for _, name in inside] or [(f"{room.name}/", f"(kept free) {room.text}")]
    width = max(len(name) for name, _ in rows) + 2
    return [f"{name:{width}}{line.removesuffix('.').replace('``', '`')}".rstrip() for name, line in rows]


def lines_that_do_not_fit(house: House) -> list[str]:
    """Rule 11: the first line of a file's docstring is its line in the tree; it is there, and fits."""
    silent = [f"{name}: no docstring" for name, line in lines_of_files(house).items() if not line]
    return silent + [f"{row.split()[0]}: {len(row)} letters" for row in tree_of(house) if len(row) > MOST_LETTERS]


def page_with(tree: list[str], page: str) -> str:
    """Return the page with a tree in place of its own."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return "".join([before, BEGIN, "\n```text\n", *(f"{row}\n" for row in tree), "```\n\n", END, after])


def _ranked(name: str, files: dict[str, str]) -> tuple[list[tuple[bool, str]], str]:
    """Return a file with what it is sorted by: doors come first, files before folders."""
    parts = name.split(".")
    is_folder = [".".join([*parts[: i + 1], "__init__"]) in files for i in range(len(parts))]
    return [(folder, "" if part == "__init__" else part) for folder, part in zip(is_folder, parts, strict=True)], name


def _shown(name: str) -> str:
    """Return a file, or a folder by its door, as the tree shows it."""
    *folders, last = name.split(".")
    if last == "__init__":
        *folders, last = folders
        last += "/"
    else:
        last += ".py"
    return "    " * len(folders) + last


if __name__ == "__main__":
    PAGE.write_text(page_with(tree_of(House(Path(chunkjac.__file__).parent)), PAGE.read_text()))
