"""What a file's Jacobian depends on: told apart where it differs, the same in any process, cheap to find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import chunkjac as cj
from chunkjac._memory import LiveBytes
from chunkjac._store._digests import tensor_digest

D = torch.float64


def _point(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, dtype=D, generator=torch.Generator().manual_seed(1))


# Digests of tensors


@pytest.mark.parametrize("dtype", [D, torch.bfloat16, torch.complex64, torch.complex128, torch.bool, torch.int8])
def test_the_digest_is_of_the_values_whatever_memory_they_lie_in(dtype: torch.dtype) -> None:
    whole = (100 * torch.rand(70, 3, 900, generator=torch.Generator().manual_seed(0))).to(dtype)
    expected = tensor_digest([whole])
    for apart in (whole.transpose(0, 2).contiguous().transpose(0, 2), whole.repeat(2, 1, 2)[:70, :, :900]):
        assert not apart.is_contiguous()
        assert tensor_digest([apart]) == expected
    other = whole.clone()
    other[-1, -1, -1] = 0 if whole[-1, -1, -1] else 1
    assert tensor_digest([other]) != expected


def test_a_tensor_of_one_element_with_a_stride_has_a_digest(tmp_path: Path) -> None:
    x = torch.rand(1, 7)[:, 0]
    found = cj.jacobian(torch.sin, x, out=tmp_path / "J.npy")
    torch.testing.assert_close(found, x.cos().diag())
    assert tensor_digest([x]) == tensor_digest([x.clone()])


def test_conjugated_negated_empty_and_scalar_tensors_have_digests() -> None:
    z = torch.randn(3, 2, dtype=torch.complex64)
    assert tensor_digest([z.conj()]) == tensor_digest([z.conj().resolve_conj()]) != tensor_digest([z])
    assert tensor_digest([z.conj().imag]) == tensor_digest([-z.imag])
    assert tensor_digest([torch.ones(())]) != tensor_digest([torch.ones(1)])
    assert tensor_digest([torch.ones(0, 3)]) != tensor_digest([torch.ones(3, 0)])


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("make", ["to_sparse_coo", "to_sparse_csr", "to_sparse_csc"])
def test_the_digest_of_a_sparse_tensor_is_of_its_components(make: str) -> None:
    dense = torch.eye(2000)
    sparse = getattr(dense, make)()
    other = dense.clone()
    other[7, 7] = 2
    with LiveBytes(torch.device("cpu")) as live:
        digest = tensor_digest([sparse])
    assert live.peak_bytes < 2**17
    assert digest == tensor_digest([getattr(dense, make)()]) != tensor_digest([getattr(other, make)()])


@pytest.mark.filterwarnings("ignore:Sparse", "ignore::chunkjac.RungWarning")
@pytest.mark.parametrize("what", ["transposed", "sparse"])
def test_looking_at_captured_tensors_takes_no_part_of_the_budget(what: str, tmp_path: Path) -> None:
    n = 2000
    func: Callable[[torch.Tensor], Any]
    if what == "transposed":
        weights, limit = torch.rand(n, 300).t(), "1MiB"
        x, func = torch.rand(n), lambda x: weights @ x
    else:
        eye, columns, limit = torch.eye(n).to_sparse_coo(), torch.rand(n, 3), "2MiB"
        x, func = torch.rand(3), lambda x: torch.sparse.mm(eye, columns * x)
    found = cj.jacobian(func, x, mode="forward", max_memory=limit, out=tmp_path / "J.npy")
    torch.testing.assert_close(found, cj.jacobian(func, x, mode="forward"))
