"""What the values of a Jacobian depend on: the same facts, the same values."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from chunkjac._problem.identity.code import contents_of
from chunkjac._problem.identity.dependences import KNOWN, Reach
from chunkjac._problem.identity.digests import digest_of, tensor_digest
from chunkjac._problem.identity.words import Words, name_of
from chunkjac._problem.leaves import Leaf
from chunkjac._problem.problem import Problem

# So many things are told one by one: who reads a message does not read more.
_MOST = 1000


def facts_of(
    problem: Problem,
    outputs: Sequence[Leaf],
    mode: str,
    settings: Iterable[tuple[str, str]],
) -> dict[str, Any]:
    """Return the facts, ready for JSON.

    Args:
        problem: The function and its inputs.
        outputs: What it returns.
        mode: The name of the mode.
        settings: What else the mode's values depend on.
    """
    arguments, tree = tree_flatten(problem.args)
    others = [argument for argument in arguments if not isinstance(argument, torch.Tensor)]
    reach = Reach([problem.func, *others, *problem.modules])
    words = Words(reach.names, reach.attributes_of)
    return {
        "function": _told_function(problem.func, words),
        "arguments": [words.of(argument) for argument in arguments],
        "their tree": str(tree),
        "argnums": list(problem.argnums) if isinstance(problem.argnums, tuple) else problem.argnums,
        "outputs": [f"{leaf.dtype} {list(leaf.shape)}" for leaf in outputs],
        "parameters and buffers": digest_of(*chain.from_iterable(map(words.tensors, reach.modules.values()))),
        "random numbers": _told_numbers(problem),
        "mode": mode,
        **dict(settings),
        **_listed({**_values(reach, words), **_modules(reach, words), **_codes(reach)}),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "torch": torch.__version__,
        "chunkjac": _own_version(),
    }


def described(value: Any) -> str:
    """Return an option in words; tensors by their digests."""
    words = Words({}, lambda _: {})
    return ", ".join(words.of(part) for part in tree_flatten(value)[0])


def _told_numbers(problem: Problem) -> str:
    """Return a digest of where random generators began, if the function draws from them; it has been evaluated."""
    start = problem.draws.start if problem.draws.drew else None
    return "none" if start is None else tensor_digest(state for _, state in start.states)


def _told_function(func: Any, words: Words) -> str:
    """Return the name of a function, or of a module's class; an object that is called also with what it holds."""
    return name_of(func) if isinstance(func, (nn.Module, functools.partial)) else words.of(func)


def _codes(reach: Reach) -> dict[str, str]:
    """Return digests of the code of functions, by name; that of torch and of this library is told by their versions."""
    functions = [part for part in reach.functions.items() if part[0].partition(".")[0] not in KNOWN]
    return {f"code of {name}": digest_of(*contents_of(each.__code__)) for name, each in functions}


def _modules(reach: Reach, words: Words) -> dict[str, str]:
    """Return modules in words, by name."""
    return {f"module {name}": words.module(module) for name, module in reach.modules.items()}


def _values(reach: Reach, words: Words) -> dict[str, str]:
    """Return in words what variables, defaults and the like hold, by place; not what functions change."""
    return {place: words.of(value) for place, (name, value) in reach.values.items() if reach.is_fixed(name, value)}


def _listed(facts: dict[str, str]) -> dict[str, str]:
    """Return facts, of very many the first ones and a digest of the others."""
    items = [*facts.items()]
    others = {"all others": digest_of(*chain.from_iterable(items[_MOST:]))} if len(items) > _MOST else {}
    return {**dict(items[:_MOST]), **others}


def _own_version() -> str:
    """Return the version of chunkjac that is installed."""
    try:
        return version("chunkjac")
    except PackageNotFoundError:
        return "unknown"
