"""What came out for one case in one mode, and whether it is right."""

from __future__ import annotations

from dataclasses import dataclass

import torch

import chunkjac as cj
from tests.operators.answers import Answer, ask
from tests.operators.cases import Case
from tests.operators.compare import distance, equal, same_forms
from tests.operators.reasons import reason_of
from tests.operators.referees import Jacobian
from tests.operators.truth import Truth

MODES = ("reverse", "forward", "finite-difference")

OUTCOMES = {
    "agreed": "equals torch.func's result (finite differences: plain autograd's where smooth), and is right",
    "more": "is right, where torch.func refuses (finite differences: where autograd does)",
    "mended": "is right, where torch.func is wrong",
    "formula": "as plain autograd (and torch.func, if that runs), which central differences contradict where smooth",
    "unjudged": "runs, but nothing independent of it does, or the function is smooth nowhere",
    "refused": "refused with an error, and by torch.func too",
    "missing": "refused, where torch.func runs",
    "different": "wrong, or not in torch.func's shapes and dtypes",
    "inherited": "wrong as torch.func is, where plain autograd is right",
    "spelling": "jacrev or jacfwd in chunks of 3 do not give what jacobian gives",
    "crashed": "the process died, or took too long",
}

# What must not be.
FAULTS = ("missing", "different", "inherited", "spelling", "crashed")

# jacrev and jacfwd run in several chunks, so that those are in the sweep too.
_CHUNK_SIZE = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """Hold what came out of one case in one mode.

    Attributes:
        operator: The operator's name.
        sample: Its number among torch's samples.
        what: Shapes and options, for people.
        mode: The mode.
        outcome: One of ``OUTCOMES``.
        rung: How chunkjac ran, if it did.
        reason: Why it did not, in words that are the same for all that are alike.
        note: What else there is to know: the error, the size of a difference.
    """

    operator: str
    sample: int
    what: str
    mode: str
    outcome: str
    rung: str = ""
    reason: str = ""
    note: str = ""


def judge(case: Case) -> list[Verdict]:
    """Run a case in all modes, ours beside torch.func's, and judge what comes out."""
    truth = Truth(case)
    verdicts = []
    for mode in MODES:
        options = {"mode": mode, "return_report": True, "verify": 0}  # what is wrong is to be seen here
        ours = ask(lambda: cj.jacobian(case.func, *case.inputs, argnums=case.argnums, **options))  # noqa: B023
        outcome, note = _of_differences(truth, ours) if mode == MODES[-1] else _of_derivatives(truth, mode, ours)
        reason = "" if ours.parts is not None else _reason(truth, mode, ours.error)
        verdicts.append(Verdict(case.operator, case.sample, case.what, mode, outcome, ours.rung, reason, note))
    return verdicts


def _reason(truth: Truth, mode: str, error: str) -> str:
    """Return why a mode refused, and whether a slower way of that mode would have done it."""
    possible = truth.rows.parts is not None and mode != "finite-difference"
    return f"{reason_of(error)} (plain autograd runs)" if possible else reason_of(error)


def _of_derivatives(truth: Truth, mode: str, ours: Answer) -> tuple[str, str]:
    """Judge reverse or forward mode; return outcome and note."""
    case = truth.case
    spell, torch_spell = (cj.jacrev, torch.func.jacrev) if mode == "reverse" else (cj.jacfwd, torch.func.jacfwd)
    spelled = ask(lambda: spell(case.func, case.argnums, chunk_size=_CHUNK_SIZE)(*case.inputs))
    if "is not confirmed by" in (spelled.error or ""):
        spelled = ours  # it is checked, and refused: what is wrong is to be seen here
    theirs = ask(lambda: torch_spell(case.func, case.argnums)(*case.inputs))
    if (ours.parts is None) != (spelled.parts is None):
        return "spelling", f"jacobian {ours.error or 'runs'}; in chunks {spelled.error or 'runs'}"
    if ours.parts is None or spelled.parts is None:
        return ("refused" if theirs.parts is None else "missing"), ours.error
    if not (equal(ours.parts, spelled.parts) and same_forms(ours.parts, spelled.parts)):
        rights = f"jacobian {truth.is_right(ours.parts)}, in chunks {truth.is_right(spelled.parts)}"
        return "spelling", f"apart by {distance(ours.parts, spelled.parts):.1e}; right: {rights}"
    if theirs.parts is None:
        return _alone(truth, mode, ours.parts), f"torch.func: {theirs.error}"
    return _beside_torch(truth, mode, ours.parts, theirs.parts)


def _alone(truth: Truth, mode: str, ours: Jacobian) -> str:
    """Judge what torch.func refuses."""
    right = truth.is_right(ours)
    if right is None:
        return "unjudged"
    return "more" if right else "formula" if _is_plain(truth, mode, ours) else "different"


def _is_plain(truth: Truth, mode: str, found: Jacobian) -> bool:
    """Tell whether a Jacobian is that of the plain derivatives of its mode, or of the only ones that there are."""
    plain = truth.columns.parts if mode == "forward" and truth.columns.parts is not None else truth.rows.parts
    return plain is not None and equal(found, plain)


def _beside_torch(truth: Truth, mode: str, ours: Jacobian, theirs: Jacobian) -> tuple[str, str]:
    """Judge what torch.func computes too."""
    right = truth.is_right(ours)
    if equal(ours, theirs) and same_forms(ours, theirs):
        if right is not False:
            return "agreed", "" if right else "there is no referee"
        return "formula" if _is_plain(truth, mode, ours) else "inherited", truth.how_wrong(ours)
    apart = f"{distance(ours, theirs):.1e} from torch.func's"
    if right and same_forms(ours, theirs) and truth.is_right(theirs) is False:
        return "mended", apart
    return "different", apart if right else f"{apart}, {truth.how_wrong(ours)}"


def _of_differences(truth: Truth, ours: Answer) -> tuple[str, str]:
    """Judge finite differences; return outcome and note."""
    if ours.parts is None:
        return "refused", ours.error
    if truth.differences is None:
        return "unjudged", "the function cannot be evaluated near its point"
    if not truth.is_smooth_somewhere:
        return "unjudged", "smooth nowhere, or without elements"
    if not truth.fits_differences(ours.parts):
        return "different", truth.how_wrong(ours.parts)
    if truth.rows.parts is None:
        return "more", truth.rows.error
    return ("agreed", "") if truth.fits_differences(truth.rows.parts) else ("formula", truth.how_wrong(ours.parts))
