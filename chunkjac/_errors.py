"""The errors of chunkjac, one tree.

::

    ChunkjacError         (RuntimeError)  as torch.func raises, so that code which catches that goes on working
    ├── ArgumentError     (ValueError)    an argument has a value that cannot be used
    ├── ArgumentTypeError (TypeError)    an argument has a type that cannot be used
    ├── ConfigError       (ValueError)    a setting is unknown or cannot be read
    ├── FunctionError                     the function does what no Jacobian can be made of
    ├── StoreError        (OSError)       a file cannot take the result, or does not hold what it should
    └── BudgetError       (MemoryError)   the work does not fit in the budget

    RungWarning           (UserWarning)   a slower way is taken: the faster cannot run the function, or does not fit

Every message says what was needed, what was found, and which argument changes it.
An exception that the user's function raises is passed on as it is, with a note.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from types import MappingProxyType


class ChunkjacError(RuntimeError):
    """Be the root of all errors that chunkjac itself raises."""


class ArgumentError(ChunkjacError, ValueError):
    """Say that an argument has a value that cannot be used."""


class ArgumentTypeError(ChunkjacError, TypeError):
    """Say that an argument has a type that cannot be used."""


class ConfigError(ChunkjacError, ValueError):
    """Say that a setting is unknown or cannot be read, and where it came from."""


class FunctionError(ChunkjacError):
    """Say that the function does something that no Jacobian can be made of."""


class StoreError(ChunkjacError, OSError):
    """Say that a file cannot take the result, or does not hold what it should."""


class BudgetError(ChunkjacError, MemoryError):
    """Say that the work does not fit in the budget.

    Attributes:
        needed_bytes: The smallest budget, in bytes, that would do; ``None`` if unknown.
        needed_bytes_by_mode: The same for each mode that a dry run can tell it of, also for those
            that were not asked for.
        budget_bytes: The budget, in bytes, that was found.
    """

    def __init__(
        self,
        message: str,
        budget_bytes: int,
        needed_bytes: int | None = None,
        needed_bytes_by_mode: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes
        self.needed_bytes_by_mode = dict(needed_bytes_by_mode)
        self.budget_bytes = budget_bytes


class CarriedError(ChunkjacError):
    """Carry what a callback raised past all that would try again; users never see it.

    A block that a callback was given must not come a second time, whatever the callback raised.

    Attributes:
        error: What it raised.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__("a callback failed")
        self.error = error

    def add_note(self, note: str) -> None:
        """Add a note to what was raised."""
        add_note(self.error, note)


class WrongError(Exception):
    """Say why a mode gives a wrong Jacobian, and what gives the right one; users never see it."""


class RungWarning(UserWarning):
    """Say that a mode runs in a slower way, since the faster ones cannot run the function, or do so wrongly."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn the caller: the first frame that is neither ours nor torch's is named."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in ("chunkjac", "torch"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an exception; Python 3.10 keeps it without printing it."""
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:
        notes: list[str] = getattr(error, "__notes__", [])
        setattr(error, "__notes__", [*notes, note])  # noqa: B010 - the attribute is known from 3.11 on only
