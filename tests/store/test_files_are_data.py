"""Files of a store are data: nothing in them is run or followed, and what has changed is told."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import sys
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import chunkjac as cj
from chunkjac._store.reader import check
from chunkjac._store.removal import remove
from chunkjac._store.stored_plan import _checksum
from chunkjac._store.trees import check_words, rebuilt, words_of

D = torch.float64
W = torch.linspace(-1, 1, 12 * 10, dtype=D).reshape(10, 12)
X = torch.linspace(-1, 1, 12, dtype=D)


def _func(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(W @ x)


def _two(x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"a": torch.tanh(W @ x), "b": x.sin()}


def _stop(progress: cj.Progress) -> None:
    if progress.done >= progress.total // 2:
        raise KeyboardInterrupt


# Each store: its path, and the function whose Jacobian it has.
STORES: dict[str, Callable[[torch.Tensor], Any]] = {"J.npy": _func, "J": _two, "J.zarr": _two, "K.zarr": _func}


def _made(name: str, folder: Path, *, finished: bool = True) -> Path:
    if name.endswith(".zarr"):
        pytest.importorskip("zarr", reason="Zarr needs Python 3.11")
    try:
        cj.jacobian(
            STORES[name], X, mode="reverse", chunk_size=2, out=folder / name, progress=None if finished else _stop
        )
    except KeyboardInterrupt:
        assert not finished
    return folder / name


def _resumed(path: Path) -> Any:
    return cj.jacobian(STORES[path.name], X, mode="reverse", chunk_size=2, out=path, resume=True)


def _plan_of(path: Path) -> Path:
    return path / "plan.json" if not path.suffix else path.with_name(f"{path.name}.plan.json")


def _signed(plan: dict[str, Any]) -> str:
    return json.dumps({**plan, "checksum": _checksum(plan)})


def _is_right(found: Any, name: str) -> None:
    expected = torch.func.jacrev(STORES[name])(X)
    for key in expected if isinstance(expected, dict) else [None]:
        this, that = (found, expected) if key is None else (found[key], expected[key])
        torch.testing.assert_close(torch.as_tensor(this[...]).reshape(that.shape), that, rtol=1e-12, atol=1e-14)


# Trees


class Pair(namedtuple("Pair", "first second")):
    """Be a class that no file may look up."""


@pytest.mark.parametrize(
    ("tree", "opened"),
    [
        (1, 1),
        ((1, [2, 3]), (1, [2, 3])),
        ({"b": 1, "a": (2,), 7: 3}, {"b": 1, "a": (2,), 7: 3}),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (namedtuple("P", "x y")(1, (2, 3)), (1, (2, 3))),
        (deque([1, 2]), [1, 2]),
        ({(0, 1): 1, None: 2}, [1, 2]),
        ({True: 1, 2.5: [3]}, [1, [3]]),
    ],
)
def test_a_tree_comes_back_from_its_words(tree: Any, opened: Any) -> None:
    leaves, spec = torch.utils._pytree.tree_flatten(tree)
    words = json.loads(json.dumps(words_of(spec)))
    assert check_words(words) == len(leaves)
    found = rebuilt(words, leaves)
    assert found == opened
    assert [*map(type, [found])] == [*map(type, [opened])]


def test_a_deep_tree_is_told_flat_below_a_hundred() -> None:
    tree: Any = (1, 2)
    for _ in range(200):
        tree = [tree]
    leaves, spec = torch.utils._pytree.tree_flatten(tree)
    found: Any = rebuilt(words_of(spec), leaves)
    for _ in range(100):
        (found,) = found
    assert found == [1, 2]


@pytest.mark.parametrize("words", [None, 3, [], ["list"], ["dict", ["*"], [[]]], ["dict", ["*"]], ["evil", ["*"]]])
def test_other_words_are_none(words: Any) -> None:
    with pytest.raises(ValueError, match="words"):
        check_words(words)


def test_results_of_a_class_open_as_what_it_holds(tmp_path: Path) -> None:
    made = cj.jacobian(lambda x: Pair(x.sin(), [x.cos()]), X, out=tmp_path / "J")
    first, second = cj.open(tmp_path / "J")
    assert torch.equal(first, made.first)
    assert torch.equal(second[0], made.second[0])


# What was changed


@pytest.mark.parametrize("name", ["J.npy", "J", "K.zarr"])
def test_any_changed_digit_of_a_plan_is_told(name: str, tmp_path: Path) -> None:
    path = _made(name, tmp_path, finished=False)
    plan, text = _plan_of(path), _plan_of(path).read_text()
    digits = [at for at, letter in enumerate(text) if letter.isdigit()]
    for at in digits:
        plan.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])
        for read in (cj.open, check, _resumed):
            with pytest.raises(cj.StoreError):
                read(path)
    plan.write_text(text)
    _is_right(_resumed(path), name)


def test_a_flipped_value_is_told_when_a_file_is_opened(tmp_path: Path) -> None:
    path = _made("J.npy", tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with pytest.raises(cj.StoreError, match=r"damaged: rows 8:10 of 10 are not as they were written.*resume=True"):
        cj.open(path)
    assert cj.open(path, check=False).shape == (10, 12)
    _resumed(path)
    assert path.read_bytes() == data


def test_a_journal_of_another_plan_is_told(tmp_path: Path) -> None:
    path, other = _made("J.npy", tmp_path, finished=False), tmp_path / "other.npy"
    cj.jacobian(torch.sin, X, mode="reverse", chunk_size=2, out=other)
    shutil.copy(f"{other}.journal", f"{path}.journal")
    for read in (cj.open, check, _resumed):
        with pytest.raises(cj.StoreError, match="not the journal of the plan beside it"):
            read(path)


_HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "many elements": lambda plan: plan["layout"]["parts"][0].update(shape=[10**15, 12], result_shape=[10**15, 12]),
    "more than there are": lambda plan: plan["layout"]["parts"][0].update(shape=[10**300, 12]),
    "many blocks": lambda plan: plan["layout"].update(sizes=[10**15]),
    "blocks of nothing": lambda plan: plan["layout"].update(block_sizes=[0]),
    "chunks of nothing": lambda plan: plan["layout"].update(chunk_size=0, block_sizes=[0]),
    "negative": lambda plan: plan["layout"]["parts"][0].update(shape=[-10, 12], result_shape=[-10, 12]),
    "objects": lambda plan: plan["layout"]["parts"][0].update(dtype="|O"),
    "other parts": lambda plan: plan["layout"].update(parts=[]),
    "no parts": lambda plan: plan["layout"].pop("parts"),
    "elsewhere": lambda plan: plan["layout"]["parts"][0].update(name="../../etc/passwd"),
    "absolute": lambda plan: plan["layout"]["parts"][0].update(name="/etc/passwd"),
    "tree": lambda plan: plan["layout"].update(trees=[["dict", ["*"], [["os.system"]]], "*"]),
    "deep": lambda plan: plan["layout"].update(trees=[_nested(150), "*"]),
    "mode": lambda plan: plan["facts"].update(mode="__import__"),
    "facts": lambda plan: plan.update(facts=[1]),
    "transposed": lambda plan: plan["layout"]["parts"][0].update(result_shape=[12, 10]),
}


def _nested(depth: int) -> Any:
    tree: Any = "*"
    for _ in range(depth):
        tree = ["list", [tree]]
    return tree


@pytest.mark.parametrize("fault", _HOSTILE)
@pytest.mark.parametrize("name", ["J.npy", "K.zarr"])
def test_a_plan_that_was_forged_is_refused_before_memory_is_taken(fault: str, name: str, tmp_path: Path) -> None:
    path = _made(name, tmp_path)
    plan = json.loads(_plan_of(path).read_text())
    _HOSTILE[fault](plan)
    _plan_of(path).write_text(_signed(plan))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (cj.open, check, _resumed, remove):
        with pytest.raises(cj.StoreError):
            read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


@pytest.mark.parametrize(
    "text", ["[" * 10**5, '{"format":' * 10**4, "9" * 10**5, '{"format": NaN}', '{"format": true}']
)
def test_text_that_is_no_plan_is_refused(text: str, tmp_path: Path) -> None:
    path = _made("J.npy", tmp_path)
    _plan_of(path).write_text(text)
    for read in (cj.open, check, _resumed):
        with pytest.raises(cj.StoreError, match=r"plan\.json"):
            read(path)


def test_files_that_are_too_large_are_not_read(tmp_path: Path) -> None:
    path = _made("J.npy", tmp_path)
    for file in (_plan_of(path), tmp_path / "J.npy.journal"):
        data = file.read_bytes()
        os.truncate(file, 2**40)  # with a hole in it
        with pytest.raises(cj.StoreError, match=r"at most \d+ are read"):
            cj.open(path)
        file.write_bytes(data)
    _is_right(cj.open(path), "J.npy")


_METADATA = {
    "codecs": [{"name": "numcodecs.pickle", "configuration": {}}],
    "storage_transformers": [{"name": "evil"}],
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/../"}},
    "data_type": "object",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 1]}},
    "extra": 1,
}


@pytest.mark.parametrize("field", _METADATA)
def test_zarr_reads_no_metadata_that_were_not_written(field: str, tmp_path: Path) -> None:
    path = _made("K.zarr", tmp_path)
    metadata = path / "zarr.json"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), field: _METADATA[field]}))
    for read in (cj.open, check, _resumed):
        with pytest.raises(cj.StoreError, match=f"is not as it was made: its {field}"):
            read(path)


def test_attributes_of_an_array_may_be_added(tmp_path: Path) -> None:
    path = _made("K.zarr", tmp_path)
    metadata = path / "zarr.json"
    fields = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({**fields, "attributes": {**fields["attributes"], "mine": [1]}}))
    _is_right(cj.open(path), "K.zarr")


def test_a_piece_that_would_unpack_to_more_is_not_unpacked(tmp_path: Path) -> None:
    path = _made("K.zarr", tmp_path)
    piece = path / "c.0.0"
    frame = b"\x28\xb5\x2f\xfd" + bytes([0xE0]) + (2**45).to_bytes(8, "little")
    piece.write_bytes(frame + piece.read_bytes()[6:])
    assert check(path)[0] == [slice(0, 2)]
    _is_right(_resumed(path), "K.zarr")


# Links, and what is in the way


@pytest.mark.parametrize(
    ("name", "file"),
    [
        *(("J.npy", file) for file in ("J.npy", "J.npy.plan.json", "J.npy.journal")),
        *(("J", f"J/{file}") for file in ("plan.json", "journal", "0_0.npy")),
        *(("J.zarr", f"J.zarr/{file}") for file in ("0_0", "1_0/zarr.json", "1_0/c.0.0")),
    ],
)
def test_no_link_is_followed(name: str, file: str, tmp_path: Path) -> None:
    path = _made(name, tmp_path)
    away = tmp_path / "elsewhere"
    (tmp_path / file).rename(away)
    (tmp_path / file).symlink_to(away)
    before = _contents(away)
    with pytest.raises(cj.StoreError):
        cj.open(path)
    with (
        pytest.raises(cj.StoreError) if not file.endswith("c.0.0") else nullcontext()
    ):  # a piece is written anew beside
        _resumed(path)
    assert _contents(away) == before


@pytest.mark.parametrize("file", ["J.npy.plan.json", "J.npy.journal", "J.npy"])
def test_no_pipe_is_waited_for(file: str, tmp_path: Path) -> None:
    path = _made("J.npy", tmp_path)
    (tmp_path / file).unlink()
    os.mkfifo(tmp_path / file)
    for read in (cj.open, check, _resumed):
        with pytest.raises(cj.StoreError, match="no file that can be read"):
            read(path)


def _contents(path: Path) -> dict[Path, bytes]:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {file: file.read_bytes() for file in files}


@pytest.mark.parametrize("name", ["J.npy", "J", "J.zarr"])
@pytest.mark.parametrize("how", ["file", "link", "link to nothing", "folder"])
def test_what_is_where_a_draft_goes_stays(how: str, name: str, tmp_path: Path) -> None:
    if name == "J.zarr":
        pytest.importorskip("zarr")
    folder = tmp_path / "J" if name == "J" else tmp_path
    folder.mkdir(exist_ok=True)
    draft, victim = folder / ("plan.json.draft" if name == "J" else f"{name}.plan.json.draft"), tmp_path / "thesis.txt"
    if how == "file":
        draft.write_text("three years of work")
    elif how == "folder":
        draft.mkdir()
    else:
        draft.symlink_to(victim)
        if how == "link":
            victim.write_text("three years of work")
    for call in (
        lambda: cj.jacobian(STORES[name], X, out=tmp_path / name),
        lambda: cj.jacobian(STORES[name], X, out=tmp_path / name, resume=True),
        lambda: remove(tmp_path / name),
    ):
        with pytest.raises(cj.ChunkjacError, match=r"plan\.json\.draft|J' exists"):
            call()
    assert os.path.lexists(draft)
    assert how in ("folder", "link to nothing") or draft.read_text() == "three years of work"
    assert victim.exists() == (how == "link")


# Everything at random


def _mutated(path: Path, rng: random.Random) -> None:
    """Change a file of a store."""
    files = sorted(file for file in path.parent.rglob("*") if file.is_file())
    file = rng.choice(files)
    data = bytearray(file.read_bytes())
    kind = rng.randrange(8)
    at = rng.randrange(len(data) + 1)
    if kind == 0 and data:
        data[at % len(data)] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[at : at + rng.randrange(1, 40)]
    elif kind == 2:
        data[at:at] = rng.randbytes(rng.randrange(1, 40))
    elif kind == 3 and data:
        start = rng.randrange(len(data))
        data[at:at] = data[start : start + rng.randrange(1, 200)]
    elif kind == 4:
        data[at : at + 8] = rng.randbytes(8)
    elif kind == 5:
        data = bytearray(rng.choice(files).read_bytes())
    elif kind == 6:
        digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()] or [0]
        data[rng.choice(digits) : 1 + rng.choice(digits)] = rng.choice(
            [b"9" * 30, b"-1", b"1e400", b"null", b"[]", b"0"]
        )
    elif file.suffix == ".json" and data.startswith(b"{"):
        with suppress(ValueError, AttributeError):  # it is none any more
            data = bytearray(_forged(json.loads(data), rng).encode())
    file.write_bytes(data)


def _forged(plan: dict[str, Any], rng: random.Random) -> str:
    """Put something else into a part of a plan, and sign it."""
    place: Any = plan
    while True:
        keys = [*place] if isinstance(place, dict) else [*range(len(place))]
        if not keys:
            break
        key = rng.choice(keys)
        if isinstance(place[key], (dict, list)) and rng.random() < 0.8:
            place = place[key]
            continue
        place[key] = rng.choice([10**15, -1, 0, 1, 2, None, True, "*", "/etc/passwd", "../x", [], {}, 1.5, _nested(50)])
        break
    return _signed(plan) if {"facts", "layout"} <= plan.keys() else json.dumps(plan)


_KNOWN = ("zarr", "numcodecs", "torch", "numpy", "chunkjac")  # what they import themselves when they are first used


def _fuzz(name: str, folder: Path, n: int, seed: int) -> None:
    rng, whole = random.Random(seed), folder / "whole"
    whole.mkdir()
    _made(name, whole, finished=seed % 3 > 0)
    modules, before = {*sys.modules}, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(n):
        copy = folder / "copy"
        shutil.copytree(whole, copy)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            _mutated(copy / name, rng)
        for read in (cj.open, _resumed) if number % 4 == 0 else (cj.open,):
            try:
                _is_right(read(copy / name), name)
            except cj.StoreError:
                continue
        shutil.rmtree(copy)
    assert not [module for module in {*sys.modules} - modules if not module.startswith(_KNOWN)]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", STORES)
def test_a_store_that_was_changed_at_random_is_right_or_refused(name: str, seed: int, tmp_path: Path) -> None:
    _fuzz(name, tmp_path, 30, seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3, 28))
@pytest.mark.parametrize("name", STORES)
def test_ten_thousand_changes_are_right_or_refused(name: str, seed: int, tmp_path: Path) -> None:
    _fuzz(name, tmp_path, 100, seed)
