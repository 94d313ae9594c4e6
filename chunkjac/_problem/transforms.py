"""Whether a transform is under way."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad
from torch.utils._pytree import tree_flatten


def is_inside_transform(args: tuple[Any, ...] = ()) -> bool:
    """Tell whether a transform of torch.func or a trace is under way here, or an argument has a tangent."""
    is_traced = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None  # make_fx
    if is_traced or torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    # The level of forward AD is the process's: another thread may be in one.
    tensors = tree_flatten(args)[0] if forward_ad._current_level >= 0 else []
    return any(isinstance(x, torch.Tensor) and forward_ad.unpack_dual(x, level=0).tangent is not None for x in tensors)


def is_plain(tensors: Iterable[torch.Tensor]) -> bool:
    """Tell whether tensors are neither fake nor of a transform."""
    return not any(type(tensor) is not torch.Tensor or is_wrapped(tensor) for tensor in tensors)


def is_wrapped(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor belongs to a transform of torch.func, which may be over."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """Return the values of a tensor of transforms; those of several directions at once stay what they are."""
    while is_wrapped(tensor) and not torch._C._functorch.is_batchedtensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def outside_transforms() -> AbstractContextManager[Any]:
    """Leave the transforms of torch.func that are under way, for a while."""
    is_inside = torch._C._functorch.peek_interpreter_stack() is not None
    return temporarily_clear_interpreter_stack() if is_inside else nullcontext()
