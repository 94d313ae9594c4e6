"""Where fake tensors need help."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from chunkjac._memory.value_sizes import RECURRENT, recurrent_bytes

_TO_COPY = torch.ops.aten._to_copy.default

_CONVOLUTION = torch.ops.aten.convolution.default

_META = torch.device("meta")


def strict_fakes() -> FakeTensorMode:
    """Return a mode of fake tensors that have no address: asking for one is an error.

    As torch makes them, their address is zero, and what reads there (``apply_``, ctypes, compiled extensions) ends
    the process.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    mode._allow_unsafe_data_ptr_access = False
    return mode


def where_it_is(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keep a copy on its tensor's device where forward AD asks for meta.

    Adding a zero tensor to a fake one copies the fake "to the result's device", which torch
    works out as meta; the next operation then meets two devices and raises (LayerNorm and
    BatchNorm under jvp, torch 2.13). A real run copies to where the tensor is.
    """
    if func is _TO_COPY and kwargs.get("device") == _META and args[0].device != _META:
        return {**kwargs, "device": args[0].device}
    return kwargs


def check_types(func: Any, tensors: list[torch.Tensor]) -> None:
    """Refuse what a kernel will: torch's fakes of convolutions do not look at types (forward AD under autocast)."""
    if func is _CONVOLUTION and tensors[0].dtype != tensors[1].dtype:
        raise RuntimeError(f"expected scalar type {tensors[1].dtype} but found {tensors[0].dtype}")


def with_workspace(func: Any, args: tuple[Any, ...], made: Any) -> Any:
    """Give a recurrent layer's fake results the workspace that the kernel makes for its backward pass."""
    if func is not RECURRENT or not args[-1]:
        return made
    n_bytes = recurrent_bytes(*args) - sum(part.nbytes for part in made[:3])
    return (*made[:3], torch.empty(max(0, n_bytes), dtype=torch.uint8, device=args[0].device))
