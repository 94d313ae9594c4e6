"""How a Jacobian lies in files: one for each output by input, cut into blocks.

The blocks are fixed when the files are made. Each is a few chunks, no chunk has directions of two blocks, and
no block those of two tensors: so a block is always computed in the same way, wherever a run begins, and
comes out the same to the last bit. A machine with less memory may go on all the same, in smaller chunks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils._pytree import TreeSpec

from chunkjac._chunker import Partition
from chunkjac._errors import ArgumentError, StoreError
from chunkjac._problem import Leaf
from chunkjac._store.trees import Tree, check_words, words_of

# A .npy file, a folder of them, or an array or a group of arrays in Zarr's format.
Kind = Literal["file", "folder", "zarr"]

# A block is written and synchronised at once, and is what a crash costs. Smaller ones spend their time on the latter
# (0.1 ms where there is nothing to wait for).
_BLOCK_BYTES = 32 * 2**20

# What a file may say of sizes without arithmetic going wrong; no disk has as much.
_MOST_ELEMENTS = 2**56
_MOST_BLOCKS = 2**22  # 64 of a tensor, or 128 TiB

_DTYPES = {
    f"{'<' if sys.byteorder == 'little' else '>'}f{dtype.itemsize}": dtype
    for dtype in (torch.float16, torch.float32, torch.float64)
}


@dataclass(frozen=True, slots=True)
class Part:
    """Hold what is known of one file.

    Attributes:
        name: The file's name; empty where there is one only.
        shape: The array's shape, as NumPy or Zarr sees it.
        fortran_order: Whether directions are columns; in a ``.npy`` file, the first index is the fastest then.
        dtype: NumPy's name of its type.
        direction_bytes: What a direction takes, as it was computed.
        result_shape: The shape in torch.func's tree.
        n_output_dims: How many of its dimensions are the output's.
    """

    name: str
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: str
    direction_bytes: int
    result_shape: tuple[int, ...]
    n_output_dims: int


@dataclass(frozen=True)
class FileLayout:
    """Hold how a Jacobian lies in files.

    Attributes:
        by_rows: Whether directions are rows (outputs).
        n_outputs: How many outputs there are.
        n_inputs: How many inputs.
        chunk_size: How many directions are computed at once.
        sizes: The elements of each tensor whose elements are directions.
        block_sizes: How many directions of each make a block.
        parts: The files: for each of those tensors, one for each tensor at the other end.
        trees: The trees of outputs and of inputs, in words.
    """

    by_rows: bool
    n_outputs: int
    n_inputs: int
    chunk_size: int
    sizes: tuple[int, ...]
    block_sizes: tuple[int, ...]
    parts: tuple[Part, ...]
    trees: tuple[Tree, Tree]

    @classmethod
    def of(
        cls,
        outputs: Sequence[Leaf],
        inputs: Sequence[Leaf],
        specs: tuple[TreeSpec, TreeSpec],
        *,
        by_rows: bool,
        kind: Kind,
        chunk_size: int,
    ) -> FileLayout:
        """Lay a Jacobian out."""
        trees = words_of(specs[0]), words_of(specs[1])
        return cls._laid_out(outputs, inputs, trees, by_rows=by_rows, kind=kind, chunk_size=chunk_size)

    @classmethod
    def from_dict(cls, fields: dict[str, Any], kind: Kind) -> FileLayout:
        """Return what :meth:`to_dict` gave, as it is read from a file: it is laid out anew, and must be the same.

        Raises:
            ValueError, KeyError, TypeError, IndexError: It is no layout.
        """
        by_rows, chunk_size = bool(fields["by_rows"]), _whole(fields["chunk_size"])
        n_outputs, n_inputs = _whole(fields["n_outputs"]), _whole(fields["n_inputs"])
        parts, trees = fields["parts"], tuple(fields["trees"])
        if not (chunk_size and n_outputs and n_inputs and len(parts) == n_outputs * n_inputs):
            raise ValueError("its parts are not as many as they should be")
        if [check_words(tree) for tree in trees] != [n_outputs, n_inputs]:
            raise ValueError("its trees are others")
        outputs = [_leaf(part, of_output=True) for part in (parts[::n_inputs] if by_rows else parts[:n_outputs])]
        inputs = [_leaf(part, of_output=False) for part in (parts[:n_inputs] if by_rows else parts[::n_outputs])]
        found = cls._laid_out(outputs, inputs, trees, by_rows=by_rows, kind=kind, chunk_size=chunk_size)
        block_sizes = tuple(map(_whole, fields["block_sizes"]))  # others where what they are found by has changed since
        if len(block_sizes) != len(found.sizes) or any(size < 1 or size % chunk_size for size in block_sizes):
            raise ValueError("its blocks are none")
        found = replace(found, block_sizes=block_sizes)
        if found.partition.n_blocks > _MOST_BLOCKS:
            raise ValueError("it has more blocks than there can be")
        if json.loads(json.dumps(found.to_dict())) != fields:
            raise ValueError("it contradicts itself")
        return found

    @classmethod
    def _laid_out(
        cls,
        outputs: Sequence[Leaf],
        inputs: Sequence[Leaf],
        trees: tuple[Tree, Tree],
        *,
        by_rows: bool,
        kind: Kind,
        chunk_size: int,
    ) -> FileLayout:
        """Lay a Jacobian out.

        In ``.npy`` files, rows are in C order, columns in Fortran order, so that blocks are whole pieces of the file.
        Where columns (or what they are columns of) have several dimensions, no array of the result's shape has them in
        pieces, and the file is the matrix of flattened outputs and inputs; so are Zarr arrays, where a block is what is
        computed at once: each is packed as a whole.
        """
        seeds, blocks = (outputs, inputs) if by_rows else (inputs, outputs)
        parts = []
        for (i, seed), (j, block) in product(enumerate(seeds), enumerate(blocks)):
            output, x = (seed, block) if by_rows else (block, seed)
            name = _name_of(kind, (i, j) if by_rows else (j, i), is_only=len(seeds) * len(blocks) == 1)
            is_plain = kind != "zarr" and (by_rows or max(len(output.shape), len(x.shape)) <= 1)
            shape = (*output.shape, *x.shape)
            flat = shape if is_plain else (output.numel, x.numel)
            dtype, n_dims = _numpy_name(block.dtype), len(output.shape)
            parts.append(Part(name, tuple(flat), not by_rows, dtype, block.n_bytes, tuple(shape), n_dims))
        most = chunk_size if kind == "zarr" else _BLOCK_BYTES // max(1, sum(block.n_bytes for block in blocks))
        whole = Partition.of([seed.numel for seed in seeds], chunk_size, most)
        return cls(by_rows, len(outputs), len(inputs), chunk_size, whole.sizes, whole.block_sizes, tuple(parts), trees)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return asdict(self)

    @cached_property
    def partition(self) -> Partition:
        """Return the blocks; none where directions have no values, since those are never computed."""
        has_values = any(part.direction_bytes for part in self.parts)
        return Partition(self.sizes, self.block_sizes) if has_values else Partition((), ())

    def told(self, numbers: Sequence[int]) -> str:
        """Say which directions some blocks have."""
        spans: list[slice] = []
        for block in map(self.partition.block, numbers):
            start = spans.pop().start if spans and spans[-1].stop == block.start else block.start
            spans.append(slice(start, block.stop))
        shown = ", ".join(f"{span.start}:{span.stop}" for span in spans[:5]) + (", ..." if len(spans) > 5 else "")
        return f"{'rows' if self.by_rows else 'columns'} {shown} of {sum(self.sizes)}"

    def parts_of(self, leaf: int) -> tuple[Part, ...]:
        """Return the files that a tensor's directions go to."""
        n_blocks = len(self.parts) // max(1, len(self.sizes))
        return self.parts[leaf * n_blocks : (leaf + 1) * n_blocks]


