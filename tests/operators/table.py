"""The counted table: what is kept of a sweep, and how the documentation shows it."""

from __future__ import annotations

import json
import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.operators.cases import DTYPE, MOST_ELEMENTS
from tests.operators.judge import FAULTS, MODES, OUTCOMES, Verdict

ROOT = Path(__file__).parent.parent.parent
SUMMARY = ROOT / "tests" / "operators.json"
PAGE = ROOT / "docs" / "operators.md"

_PAGE = """# Operators

What comes out for the differentiable operators of torch {torch}: its own list of them (`op_db`), with
its own samples in double precision. Of {n} operators, {tested} have samples with a real output; at most
{most_samples} samples of each are run, {n_samples} in all. Of inputs or outputs with more than
{most_elements} elements, only the first vary or count. `python -m tests.operators` makes this page.

Every sample is differentiated in every mode, by `jacobian` and (in chunks of 3) by `jacrev` and
`jacfwd`, beside `torch.func`. Three referees tell who is right: a plain backward pass for each
output, a plain forward derivative for each input, and central differences where the function is
smooth. Outputs are the real ones that torch calls differentiable, and complex ones as pairs of real
ones.

{totals}

{meanings}

## Rungs and reasons

How many samples of how many operators came out in each way, and of which, unless they are many:

{ways}
"""

# As many operators are named in a row of the page.
_MOST_NAMES = 25


def summarise(verdicts: Iterable[Verdict], operators: Sequence[str], n_samples: int) -> dict[str, Any]:
    """Count how every operator came out in every mode."""
    counts: dict[str, dict[str, Counter[str]]] = {name: {mode: Counter() for mode in MODES} for name in operators}
    samples: dict[str, set[int]] = {name: set() for name in operators}
    for verdict in verdicts:
        for mode in MODES if verdict.mode == "all" else [verdict.mode]:
            counts[verdict.operator][mode][_words(verdict)] += 1
        samples[verdict.operator].add(verdict.sample)
    return {
        "environment": {"torch": torch.__version__, "python": platform.python_version(), "dtype": str(DTYPE)},
        "most_samples": n_samples,
        "most_elements": MOST_ELEMENTS,
        "n_samples": sum(len(numbers) for numbers in samples.values()),
        "operators": {
            name: {
                "n_samples": len(samples[name]),
                **{mode: dict(sorted(counts[name][mode].items())) for mode in MODES},
            }
            for name in operators
        },
    }


def save(summary: dict[str, Any]) -> None:
    """Write the summary, a line for each operator, and the page made from it."""
    head = {key: value for key, value in summary.items() if key != "operators"}
    lines = [f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in summary["operators"].items()]
    text = json.dumps(head, indent=1)[:-2] + ',\n "operators": {\n' + ",\n".join(lines) + "\n }\n}\n"
    SUMMARY.write_text(text)
    PAGE.write_text(markdown(summary))


def faults(summary: dict[str, Any]) -> list[str]:
    """Return what must not be, as ``operator mode: outcome ...``."""
    return [
        f"{name} {mode}: {words}"
        for name, row in summary["operators"].items()
        for mode in MODES
        for words in row[mode]
        if _outcome(words) in FAULTS
    ]


def markdown(summary: dict[str, Any]) -> str:
    """Return the page."""
    facts = {
        "torch": summary["environment"]["torch"],
        "n": len(summary["operators"]),
        "tested": sum(1 for row in summary["operators"].values() if row["n_samples"]),
        **{key: summary[key] for key in ("n_samples", "most_samples", "most_elements")},
    }
    meanings = [f"- **{outcome}**: {meaning}." for outcome, meaning in OUTCOMES.items()]
    return _PAGE.format(
        **facts, totals="\n".join(_totals(summary)), meanings="\n".join(meanings), ways="\n".join(_ways(summary))
    )


def _totals(summary: dict[str, Any]) -> list[str]:
    """Return the table of outcomes by mode."""
    counts = {mode: Counter[str]() for mode in MODES}
    for row in summary["operators"].values():
        for mode in MODES:
            for words, n in row[mode].items():
                counts[mode][_outcome(words)] += n
    shown = [outcome for outcome in OUTCOMES if any(counts[mode][outcome] for mode in MODES) or outcome in FAULTS]
    return [
        f"| samples | {' | '.join(MODES)} |",
        "|---|" + "---|" * len(MODES),
        *[f"| {outcome} | {' | '.join(str(counts[mode][outcome]) for mode in MODES)} |" for outcome in shown],
    ]


def _ways(summary: dict[str, Any]) -> list[str]:
    """Return the table of outcomes with rungs and reasons."""
    samples: Counter[tuple[str, str]] = Counter()
    operators: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, row in summary["operators"].items():
        for mode in MODES:
            for words, n in row[mode].items():
                samples[mode, words] += n
                operators[mode, words].append(name)
    rank = list(OUTCOMES)
    order = sorted(samples, key=lambda way: (MODES.index(way[0]), rank.index(_outcome(way[1])), -samples[way]))
    return [
        "| mode | came out | samples | operators | |",
        "|---|---|---|---|---|",
        *[
            f"| {' | '.join((*way, str(samples[way]), str(len(operators[way])), _few(operators[way])))} |"
            for way in order
        ],
    ]


def _words(verdict: Verdict) -> str:
    """Return outcome and rung, or outcome and reason."""
    if verdict.rung:
        return f"{verdict.outcome} by {verdict.rung}"
    return f"{verdict.outcome}: {verdict.reason}" if verdict.reason else verdict.outcome


def _outcome(words: str) -> str:
    """Return the outcome that words begin with."""
    return words.partition(" ")[0].rstrip(":")


def _few(names: Sequence[str]) -> str:
    """Return names, unless they are many."""
    return ", ".join(f"`{name}`" for name in names) if len(names) <= _MOST_NAMES else ""
