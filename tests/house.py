"""The rules of the house: how a package is laid out, read from its files as text.

Each rule is a function that returns its offences, so that it can be tried on a made-up package as well.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

MOST_FILES = 15
MOST_LINES = 250
MOST_LINES_OF_A_BODY = 50
MOST_PARAMETERS = 8
MOST_METHODS = 15
MOST_FIELDS_THAT_CHANGE = 12
MOST_NAMES_OF_A_DOOR = 25

# Their functions have the parameters of torch's operators.
AS_TORCH_CALLS = {"_programs.passes.convolutions", "_programs.passes.rules"}

# Arithmetic and tables, which can be tested and read without a tensor.
PURE = {
    "_chunker": ("cost", "counting", "first_guess", "knee", "limits", "pacer", "partition", "slices", "turns"),
    "_planner": ("bar", "plan", "report", "table"),
}

# Names that would fit any file.
VAGUE = {"base", "classes", "common", "core", "engine", "funcs", "functions", "general", "helper", "helpers", "impl"}
VAGUE |= {"internal", "lib", "main", "manager", "misc", "new", "old", "other", "others", "shared", "stuff", "support"}
VAGUE |= {"tmp", "tool", "tools", "types", "util", "utilities", "utils"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Room:
    """A line of the table of contents: a wing or a file of the root, or room kept for one."""

    name: str
    is_free: bool
    text: str


class House:
    """A package as text: its table of contents, its files, and who imports whom."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = root.name

    @cached_property
    def files(self) -> dict[str, Path]:
        """Paths by dotted names below the root; the root's door is ``__init__``."""
        paths = sorted(self.root.rglob("*.py"))
        return {".".join(path.relative_to(self.root).with_suffix("").parts): path for path in paths}

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        """The files' code."""
        return {name: ast.parse(path.read_text()) for name, path in self.files.items()}

    @cached_property
    def contents(self) -> tuple[Room, ...]:
        """The table of contents, top to bottom: indented lines of the docstring of the root's door."""
        doc = ast.get_docstring(self.trees["__init__"], clean=True) or ""
        lines = (re.match(r" +(\w+) +(\(kept free\) )?(.*)", line) for line in doc.splitlines())
        return tuple(Room(match[1], match[2] is not None, match[3]) for match in lines if match)

    @cached_property
    def rows(self) -> dict[str, float]:
        """The number of each room in the table of contents."""
        rows: dict[str, float] = {room.name: number for number, room in enumerate(self.contents)}
        first = min((rows.get(wing_of(file), 0) for file, _ in self.imports("__init__")), default=0)
        return rows | {"__init__": first - 0.5}  # public names: above what they are taken from

    @cached_property
    def wings(self) -> set[str]:
        """The folders of the root."""
        return {name.partition(".")[0] for name in self.files if "." in name}

    def imports(self, name: str) -> list[tuple[str, str]]:
        """Return what a file imports of its own package: files, by names as in ``files``, and the name taken."""
        found: list[tuple[str, str]] = []
        for node in ast.walk(self.trees[name]):
            if isinstance(node, ast.Import):
                found += [(self.file_of(alias.name), "") for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name} imports relatively"
                found += [(self.file_of(f"{node.module}.{alias.name}"), alias.name) for alias in node.names]
        return [(file, taken) for file, taken in found if file]

    def libraries(self, name: str) -> set[str]:
        """Return what a file imports of others: the names of their packages."""
        nodes = [*ast.walk(self.trees[name])]
        found = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        found += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
        return {dotted.partition(".")[0] for dotted in found} - {self.name}

    def source_of(self, file: str, taken: str) -> str:
        """Return the file that a name comes from: behind the door, where it is taken there."""
        behind = {name: source for source, name in self.imports(file)} if is_door(file) else {}
        return behind.get(taken, file)

    def functions(self, name: str) -> Iterator[Function]:
        """Yield the functions and methods of a file."""
        yield from (node for node in ast.walk(self.trees[name]) if isinstance(node, Function))

    def classes(self, name: str) -> Iterator[ast.ClassDef]:
        """Yield the classes of a file."""
        yield from (node for node in ast.walk(self.trees[name]) if isinstance(node, ast.ClassDef))

    def file_of(self, dotted: str) -> str:
        """Return the file that a dotted name is, or is in; empty for other libraries."""
        top, _, inside = dotted.partition(".")
        if top != self.name:
            return ""
        outer = inside.rpartition(".")[0]
        candidates = (inside, f"{inside}.__init__", outer, f"{outer}.__init__", "__init__")
        return next(candidate for candidate in candidates if candidate in self.files)


def wing_of(file: str) -> str:
    """Return the room of the root that a file lies in."""
    return file.partition(".")[0]


def is_door(file: str) -> bool:
    """Tell whether a file is the door of a folder."""
    return file.endswith(".__init__")