def not_whole(path: Path, found: str) -> StoreError:
    """Say that a file has lost some of its values, or never had them."""
    return StoreError(f"{str(path)!r} is not whole: {found} are there; give resume=True to compute the rest again.")


def not_as_made(path: Path, difference: str) -> StoreError:
    """Say that a file is another than the one that was made."""
    return StoreError(f"{str(path)!r} is not as it was made: {difference}; compute it at another path.")


def _name_of(kind: Kind, pair: tuple[int, int], *, is_only: bool) -> str:
    """Return the name of the file of an output by an input, within what is at the path."""
    if kind == "file" or (kind == "zarr" and is_only):
        return ""
    return f"{pair[0]}_{pair[1]}" + (".npy" if kind == "folder" else "")


def _whole(number: Any) -> int:
    """Return a number of a file, if it is a whole one and not negative.

    Raises:
        ValueError: It is not.
    """
    if type(number) is not int or not 0 <= number <= _MOST_ELEMENTS:
        raise ValueError("a number is none of ours")
    return number


def _leaf(part: dict[str, Any], *, of_output: bool) -> Leaf:
    """Return what the tensor at one end of a file was like; of its type only that of the file's values is known.

    Raises:
        ValueError, KeyError, TypeError: It was like nothing.
    """
    shape, n_output_dims = [_whole(size) for size in part["result_shape"]], _whole(part["n_output_dims"])
    if prod(size or 1 for size in shape) > _MOST_ELEMENTS:
        raise ValueError("it has more elements than there can be")
    return Leaf(
        torch.Size(shape[:n_output_dims] if of_output else shape[n_output_dims:]),
        _DTYPES[part["dtype"]],
        torch.device("cpu"),
    )


def _numpy_name(dtype: torch.dtype) -> str:
    """Return NumPy's name of a type.

    Raises:
        ArgumentError: NumPy has none.
    """
    try:
        return torch.empty(0, dtype=dtype).numpy().dtype.str
    except (TypeError, RuntimeError) as error:
        raise ArgumentError(f"out cannot be a file of {dtype}, which NumPy has not; give out=a tensor.") from error
