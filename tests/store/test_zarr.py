"""Jacobians in Zarr's format: what Zarr reads is what was computed, and what is lost is never zeros."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import chunkjac as cj
from chunkjac._store.reader import check
from chunkjac._store.removal import remove
from tests.store.test_store import MODES, D, _net, _never, _point, _stop, _tolerance, computed

zarr = pytest.importorskip("zarr", reason="Zarr needs Python 3.11")
__all__ = ["computed"]  # a fixture


def _tensor(array: Any) -> torch.Tensor:
    """Return the values in their shape."""
    return torch.as_tensor(array[...]).reshape(array.attrs["shape"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 2, 1, 3)])
def test_zarr_reads_the_matrix_of_what_was_computed(mode: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.sin() * i for i in range(5)], dim=-1)

    x, path = _point(6)[: math.prod(shape)].reshape(shape), tmp_path / "J.zarr"
    expected = torch.func.jacrev(func)(x)
    returned = cj.jacobian(func, x, mode=mode, out=path, chunk_size=2)
    for found in (returned, zarr.open_array(path, mode="r"), cj.open(path)):
        assert found.shape == (5 * x.numel(), x.numel())
        torch.testing.assert_close(_tensor(found), expected, rtol=0, atol=_tolerance(mode))
        assert not np.isnan(found[...]).any()
    assert check(path)[:2] == ([], [])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_types_stay(dtype: torch.dtype, tmp_path: Path) -> None:
    x = torch.linspace(-1, 1, 4).to(dtype)
    found = cj.jacobian(torch.sin, x, mode="forward", out=tmp_path / "J.zarr", chunk_size=3)
    expected = cj.jacobian(torch.sin, x, mode="forward", chunk_size=3)
    assert expected.dtype == dtype
    assert torch.equal(_tensor(found), expected)


@pytest.mark.parametrize(("n_out", "n_in"), [(0, 4), (4, 0)])
@pytest.mark.parametrize("mode", MODES)
def test_a_jacobian_without_elements_is_an_array_too(mode: str, n_out: int, n_in: int, tmp_path: Path) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return x.sum() * torch.ones(n_out, dtype=D)

    assert cj.jacobian(func, _point(n_in), mode=mode, out=tmp_path / "J.zarr").shape == (n_out, n_in)
    assert cj.open(tmp_path / "J.zarr").shape == (n_out, n_in)


@pytest.mark.parametrize("mode", MODES)
def test_trees_are_a_group_with_an_array_for_each_pair(mode: str, tmp_path: Path, computed: list[int]) -> None:
    def func(p: dict[str, torch.Tensor], y: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return (p["w"] @ y).sin(), {"sum": p["b"].sum() * y}

    args, path = ({"w": _point(3, 4), "b": _point(2)}, _point(4)), tmp_path / "J.zarr"
    expected = torch.func.jacrev(func, (0, 1))(*args)
    returned = cj.jacobian(func, *args, argnums=(0, 1), mode=mode, out=path, chunk_size=3)
    for found in (returned, cj.open(path)):
        tensors = torch.utils._pytree.tree_map(_tensor, found)
        torch.testing.assert_close(tensors, expected, rtol=0, atol=_tolerance(mode))
    group = zarr.open_group(path, mode="r")
    assert {*group.array_keys()} == {f"{i}_{j}" for i in range(2) for j in range(3)}
    (path / "1_1" / "zarr.json").unlink()
    (path / "zarr.json").unlink()
    with pytest.raises(cj.StoreError, match="is not whole"):
        cj.open(path)
    computed.clear()
    cj.jacobian(func, *args, argnums=(0, 1), mode=mode, out=path, resume=True)
    assert len(computed) == {"reverse": 4, "forward": 2}.get(mode, 2)  # directions of the lost array's tensor
    assert check(path)[:2] == ([], [])
    remove(path)
    assert not [*tmp_path.iterdir()]


def test_a_block_is_a_piece_and_a_large_one_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = _net(64, 40), _point(64)
    found = cj.jacobian(net, x, mode="reverse", out=tmp_path / "J.zarr", chunk_size=10)
    assert found.chunks == (10, 64)
    monkeypatch.setattr("chunkjac._store.zarr._PIECE_BYTES", 10 * 20 * 8)
    parts = cj.jacobian(net, x, mode="reverse", out=tmp_path / "K.zarr", chunk_size=10)
    assert parts.chunks == (10, 16)
    assert len([*(tmp_path / "K.zarr").glob("c.*")]) == 4 * 4
    assert np.array_equal(parts[...], found[...])


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "lost"])
def test_a_damaged_piece_is_found_and_only_its_block_is_computed_again(
    damage: str, mode: str, tmp_path: Path, computed: list[int]
) -> None:
    net, x, path = _net(64, 64), _point(64), tmp_path / "J.zarr"
    expected = cj.jacobian(net, x, mode=mode, out=path, chunk_size=10)[...]
    piece = path / ("c.3.0" if mode == "reverse" else "c.0.3")
    data = piece.read_bytes()
    if damage == "lost":
        piece.unlink()
        assert np.isnan(zarr.open_array(path, mode="r")[...]).sum() == 640  # and no zeros
        with pytest.raises(cj.StoreError, match=r"6 of 7 pieces.*resume=True"):
            cj.open(path)
    else:
        piece.write_bytes(data[:-3] if damage == "cut" else data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
        damaged, unfinished, _ = check(path)
        assert damaged == [slice(30, 40)]
        assert unfinished == []
    computed.clear()
    found = cj.jacobian(net, x, mode=mode, out=path, resume=True)
    assert computed == [*range(30, 40)]
    assert np.array_equal(found[...], expected)
    assert check(path) == ([], [], 7)


def test_what_a_killed_run_left_is_swept_away(tmp_path: Path, computed: list[int]) -> None:
    net, x, path = _net(64, 64), _point(64), tmp_path / "J.zarr"
    with pytest.raises(KeyboardInterrupt):
        cj.jacobian(net, x, mode="reverse", out=path, chunk_size=8, progress=_stop)
    half = path / "c.2.0123456789abcdef.partial"
    half.write_bytes(b"half")
    with pytest.raises(cj.StoreError, match="is not finished: rows 8:64"):
        cj.open(path)
    computed.clear()
    found = cj.jacobian(net, x, mode="reverse", out=path, resume=True)
    assert computed == [*range(8, 64)]
    assert not half.exists()
    torch.testing.assert_close(_tensor(found), torch.func.jacrev(net)(x))


@pytest.mark.parametrize("mode", MODES)
def test_a_run_goes_on_with_less_memory(mode: str, tmp_path: Path) -> None:
    net, x, path = _net(300, 300), _point(300), tmp_path / "J.zarr"
    with pytest.raises(KeyboardInterrupt):
        cj.jacobian(net, x, mode=mode, out=path, chunk_size=100, progress=_stop)
    found = cj.jacobian(net, x, mode=mode, out=path, resume=True, max_memory="200KiB")
    torch.testing.assert_close(_tensor(found), torch.func.jacrev(net)(x), rtol=0, atol=_tolerance(mode))
    assert check(path)[:2] == ([], [])


def test_what_somebody_put_into_an_array_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "J.zarr"
    expected = cj.jacobian(torch.sin, _point(3), out=path)[...]
    (path / "notes.txt").write_text("diary")
    with pytest.raises(cj.StoreError, match=r"notes\.txt.* was not made by chunkjac"):
        remove(path)
    assert np.array_equal(cj.open(path)[...], expected)


@pytest.mark.parametrize("damage", ["shape", "text"])
def test_an_array_that_is_another_one_is_refused(damage: str, tmp_path: Path) -> None:
    net, x, path = _net(64, 40), _point(64), tmp_path / "J.zarr"
    cj.jacobian(net, x, mode="reverse", out=path)
    metadata = path / "zarr.json"
    fields = {**json.loads(metadata.read_text()), "shape": [64, 40]}
    metadata.write_text(json.dumps(fields) if damage == "shape" else "{")
    for read in (cj.open, check, lambda path: cj.jacobian(net, x, out=path, resume=True)):
        with pytest.raises(cj.StoreError, match="another path"):
            read(path)


def test_an_error_before_the_first_block_leaves_no_files(tmp_path: Path) -> None:
    def func(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(10**5, dtype=D) * x.sum(), x

    with pytest.raises(cj.BudgetError):
        cj.jacobian(func, _point(3), mode="forward", out=tmp_path / "J.zarr", max_memory=1000)
    assert not [*tmp_path.iterdir()]


def test_a_disk_that_fails_costs_what_is_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, path = _net(64, 64), _point(64), tmp_path / "J.zarr"
    expected = cj.jacobian(net, x, mode="reverse", out=tmp_path / "whole.zarr", chunk_size=4)[...]
    put, n_put = zarr.storage._local._put, 0

    def full(*args: Any, **keywords: Any) -> Any:
        nonlocal n_put
        n_put += 1
        if n_put > 5:
            raise OSError(28, "No space left on device")
        return put(*args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(zarr.storage._local, "_put", full)
        with pytest.raises(cj.StoreError, match=r"No space left.*resume=True"):
            cj.jacobian(net, x, mode="reverse", out=path, chunk_size=4)
    found = cj.jacobian(net, x, mode="reverse", out=path, resume=True)
    assert np.array_equal(found[...], expected)


def test_without_zarr_a_message_tells_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(cj.ArgumentError, match=r"pip install 'chunkjac\[zarr\]'"):
        cj.jacobian(_never, _point(3), out=tmp_path / "J.zarr")
