"""The faults: what is replaced by what, and the few tests that should notice it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """Hold a fault.

    Attributes:
        name: What it is.
        file: Where, in the package.
        old: What is there, once.
        new: What is put there.
        tests: What pytest is given: files, and what selects a few of their tests.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str

    @property
    def selection(self) -> tuple[str, str]:
        """Return the tests' files, and what selects some of their tests."""
        files, _, chosen = self.tests.partition(" -k ")
        return files, chosen or Path(files).stem


_GRAPH, _PASSES = "_programs/graph", "_programs/passes"

RECORDER = [
    Fault(
        "the recorder lets values be read",
        f"{_GRAPH}/recorder.py",
        "if reads_values(func, tensors) and not self._is_free(operands):",
        "if False:",
        "tests/programs/test_recorder.py -k refused",
    ),
    Fault(
        "the recorder lets random numbers be drawn",
        f"{_GRAPH}/recorder.py",
        "if torch.Tag.nondeterministic_seeded in func.tags:",
        "if False:",
        "tests/programs/test_recorder.py -k refused",
    ),
    Fault(
        "as_strided is recorded with the offset of its memory",
        f"{_GRAPH}/recorder.py",
        "offset = made.storage_offset() - args[0].storage_offset()",
        "offset = made.storage_offset()",
        "tests/programs/test_recorder.py",
    ),
    Fault(
        "what is seen under an old name after a write is not told",
        f"{_GRAPH}/recorder.py",
        "self._stale.add(writes.root)",
        "pass",
        "tests/programs/test_recorder.py",
    ),
    Fault(
        "the recorder lets tensors from outside be written to",
        f"{_GRAPH}/recorder.py",
        "if node.root in self._constants or node.root in self._given:",
        "if False:",
        "tests/programs/test_recorder.py -k refused",
    ),
    Fault(
        "values that a derivative uses may be written to after it has used them",
        f"{_GRAPH}/step_recorder.py",
        "elif kind.writes and not self._held.isdisjoint(map(memory_or_none, tensors)):",
        "elif False:",
        "tests/programs/test_recorder.py -k step",
    ),
    Fault(
        "a constant takes the shape that it gets later",
        f"{_GRAPH}/step_recorder.py",
        "self._constants[node] = tensor.detach()",
        "pass",
        "tests/programs/test_recorder.py -k constant",
    ),
    Fault(
        "recordings with other numbers are taken for the same",
        f"{_GRAPH}/script.py",
        "return type(value), repr(value) if isinstance(value, (float, complex)) else value",
        "return type(value)",
        "tests/programs/test_recorder.py -k told",
    ),
    Fault(
        "recordings of tensors of other layouts are taken for the same",
        f"{_GRAPH}/script.py",
        "self._is_same = self._is_same and i < len(looks) and look_of(tensor) == looks[i]",
        "self._is_same = self._is_same and i < len(looks)",
        "tests/programs/test_recorder.py -k told",
    ),
    Fault(
        "numbers that nodes save are taken for the same",
        f"{_GRAPH}/saved.py",
        "repr([*map(told, graph.sources), *map(told, saved)])",
        "[*map(told, graph.sources), *map(told, saved)] and None",
        "tests/programs/test_saved.py -k same",
    ),
    Fault(
        "numbers that operations take for such may change in tensors",
        f"{_GRAPH}/saved.py",
        "if any(_number_in(saved.tensors[place]) != number for place, number in self.fixed.items()):",
        "if False:",
        "tests/programs/test_saved.py -k same",
    ),
    Fault(
        "what Python does to gradients within goes unseen",
        f"{_GRAPH}/python_calls.py",
        "self.has_run = self.has_run or self._is_within",
        "pass",
        "tests/programs/test_saved.py -k hide",
    ),
    Fault(
        "writes to memory are no use of what is written",
        f"{_GRAPH}/graph.py",
        "if node in needed or (node.writes is not None and node.writes.root in memory):",
        "if node in needed:",
        "tests/programs/test_recorder.py -k runs_again",
    ),
]

