"""Whether a compiled step is kept: only if it is faster, and gives the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from chunkjac._memory import first_line
from chunkjac._programs.graph.graph import Node
from chunkjac._programs.passes.one_hot_seeds import seeded_ahead
from chunkjac._programs.replay.compilation import Compiled, captured, remedy, with_seeded
from chunkjac._programs.replay.program import Bind, Program, RunStep
from chunkjac._programs.replay.replay import Replay
from chunkjac._programs.replay.running import Running
from chunkjac._tensors import Tensors, same_to_rounding

# The least of so many turns is compared: others may use the machine.
_TURNS = 3


@dataclass(frozen=True, slots=True)
class Form:
    """Hold how a plan's step runs, which is found out once.

    Attributes:
        bind: Returns the step for these seeds and values; ``None`` where the plain replay runs.
        reason: Why this form.
        trouble: What keeps the step from being compiled, and the remedy; empty for nothing.
    """

    bind: Bind | None
    reason: str
    trouble: str = ""


def choose_form(running: Running) -> Form:
    """Compile a step, and compare it with its plain replay, in values and in time, on the job's first chunk.

    Args:
        running: The program in memory.
    """
    seeds, values, device = running.seeds(0), running.values, running.device
    plain = running.plain.run
    best: Form | None = None
    trouble, slower = "", ""
    plain_s = best_s = float("inf")
    for name, bind in _candidates(running.program, device).items():
        try:
            step = bind(seeds, values)
            made = step(0)  # compiles
            if not all(same_to_rounding(mine, yours) for mine, yours in zip(made, plain(0))):
                slower = f"{name} step gives other values than the plain one"
                continue
            with _disable_current_modes():  # they would watch the plain one only, which takes time
                step_s, this_plain_s = _in_turns((step, plain), device)
        except Exception as error:
            trouble = f"the step is not compiled: {first_line(error)}; {remedy(error, device)}"
            continue
        plain_s = min(plain_s, this_plain_s)
        times = f"{1e3 * step_s:.3g} against {1e3 * this_plain_s:.3g} ms for a chunk"
        if step_s < min(best_s, plain_s):
            best, best_s = Form(bind, f"{name} step is faster: {times}"), step_s
        else:
            slower = f"{name} step is slower: {times}"
    if best is not None:
        return Form(best.bind, "; ".join(filter(None, [best.reason, trouble])))
    return Form(None, "; ".join(filter(None, [slower, trouble])), trouble)


def _candidates(program: Program, device: torch.device) -> dict[str, Bind]:
    """Return the forms that a step may have; on CUDA kernels can also be replayed without launching each."""
    seeded, rest = seeded_ahead(program.step.graph)
    given = (*(seed for seed in program.seeds if program.reads_seeds), *seeded)
    rest = replace(rest, given=given)
    used = {*rest.outputs, *(operand for node in rest.nodes for operand in node.operands)}
    needs = [node for node in program.step.uses if node in used and node not in program.seeds]

    def ahead(bind: Bind, wrap: Callable[[RunStep], RunStep] = lambda step: step) -> Bind:
        def bound(seeds: Tensors, values: Mapping[Node, Any]) -> RunStep:
            places = tuple(node.tensor_layout.empty() for node in seeded)
            return with_seeded(wrap(bind((*seeds, *places), values)), seeded, places, values)

        return bound

    def replayed(tensors: Tensors, values: Mapping[Node, Any]) -> RunStep:
        return Replay(rest).bind({**values, **dict(zip(given, tensors))}, device).run

    compiled = Compiled(rest, needs).bind
    forms = {"compiled": ahead(compiled)}
    if device.type == "cuda":
        forms["compiled and captured"] = ahead(compiled, lambda step: captured(step, device))
        forms["captured"] = ahead(replayed, lambda step: captured(step, device))
    return forms


def _in_turns(steps: tuple[RunStep, ...], device: torch.device) -> list[float]:
    """Return the seconds that each step takes, the least of some turns."""
    seconds = [float("inf")] * len(steps)
    for _ in range(_TURNS):
        for i, step in enumerate(steps):
            _wait(device)
            started_s = time.perf_counter()
            step(0)
            _wait(device)
            seconds[i] = min(seconds[i], time.perf_counter() - started_s)
    return seconds


def _wait(device: torch.device) -> None:
    """Let kernels finish that were only begun."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)
