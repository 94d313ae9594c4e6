"""Products with zeros that forward AD makes: left out, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import chunkjac as cj
from chunkjac._problem.zero_products import ZeroProducts


class Products(TorchDispatchMode):
    """Note the shapes of matrices that are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.spread: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
            self.spread += [tuple(matrix.shape) for matrix in args if not any(matrix.stride())]
        return func(*args, **(kwargs or {}))


def test_forward_ad_multiplies_by_zeros_and_we_do_not() -> None:
    """If torch stops doing so, the mode can go."""
    net = nn.Sequential(nn.Linear(512, 600), nn.Tanh(), nn.Linear(600, 3))
    x = torch.linspace(-1, 1, 512)
    with Products() as theirs, torch.no_grad():
        expected = torch.func.jacfwd(net)(x)
    assert (512, 600) in theirs.spread
    with Products() as ours:
        found = cj.jacobian(net, x, mode="forward", chunk_size=200)
    assert ours.spread == []
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("n_captured", "n_entered"), [(4, 0), (300_000, 1)])
def test_products_are_looked_for_where_tensors_are_large_and_not_after_a_chunk_without_any(
    n_captured: int, n_entered: int
) -> None:
    net, captured = nn.Linear(5, 4), torch.ones(n_captured)
    entered = []

    class Counted(ZeroProducts):
        def __enter__(self) -> Any:
            entered.append(self)
            return super().__enter__()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chunkjac._modes.derivatives.pushforwards.ZeroProducts", Counted)
        found = cj.jacobian(lambda x: net(x) + captured[:4], torch.zeros(5), mode="forward", chunk_size=1)
    assert len(entered) == n_entered
    assert torch.equal(found, net.weight)


def own_zeros(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(()).expand(3, 3) @ x + x


def written_zeros(x: torch.Tensor) -> torch.Tensor:
    ones = torch.zeros(())
    ones += 1
    return ones.expand(3, 3) @ x


def zeros_written_later(x: torch.Tensor) -> torch.Tensor:
    scalar = torch.zeros(())
    matrix = scalar.expand(3, 3)
    first = matrix @ x
    scalar.fill_(2.0)
    return first + matrix @ x


def zeros_of_a_data_pointer(x: torch.Tensor) -> torch.Tensor:
    scalar = torch.zeros(())
    scalar.data.fill_(3.0)
    return scalar.expand(3, 3) @ x


def zeros_written_as_out(x: torch.Tensor) -> torch.Tensor:
    scalar, one = torch.zeros(()), torch.ones(())
    torch.add(one, one, out=scalar)
    return scalar.expand(3, 3) @ x


def zeros_written_in_a_list(x: torch.Tensor) -> torch.Tensor:
    scalar = torch.zeros(())
    torch._foreach_add_([scalar], 2.0)
    return scalar.expand(3, 3) @ x


@pytest.mark.parametrize(
    "func",
    [
        own_zeros,
        written_zeros,
        zeros_written_later,
        zeros_of_a_data_pointer,
        zeros_written_as_out,
        zeros_written_in_a_list,
    ],
)
def test_products_of_the_users_own_are_right(func: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = torch.eye(3, dtype=torch.float32) + 1
    expected = torch.func.jacfwd(func)(x)
    assert torch.equal(cj.jacobian(func, x, mode="forward", chunk_size=2), expected)


def test_zero_products_have_the_shape_and_dtype_of_the_product() -> None:
    with ZeroProducts():
        zero = torch.zeros(()).expand(4, 5)
        product = torch.ones(2, 4) @ zero
        batch = torch.bmm(torch.ones(7, 2, 4), torch.zeros(()).expand(7, 4, 5))
    assert torch.equal(product, torch.zeros(2, 5))
    assert torch.equal(batch, torch.zeros(7, 2, 5))


def test_sparse_zeros_are_left_alone() -> None:
    with ZeroProducts():
        zero = torch.zeros((), layout=torch.sparse_coo)
        product = torch.sparse.mm(torch.eye(3).to_sparse(), torch.ones(3, 2))
    assert zero.is_sparse
    assert torch.equal(product, torch.ones(3, 2))
