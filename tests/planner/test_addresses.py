"""Fake tensors have no address: who asks for one is run for real, and no process ends."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch

import chunkjac as cj

D = torch.float64


def by_pointer(x: torch.Tensor) -> torch.Tensor:
    y = x.detach().clone().contiguous()
    if not y.data_ptr():
        raise AssertionError("the next line would end the process")
    values = (ctypes.c_double * y.numel()).from_address(y.data_ptr())
    return x * torch.tensor([abs(v) + 1 for v in values], dtype=x.dtype)


def by_storage(x: torch.Tensor) -> torch.Tensor:
    y = x.detach().clone()
    address = y.untyped_storage().data_ptr()
    if not address:
        raise AssertionError("the next line would end the process")
    return x * ctypes.c_double.from_address(address).value


def by_apply(x: torch.Tensor) -> torch.Tensor:
    y = x.detach().clone()
    y.untyped_storage().data_ptr()  # an error where `apply_` would end the process
    return x * y.apply_(lambda v: abs(v) + 1)


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
@pytest.mark.parametrize("func", [by_pointer, by_storage, by_apply])
@pytest.mark.parametrize("options", [{}, {"mode": "reverse"}, {"max_memory": "8MiB"}])
def test_functions_that_read_memory_by_its_address_are_planned_by_real_probes(func: Any, options: Any) -> None:
    # Nothing is verified: what they read by an address is no part of their derivative, which is an error else.
    x = torch.tensor([1.5, -2.0, 3.0], dtype=D)
    options = {**options, "verify": 0}
    plan = cj.plan(func, x, **options)
    by_hand = torch.full_like(x, 1.5) if func is by_storage else x.abs() + 1
    assert torch.equal(plan.run(), by_hand.diag())
    assert torch.equal(cj.jacobian(func, x, **options), by_hand.diag())


def test_a_fake_tensor_has_no_address() -> None:
    addresses: list[Any] = []

    def func(x: torch.Tensor) -> torch.Tensor:
        try:
            addresses.append((x * 2).detach().data_ptr())
        except RuntimeError as error:
            addresses.append(str(error))
        return x.sin()

    cj.plan(func, torch.ones(3, dtype=D), mode="finite-difference")
    assert any("Cannot access data pointer" in str(address) for address in addresses)
    assert 0 not in addresses
