"""Zeros without memory, which forward AD makes for constants."""

from __future__ import annotations

from typing import Any

import torch

_SCALED = {torch.ops.aten.mul.Scalar, torch.ops.aten.div.Scalar}


def is_scaled_zero(func: Any, args: tuple[Any, ...]) -> bool:
    """Tell whether an operation scales a zero without memory, so that its result is that zero.

    Running it again from a Python dispatch mode ends the process (torch 2.13: ``mul.Scalar`` of an
    ``_efficientzerotensor``, as ``torch.add(x, constant, alpha=2)`` calls it in forward AD).
    """
    return func in _SCALED and isinstance(args[0], torch.Tensor) and args[0]._is_zerotensor()