def imports_that_climb(house: House) -> list[str]:
    """Rule 1: each folder and file of the root is in the list once, and imports between them go down."""
    listed = [room.name for room in house.contents]
    there = {wing_of(name) for name in house.files} - {"__init__"}
    free = {room.name for room in house.contents if room.is_free}
    found = [f"{name} is listed twice" for name in sorted(set(listed)) if listed.count(name) > 1]
    found += [f"{name} is not listed" for name in sorted(there - set(listed))]
    found += [f"{name} is listed and not there" for name in sorted(set(listed) - there - free)]
    found += [f"{name} is there, and listed as kept free" for name in sorted(free & there)]
    if found:
        return found
    for name in house.files:
        own = wing_of(name)
        for imported, _ in house.imports(name):
            other = wing_of(imported)
            if own != "__init__" and other != own and house.rows.get(other, -1) <= house.rows[own]:
                found.append(f"{name} imports {imported}")
    return found


def windows_climbed_through(house: House) -> list[str]:
    """Rule 2: a wing is entered by its door; inside a wing, files are named and never the door."""
    found = []
    for name in house.files:
        own = "" if name.count(".") == 1 and is_door(name) else wing_of(name)
        for imported, _ in house.imports(name):
            other = wing_of(imported)
            if other == own and is_door(imported):
                found.append(f"{name} enters its own {imported}")
            elif other in house.wings - {own, wing_of(name)} and imported != f"{other}.__init__":
                found.append(f"{name} enters {imported}")
    return found


def circles(house: House) -> list[str]:
    """Rule 3: no circle of files in a wing, inner folders included; the door comes last."""
    found = []
    for wing in sorted(house.wings):
        inside = [name for name in house.files if wing_of(name) == wing]
        graph = {name: {other for other, _ in house.imports(name)} & set(inside) - {name} for name in inside}
        graph[f"{wing}.__init__"] = {name for name in inside if not is_door(name)}
        try:
            list(TopologicalSorter(graph).static_order())
        except CycleError as error:
            found.append(f"{wing}: {' -> '.join(error.args[1])}")
    return found


def privacy_said_twice(house: House) -> list[str]:
    """Rule 4: wings have an underscore, files and folders in them have none, nor has what others take from a file."""
    found = [f"{wing} has no underscore" for wing in sorted(house.wings) if not wing.startswith("_")]
    for name in house.files:
        inner = name.split(".")[1:]
        found += [f"{name}: {part}" for part in inner if part.startswith("_") and part != "__init__"]
        private = {taken for _, taken in house.imports(name) if re.match("_[^_]", taken)} - house.files.keys()
        found += [f"{name}: takes {taken}" for taken in sorted(private - house.wings)]
    return found


def hidden_modules(house: House) -> list[str]:
    """Rule 5: no door gives a name that one of its files or folders bears: it would hide the module."""
    found = []
    for wing in sorted(house.wings):
        given = {taken for _, taken in house.imports(f"{wing}.__init__")}
        borne = {name.split(".")[1] for name in house.files if wing_of(name) == wing}
        found += [f"{wing} gives {name}" for name in sorted(given & borne)]
    return found


def idle_doors(house: House) -> list[str]:
    """Rule 5, too: a door gives what others take, and has no logic."""
    taken = {(imported, name) for file in house.files for imported, name in house.imports(file)}
    found = []
    for wing in sorted(house.wings):
        door = f"{wing}.__init__"
        given = {name for _, name in house.imports(door)}
        found += [f"{wing} gives {name} to nobody" for name in sorted(given) if (door, name) not in taken]
        others = [node for node in house.trees[door].body if not isinstance(node, (ast.ImportFrom, ast.Expr))]
        found += [f"{wing} does something" for _ in others]
    return found


def large_parts(house: House) -> list[str]:
    """Rule 6: a folder, a file, a door and the body of a function are no larger than a reader can keep in mind."""
    folders = Counter(str(path.parent.relative_to(house.root)) for path in house.files.values())
    found = [f"folder {folder}: {n - 1} files" for folder, n in sorted(folders.items()) if n - 1 > MOST_FILES]
    for name, path in house.files.items():
        n_lines = len(path.read_text().splitlines())
        if n_lines > MOST_LINES:
            found.append(f"{name}: {n_lines} lines")
        n_names = len(house.imports(name)) if is_door(name) else 0
        if n_names > MOST_NAMES_OF_A_DOOR:
            found.append(f"door {name}: {n_names} names")
        sizes = [(function.name, _n_body_lines(function)) for function in house.functions(name)]
        found += [f"{name} {own}: {n} lines" for own, n in sizes if n > MOST_LINES_OF_A_BODY]
    return found


def long_signatures(house: House) -> list[str]:
    """Rule 6, too: what is called within has few parameters; what users call names all its options."""
    public = {taken for _, taken in house.imports("__init__")}
    found = []
    for name in house.files.keys() - AS_TORCH_CALLS:
        exempt = {id(node) for node in house.trees[name].body if getattr(node, "name", "") in public}
        for function in house.functions(name):
            n_parameters = _n_parameters(function)
            if n_parameters > MOST_PARAMETERS and id(function) not in exempt:
                found.append(f"{name} {function.name}: {n_parameters} parameters")
    return sorted(found)


