"""Jacobians in files: right, whole after whatever ends the process, and refused where something else is there."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import chunkjac as cj
from chunkjac._memory.tracker import LiveBytes
from chunkjac._store.journal import lines_of, read_journal
from chunkjac._store.reader import check
from chunkjac._store.removal import remove
from chunkjac._store.target import Target
from tests import killed_child

MODES = ("reverse", "forward", "finite-difference")
D = torch.float64


def _net(n_in: int = 30, n_out: int = 20) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(n_in, 25), nn.Tanh(), nn.Linear(25, n_out)).to(D).requires_grad_(False)


def _point(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(1))


def _tolerance(mode: str) -> float:
    return 1e-7 if mode == "finite-difference" else 1e-12


@pytest.fixture(autouse=True)
def zarr_where_it_is_written(request: pytest.FixtureRequest) -> None:
    """Leave out what writes Zarr where it does not install."""
    if "J.zarr" in request.node.name:
        pytest.importorskip("zarr", reason="Zarr needs Python 3.11")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Return a list that each direction joins which is handed on to be written."""
    directions: list[int] = []
    from chunkjac._sinks.file import FileSink

    write = FileSink.write

    def note(self: FileSink, chunk: slice, block: Any) -> None:
        directions.extend(range(chunk.start, chunk.stop))
        write(self, chunk, block)

    monkeypatch.setattr(FileSink, "write", note)
    return directions


# What is in the files


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("n_out", "n_in"), [(1, 1), (20, 30), (30, 7)])
def test_numpy_reads_what_was_computed(mode: str, n_out: int, n_in: int, tmp_path: Path) -> None:
    net, x, path = _net(n_in, n_out), _point(n_in), tmp_path / "J.npy"
    expected = torch.func.jacrev(net)(x)
    returned = cj.jacobian(net, x, mode=mode, out=path)
    for found in (returned, torch.from_numpy(np.load(path)), cj.open(path), cj.open(str(path))):
        torch.testing.assert_close(found, expected, rtol=0, atol=_tolerance(mode))
    assert np.load(path, mmap_mode="r").flags.f_contiguous or mode == "reverse"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(2, 3), (4,), (1, 2, 1, 3)])
def test_results_of_several_dimensions_have_their_shape_when_opened(
    mode: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.sin() * i for i in range(5)], dim=1).cumsum(0)

    x, path = _point(*shape), tmp_path / "J.npy"
    expected = torch.func.jacrev(func)(x)
    torch.testing.assert_close(cj.jacobian(func, x, mode=mode, out=path), expected, rtol=0, atol=_tolerance(mode))
    found = torch.from_numpy(np.load(path))
    if mode == "reverse":
        assert found.shape == expected.shape
    torch.testing.assert_close(found.reshape(expected.shape), expected, rtol=0, atol=_tolerance(mode))


@pytest.mark.parametrize("mode", MODES)
def test_trees_are_a_folder_with_a_file_for_each_pair(mode: str, tmp_path: Path) -> None:
    def func(p: dict[str, torch.Tensor], y: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return (p["w"] @ y).sin(), {"sum": p["b"].sum() * y, "b": p["b"] ** 2}

    args = {"w": _point(3, 4), "b": _point(2)}, _point(4)
    expected = torch.func.jacrev(func, (0, 1))(*args)
    returned = cj.jacobian(func, *args, argnums=(0, 1), mode=mode, out=tmp_path / "J", chunk_size=3)
    for found in (returned, cj.open(tmp_path / "J")):
        torch.testing.assert_close(found, expected, rtol=0, atol=_tolerance(mode))
    assert len([*(tmp_path / "J").glob("*.npy")]) == 3 * 3


@pytest.mark.parametrize("mode", MODES)
def test_empty_and_scalar_results_are_files_too(mode: str, tmp_path: Path) -> None:
    for number, x in enumerate((torch.zeros(0, dtype=D), torch.zeros((), dtype=D))):
        path = tmp_path / f"{number}.npy"
        found = cj.jacobian(torch.sin, x, mode=mode, out=path)
        assert found.shape == np.load(path).shape == (*x.shape, *x.shape)
        assert bool((found - 1).abs().lt(1e-6).all())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["J.npy", "J"])
@pytest.mark.parametrize(("n_out", "n_in"), [(0, 4), (4, 0)])
def test_a_jacobian_without_elements_is_finished_at_once(
    n_out: int, n_in: int, name: str, mode: str, tmp_path: Path
) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return x.sum() * torch.ones(n_out, dtype=D)

    x, path = _point(n_in), tmp_path / name
    for found in (cj.jacobian(func, x, mode=mode, out=path), cj.open(path)):
        assert torch.equal(found, torch.zeros(n_out, n_in, dtype=D))
    assert cj.jacobian(func, x, out=path, resume=True).shape == (n_out, n_in)
    assert check(path) == ([], [], 0)


