"""The path in ``out``, and the files that belong to it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from chunkjac._errors import ArgumentError, StoreError
from chunkjac._store.files import read_own
from chunkjac._store.layout import Kind
from chunkjac._store.stored_plan import StoredPlan, is_draft
from chunkjac._store.zarr import METADATA, UNFINISHED, library

# What Zarr arrays of ours consist of, and groups of them.
_FILES, _ARRAYS = re.compile(rf"{re.escape(METADATA)}|c\.[0-9]+\.[0-9]+"), re.compile(r"[0-9]+_[0-9]+")

_KINDS: dict[str, Kind] = {".npy": "file", "": "folder", ".zarr": "zarr"}


@dataclass(frozen=True)
class Target:
    """Hold where a Jacobian is to go: a ``.npy`` file, a folder of them, or a Zarr array or group.

    Attributes:
        path: The file or the folder, wherever the function may go meanwhile: absolute.
        given: The same as the user gave it, for messages.
        resume: Whether what is there is gone on with.
    """

    path: Path
    given: str
    resume: bool = False

    @classmethod
    def of(cls, path: str | os.PathLike[str], resume: bool = False) -> Target:
        """Return the target at a path, seen from the working directory of now."""
        given = Path(os.fspath(path))
        return cls(given.absolute(), str(given), resume)

    @property
    def kind(self) -> Kind:
        """Return what is at the path, by its suffix; only a single file cannot hold several outputs or inputs."""
        return _KINDS.get(self.path.suffix, "folder")

    @property
    def is_of_another_kind(self) -> bool:
        """Tell whether a folder is where a file should be, or a file where a folder should be."""
        return self.path.exists() and self.path.is_dir() == (self.kind == "file")

    @property
    def plan_path(self) -> Path:
        """Return the file that says what is computed, and how it lies in its files."""
        return self._beside("plan.json")

    @property
    def journal_path(self) -> Path:
        """Return the file that says which blocks are finished."""
        return self._beside("journal")

    @property
    def draft_path(self) -> Path:
        """Return the file that becomes the plan once all of it is written."""
        return self.plan_path.with_name(f"{self.plan_path.name}.draft")

    @property
    def files(self) -> list[Path]:
        """Return all files that a run makes there, in the order in which they can be removed.

        Raises:
            StoreError: The plan that is there cannot be read.
        """
        if self.kind == "zarr":
            values, _ = _own_and_others(self.path)
        elif self.kind == "file":
            values = [self.path]
        else:
            parts = () if self.written_plan is None else self.written_plan.layout.parts
            values = [self.file(part.name) for part in parts]
        return [*values, self.draft_path, self.plan_path, self.journal_path]

    def file(self, name: str) -> Path:
        """Return one of the files, or folders, with values."""
        return self.path / name if name else self.path

    def discard(self, path: Path) -> None:
        """Remove one of the files, or a folder that is empty or a Zarr array's, if it is there.

        Raises:
            OSError: Something else is in the folder, for instance.
        """
        for each in _own_and_others(path)[0] if self.kind == "zarr" and path.is_dir() else [path]:
            if each.is_dir():
                each.rmdir()
            else:
                each.unlink(missing_ok=True)

    def told(self, file: Path) -> str:
        """Return the path of one of all files as the user would give it."""
        return str(Path(self.given).parent / file.relative_to(self.path.parent))

    def check(self) -> None:
        """Refuse what could not be written to, before any work.

        Raises:
            ArgumentError: The suffix tells of another kind of file, the folder is missing or read-only, or something is
                there already.
            StoreError: The path is a link to nothing, or the plan that is there cannot be read.
        """
        if self.path.suffix not in _KINDS:
            raise ArgumentError(
                f"out must be a .npy file, a folder without a suffix, or a .zarr folder, found {self.given!r}."
            )
        if not hasattr(os, "pwrite"):
            raise ArgumentError("out=a path needs a POSIX system (os.pwrite); give a callable, or a tensor.")
        if find_spec("numpy") is None:
            raise ArgumentError("out=a path needs NumPy; install it with pip install 'chunkjac[numpy]'.")
        if self.kind == "zarr":
            library()
        folder = self.path.parent
        if not folder.is_dir():
            raise ArgumentError(
                f"out={self.given!r} is in a folder that does not exist; make {str(Path(self.given).parent)!r} first."
            )
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ArgumentError(f"out={self.given!r} is in a folder that cannot be written to; give another path.")
        is_there = self.path.exists()
        if self.path.is_symlink() and not is_there:
            raise StoreError(f"out={self.given!r} is a link to nothing; remove it, or give another path.")
        if self.is_of_another_kind:
            kind = "a folder" if self.path.is_dir() else "a file"
            raise ArgumentError(f"out={self.given!r} is {kind} already; give another path.")
        if not self.resume and (is_there or self.plan_path.exists()):
            raise ArgumentError(f"out={self.given!r} exists; give resume=True to go on with it, or another path.")
        if self.written_plan is not None:
            return
        others = self.others()
        if is_there and (self.kind == "file" or (self.kind == "zarr" and any(self.path.iterdir()))):
            others.append(self.path)
        if others:
            raise ArgumentError(
                f"out={self.given!r} found {self.told(others[0])!r} without {self.plan_path.name!r}: chunkjac did not "
                "make it, and will not write over it; give another path."
            )

    def others(self) -> list[Path]:
        """Return what is in the folder, or where the journal should be, that no run has made."""
        if self.kind == "zarr":
            own, found = _own_and_others(self.path)
            found += [] if self.written_plan is not None else own[:-1]  # all but the folder
        else:
            files = {*self.files}
            found = [file for file in self.path.iterdir() if file not in files] if self.path.is_dir() else []
        if self.written_plan is None and self.journal_path.exists() and self.journal_path.stat().st_size:
            found.append(self.journal_path)  # a run writes its plan first
        if not _has_room(self.draft_path):
            found.append(self.draft_path)
        return found

    @cached_property
    def written_plan(self) -> StoredPlan | None:
        """Return what is computed there, if anything is.

        Raises:
            StoreError: That cannot be read, is no plan of ours, or not as it was written.
        """
        try:
            return StoredPlan.read(self.plan_path, self.kind)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StoreError(
                f"the plan {self.told(self.plan_path)!r} cannot be read: {_why(error)}; give another path."
            ) from error

    def finished(self) -> dict[int, tuple[int, ...]]:
        """Return the checksums of finished blocks of the plan that is there, by number.

        Raises:
            StoreError: The journal cannot be read, or is that of another plan.
        """
        assert self.written_plan is not None
        try:
            return self.written_plan.finished(read_own(self.journal_path))
        except (OSError, ValueError) as error:
            raise StoreError(
                f"the journal {self.told(self.journal_path)!r} cannot be read: {_why(error)}; give another path."
            ) from error

    def _beside(self, name: str) -> Path:
        """Return a file of ours: in a folder of our own, beside what others read."""
        return self.path / name if self.kind == "folder" else self.path.with_name(f"{self.path.name}.{name}")


def _own_and_others(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return what Zarr arrays and groups of ours consist of, in an order in which it can be removed; and what else.

    Args:
        folder: The array's or group's. There may be none.
    """
    own: list[Path] = []
    others: list[Path] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if _ARRAYS.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            inside = _own_and_others(path)
            own += inside[0]
            others += inside[1]
        else:
            is_own = _FILES.fullmatch(path.name) or path.name.endswith(UNFINISHED)
            (own if is_own and path.is_file() else others).append(path)
    if folder.is_dir():
        own.append(folder)
    return own, others


def _has_room(draft: Path) -> bool:
    """Tell whether a plan can be written: nothing is in its way but what a run has left that was stopped."""
    try:
        return not os.path.lexists(draft) or is_draft(draft)
    except OSError:
        return False


def _why(error: OSError | ValueError) -> str:
    """Say in words why a file cannot be read."""
    return str(getattr(error, "strerror", None) or error)
