"""What is put into a tensor's `data`, which no dispatch mode sees."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from chunkjac._problem.transforms import is_wrapped, outside_transforms, unwrapped

_SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]
_SET_GRAD = torch.Tensor.grad.__set__  # type: ignore[union-attr]


class DataWatcher(TorchFunctionMode):
    """Note whose ``data`` is set for the first time, and what that was.

    Args:
        moved: Takes them, by their identity.
    """

    def __init__(self, moved: dict[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__()
        self._moved = moved

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a call."""
        if func == _SET_DATA and _is_outside(args[0]) and id(args[0]) not in self._moved:
            with outside_transforms():
                self._moved[id(args[0])] = args[0], args[0].detach()
        return func(*args, **(kwargs or {}))


class PlainData(TorchFunctionMode):
    """Put plain tensors into the ``data`` of tensors from outside, and leave plain ones in their ``grad``.

    With a tensor of a transform in it, the next operation on the tensor ends the process (torch 2.13:
    ``parameter.data = ...`` within ``torch.func.vjp``); with a fake one, the user's parameter is lost. So does a list
    of the numbers in a part of a fake tensor (``x[1:].tolist()``) within a transform: the fake itself refuses that.

    Attributes:
        n_entered: How often any such mode was entered in the process: so often something may have been left behind.
    """

    n_entered = 0

    def __init__(self) -> None:
        super().__init__()
        self._with_grad: list[torch.Tensor] = []

    def __enter__(self) -> PlainData:
        """Begin."""
        PlainData.n_entered += 1
        super().__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        """End; leave no tensors of transforms as gradients."""
        super().__exit__(*failure)
        with outside_transforms():
            for tensor in self._with_grad:
                value = None if tensor.grad is None else unwrapped(tensor.grad)
                tensor.grad = value.detach() if value is not None and _is_outside(value) else None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a call."""
        if func == _SET_GRAD and _is_outside(args[0]):
            self._with_grad.append(args[0])
        elif func == _SET_DATA and _is_outside(args[0]):
            args = args[0], _plain(args[1])
        elif func is torch.Tensor.tolist and isinstance(fake := unwrapped(args[0]), FakeTensor):
            args = (fake,)
        return func(*args, **(kwargs or {}))


def _is_outside(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is neither fake nor of a transform."""
    return not (is_wrapped(tensor) or isinstance(tensor, FakeTensor))


def _plain(value: Any) -> Any:
    """Return the values of a tensor of transforms.

    Raises:
        RuntimeError: There is not one value for all directions, or none at all.
    """
    value = unwrapped(value) if isinstance(value, torch.Tensor) else value
    if isinstance(value, torch.Tensor) and is_wrapped(value):
        raise RuntimeError("func puts values into the data of a tensor that are others for each direction.")
    if isinstance(value, FakeTensor):
        raise RuntimeError("func puts values into the data of a tensor, and these are fake.")
    return value