def test_what_has_no_elements_does_not_keep_others_from_being_written(tmp_path: Path) -> None:
    def func(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (x * y.sum()).sin(), x[:0]

    for mode in MODES:
        found = cj.jacobian(func, _point(4), _point(0), argnums=(0, 1), mode=mode, out=tmp_path / mode)
        expected = torch.func.jacrev(func, (0, 1))(_point(4), _point(0))
        torch.testing.assert_close(found, expected, rtol=0, atol=_tolerance(mode))


@pytest.mark.parametrize("name", ["J.npy", "J.zarr"])
@pytest.mark.parametrize("mode", MODES)
def test_the_file_does_not_count_and_the_limit_is_kept(mode: str, name: str, tmp_path: Path) -> None:
    net, x = _net(400, 500), _point(400)
    limit_bytes = 300_000
    with LiveBytes(torch.device("cpu")) as live:
        found = cj.jacobian(net, x, mode=mode, out=tmp_path / name, max_memory=limit_bytes)
    assert live.peak_bytes <= limit_bytes < found.nbytes
    expected = torch.func.jacrev(net)(x)
    torch.testing.assert_close(torch.as_tensor(found[:]), expected, rtol=0, atol=_tolerance(mode))


def test_a_type_that_numpy_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(cj.ArgumentError, match="bfloat16"):
        cj.jacobian(torch.sin, torch.zeros(3, dtype=torch.bfloat16), out=tmp_path / "J.npy")
    assert not [*tmp_path.iterdir()]


def test_what_is_written_to_an_opened_jacobian_stays_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "J.npy"
    cj.jacobian(torch.sin, _point(5), out=path).zero_()
    assert bool(cj.open(path).diagonal().ne(0).all())


@pytest.mark.parametrize("name", ["J.npy", "J"])
def test_files_are_where_the_call_was_made_wherever_the_function_goes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def func(x: torch.Tensor) -> torch.Tensor:
        os.chdir(tmp_path / "there")
        return x.sin()

    plan = cj.plan(func, _point(3), mode="reverse", out=name)
    assert name in plan.sink
    assert str(tmp_path) not in plan.sink
    found = plan.run()
    torch.testing.assert_close(cj.open(tmp_path / "here" / name), found)
    assert torch.equal(plan.run(resume=True), found)
    assert not [*(tmp_path / "there").iterdir()]


@pytest.mark.parametrize("resume", [False, True])
def test_a_path_is_told_as_it_was_given(resume: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("J.npy").touch()
    with pytest.raises(cj.ArgumentError, match=r"out='J\.npy'"):
        cj.jacobian(_never, _point(3), out="J.npy", resume=resume)
    with pytest.raises(cj.ArgumentError, match=r"out='none/\.\./K/L\.npy'"):
        cj.jacobian(_never, _point(3), out=Path("none/../K/L.npy"), resume=resume)


# Going on


def test_the_journal_tells_finished_blocks_and_passes_over_what_does_not_add_up() -> None:
    text = lines_of({0: (1, 2), 1: (3,), 2: (4,)})
    assert read_journal(text) == {0: (1, 2), 1: (3,), 2: (4,)}
    assert read_journal(text + lines_of({1: None})) == {0: (1, 2), 2: (4,)}
    assert read_journal(text.replace(b"1 0000", b"7 0000")) == {0: (1, 2), 2: (4,)}
    assert read_journal(b"\xff\n\n- 12 3\n" + text) == {0: (1, 2), 1: (3,), 2: (4,)}


@pytest.mark.parametrize("mode", MODES)
def test_a_journal_cut_anywhere_in_its_last_line_costs_one_block(
    mode: str, tmp_path: Path, computed: list[int]
) -> None:
    net, x, path = _net(64, 64), _point(64), tmp_path / "J.npy"
    journal = tmp_path / "J.npy.journal"
    cj.jacobian(net, x, mode=mode, out=path, chunk_size=5)
    whole, data = journal.read_bytes(), path.read_bytes()
    last = whole.rstrip(b"\n").rindex(b"\n") + 1
    number = int(whole[last:].split()[0])
    for n_bytes in range(last, len(whole)):
        journal.write_bytes(whole[:n_bytes])
        computed.clear()
        cj.jacobian(net, x, mode=mode, out=path, chunk_size=5, resume=True)
        assert computed == [*range(5 * number, 64)]  # blocks of a chunk each
        assert (journal.read_bytes(), path.read_bytes()) == (whole, data)


def test_a_flipped_byte_is_found_and_its_block_is_computed_again(tmp_path: Path, computed: list[int]) -> None:
    net, x, path = _net(64, 640), _point(64), tmp_path / "J.npy"
    cj.jacobian(net, x, mode="reverse", out=path, chunk_size=10)
    data = path.read_bytes()
    assert check(path) == ([], [], 64)
    at = len(data) - 64 * 8 * 25  # row 615
    path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
    damaged, unfinished, _ = check(path)
    assert damaged == [slice(610, 620)]
    assert unfinished == []
    with pytest.raises(cj.StoreError, match="rows 610:620 of 640 are missing"):
        cj.open(path)
    computed.clear()
    cj.jacobian(net, x, mode="reverse", out=path, resume=True)
    assert computed == [*range(610, 620)]
    assert path.read_bytes() == data


_DAMAGES = {
    "type": lambda data: data.replace(b"<f8", b"<i8", 1),
    "order": lambda data: data.replace(b"False,", b"True, ", 1),
    "shape": lambda data: data.replace(b"(40, 64)", b"(64, 40)", 1),
    "length": lambda data: data + b"more",
}


@pytest.mark.parametrize("damage", _DAMAGES)
def test_a_file_whose_header_or_length_is_another_is_refused(damage: str, tmp_path: Path) -> None:
    net, x, path = _net(64, 40), _point(64), tmp_path / "J.npy"
    cj.jacobian(net, x, mode="reverse", out=path)
    data = _DAMAGES[damage](path.read_bytes())
    assert data != path.read_bytes()
    path.write_bytes(data)
    for read in (cj.open, check, lambda path: cj.jacobian(net, x, out=path, resume=True)):
        with pytest.raises(cj.StoreError, match="is not as it was made"):
            read(path)
    assert path.read_bytes() == data


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("is_checked", [False, True])
@pytest.mark.parametrize("n_bytes", [-1, -8 * 64 * 25, 70, None])
def test_what_a_file_has_lost_at_its_end_is_computed_again(
    n_bytes: int | None, is_checked: bool, mode: str, tmp_path: Path, computed: list[int]
) -> None:
    net, x, path = _net(64, 64), _point(64), tmp_path / "J.npy"
    cj.jacobian(net, x, mode=mode, out=path, chunk_size=8)
    data = path.read_bytes()
    if n_bytes is None:
        path.unlink()
    else:
        path.write_bytes(data[:n_bytes])
    with pytest.raises(cj.StoreError, match=r"is not whole.*resume=True"):
        cj.open(path)
    first = {-1: 56, -8 * 64 * 25: 32}.get(n_bytes or 0, 0)
    if is_checked:
        damaged, unfinished, _ = check(path)
        assert [span.start for span in damaged] == [*range(first, 64, 8)]
        assert unfinished == []
    computed.clear()
    cj.jacobian(net, x, mode=mode, out=path, resume=True)
    assert computed == [*range(first, 64)]
    assert path.read_bytes() == data
    assert check(path) == ([], [], 8)


def test_a_file_of_several_that_is_lost_is_computed_again(tmp_path: Path, computed: list[int]) -> None:
    def func(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.sin(), x.cos()

    x, path = _point(4), tmp_path / "J"
    expected = tuple(part.clone() for part in cj.jacobian(func, x, mode="reverse", out=path))
    (path / "1_0.npy").unlink()
    computed.clear()
    torch.testing.assert_close(cj.jacobian(func, x, out=path, resume=True), expected, rtol=0, atol=0)
    assert computed == [4, 5, 6, 7]


def test_blocks_are_taken_back_before_their_places_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room that was taken is full of zeros, which must not pass for what was computed."""
    x, path = _point(30), tmp_path / "J.npy"
    expected = cj.jacobian(torch.sin, x, mode="reverse", out=path, chunk_size=10).clone()
    path.write_bytes(path.read_bytes()[:-1])
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", _full)
        with pytest.raises(cj.StoreError, match="there is no room"):
            cj.jacobian(torch.sin, x, out=path, resume=True)
    assert {*Target.of(tmp_path / "J.npy").finished()} == {0, 1}
    assert torch.equal(cj.jacobian(torch.sin, x, out=path, resume=True), expected)


def test_a_run_that_was_interrupted_is_gone_on_with(tmp_path: Path, computed: list[int]) -> None:
    net, x, path = _net(64, 640), _point(64), tmp_path / "J.npy"
    done: list[int] = []

    def stop(progress: cj.Progress) -> None:
        done.append(progress.done)
        if progress.done > 250:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cj.jacobian(net, x, mode="reverse", out=path, chunk_size=7, progress=stop)
    n_finished = 7 * len(Target.of(tmp_path / "J.npy").finished())
    assert n_finished == done[-1]
    computed.clear()
    seen: list[cj.Progress] = []
    found = cj.jacobian(net, x, mode="auto", out=path, resume=True, progress=seen.append)
    assert computed == [*range(n_finished, 640)]
    assert {progress.before for progress in seen} == {n_finished}
    assert seen[-1].done == 640
    torch.testing.assert_close(found, torch.func.jacrev(net)(x))
    cj.jacobian(net, x, mode="reverse", out=tmp_path / "whole.npy", chunk_size=7)
    assert path.read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.parametrize("mode", MODES)
def test_a_run_goes_on_with_the_chunks_that_the_first_one_planned(mode: str, tmp_path: Path) -> None:
    """Rounding depends on how many directions are computed at once."""
    net, x = _net(200, 150), _point(200)
    paths = [tmp_path / "J.npy", tmp_path / "whole.npy"]
    for path in paths:
        cj.jacobian(net, x, mode=mode, out=path, max_memory="200KiB")
    journal = tmp_path / "J.npy.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) >= 5
    journal.write_bytes(b"".join(lines[:3] + lines[4:-1]))
    paths[0].write_bytes(paths[0].read_bytes()[:-8] + bytes(8))
    _, report = cj.jacobian(net, x, out=paths[0], resume=True, max_memory="1GiB", return_report=True)
    assert len(report.chunk_sizes) == 2
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_run_goes_on_with_less_memory(tmp_path: Path) -> None:
    """What has no room for its buffers must not wait for them."""
    net, x, path = _net(400, 200), _point(400), tmp_path / "J.npy"
    with pytest.raises(KeyboardInterrupt):
        cj.jacobian(net, x, mode="forward", out=path, max_memory="500MiB", chunk_size=100, progress=_stop)
    sizes: list[int] = []

    def go_on() -> None:
        _, report = cj.jacobian(net, x, out=path, max_memory="200KiB", resume=True, return_report=True)
        sizes.extend(report.chunk_sizes)

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert sum(sizes) == 300
    assert max(sizes) < 100
    torch.testing.assert_close(cj.open(path), torch.func.jacrev(net)(x))


def _stop(_: cj.Progress) -> None:
    raise KeyboardInterrupt


def test_a_linear_program_is_used_from_the_first_chunk_on(tmp_path: Path) -> None:
    """No clock may decide it: blocks must come out the same in another run."""
    net, x = _net(200, 150), _point(200)
    _, report = cj.jacobian(net, x, mode="reverse", out=tmp_path / "J.npy", return_report=True, chunk_size=10)
    assert report.plan.rung == "linear program"
    assert {*report.chunk_sizes} == {10}


def test_a_finished_file_is_not_computed_again(tmp_path: Path, computed: list[int]) -> None:
    plan = cj.plan(torch.sin, _point(5), out=tmp_path / "J.npy", resume=True)
    first = plan.run()
    computed.clear()
    assert torch.equal(plan.run(), first)
    assert torch.equal(plan.run(resume=True), first)
    assert not computed


@pytest.mark.parametrize("name", ["J.npy", "J"])
@pytest.mark.parametrize("left", ["journal", "plan", "part"])
def test_a_run_goes_on_where_one_was_stopped_while_it_made_its_files(name: str, left: str, tmp_path: Path) -> None:
    x, path = _point(5), tmp_path / name
    expected = cj.jacobian(torch.sin, x, out=path).clone()
    files = [*tmp_path.iterdir()] if name == "J.npy" else [*path.iterdir()]
    for file in files:
        is_journal = file.name.endswith("journal")
        if is_journal:
            file.write_bytes(b"")
        elif file.name.endswith(".npy"):
            file.write_bytes(file.read_bytes()[:70]) if left == "part" else file.unlink()
        elif left == "journal":
            file.rename(file.with_name(f"{file.name}.draft"))
    assert torch.equal(cj.jacobian(torch.sin, x, out=path, resume=True), expected)
    assert sorted(file.name for file in files) == sorted(
        file.name for file in (tmp_path if name == "J.npy" else path).iterdir()
    )


# What is refused


def test_another_jacobian_is_not_gone_on_with_and_each_difference_is_told(tmp_path: Path) -> None:
    net, x, path = _net(), _point(30), tmp_path / "J.npy"
    cj.jacobian(net, x, mode="finite-difference", out=path)
    data = path.read_bytes()
    with pytest.raises(cj.StoreError) as caught:
        cj.jacobian(net, _point(30), mode="finite-difference", scheme="forward", step=1e-3, out=path, resume=True)
    for name in ("scheme was 'central', is 'forward'", "step was 'None', is '0.001'"):
        assert name in str(caught.value)
    assert "mode was" not in str(caught.value)
    with pytest.raises(cj.StoreError, match=r"outputs was .*20.*is .*30"):
        cj.jacobian(torch.sin, x, mode="finite-difference", out=path, resume=True)
    with torch.no_grad():
        net[0].weight[0, 0] += 1
    with pytest.raises(cj.StoreError, match="columns 0:30 of 30 are not those of func as it is now"):
        cj.jacobian(net, x, mode="finite-difference", out=path, resume=True)
    assert path.read_bytes() == data


def test_what_is_there_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "J.npy"
    path.write_text("precious")
    for resume in (False, True):
        with pytest.raises(cj.ArgumentError, match=r"exists|did not make it"):
            cj.jacobian(torch.sin, _point(3), out=path, resume=resume)
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_text() == "precious"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    with pytest.raises(cj.ArgumentError, match="did not make it"):
        cj.jacobian(torch.sin, _point(3), out=tmp_path / "folder", resume=True)


_FOREIGN_PLANS = (
    "",
    "[1]",
    "null",
    '{"my": 1}',
    '{"format": 1, "facts": {"mode": "reverse"}}',
    '{"format": 1, "facts": [], "layout": {}}',
    '{"format": 1, "facts": {}, "layout": {}}',
    '{"format": 1, "facts": {"mode": "reverse"}, "layout": {"parts": 3}}',
)


@pytest.mark.parametrize("name", ["J.npy", "J"])
@pytest.mark.parametrize("text", _FOREIGN_PLANS)
def test_a_plan_of_another_program_is_told_from_ours(text: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    plan = path / "plan.json" if name == "J" else tmp_path / "J.npy.plan.json"
    plan.parent.mkdir(exist_ok=True)
    plan.write_text(text)
    for mode in ("auto", "reverse"):
        with pytest.raises(cj.StoreError, match=r"plan.json.*give another path"):
            cj.jacobian(_never, _point(3), mode=mode, out=path, resume=True)
    for read in (cj.open, check):
        with pytest.raises(cj.StoreError, match=r"plan.json.*give another path"):
            read(path)
    assert [*plan.parent.iterdir()] == [plan]
    assert plan.read_text() == text


def test_a_plan_that_names_files_elsewhere_is_none_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "J"
    cj.jacobian(torch.sin, _point(3), out=path)
    plan = path / "plan.json"
    plan.write_text(plan.read_text().replace("0_0.npy", "../0_0.npy"))
    with pytest.raises(cj.StoreError, match=r"plan.json.*give another path"):
        cj.open(path)


@pytest.mark.parametrize("name", ["J.npy", "J", "J.zarr"])
def test_a_link_to_nothing_is_refused_before_any_work(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(tmp_path / "none")
    for resume in (False, True):
        with pytest.raises(cj.StoreError, match="a link to nothing"):
            cj.jacobian(_never, _point(3), out=tmp_path / name, resume=resume)
    assert [*tmp_path.iterdir()] == [tmp_path / name]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("none/J.npy", "does not exist"),
        ("J.csv", r"\.npy file, a folder"),
        ("file/J.npy", "does not exist"),
    ],
)
def test_paths_that_cannot_be_written_to_are_refused_before_any_work(name: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(cj.ArgumentError, match=why):
        cj.jacobian(_never, _point(3), out=tmp_path / name)


def test_a_folder_that_is_read_only_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # a superuser may write anywhere
    with pytest.raises(cj.ArgumentError, match="cannot be written to"):
        cj.jacobian(_never, _point(3), out=tmp_path / "J.npy")


def _never(_: torch.Tensor) -> torch.Tensor:
    raise AssertionError("it was called")


def test_resume_needs_a_path() -> None:
    with pytest.raises(cj.ArgumentError, match="resume=True"):
        cj.jacobian(torch.sin, _point(3), resume=True)


# What is removed


@pytest.mark.parametrize("name", ["J.npy", "J", "J.zarr"])
def test_all_that_was_written_is_removed_and_nothing_beside_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    remove(tmp_path / name)
    cj.jacobian(torch.sin, _point(3), out=tmp_path / name)
    remove(tmp_path / name)
    assert [*tmp_path.iterdir()] == [tmp_path / "mine"]


@pytest.mark.parametrize("left", ["plan.json", "journal"])
def test_what_is_left_of_a_removal_or_of_a_start_that_was_stopped_is_removed(left: str, tmp_path: Path) -> None:
    path = tmp_path / "J"
    cj.jacobian(torch.sin, _point(3), out=path)
    for file in path.iterdir():
        if file.name == "journal":
            file.write_bytes(b"")
        elif file.name != left:
            file.unlink()
    remove(path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        *(("J", name) for name in ("journal", "plan.json", "0_0.npy", "mine")),
        *(("J.zarr", name) for name in ("mine", "0_0", "zarr.json", "c.0.0")),
    ],
)
def test_a_folder_of_another_program_is_left_as_it_is(folder: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / folder
    path.mkdir()
    (path / name).write_text("diary")
    with pytest.raises(cj.StoreError, match="another path"):
        remove(path)
    for resume in (False, True):
        with pytest.raises(cj.ChunkjacError, match="another path"):
            cj.jacobian(_never, _point(3), out=path, resume=resume)
    assert [*tmp_path.iterdir()] == [path]
    assert [*path.iterdir()] == [path / name]
    assert (path / name).read_text() == "diary"


def test_a_folder_with_a_file_of_somebody_else_is_not_removed(tmp_path: Path) -> None:
    path, x = tmp_path / "J", _point(3)
    expected = cj.jacobian(torch.sin, x, out=path).clone()
    (path / "0_0.npy.bak").touch()
    with pytest.raises(cj.StoreError, match=r"0_0\.npy\.bak.* was not made by chunkjac"):
        remove(path)
    assert torch.equal(cj.jacobian(torch.sin, x, out=path, resume=True), expected)


@pytest.mark.parametrize("resume", [False, True])
def test_a_journal_without_a_plan_is_not_written_to(resume: bool, tmp_path: Path) -> None:
    journal = tmp_path / "J.npy.journal"
    journal.write_text("diary")
    with pytest.raises(cj.ArgumentError, match=r"J.npy.journal.*another path"):
        cj.jacobian(_never, _point(3), out=tmp_path / "J.npy", resume=resume)
    with pytest.raises(cj.StoreError, match=r"J.npy.journal.*another path"):
        remove(tmp_path / "J.npy")
    assert journal.read_text() == "diary"


@pytest.mark.parametrize("name", ["J.npy", "J.npy.journal"])
def test_what_came_there_after_a_plan_was_made_is_left_as_it_is(name: str, tmp_path: Path) -> None:
    plan = cj.plan(torch.sin, _point(3), out=tmp_path / "J.npy")
    (tmp_path / name).write_text("diary")
    with pytest.raises(cj.StoreError, match="another path"):
        plan.run()
    assert [*tmp_path.iterdir()] == [tmp_path / name]
    assert (tmp_path / name).read_text() == "diary"


def test_what_is_being_written_is_not_removed(tmp_path: Path) -> None:
    path, x = tmp_path / "J.npy", _point(30)

    def meanwhile(_: cj.Progress) -> None:
        with pytest.raises(cj.StoreError, match="is being written"):
            remove(path)

    cj.jacobian(torch.sin, x, mode="reverse", out=path, chunk_size=10, progress=meanwhile)
    assert check(path) == ([], [], 3)


# Several at once


def test_a_second_writer_is_refused_and_damages_nothing(tmp_path: Path) -> None:
    net, x, path = _net(64, 64), _point(64), tmp_path / "J.npy"
    refused: list[str] = []

    def meanwhile(progress: cj.Progress) -> None:
        if progress.done == 24:
            with pytest.raises(cj.StoreError, match="by another process"):
                cj.jacobian(net, x, mode="reverse", out=path, resume=True)
            with pytest.raises(cj.StoreError, match="not finished"):
                cj.open(path)
            refused.append("both")

    found = cj.jacobian(net, x, mode="reverse", out=path, chunk_size=8, progress=meanwhile)
    assert refused
    torch.testing.assert_close(found, torch.func.jacrev(net)(x))
    assert check(path) == ([], [], 8)


def test_an_interrupt_while_the_disk_is_busy_leaves_nothing_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What writes goes on alone, and closes all when it is done."""
    from chunkjac._store.npy import NpyFile

    x, path, is_ready = _point(30), tmp_path / "J.npy", threading.Event()
    sync, join, writers = NpyFile.sync, threading.Thread.join, []

    def wait(file: NpyFile) -> None:
        assert is_ready.wait(60)
        sync(file)

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name != "chunkjac-writer":
            return join(thread, timeout)
        writers.append(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(NpyFile, "sync", wait)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cj.jacobian(torch.sin, x, mode="reverse", out=path, chunk_size=15)
    with pytest.raises(cj.StoreError, match="is being written"):
        cj.jacobian(torch.sin, x, out=path, resume=True)
    is_ready.set()
    writers[0].join(60)
    assert check(path) == ([], [], 2)
    found = cj.jacobian(torch.sin, x, out=path, resume=True)
    torch.testing.assert_close(found, x.cos().diag())


def test_a_lock_ends_with_the_run_though_a_child_has_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked child holds copies of the descriptors, as many as there are."""
    import fcntl

    x, path, flock, copies = _point(5), tmp_path / "J.npy", fcntl.flock, []

    def copied(file: int, how: int) -> None:
        copies.append(os.dup(file))
        flock(file, how)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", copied)
        expected = cj.jacobian(torch.sin, x, out=path)
    try:
        assert torch.equal(cj.jacobian(torch.sin, x, out=path, resume=True), expected)
    finally:
        for file in copies:
            os.close(file)


@pytest.mark.parametrize("name", ["J.npy", "J"])
def test_a_run_that_gives_up_takes_nothing_from_the_next_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It removes its journal, and then its folder, between the moments at which the next one opens and locks that."""
    import fcntl

    x, path, flock, journals = _point(5), tmp_path / name, fcntl.flock, []

    def late(file: int, how: int) -> None:
        if not journals:
            journals.append(path / "journal" if path.is_dir() else tmp_path / "J.npy.journal")
            journals[0].unlink()
            if path.is_dir():
                path.rmdir()
        flock(file, how)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", late)
        expected = cj.jacobian(torch.sin, x, out=path).clone()
    assert len(journals) == 1
    assert check(path) == ([], [], 1)
    assert torch.equal(cj.jacobian(torch.sin, x, out=path, resume=True), expected)


def test_a_full_disk_is_an_error_at_the_start_that_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", _full)
    with pytest.raises(cj.StoreError, match="there is no room"):
        cj.jacobian(torch.sin, _point(30), out=tmp_path / "J.npy")
    with pytest.raises(cj.StoreError, match="there is no room"):
        cj.jacobian(torch.sin, _point(30), out=tmp_path / "J")
    assert not [*tmp_path.iterdir()]


def test_what_others_put_into_a_new_folder_stays_and_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put_and_fail(*_: Any) -> int:
        (tmp_path / "J" / "mine").touch()
        return _full()

    monkeypatch.setattr(os, "posix_fallocate", put_and_fail)
    with pytest.raises(cj.StoreError, match="there is no room"):
        cj.jacobian(torch.sin, _point(30), out=tmp_path / "J")
    assert [*(tmp_path / "J").iterdir()] == [tmp_path / "J" / "mine"]


def test_a_disk_that_fails_later_costs_what_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, computed: list[int]
) -> None:
    net, x, path = _net(64, 640), _point(64), tmp_path / "J.npy"
    write, n_left = os.pwrite, [20]

    def fail_later(file: int, data: Any, offset: int) -> int:
        n_left[0] -= 1
        return write(file, data, offset) if n_left[0] > 0 else _full()

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail_later)
        with pytest.raises(cj.StoreError, match="resume=True goes on"):
            cj.jacobian(net, x, mode="reverse", out=path, chunk_size=10)
    n_finished = len(Target.of(tmp_path / "J.npy").finished())
    assert 0 < n_finished < 20
    computed.clear()
    found = cj.jacobian(net, x, mode="reverse", out=path, chunk_size=10, resume=True)
    assert computed == [*range(10 * n_finished, 640)]
    torch.testing.assert_close(found, torch.func.jacrev(net)(x))


def _full(*_: Any) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_error_before_the_first_block_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(cj.BudgetError):
        cj.jacobian(
            lambda x: torch.ones(10**5, dtype=D) * x.sum(),
            _point(3),
            mode="forward",
            out=tmp_path / "J.npy",
            max_memory=1000,
        )
    assert not [*tmp_path.iterdir()]


# What ends a process


def _start(path: Path) -> subprocess.Popen[str]:
    """Start a child, and wait until it is about to compute."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.killed_child", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def _finished(path: Path) -> set[int]:
    """Return the numbers of the blocks that are finished."""
    target = Target.of(path)
    return {*target.finished()} if target.written_plan is not None else set()


def _stopped_again_and_again(path: Path, end: Callable[[subprocess.Popen[str]], object], n_times: int) -> int:
    """Stop children at random moments until one is done; return how many were stopped."""
    rng, n_stopped = random.Random(0), 0
    while n_stopped < n_times:
        before = _finished(path)
        if len(before) == killed_child.N_ROWS // 8:
            remove(path)
            continue
        with _start(path) as child:
            time.sleep(rng.uniform(0, 1.5))
            end(child)
            assert child.stdout is not None
            lines = [line.split() for line in child.stdout.read().splitlines() if line[0].isdigit()]
        n_stopped += child.returncode != 0
        assert before <= _finished(path)  # nothing that was finished is lost
        assert {int(line[0]) for line in lines} <= {8 * len(before)}  # nor is it computed again
    return n_stopped


def _contents(path: Path) -> dict[str, bytes]:
    """Return what is in a file, or in the files of a folder."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    return {file.name if path.is_dir() else "": file.read_bytes() for file in files}


def _is_right(path: Path) -> None:
    """Let a child do the rest; compare the file with one that was written in one go."""
    with _start(path) as child:
        child.communicate()
    assert child.returncode == 0
    whole = path.with_name(f"whole{path.suffix}")
    killed_child.run(whole)
    assert _contents(path) == _contents(whole)
    assert check(path) == ([], [], killed_child.N_ROWS // 8)


_ENDS = {
    "kill": lambda child: child.kill(),
    "terminate": lambda child: child.terminate(),
    "interrupt": lambda child: child.send_signal(signal.SIGINT),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["J.npy", "J.zarr"])
@pytest.mark.parametrize("end", _ENDS)
def test_whatever_ends_the_process_finished_blocks_stay(end: str, name: str, tmp_path: Path) -> None:
    assert _stopped_again_and_again(tmp_path / name, _ENDS[end], 2) == 2
    _is_right(tmp_path / name)


@pytest.mark.long
@pytest.mark.parametrize(("end", "name"), [*((end, "J.npy") for end in _ENDS), ("kill", "J.zarr")])
def test_fifty_random_ends_change_no_bit(end: str, name: str, tmp_path: Path) -> None:
    assert _stopped_again_and_again(tmp_path / name, _ENDS[end], 50) == 50
    _is_right(tmp_path / name)


def test_the_plan_beside_a_file_is_json(tmp_path: Path) -> None:
    cj.jacobian(_net(), _point(30), mode="reverse", out=tmp_path / "J.npy")
    plan = json.loads((tmp_path / "J.npy.plan.json").read_text())
    assert plan["facts"]["mode"] == "reverse"
    assert plan["layout"]["block_sizes"] == [20]


# Other places


def test_a_device_is_where_the_result_is_allocated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net, x = _net(), _point(30)
    for out in ("cpu", torch.device("cpu")):
        found, report = cj.jacobian(net, x, out=out, return_report=True)
        torch.testing.assert_close(found, torch.func.jacrev(net)(x))
        assert report.plan.allocated_bytes == found.nbytes
    assert not [*tmp_path.iterdir()]
    with pytest.raises(cj.ArgumentError, match="device"):
        cj.jacobian(net, x, out="meta")
    assert cj.jacobian(net, x, out=Path("cpu")).shape == (20, 30)
    assert (tmp_path / "cpu" / "0_0.npy").exists()


def test_a_plan_for_a_file_has_the_chunk_size_that_was_asked_for(tmp_path: Path) -> None:
    plan = cj.plan(_net(), _point(30), mode="reverse", chunk_size=3, out=tmp_path / "J.npy")
    assert (plan.chunk_size, plan.n_chunks) == (3, 7)
    _, report = plan.run(return_report=True)
    assert report.chunk_sizes == (3,) * 6 + (2,)
    with pytest.raises(cj.BudgetError, match="chunks of 20"):
        cj.plan(_net(), _point(30), mode="reverse", chunk_size=20, max_memory=9_000, out=tmp_path / "K.npy")


@pytest.mark.parametrize("mode", MODES)
def test_blocks_are_copied_to_another_device(mode: str) -> None:
    """A sink for another device lends no places, and its result is not where blocks are made."""
    from chunkjac._modes.derivatives.forward import Forward
    from chunkjac._modes.derivatives.reverse import Reverse
    from chunkjac._modes.differences.finite_difference import FiniteDifference
    from chunkjac._problem.problem import Problem
    from chunkjac._sinks.tensor import TensorSink

    made = {"reverse": Reverse, "forward": Forward, "finite-difference": FiniteDifference}[mode](
        Problem.of(_net(), (_point(30),), 0, has_aux=False)
    )
    sink = TensorSink(made, device=torch.device("meta"))
    assert sink.places(slice(0, 3)) is None
    sink.write(slice(0, 3), made.block(slice(0, 3)))
    assert sink.result().is_meta


def test_objects_that_write_are_given_blocks() -> None:
    class Sum:
        total = 0.0

        def write(self, block: cj.Block) -> None:
            self.total += block.values.sum().item()

    sink, net, x = Sum(), _net(), _point(30)
    assert cj.jacobian(net, x, mode="reverse", out=sink) is None
    assert sink.total == pytest.approx(torch.func.jacrev(net)(x).sum().item())


def test_random_functions_of_each_direction_have_no_file(tmp_path: Path) -> None:
    with pytest.raises(cj.ArgumentError, match="path"):
        cj.jacobian(torch.sin, _point(3), mode="forward", randomness="different", out=tmp_path / "J.npy")


def test_many_random_functions_come_out_the_same_in_a_file(tmp_path: Path) -> None:
    def noisy(x: torch.Tensor) -> torch.Tensor:
        return x * torch.rand(x.shape, dtype=D)

    for i in range(2):
        torch.manual_seed(i)
        cj.jacobian(noisy, _point(30), mode="reverse", out=tmp_path / f"{i}.npy")
    torch.manual_seed(0)
    cj.jacobian(noisy, _point(30), mode="reverse", out=tmp_path / "again.npy")
    assert (tmp_path / "0.npy").read_bytes() == (tmp_path / "again.npy").read_bytes()
    assert (tmp_path / "0.npy").read_bytes() != (tmp_path / "1.npy").read_bytes()


def test_a_random_function_is_gone_on_with_from_the_same_numbers_only(tmp_path: Path) -> None:
    def noisy(x: torch.Tensor) -> torch.Tensor:
        return x * torch.rand(x.shape, dtype=D)

    torch.manual_seed(0)
    first = cj.jacobian(noisy, _point(30), mode="reverse", out=tmp_path / "J.npy")
    torch.manual_seed(1)
    with pytest.raises(cj.StoreError, match="random numbers"):
        cj.jacobian(noisy, _point(30), mode="reverse", out=tmp_path / "J.npy", resume=True)
    torch.manual_seed(0)
    again = cj.jacobian(noisy, _point(30), mode="reverse", out=tmp_path / "J.npy", resume=True)
    assert torch.equal(first, again)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("max_memory", [None, "400KiB"])
def test_the_plan_in_a_report_writes_files_in_chunks_too(mode: str, max_memory: str | None, tmp_path: Path) -> None:
    net, x = _net(200, 100), _point(200)
    expected, first = cj.jacobian(net, x, mode=mode, max_memory=max_memory, return_report=True)
    found, report = first.plan.run(out=tmp_path / "J.npy", return_report=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=_tolerance(mode))
    assert max(report.chunk_sizes) >= 5
    assert report.peak_bytes <= report.plan.budget_bytes
    assert report.n_retries == 0


@pytest.mark.parametrize("name", ["J.npy", "J.zarr"])
def test_what_is_no_number_is_told_of_where_it_was_there_before(name: str, tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="Zarr needs Python 3.11")
    x = torch.tensor([1.0, 0.0, 4.0], dtype=D)  # a whole piece is NaN

    def func(x: torch.Tensor) -> torch.Tensor:
        return (x * 0).sqrt().sum() + x

    for resume in (False, True):
        with pytest.warns(cj.RungWarning, match="9 elements that were written are NaN"):
            cj.jacobian(func, x, mode="reverse", out=tmp_path / name, resume=resume)


def test_the_evaluation_that_tells_of_what_is_no_number_keeps_to_the_limit(tmp_path: Path) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return (x * 0).sqrt() + torch.ones(30_000, dtype=D).mean()

    x, budget_bytes = _point(100), 260_000
    with LiveBytes(x.device) as outside, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cj.jacobian(func, x, mode="reverse", out=tmp_path / "J.npy", max_memory=budget_bytes)
    assert outside.highest_bytes <= budget_bytes


def test_files_that_hold_what_is_no_number_are_told_of(tmp_path: Path) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 1, x, (1000 * x).exp())  # of the branch that is not taken, 0 * inf

    x = torch.tensor([0.1, 0.2, 2.0], dtype=torch.float64)
    options: dict[str, Any] = {"mode": "reverse", "chunk_size": 2}
    with pytest.warns(cj.RungWarning, match="elements that were written are NaN"):
        found = cj.jacobian(func, x, out=tmp_path / "jacobian.npy", **options)
    assert found.isnan().any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cj.jacobian(func, x, out=tmp_path / "unasked.npy", verify=0, **options)
        cj.jacobian(torch.sin, x, out=tmp_path / "fine.npy", **options)
        cj.jacobian(lambda x: x / (x - x), x, out=tmp_path / "its_own.npy", **options)  # the outputs are not finite
