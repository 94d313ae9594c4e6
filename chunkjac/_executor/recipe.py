"""What must be the same when a Jacobian is computed again, and is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from chunkjac._modes import Gradient
from chunkjac._planner import Job, Plan
from chunkjac._problem import LeftAsFound, Outputs, WriteWatcher, frozen
from chunkjac._sinks import GivenTensors
from chunkjac._tensors import Tensors

# How far the Jacobian may be from what it was: kernels round differently for other chunk sizes and modes, and a
# function may compute in a lower precision inside. Another function is off by more.
_TOLERANCE, _LOW_TOLERANCE = 0.03, 0.3


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hold how the Jacobian is computed again.

    Attributes:
        job: What was asked for, with the inputs in their graphs.
        chunk_size: The chunk size that it was computed with.
        used: Tensors that take part, and their versions.
        products: The Jacobian times a fixed vector, like the outputs, to tell whether it is the same again.
        autocast: For each type of device whether autocast was on, and its dtype.
        outputs: What the function returned.
    """

    job: Job
    chunk_size: int
    used: tuple[tuple[torch.Tensor, int], ...]
    products: Tensors
    autocast: tuple[tuple[str, bool, torch.dtype], ...]
    outputs: Outputs

    @classmethod
    def of(cls, job: Job, plan: Plan, watcher: WriteWatcher, products: Tensors, outputs: Outputs) -> Recipe:
        """Say how to do again what was done."""
        problem = replace(job.problem.in_its_graph(), func=_frozen(job.problem.func))
        again = replace(job, problem=problem, out=GivenTensors(()))  # what it gives takes no place of its own
        used = tuple((tensor, tensor._version) for tensor in watcher.read() if not tensor.is_inference())
        kinds = dict.fromkeys(["cpu", job.device.type])
        autocast = tuple((kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds)
        return cls(again, plan.chunk_size, used, products, autocast, outputs)

    def aux(self) -> Any:
        """Return the auxiliary result with its graph, as torch.func does."""
        problem = self.job.problem
        with LeftAsFound(problem) as watcher, watcher, torch.enable_grad():
            return watcher.lasting(problem.call(*problem.inputs)[2])

    def check_unchanged(self) -> None:
        """Refuse to compute at other values, as autograd does for what it has saved."""
        if any(tensor._version != version for tensor, version in self.used):
            raise RuntimeError(
                "one of the tensors that func uses has been modified by an inplace operation since its Jacobian was "
                "computed, and the backward pass computes it again; clone the tensor before it is changed."
            )

    def check_products(self, products: Tensors) -> None:
        """Refuse a Jacobian that is not what it was: the function has changed."""
        is_low = any(enabled for _, enabled, _ in self.autocast) or any(p.element_size() < 4 for p in products)
        tolerance = _LOW_TOLERANCE if is_low else _TOLERANCE
        for was, now in zip(self.products, products):
            apart, size = (part.nan_to_num(0, 0, 0).norm() for part in (now - was, was))
            if float(apart) > tolerance * float(size):
                raise RuntimeError(
                    "func is not the function that it was when its Jacobian was computed, and the backward pass "
                    "computes it again: a variable, a module's mode (train, eval) or a buffer has changed. Call "
                    "backward before that, or compute the Jacobian with torch.func."
                )

    @contextmanager
    def at_its_state(self) -> Iterator[None]:
        """Give the function the autocast state that it had."""
        with ExitStack() as stack:
            for kind, enabled, dtype in self.autocast:
                if enabled or torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, dtype, enabled=enabled))
            yield


def _frozen(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function with the variables that it closes over as they are now."""
    return replace(func, func=frozen(func.func)) if isinstance(func, Gradient) else frozen(func)
