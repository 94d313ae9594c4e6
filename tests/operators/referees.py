"""Independent ways to a Jacobian: nothing batched, nothing of chunkjac's.

All return a list of parts, ``(*output.shape, *input.shape)`` each: the first output by every input,
then the second, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.autograd.forward_ad as fw

from tests.operators.cases import DTYPE, Case, seed

Jacobian = list[torch.Tensor]

# The step of central differences in double precision, eps ** (1/3), as a part of max(|x|, 1).
_STEP = 6e-6

# Two steps that agree this well, and two sides that agree that well, are of a smooth function.
_STEPS_AGREE = 1e-6
_SIDES_AGREE = 1e-3


@dataclass(frozen=True, slots=True)
class Differences:
    """Hold central differences, and where the function is smooth as far as they tell.

    Where outputs are of less than double precision they tell nothing: rounding makes steps.
    """

    values: Jacobian
    smooth: Jacobian


def by_rows(case: Case) -> Jacobian:
    """Return the Jacobian by plain backward passes, one for each element of the outputs."""
    inputs = [x.detach().requires_grad_() for x in case.inputs]
    seed()
    with torch.enable_grad():
        outputs = case.func(*inputs)
    return [part for output in outputs for part in _rows_of(output, inputs)]


def by_columns(case: Case) -> Jacobian:
    """Return the Jacobian by plain forward derivatives, one for each element of the inputs."""
    columns: list[list[list[torch.Tensor]]] = []
    seed()
    outputs = case.func(*case.inputs)
    for j, x in enumerate(case.inputs):
        columns.append([[] for _ in outputs])
        for k in range(x.numel()):
            with fw.dual_level(), torch.no_grad():
                duals = list(case.inputs)
                duals[j] = fw.make_dual(x, _one_hot(x, k))
                seed()
                for column, output in zip(columns[j], case.func(*duals)):
                    tangent = fw.unpack_dual(output).tangent
                    column.append(torch.zeros_like(output) if tangent is None else tangent.clone())
    return [
        _from_columns(by[i], output, x, output.dtype)
        for i, output in enumerate(outputs)
        for by, x in zip(columns, case.inputs)
    ]


@torch.no_grad()
def by_differences(case: Case) -> Differences:
    """Return central differences of two steps and both sides."""
    base = _evaluate(case, case.inputs)
    values = [[[] for _ in case.inputs] for _ in base]
    smooth = [[[] for _ in case.inputs] for _ in base]
    for j, x in enumerate(case.inputs):
        for k in range(x.numel()):
            h = _STEP * max(1.0, abs(x.reshape(-1)[k].item()))
            up, down, far_up, far_down = (
                _evaluate(case, _moved(case.inputs, j, k, by)) for by in (h, -h, 2 * h, -2 * h)
            )
            for i, at in enumerate(base):
                central, wide = (up[i] - down[i]) / (2 * h), (far_up[i] - far_down[i]) / (4 * h)
                scale = central.abs().nan_to_num(1.0, 1.0, 1.0).clamp(min=1)
                agree = (central - wide).abs() <= _STEPS_AGREE * scale
                agree &= (up[i] - 2 * at + down[i]).abs() <= _SIDES_AGREE * h * scale
                agree &= torch.tensor(at.dtype == DTYPE)
                values[i][j].append(central)
                smooth[i][j].append(agree)
    return Differences(_assembled(values, base, case, DTYPE), _assembled(smooth, base, case, torch.bool))


def _rows_of(output: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the rows of one output by all inputs."""
    rows = [torch.zeros(output.numel(), *x.shape, dtype=x.dtype) for x in inputs]
    if output.requires_grad:
        for k in range(output.numel()):
            found = torch.autograd.grad(output, inputs, _one_hot(output, k), retain_graph=True, allow_unused=True)
            for row, gradient in zip(rows, found):
                if gradient is not None:
                    row[k] = gradient
    return [row.reshape((*output.shape, *x.shape)) for row, x in zip(rows, inputs)]


def _one_hot(like: torch.Tensor, k: int) -> torch.Tensor:
    """Return zeros but for a one."""
    tensor = torch.zeros(like.shape, dtype=like.dtype)
    tensor.view(-1)[k] = 1
    return tensor


def _evaluate(case: Case, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Evaluate the function."""
    seed()
    return list(case.func(*inputs))


def _moved(inputs: tuple[torch.Tensor, ...], j: int, k: int, by: float) -> tuple[torch.Tensor, ...]:
    """Return the inputs with one element moved."""
    moved = inputs[j].clone(memory_format=torch.contiguous_format)
    moved.view(-1)[k] += by
    return (*inputs[:j], moved, *inputs[j + 1 :])


def _assembled(
    columns: list[list[list[torch.Tensor]]], outputs: list[torch.Tensor], case: Case, dtype: torch.dtype
) -> Jacobian:
    """Put columns together."""
    return [
        _from_columns(column, output, x, dtype)
        for by, output in zip(columns, outputs)
        for column, x in zip(by, case.inputs)
    ]


def _from_columns(
    columns: list[torch.Tensor], output: torch.Tensor, x: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Return columns as the last axes of a tensor; the dtype is for when there are none."""
    shape = (*output.shape, *x.shape)
    return torch.stack(columns, -1).reshape(shape) if columns else torch.zeros(shape, dtype=dtype)
