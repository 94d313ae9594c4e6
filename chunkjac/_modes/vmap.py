"""``vmap`` of a function of tensors, without what its trees and options take."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch._functorch.vmap
from torch.func import vmap

from chunkjac._tensors import Tensors

_internals: Any = torch._functorch.vmap

# What torch.func.vmap is made of, in this form since torch 2.0.
_NEEDED = {
    torch._C._functorch: ("_vmap_increment_nesting", "_vmap_decrement_nesting", "_add_batch_dim", "_remove_batch_dim"),
    _internals: ("lazy_load_decompositions",),
}
_MISSING = [name for place, names in _NEEDED.items() for name in names if not hasattr(place, name)]


def at_once(func: Callable[..., Tensors], rows: Tensors, *, randomness: str = "error") -> Tensors:
    """Apply a function to all rows, as ``torch.func.vmap(func, randomness=randomness)(*rows)`` does.

    That takes 0.1 ms, of which this takes a sixth: a fiftieth of a small job.

    Args:
        func: Takes tensors, returns a tuple of them.
        rows: As many in each tensor.
        randomness: Whether each row may draw, as torch has it.
    """
    if _MISSING:
        found: Tensors = vmap(func, randomness=randomness)(*rows)
        return found
    _internals.lazy_load_decompositions()
    functorch, n_rows = torch._C._functorch, len(rows[0])
    level = functorch._vmap_increment_nesting(n_rows, randomness)
    try:
        made = func(*(functorch._add_batch_dim(values, 0, level) for values in rows))
        return tuple(functorch._remove_batch_dim(values, level, n_rows, 0) for values in made)
    finally:
        functorch._vmap_decrement_nesting()


# torch imports it in the first vmap of a process, which takes a second.
_LATE_IMPORT = "torch._dynamo"


def is_warm() -> bool:
    """Tell whether all is imported that evaluations under ``vmap`` need."""
    return _LATE_IMPORT in sys.modules
