"""Why a mode is not used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from chunkjac._memory import OverBudget, first_line, is_out_of_memory, without_frames


@dataclass(frozen=True, slots=True)
class Doubt:
    """Hold why a mode is not used.

    Attributes:
        why: The reason, for people.
        fits: Whether the reason is something else than memory.
        failure: What an allocator raised, without frames; ``None`` where it was the budget.
        is_wrong: Whether the mode runs, and gives a wrong Jacobian.
    """

    why: str
    fits: bool
    failure: BaseException | None = None
    is_wrong: bool = False


_UNFIT = "does not fit in the budget"

NOTHING: Mapping[str, Doubt] = MappingProxyType({})


def doubt_about(name: str, failure: BaseException) -> Doubt:
    """Return why a mode is not used, without holding on to the failure."""
    fits = not is_out_of_memory(failure)
    what = "cannot differentiate func" if fits else _UNFIT
    kept = None if fits or isinstance(failure, OverBudget) else without_frames(failure)
    return Doubt(f"{name} {what}: {first_line(failure)}", fits, kept)


def why_nothing_fits(doubts: Mapping[str, Doubt]) -> BaseException:
    """Return what an allocator raised; that the budget is too small, if it was not reached."""
    failures = [doubt.failure for doubt in doubts.values() if doubt.failure is not None]
    return failures[0] if failures else OverBudget("; ".join(reasons_of(doubts)))


def reasons_of(doubts: Mapping[str, Doubt]) -> tuple[str, ...]:
    """Return what speaks against modes, for people."""
    return tuple(doubt.why for doubt in doubts.values())


def left_for_memory(reasons: Iterable[str]) -> list[str]:
    """Return the modes that were left since they do not fit."""
    return [reason.partition(" ")[0] for reason in reasons if reason.partition(" ")[2].startswith(_UNFIT)]
