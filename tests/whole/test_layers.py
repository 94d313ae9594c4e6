"""The house keeps its rules, and each rule sees an offence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import chunkjac
from tests import house, tree
from tests.house import House

HOUSE = House(Path(chunkjac.__file__).parent)

CONTENTS = '''"""A house.

Top to bottom:

    _upper   what is above
    _room    (kept free) what may come
    _lower   what is below
    _ground  one file
"""
'''
SOUND = {
    "__init__": CONTENTS + "from made._upper import top\n",
    "_upper.__init__": '"""Above."""\nfrom made._upper.things import top\n',
    "_upper.things": '"""Things."""\nfrom made._lower import Thing\n\n\ndef top() -> Thing: ...\n',
    "_lower.__init__": '"""Below."""\nfrom made._lower.deep.stones import Thing\n',
    "_lower.deep.__init__": '"""Deeper."""\n',
    "_lower.deep.stones": '"""Stones: ``round``.\n\nAnd more."""\nimport made._ground\n\n\nclass Thing: ...\n',
    "_ground": '"""What it stands on."""\n',
}

Rule = Callable[[House], list[str]]


def many(line: str, n: int, between: str = "\n") -> str:
    """Return a line as often, numbered."""
    return between.join(line.format(i) for i in range(n))


# A rule, what is changed in the sound house, and the offence that is seen.
OFFENCES: tuple[tuple[Rule, dict[str, str], str], ...] = (
    (house.imports_that_climb, {"_ground": "from made._upper import top\n"}, "_ground imports _upper.__init__"),
    (house.imports_that_climb, {"_cellar": ""}, "_cellar is not listed"),
    (house.imports_that_climb, {"_room": ""}, "_room is there, and listed as kept free"),
    (house.imports_that_climb, {"__init__": CONTENTS.replace("_room ", "_lower")}, "_lower is listed twice"),
    (
        house.windows_climbed_through,
        {"_upper.things": "from made._lower.deep.stones import Thing\n"},
        "_upper.things enters",
    ),
    (house.windows_climbed_through, {"__init__": CONTENTS + "from made._upper.things import top"}, "__init__ enters"),
    (house.windows_climbed_through, {"_lower.deep.stones": "from made._lower import x\n"}, "enters its own"),
    (house.circles, {"_lower.a": "from made._lower.b import x", "_lower.b": "from made._lower import a"}, "_lower: "),
    (house.circles, {"_lower.deep.stones": "from made._lower import Thing\n"}, "_lower: "),
    (house.privacy_said_twice, {"_lower._hidden": ""}, "_lower._hidden: _hidden"),
    (house.privacy_said_twice, {"open.door": ""}, "open has no underscore"),
    (house.privacy_said_twice, {"_lower.a": "from made._lower.b import _x\n", "_lower.b": ""}, "_lower.a: takes _x"),
    (house.hidden_modules, {"_upper.top": ""}, "_upper gives top"),
    (house.idle_doors, {"_ground": "", "_upper.things": ""}, "_lower gives Thing to nobody"),
    (house.idle_doors, {"_lower.__init__": "def logic() -> None: ...\n"}, "_lower does something"),
    (house.large_parts, {f"_lower.many.n{i}": "" for i in range(17)}, "folder _lower/many: "),
    (house.large_parts, {"_ground": "x = 1\n" * 251}, "_ground: 251 lines"),
    (house.large_parts, {"_lower.__init__": many("from made._lower.a import x{}", 26)}, "door _lower.__init__: 26"),
    (house.large_parts, {"_ground": "def f():\n    'Say it.'\n\n" + "    x = 1\n" * 51}, "_ground f: 51 lines"),
    (house.long_signatures, {"_ground": f"def f({many('x{}', 8, ', ')}, *others): ...\n"}, "_ground f: 9 parameters"),
    (house.heavy_classes, {"_ground": "class C:\n" + many("    def f{}(self): ...", 16)}, "_ground C: 16 methods"),
    (
        house.heavy_classes,
        {"_ground": "class C:\n  def f(self):\n" + many("    self.x{} = 1", 13)},
        "_ground C: 13 fields that change",
    ),
    (house.homonyms, {"_ground": "def top() -> None: ...\n"}, "top: in _ground, _upper"),
    (house.tensors_in_arithmetic, {"_chunker.knee": "import torch.nn\n"}, "_chunker.knee: torch in _chunker.knee"),
    (
        house.tensors_in_arithmetic,
        {"_chunker.cost": "from made._lower import Thing\n", "_lower.deep.stones": "from torch import nn\n"},
        "_chunker.cost: torch in _lower.deep.stones",
    ),
    (house.late_lookups, {"_ground": "f = torch.func.vjp(torch.sin, x)\n"}, "_ground: torch.func.vjp"),
    (house.vague_names, {"_lower.utils": ""}, "_lower.utils: "),
    (house.vague_names, {"_core.arena": ""}, "_core.arena: "),
    (tree.lines_that_do_not_fit, {"_ground": ""}, "_ground: no docstring"),
    (tree.lines_that_do_not_fit, {"_lower.deep.stones": f'"""{"long " * 22}"""\n'}, "stones.py: 1"),
    (house.fractions_elsewhere, {"_ground": "share_bytes = budget.n_bytes // 16\n"}, "_ground: budget.n_bytes // 16"),
    (house.fractions_elsewhere, {"_ground": "if 4 * held_bytes <= self._room_bytes: ...\n"}, "_ground: 4 * held_bytes"),
)
RULES = tuple(dict.fromkeys(rule for rule, _, _ in OFFENCES))


def built(folder: Path, files: dict[str, str]) -> House:
    """Return a package of these files, made in a folder."""
    root = folder / "made"
    for name, text in files.items():
        path = root.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return House(root)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_its_rules(rule: Rule) -> None:
    assert rule(HOUSE) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_sound_house_offends_no_rule(rule: Rule, tmp_path: Path) -> None:
    assert not rule(built(tmp_path, SOUND))


@pytest.mark.parametrize(
    ("rule", "changed", "offence"), OFFENCES, ids=[f"{rule.__name__} {seen}" for rule, _, seen in OFFENCES]
)
def test_an_offence_is_seen(rule: Rule, changed: dict[str, str], offence: str, tmp_path: Path) -> None:
    found = rule(built(tmp_path, SOUND | changed))
    assert any(offence in line for line in found), found


def test_imports_are_seen() -> None:
    assert {file for file, _ in HOUSE.imports("__init__")} >= {"_api.__init__", "_errors"}
    assert ("_chunker.__init__", "Seeds") in HOUSE.imports("_modes.derivatives.derivative")
    assert HOUSE.file_of("chunkjac._memory.tracker.LiveBytes") == "_memory.tracker"
    assert HOUSE.file_of("chunkjac.jacobian") == "__init__"
    assert HOUSE.file_of("torch.func") == ""
    assert [room.name for room in HOUSE.contents][-1] == "_errors"


def test_the_tree_is_drawn_from_docstrings(tmp_path: Path) -> None:
    assert tree.tree_of(built(tmp_path, SOUND)) == [
        "_upper/            Above",
        "    things.py      Things",
        "_room/             (kept free) what may come",
        "_lower/            Below",
        "    deep/          Deeper",
        "        stones.py  Stones: `round`",
        "_ground.py         What it stands on",
    ]


def test_the_page_shows_the_tree() -> None:
    page = tree.PAGE.read_text()
    assert page == tree.page_with(tree.tree_of(HOUSE), page), "python -m tests.tree writes it"
