"""What is computed, and how it lies in its files: data that is read only as it was written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from zlib import crc32

from chunkjac._store.files import make_own, open_own, read_own
from chunkjac._store.journal import read_journal, sync_path
from chunkjac._store.layout import FileLayout, Kind
from chunkjac._store.trees import words_of_format_1

# The first format had no checksum, more facts, and trees as torch writes them.
_FORMAT = 2
_BEGIN = b'{\n "format": '
_MOST_BYTES = 2**25  # 100,000 files; a hundred times as much is taken while it is read
_MODES = ("reverse", "forward", "finite-difference")


@dataclass(frozen=True)
class StoredPlan:
    """Hold a plan.

    Attributes:
        facts: What was computed, as far as a message can say it.
        layout: How it lies in files.
        format: That of the files.
    """

    facts: Mapping[str, Any]
    layout: FileLayout
    format: int = _FORMAT

    @classmethod
    def read(cls, path: Path, kind: Kind) -> StoredPlan:
        """Read a plan.

        Raises:
            FileNotFoundError: There is none.
            OSError, ValueError: It cannot be read, or is no plan of ours; or not as it was written.
        """
        try:
            found: Any = json.loads(read_own(path, _MOST_BYTES))
        except RecursionError as error:
            raise ValueError("chunkjac did not write it") from error
        if not isinstance(found, dict) or "format" not in found:
            raise ValueError("chunkjac did not write it")
        if found["format"] not in (1, _FORMAT) or isinstance(found["format"], bool):
            raise ValueError("another version of chunkjac wrote it")
        try:
            return cls._of_format_1(found, kind) if found["format"] == 1 else cls._of_today(found, kind)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
            raise ValueError("it is not as chunkjac writes it, or not as it was written") from error

    @classmethod
    def _of_today(cls, found: dict[str, Any], kind: Kind) -> StoredPlan:
        if found["checksum"] != _checksum(found):
            raise ValueError("the checksum is another")
        return cls(_facts(found), FileLayout.from_dict(found["layout"], kind))

    @classmethod
    def _of_format_1(cls, found: dict[str, Any], kind: Kind) -> StoredPlan:
        if found.keys() != {"format", "facts", "layout"}:
            raise ValueError("it has other parts")
        layout, facts = found["layout"], _facts(found)
        texts = zip(layout["trees"], (layout["n_outputs"], layout["n_inputs"]), strict=True)
        layout = {**layout, "trees": [words_of_format_1(*each) for each in texts]}
        return cls({"mode": facts["mode"]}, FileLayout.from_dict(layout, kind), 1)

    @cached_property
    def tie(self) -> int:
        """Return what ties the journal to this plan."""
        return 0 if self.format == 1 else int(_checksum(self._fields), 16)

    def write(self, path: Path, draft: Path) -> None:
        """Write the plan, whole or not at all.

        Raises:
            OSError: Something is at one of the paths that is no draft of ours, for instance.
        """
        if is_draft(draft):  # of a run that was stopped
            draft.unlink()
        text = json.dumps({**self._fields, "checksum": _checksum(self._fields)}, indent=1).encode()
        if len(text) > _MOST_BYTES:
            raise OSError(errno.EFBIG, "there are too many pairs of an output and an input for a folder of files")
        make_own(draft, text)
        draft.replace(path)
        sync_path(path.parent)

    def finished(self, journal: bytes) -> dict[int, tuple[int, ...]]:
        """Return the checksums of finished blocks, by number.

        Raises:
            ValueError: The journal is not that of this plan.
        """
        found, partition = read_journal(journal, self.tie), self.layout.partition
        return {number: sums for number, sums in found.items() if 0 <= number < partition.n_blocks}

    def differences(self, other: StoredPlan) -> list[str]:
        """List how another plan differs: each fact as it was and as it is."""
        known, facts = self.facts, other.facts
        told = [
            f"{name} was {known.get(name)!r:.200}, is {facts.get(name)!r:.200}"
            for name in (dict.fromkeys((*known, *facts)) if self.format == other.format else known)
            if known.get(name) != facts.get(name)
        ]
        ours, theirs = self.layout, other.layout
        trees = ours.trees if self.format == other.format else theirs.trees
        if not told and replace(theirs, chunk_size=ours.chunk_size, block_sizes=ours.block_sizes) != replace(
            ours, trees=trees
        ):
            told.append("outputs and inputs were of other shapes, types or trees")
        return told

    @property
    def _fields(self) -> dict[str, Any]:
        return {"format": _FORMAT, "facts": dict(self.facts), "layout": self.layout.to_dict()}


def is_draft(path: Path) -> bool:
    """Tell whether a file is the beginning of a plan: what a run has left that was stopped as it wrote one.

    Raises:
        OSError: It is no file, for instance.
    """
    try:
        with open(open_own(path, os.O_RDONLY), "rb") as file:
            return _BEGIN.startswith(file.read(len(_BEGIN)))
    except FileNotFoundError:
        return False


def _facts(found: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a plan that was read.

    Raises:
        ValueError: They are none.
    """
    facts = found["facts"]
    if not isinstance(facts, dict) or facts["mode"] not in _MODES:
        raise ValueError("it has other facts")
    return facts


def _checksum(found: Mapping[str, Any]) -> str:
    """Return the checksum of all else in a plan."""
    told = json.dumps([found["facts"], found["layout"]], sort_keys=True, separators=(",", ":"))
    return f"{crc32(told.encode()):08x}"