BATCHING = [
    Fault(
        "operations without a batching rule are recorded as torch's loop runs them",
        "_programs/batch.py",
        "functorch._set_vmap_fallback_enabled(False)",
        "functorch._set_vmap_fallback_enabled(True)",
        "tests/programs/test_derivative_program.py -k without_a_batching",
    ),
    Fault(
        "a program keeps the values that it was recorded with",
        "_programs/batch.py",
        "stands_for = {node: node_of[id(value)] for node, value in graph.constants.items() if id(value) in node_of}",
        "stands_for = {}",
        "tests/programs/test_derivative_program.py -k parameters",
    ),
    Fault(
        "a witness agrees with everything",
        "_modes/witness.py",
        "_LEAST_TOLERANCE = 1e-4",
        "_LEAST_TOLERANCE = 1e4",
        "tests/modes/test_ladders.py -k later",
    ),
    Fault(
        "all backward passes are taken to batch rightly",
        "_modes/derivatives/graph_nodes.py",
        'return outputs.nodes is not None and outputs.nodes <= known_nodes("batched", mode)',
        "return True",
        "tests/modes/test_ladders.py -k wrong_batching",
    ),
    Fault(
        "only the first block of a rung is compared",
        "_modes/derivatives/ladder.py",
        "if self._witness.agrees(self.rung.one, nearer=self._nearer):",
        "if True:",
        "tests/modes/test_ladders.py -k later",
    ),
    Fault(
        "only the first block of a program is compared",
        "_modes/derivatives/takeover.py",
        "if self._witness.agrees(self._ladder.one, alone):",
        "if True:",
        "tests/programs/test_derivative_program.py -k later_blocks",
    ),
    Fault(
        "rows of zeros keep what was in memory before",
        f"{_PASSES}/gathers.py",
        "if self.n_rows > 1 or (low, high) != (begin, end):",
        "if False:",
        "tests/programs/test_passes.py -k one_hot",
    ),
    Fault(
        "seeds of the chunk before are not erased",
        "_chunker/seeds.py",
        "            ones.zero_()",
        "            pass",
        "tests/chunker/test_seeds.py",
    ),
    Fault(
        "a short last chunk has the rows of a whole one",
        "_programs/derivative_program.py",
        "block = tuple(values[:n_rows] for values in block)",
        "pass",
        "tests/programs/test_derivative_program.py -k fewer",
    ),
]

PASSES = [
    Fault(
        "an index from the end is taken for one from the beginning",
        f"{_PASSES}/rules.py",
        "    index = index + size if index < 0 else index\n",
        "",
        "tests/programs/test_rules.py -k select",
    ),
    Fault(
        "softmax has the wrong sign",
        f"{_PASSES}/rules.py",
        "return scaled - y * torch.sum(scaled, dim, keepdim=True)",
        "return scaled + y * torch.sum(scaled, dim, keepdim=True)",
        "tests/programs/test_rules.py -k softmax",
    ),
    Fault(
        "1 and 1.0 are merged",
        f"{_PASSES}/merging.py",
        "return value if isinstance(value, Node) else (type(value), value)",
        "return value",
        "tests/programs/test_passes.py -k types",
    ),
    Fault(
        "what is written to is merged",
        f"{_PASSES}/merging.py",
        "if node.writes is None and node.root not in written:",
        "if node.writes is None:",
        "tests/programs/test_passes.py -k merged",
    ),
    Fault(
        "differences of chains are sums",
        f"{_PASSES}/pointwise_chains.py",
        'alpha = sign * node.kwargs.get("alpha", 1)',
        'alpha = node.kwargs.get("alpha", 1)',
        "tests/programs/test_recorder.py -k pointwise",
    ),
    Fault(
        "factors are collapsed where they change the shape",
        f"{_PASSES}/pointwise_chains.py",
        "if (isinstance(b, Node) and b.varies) or not _keeps_shape(node, a):",
        "if isinstance(b, Node) and b.varies:",
        "tests/programs/test_recorder.py -k pointwise",
    ),
    Fault(
        "a part does not follow a transpose",
        f"{_PASSES}/padding.py",
        "{first: second, second: first}.get(like.dim, like.dim)",
        "like.dim",
        "tests/programs/test_passes.py -k zero",
    ),
    Fault(
        "the highest frequency counts twice",
        f"{_PASSES}/real_transforms.py",
        "ends = [1.0] if size % 2 else [1.0, 1.0]",
        "ends = [1.0]",
        "tests/programs/test_real_transforms.py -k theorem",
    ),
]

