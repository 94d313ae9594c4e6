"""Forward mode by differentiating the vjp."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch._subclasses.fake_tensor import FakeTensor

from chunkjac._modes.derivatives.backward_pass import pulled_back
from chunkjac._modes.derivatives.pullbacks import BatchedGrad
from chunkjac._modes.referee import central_difference, random_tangent
from chunkjac._modes.referees.claims import ByColumns, judged
from chunkjac._modes.referees.slopes import slopes_along
from chunkjac._problem import Outputs, Problem, plain_kernels
from chunkjac._tensors import Tensors

# How far central differences may be off: little in any precision but at kinks, where more is no proof either.
_COARSE = 0.2


class DoubleBackward:
    """Differentiate the vjp, which is linear in its seed, by that seed.

    ``v -> v J`` has the derivative ``u -> J u``, whatever v is: two backward passes make a
    column where an operation has no forward derivative.

    Args:
        problem: The function and its inputs.
        outputs: What the function returns.

    Raises:
        RuntimeError: The backward pass cannot be differentiated, or is differentiated wrongly.

    Source:
        J. Townsend, A new trick for calculating Jacobian vector products, 2017.
    """

    name: ClassVar[str] = "double backward"
    prologue: ClassVar[str] = "two plain graphs"
    batched: ClassVar[bool] = True
    is_sure = False
    flows = True

    def __init__(self, problem: Problem, outputs: Outputs) -> None:
        self.outputs = outputs
        with torch.enable_grad(), plain_kernels():
            pullback = BatchedGrad(problem)
            self._seeds = [seed.requires_grad_() for seed in random_tangent(outputs.leaves)]
            self._rows: Tensors = pullback.one(tuple(self._seeds))
        with torch.no_grad():
            self._check(problem)

    def _check(self, problem: Problem) -> None:
        """Refuse a backward pass that has no derivative, or a wrong one.

        Autograd takes the derivative of what it does not see for zero, and nothing tells of it: a function
        may leave autograd in its backward pass (``once_differentiable``, NumPy). A formula may also be wrong
        (``as_strided_scatter``, torch 2.13). A central difference knows nothing of either.
        """
        tangent = random_tangent(problem.inputs)
        found, wanted = self.one(tangent), central_difference(problem, tangent)
        if any(isinstance(value, FakeTensor) for value in (*found, *wanted)):
            return
        if all(map(_is_near, found, wanted)):
            return
        if judged(ByColumns(self.one, problem), problem, slopes_along(problem)).agrees:
            return  # a stair lies within that step
        raise RuntimeError(
            "a backward pass in func has no derivative (once_differentiable, NumPy), or a wrong one: double backward "
            "is not what central differences tell"
        )

    def many(self, seeds: Tensors) -> Tensors:
        """Return columns, ``(k, *output.shape)`` for each output."""
        return self._push(seeds, batched=True)

    def one(self, seed: Tensors) -> Tensors:
        """Return a column, like the outputs."""
        return self._push(seed, batched=False)

    def recordable(self, seed: Tensors) -> Tensors:
        """Do what ``one`` does: kernels are plain ones already."""
        return self.one(seed)

    def close(self) -> None:
        """Let go of the graphs."""
        self._rows = ()

    def _push(self, tangents: Tensors, *, batched: bool) -> Tensors:
        """Send tangents back through the vjp; outputs that no input reaches get zeros."""
        graph = torch.is_grad_enabled()
        return pulled_back(self._rows, self._seeds, tangents, batched=batched, create_graph=graph)


def _is_near(value: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether a column is a central difference, but for rounding and curvature."""
    scale, apart = (part.abs().nan_to_num_(0, 0, 0).sum() for part in (other, value - other))
    return float(apart) <= _COARSE * float(scale) + torch.finfo(value.dtype).eps ** 0.5


class DoubleBackwardOneByOne(DoubleBackward):
    """Do the same for one tangent after the other."""

    name: ClassVar[str] = "double backward, column by column"
    batched: ClassVar[bool] = False
