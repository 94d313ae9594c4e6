"""How a Jacobian is asked for: calls, modes, rungs, chunk sizes, budgets."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

# Programs from the first run on where one can be made, whatever they cost.
PROGRAMS = {
    "chunkjac._programs.records.SHORT_S": "-1.0",
    "chunkjac._programs.derivative_program.derivatives_pay": "lambda *_, **__: True",
    "chunkjac._programs.difference_program.evaluations_pay": "lambda *_, **__: True",
    "chunkjac._programs.difference_program.DifferenceProgram.finish": "lambda self: None",
}

_PULLS = "__import__('chunkjac._modes.derivatives.pullbacks', fromlist=['_'])"
_REVERSE, _FORWARD = (f"chunkjac._modes.derivatives.{name}._LADDER" for name in ("reverse", "forward"))

# Rungs that would be taken only where the first cannot.
RUNGS = {
    "reverse": [
        {_REVERSE: f"({_PULLS}.BatchedGrad, {_PULLS}.RowByRow)"},
        {_REVERSE: f"({_PULLS}.RowByRow,)"},
        {_REVERSE: f"({_PULLS}.VmapVjpPlain, {_PULLS}.BatchedGrad, {_PULLS}.RowByRow)"},
        {_REVERSE: f"({_PULLS}.VmapVjpWithGrad, {_PULLS}.BatchedGrad, {_PULLS}.RowByRow)"},
    ],
    "forward": [
        {_FORWARD: "sys.modules['chunkjac._modes.derivatives.forward']._LADDER[1:]"},
        {_FORWARD: "sys.modules['chunkjac._modes.derivatives.forward']._LADDER[2:]"},
        {_FORWARD: "sys.modules['chunkjac._modes.derivatives.forward']._LADDER[3:]"},
        {_FORWARD: "sys.modules['chunkjac._modes.derivatives.forward']._LADDER[4:]"},
    ],
}

CALLS = {
    "jacobian": """
keep(0, *cj.jacobian(func, *inputs(0), return_report=True, {options}))
""",
    "plan": """
planned = cj.plan(func, *inputs(0), {options})
for run in range({n_runs}):
    if run:
        change(run)
    keep(run, *planned.run(*inputs(run), return_report=True))
""",
    "plan, written": """
planned = cj.plan(func, *inputs(0), {options})
for run in range({n_runs}):
    if run:
        change(run)
    parts = []
    _, report = planned.run(
        *inputs(run),
        out=lambda block: parts.append((block.axis, [v.clone() for v in flat(block.values)])),
        return_report=True,
    )
    keep_parts(run, parts, report)
""",
    "blocks": """
parts = [(block.axis, [v.clone() for v in flat(block.values)]) for block in cj.blocks(func, *inputs(0), {options})]
keep_parts(0, parts, None)
""",
    "gram": """
keep_gram(cj.gram(func, *inputs(0), {options}))
""",
    "file": """
with tempfile.TemporaryDirectory() as folder:
    made, report = cj.jacobian(func, *inputs(0), out=os.path.join(folder, "J"), return_report=True, {options})
    keep(0, made, report)
    keep(0, cj.open(os.path.join(folder, "J")), None)
""",
}


@dataclass(frozen=True)
class Way:
    """Hold how a Jacobian is asked for.

    Attributes:
        call: Which of the calls.
        mode: As the option.
        options: Other options.
        budget: How many times what is said to be needed it may have; 0 for no limit.
        patches: What in the package is replaced, and by what.
        n_runs: How often a plan runs.
    """

    call: str
    mode: str
    options: dict[str, object] = field(default_factory=dict)
    budget: float = 0.0
    patches: dict[str, str] = field(default_factory=dict)
    n_runs: int = 4

    def text(self, argnums: tuple[int, ...]) -> str:
        """Return what runs it; ``keep`` and ``keep_parts`` are given what comes."""
        by = argnums if len(argnums) > 1 else argnums[0]
        given = {"argnums": by, "mode": self.mode, **self.options}
        options = ", ".join(f"{name}={value!r}" for name, value in given.items())
        lines = [f"patch({name!r}, {value}).start()" for name, value in self.patches.items()]
        if self.budget:
            lines += [
                "budget = None",
                "try:",
                f"    cj.jacobian(func, *inputs(0), max_memory=1, {options})",
                "except cj.BudgetError as error:",
                f"    budget = error.needed_bytes and int({self.budget} * error.needed_bytes)",
            ]
            options += ", max_memory=budget"
        return "\n".join(lines) + CALLS[self.call].format(options=options, n_runs=self.n_runs)


def some_ways(draw: random.Random, n_ways: int) -> list[Way]:
    """Return some ways, drawn at random."""
    return [_way(draw) for _ in range(n_ways)]


def _way(draw: random.Random) -> Way:
    call = draw.choices([*CALLS], [3, 5, 2, 1, 0.5, 0.5])[0]
    mode = draw.choices(["auto", "reverse", "forward", "finite-difference"], [2, 4, 4, 2])[0]
    options: dict[str, object] = {}
    if draw.random() < 0.5:
        options["chunk_size"] = draw.choice([1, 2, 3, 5, 100])
    if mode == "finite-difference":
        options |= draw.choice(
            [{}, {}, {"scheme": "central4"}, {"scheme": "richardson"}, {"batching": "loop"}, {"batching": "vmap"}]
        )
    elif call in ("jacobian", "plan") and draw.random() < 0.15:
        options["verify"] = 1
    elif call in ("jacobian", "plan") and draw.random() < 0.1:
        options["create_graph"] = True
    budget = draw.choices([0, 1, 1.3, 3], [9, 1, 1, 1])[0] if call in ("jacobian", "plan") else 0
    patches: dict[str, str] = {}
    if draw.random() < 0.7:
        patches |= PROGRAMS
    elif mode in RUNGS:
        patches |= draw.choice(RUNGS[mode])
    return Way(call, mode, options, budget, patches)
