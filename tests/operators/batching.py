"""Which backward passes ``vmap`` batches rightly: ``python -m tests.operators.batching`` writes the list anew.

Each sample of each operator goes through ``vmap`` of its vjp with the seeds of all rows at once, and row by row. The
nodes of autograd's graph that took part are right in batches if all samples in which they did agree; where one differs,
all of its nodes are left out.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from chunkjac._chunker import OneHot
from chunkjac._modes import _pullbacks
from chunkjac._modes._pullbacks import VmapGrad, VmapVjp
from chunkjac._problem import Problem
from chunkjac._tensors import is_close
from tests.operators.cases import Case, cases, names, seed

# More rows tell nothing new.
_MOST_ROWS = 24

_HEAD = '''"""The nodes of autograd's graph whose backward passes ``vmap`` batches rightly, as far as samples tell.

Written by ``python -m tests.operators.batching``: {n_agreed} samples of {n_operators} operators of torch {version}.
"""

# The release that was looked at; others are compared with one direction in each job.
RELEASE = {version!r}

NODES = frozenset(
    """
{nodes}
""".split()  # noqa: SIM905 - a page of quotes
)
'''


def main() -> None:
    good: set[str] = set()
    bad: set[str] = set()
    n_agreed = 0
    chosen = sys.argv[1:] or names()
    for case in (*(case for name in chosen for case in cases(name)), *extra_cases()):
        single = replace(case, inputs=tuple(x.float() for x in case.inputs))
        for kind, sample in itertools.product((VmapVjp, VmapGrad), (case, single)):
            found = nodes_of(sample, kind)
            if found is None:
                continue
            nodes, agrees = found
            n_agreed += agrees
            (good if agrees else bad).update(nodes)
            if not agrees:
                print(f"{case.operator}, sample {case.sample}, {kind.name}: {', '.join(sorted(nodes))}")
    release = ".".join(torch.__version__.split(".")[:2])
    right = sorted(name for name in good - bad if name.isidentifier())
    text = _HEAD.format(n_agreed=n_agreed, n_operators=len(chosen), version=release, nodes="\n".join(_filled(right)))
    print(f"{len(right)} nodes of {n_agreed} samples; {len(bad)} in samples that differ")
    if not sys.argv[1:]:
        from chunkjac._modes import _batched

        with open(_batched.__file__, "w") as file:
            file.write(text)


def extra_cases() -> Iterator[Case]:
    """Yield what torch's samples leave out: numbers on the left, views that are reshaped, fused layers."""
    torch.manual_seed(0)
    x = torch.randn(3, 4, dtype=torch.float64)
    tokens = torch.randn(2, 2, 5, 8)
    lstm, gru = torch.nn.LSTM(4, 3, num_layers=2), torch.nn.GRU(4, 3)
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    attention = torch.nn.functional.scaled_dot_product_attention
    functions = {
        "number - x": (lambda x: 2 - x, x),
        "number / x": (lambda x: 2 / x, x),
        "number ** x": (lambda x: 2**x, x),
        "reshape of a transposed tensor": (lambda x: x.T.reshape(2, 6), x),
        "reshape of a slice": (lambda x: x[:, 1:3].reshape(-1) * 2, x),
        "reshape of an expanded tensor": (lambda x: x.unsqueeze(1).expand(3, 2, 4).reshape(6, 4).sin(), x),
        "as_strided": (lambda x: x.as_strided((2, 3), (4, 1)) * 2, x),
        "attention": (lambda x: attention(x, x.sin(), x.cos()), tokens),
        "attention with a mask": (lambda x: attention(x, x.sin(), x.cos(), attn_mask=causal), tokens),
        "causal attention": (lambda x: attention(x, x.sin(), x.cos(), is_causal=True), tokens),
        "LSTM": (lambda x: lstm(x)[0], x.float()),
        "GRU": (lambda x: gru(x)[0], x.float()),
    }
    for name, (func, point) in functions.items():
        yield Case(name, 0, "", lambda *inputs, func=func: (func(*inputs),), (point,))


def nodes_of(case: Case, kind: type[VmapVjp] | type[VmapGrad]) -> tuple[set[str], bool] | None:
    """Return the nodes of a case, and whether its rows are right in a batch; ``None`` if nothing can be compared."""
    try:
        noted: list[set[str]] = []
        seed()
        with torch.no_grad(), noting(noted):
            rung = kind(Problem.of(case.func, case.inputs, case.argnums, False))
        leaves, (nodes,) = rung.outputs.leaves, noted
        n_rows = min(_MOST_ROWS, sum(leaf.numel for leaf in leaves))
        if n_rows < 2 or not nodes:
            return None
        with torch.no_grad():
            seeds = OneHot(leaves).seeds(slice(0, n_rows))
            together = rung.many(seeds)
            alone = [rung.one(tuple(values[i] for values in seeds)) for i in range(n_rows)]
    except Exception:
        return None
    return nodes, all(_rows_agree(rows, parts) for rows, parts in zip(together, zip(*alone)))


@contextmanager
def noting(noted: list[set[str]]) -> Iterator[None]:
    """Note the nodes that a rung asks about."""
    are_sure = _pullbacks.are_sure

    def note(nodes: set[object]) -> bool:
        noted.append({node.name() for node in nodes})
        return are_sure(nodes)

    _pullbacks.are_sure = note
    try:
        yield
    finally:
        _pullbacks.are_sure = are_sure


def _rows_agree(rows: torch.Tensor, parts: Sequence[torch.Tensor]) -> bool:
    """Tell whether rows of a batch are those that were computed alone; what is no number must be none in both."""
    pairs = zip(rows, parts, strict=True)
    return all(is_close(row.nan_to_num(0, 0, 0), part.nan_to_num(0, 0, 0)) for row, part in pairs)


def _filled(words: Sequence[str]) -> Iterator[str]:
    """Yield lines of words."""
    line = ""
    for word in words:
        if line and len(line) + len(word) > 110:
            yield line
            line = ""
        line = f"{line} {word}".strip()
    if line:
        yield line


if __name__ == "__main__":
    main()