def heavy_classes(house: House) -> list[str]:
    """Rule 6, too: a class has few methods and few fields that change, or a comment directly above it says why."""
    found = []
    for name, path in house.files.items():
        lines = path.read_text().splitlines()
        for each in house.classes(name):
            first = min([each.lineno, *(decorator.lineno for decorator in each.decorator_list)])
            if lines[first - 2].lstrip().startswith("#") and first > 1:
                continue
            methods = [node for node in each.body if isinstance(node, Function)]
            changed = {field for method in methods if method.name != "__init__" for field in _fields_set(method)}
            if len(methods) > MOST_METHODS:
                found.append(f"{name} {each.name}: {len(methods)} methods")
            if len(changed) > MOST_FIELDS_THAT_CHANGE:
                found.append(f"{name} {each.name}: {len(changed)} fields that change")
    return found


def homonyms(house: House) -> list[str]:
    """Rule 7: no class or function of two wings bears the same name."""
    wings: dict[str, set[str]] = defaultdict(set)
    for name in house.files:
        for node in house.trees[name].body:
            if isinstance(node, (ast.ClassDef, Function)) and not node.name.startswith("_"):
                wings[node.name].add(wing_of(name))
    return [f"{own}: in {', '.join(sorted(where))}" for own, where in sorted(wings.items()) if len(where) > 1]


def late_lookups(house: House) -> list[str]:
    """Rule 13: torch's transforms are taken at import; whoever puts ours in their place would have ours call itself."""
    return sorted(
        f"{name}: torch.func.{node.attr}"
        for name, tree in house.trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "torch.func"
    )


def tensors_in_arithmetic(house: House) -> list[str]:
    """Rule 8: what is arithmetic imports no torch, nor does a file that its names come from."""
    found = []
    for name in (f"{wing}.{file}" for wing, files in PURE.items() for file in files):
        ahead, seen = [name] if name in house.files else [], set()
        while ahead:
            file = ahead.pop()
            seen.add(file)
            if "torch" in house.libraries(file):
                found.append(f"{name}: torch in {file}")
            ahead += {house.source_of(*taken) for taken in house.imports(file)} - seen
    return found


def vague_names(house: House) -> list[str]:
    """Rule 10: a file is named by a noun that says what is in it."""
    words = {name: {part.removeprefix("_") for part in name.split(".")} for name in house.files}
    return [f"{name}: says nothing" for name, parts in words.items() if VAGUE & parts]


def _n_body_lines(function: Function) -> int:
    """Return the lines of a function's body after its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def _n_parameters(function: Function) -> int:
    """Return how many parameters a function has beside the object that it is bound to."""
    every = function.args
    named = [*every.posonlyargs, *every.args, *every.kwonlyargs, *filter(None, (every.vararg, every.kwarg))]
    return sum(each.arg not in ("self", "cls") for each in named)


def _fields_set(method: Function) -> Iterator[str]:
    """Yield the fields that a method sets."""
    for node in ast.walk(method):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
            yield from [node.attr] if node.value.id == "self" else []


_BUDGET = re.compile(r"_?(budget|room|limit|left_bytes|spare_bytes)(_bytes)?")


def _is_of_budget(node: ast.AST) -> bool:
    """Tell whether an expression speaks of the budget, or of what is left of it."""
    names = (getattr(part, "id", getattr(part, "attr", "")) for part in ast.walk(node))
    return any(_BUDGET.fullmatch(name) for name in names)


def _is_number(node: ast.AST) -> bool:
    """Tell whether an expression is a number, by itself or by its name."""
    return isinstance(node, ast.Constant) or ast.unparse(node).isupper() or ast.unparse(node).endswith("share")


def _is_multiple(node: ast.AST) -> bool:
    """Tell whether an expression is a number times something."""
    is_product = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)
    return is_product and (_is_number(node.left) or _is_number(node.right))


def fractions_elsewhere(house: House) -> list[str]:
    """Rule 12: a fraction of the budget stands in `_chunker`, beside its evidence, and nowhere else."""
    found = []
    for name, tree in house.trees.items():
        for node in ast.walk(tree) if wing_of(name) != "_chunker" else ():
            parts: list[ast.expr] = []
            if _is_multiple(node) or (isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Div, ast.FloorDiv))):
                parts = [node.left] if _is_number(node.right) else [node.right] if _is_multiple(node) else []
            elif isinstance(node, ast.Compare) and any(map(_is_multiple, (node.left, *node.comparators))):
                parts = [node.left, *node.comparators]
            if any(map(_is_of_budget, parts)):
                found.append(f"{name}: {ast.unparse(node)}")
    return found
