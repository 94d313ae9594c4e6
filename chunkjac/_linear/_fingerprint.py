"""What a function's behaviour may depend on beside its inputs, as far as that can be seen.

A recorded program is what the function did then. Its values are compared with the function's in
each run; what changes derivatives and no values (hooks, flags that detach) shows here, or in the
comparison with one direction.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as nn_module

from chunkjac._modules import behind
from chunkjac._problem import Problem

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


def fingerprint(problem: Problem) -> Hashable:
    """Return what is equal as long as nothing that can be seen has changed; tensors' values are not part of it."""
    parts: list[Hashable] = [_simple(part) for part in (*behind(problem.func), *problem.args)]
    parts += [
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        len(nn_module._global_backward_hooks),
        len(nn_module._global_forward_hooks),
    ]
    for module in problem.modules:
        parts.append(tuple(_state(module)))
    return tuple(parts)


def _state(module: nn.Module) -> Iterator[Hashable]:
    """Yield a module's plain attributes, how many hooks it has, and which tensors."""
    for name, value in vars(module).items():
        if isinstance(value, _PLAIN):
            yield name, value
        elif isinstance(value, dict):
            yield name, tuple(map(id, value.values()))
            if name == "_parameters":
                yield tuple(len(p._backward_hooks or ()) for p in value.values() if p is not None)


def _simple(value: Any) -> Hashable:
    """Return a plain value, or the identity of anything else."""
    return (
        value
        if isinstance(value, _PLAIN)
        else (type(value).__name__, 0 if isinstance(value, torch.Tensor) else id(value))
    )