TRACKER = [
    Fault(
        "what was not foreseen is not refused",
        "_memory/tracker.py",
        "if self.live_bytes + (self._unseen_bytes if func is LIFT_FRESH else 0) > self.limit_bytes:",
        "if False:",
        "tests/memory/test_unforeseen.py -k not_foreseen",
    ),
    Fault(
        "what is foreseen is not refused",
        "_memory/tracker.py",
        "if self.rounded(int(made_bytes)) > room_bytes:",
        "if False:",
        "tests/memory/test_tracker.py -k refused_before",
    ),
    Fault(
        "what may be of any size is run",
        "_memory/tracker.py",
        "            if made_bytes == inf:\n",
        "            made_bytes = 0 if made_bytes == inf else made_bytes\n            if False:\n",
        "tests/memory/test_unforeseen.py -k others",
    ),
    Fault(
        "storages that no operation makes do not count",
        "_memory/tracker.py",
        "if func in _TAKES_STORAGE:",
        "if False:",
        "tests/memory/test_unforeseen.py -k storages",
    ),
    Fault(
        "a storage that grows is not seen",
        "_memory/storages.py",
        "if watch.n_bytes != n_bytes:",
        "if False:",
        "tests/memory/test_tracker.py -k growing",
    ),
    Fault(
        "copies that products make do not count",
        "_memory/tracker.py",
        "self.note(copied_bytes + (self._unseen_bytes if self._fake is not None else 0))",
        "self.note(self._unseen_bytes if self._fake is not None else 0)",
        "tests/memory/test_unforeseen.py -k product",
    ),
    Fault(
        "layouts of arguments are not told apart",
        "_memory/foresight.py",
        "return value.shape, value.stride(), value.dtype, value.untyped_storage().nbytes()",
        "return value.shape, value.dtype",
        "tests/memory/test_tracker.py -k memory_under",
    ),
]

STORE = [
    Fault(
        "lines of the journal need not add up",
        "_store/journal.py",
        "if int(own, 16) != crc32(start, tie) or len(own) != 8:",
        "if False:",
        "tests/store/test_store.py -k journal",
    ),
    Fault(
        "blocks that were taken back count as finished",
        "_store/journal.py",
        "finished.pop(number, None)",
        "pass",
        "tests/store/test_store.py -k journal or taken_back",
    ),
    Fault(
        "checksums of blocks are not compared",
        "_store/values.py",
        "values is not None and crc32(values) == known for values, known in zip(found, sums)",
        "values is not None for values, known in zip(found, sums)",
        "tests/store/test_store.py -k flipped",
    ),
    Fault(
        "resume goes on with whatever is there",
        "_sinks/witness.py",
        "is_right = not numbers or (whole.agrees() and not some_differ)",
        "is_right = True",
        "tests/store/test_resume_witness.py -k blocks_that_differ or another_point",
    ),
    Fault(
        "a file of another length is gone on with",
        "_store/npy.py",
        "if n_bytes > self._whole_bytes:",
        "if False:",
        "tests/store/test_store.py -k length",
    ),
    Fault(
        "tuples open as lists",
        "_store/trees.py",
        'return tuple(values) if kind == "tuple" else values',
        "return values",
        "tests/store/test_files_are_data.py -k words",
    ),
]

FAULTS = [*RECORDER, *BATCHING, *PASSES, *TRACKER, *STORE]
