"""Trees in words of our own: nothing is looked up that a file names."""

from __future__ import annotations

import json
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils._pytree import TreeSpec

# ``"*"`` for a tensor, ``["list", trees]``, ``["tuple", trees]`` or ``["dict", trees, keys]``, as JSON holds them.
Tree = Any
LEAF = "*"

# Deeper ones are told flat, so that no file can make reading them run out of stack.
_MOST_DEPTH = 100

# Named tuples open as tuples: their classes are in modules, which are not imported for a file.
_KINDS = {tuple: "tuple", namedtuple: "tuple", dict: "dict", OrderedDict: "dict", defaultdict: "dict"}


def words_of(spec: TreeSpec, depth: int = _MOST_DEPTH) -> Tree:
    """Return a tree in words; containers for which there are none are told as lists of what they hold."""
    if spec.is_leaf():
        return LEAF
    if not depth:
        return ["list", [LEAF] * spec.num_leaves]
    children = spec.children() if hasattr(spec, "children") else spec.children_specs
    trees = [words_of(child, depth - 1) for child in children]
    kind = _KINDS.get(spec.type, "list")
    if kind != "dict":
        return [kind, trees]
    keys = list(spec.context[1] if spec.type is defaultdict else spec.context)
    return ["dict", trees, keys] if all(map(_is_key, keys)) else ["list", trees]


def check_words(tree: Tree, depth: int = _MOST_DEPTH) -> int:
    """Return how many tensors a tree has that was read from a file.

    Raises:
        ValueError: It is none.
    """
    if tree == LEAF:
        return 1
    if not (depth and isinstance(tree, list) and len(tree) > 1 and isinstance(tree[1], list)):
        raise ValueError("a tree is not in our words")
    kind, trees, *keys = tree
    if kind == "dict":
        is_right = len(keys) == 1 and isinstance(keys[0], list) and all(map(_is_key, keys[0]))
        is_right = is_right and len({*keys[0]}) == len(keys[0]) == len(trees)
    else:
        is_right = kind in ("list", "tuple") and not keys
    if not is_right:
        raise ValueError("a tree is not in our words")
    return sum(check_words(child, depth - 1) for child in trees)


def rebuilt(tree: Tree, leaves: Sequence[Any]) -> Any:
    """Return the tree of some values, made of lists, tuples and dictionaries."""
    return _rebuilt(tree, iter(leaves))


def words_of_format_1(text: str, n_leaves: int) -> Tree:
    """Return a tree that the first format has as torch writes it; what it says of classes is not looked up.

    Raises:
        ValueError, KeyError, TypeError: It is none.
    """
    return _translated(json.loads(text)[1]) if text else ["list", [LEAF] * n_leaves]


def _rebuilt(tree: Tree, leaves: Iterator[Any]) -> Any:
    if tree == LEAF:
        return next(leaves)
    kind, trees, *keys = tree
    values = [_rebuilt(child, leaves) for child in trees]
    if kind == "dict":
        return dict(zip(keys[0], values))
    return tuple(values) if kind == "tuple" else values


def _translated(node: Any, depth: int = _MOST_DEPTH) -> Tree:
    """Return a node of torch's in our words."""
    if not depth:
        raise ValueError("a tree is too deep")
    kind = node["type"]
    if kind is None:
        return LEAF
    trees = [_translated(child, depth - 1) for child in node["children_spec"]]
    if kind in ("builtins.dict", "collections.OrderedDict"):
        return ["dict", trees, json.loads(node["context"])]
    return ["tuple" if kind == "builtins.tuple" else "list", trees]


def _is_key(key: Any) -> bool:
    """Tell whether JSON gives back a dictionary's key as it is."""
    return type(key) in (str, int)
