"""What does not fit, said so that the user knows what to change."""

from __future__ import annotations

from chunkjac._errors import BudgetError
from chunkjac._modes import MODES
from chunkjac._planner.job import Job
from chunkjac._planner.probe import Probe, least_probe
from chunkjac._units import format_bytes

_DERIVATIVES = ("reverse", "forward")

# A dry run of so many operations takes a tenth of a second, and modes that have more to do take several times as long:
# they are left out then.
_MANY_OPERATIONS = 1000

# What a real run holds beyond a dry one are scalars, indices and masks of some bytes each that live an operation longer
# (8 to 48 bytes in 300 random functions): 16 of them at 64 bytes, or at an allocator's smallest block.
_SLACK_BYTES, _SLACK_BYTES_OF_ALLOCATORS = 16 * 64, 16 * 512


def over_budget(job: Job, failure: str, growth: str | None = None) -> BudgetError:
    """Return the error that says what would be needed, by mode, and what to change.

    Args:
        job: What does not fit.
        failure: What is known where no dry run can tell.
        growth: The symptom, where the function keeps memory: then it has no need that could be told.
    """
    budget_bytes = job.budget.n_bytes + job.held_bytes
    where = f"the Jacobian does not fit in {format_bytes(budget_bytes)} ({job.budget.source})"
    if growth is not None:
        return BudgetError(
            f"{where}: {growth}. Let it keep nothing, or give {_either(_advice_on_growth(job))}.", budget_bytes
        )
    told = _probes(job)
    tried = _own_modes(job, told)
    enough = {name: probe.peak_bytes + _slack_bytes(job) for name, probe in told.items()}
    # A dry run of what did not fit that says that it fits has not seen why.
    probes = {name: probe for name, probe in told.items() if name not in tried or enough[name] > job.budget.n_bytes}
    needs = {name: enough[name] + job.held_bytes for name in probes}
    own = [name for name in tried if name in probes]
    needed_bytes = min((needs[name] for name in own), default=None)
    beside = f"{format_bytes(job.held_bytes)} are held beside it; " if job.held_bytes else ""
    if needed_bytes is None and failure:
        beside += f"{failure}; "
    what = beside + "; ".join(_say(probe) for probe in probes.values())
    return BudgetError(
        f"{where}: {what.removesuffix('; ')}. Give {_either(_advice(job, probes, own, needed_bytes))}.",
        budget_bytes,
        needed_bytes,
        needs,
    )


def over_budget_backwards(job: Job, failure: str) -> BudgetError:
    """Return the error that says that a Jacobian cannot be differentiated in the budget.

    Args:
        job: What is computed again for that.
        failure: What is known of the need.
    """
    return BudgetError(
        f"the backward pass of the Jacobian does not fit in {format_bytes(job.budget.n_bytes)} ({job.budget.source}), "
        f"not even one direction with its graph: {failure}. Give more max_memory, or a smaller function.",
        job.budget.n_bytes,
    )


def _slack_bytes(job: Job) -> int:
    """Return what a real run may hold beyond a dry one: small tensors that live a little longer."""
    return _SLACK_BYTES if job.device.type == "cpu" else _SLACK_BYTES_OF_ALLOCATORS


def _probes(job: Job) -> dict[str, Probe]:
    """Return what modes need one direction at a time, as far as dry runs can tell."""
    first = "reverse" if job.options.mode == "auto" else job.options.mode
    found = {first: _least(job, first)}
    for name in MODES[1:]:
        known = [probe for probe in found.values() if probe is not None]
        if name not in found and all(probe.n_operations < _MANY_OPERATIONS or _is_for(name, probe) for probe in known):
            found[name] = _least(job, name)
    return {name: probe for name in MODES if (probe := found.get(name)) is not None}


def _is_for(name: str, probe: Probe) -> bool:
    """Tell whether a mode has fewer directions than the one that was probed."""
    return name == "forward" and probe.summary.n_inputs < probe.summary.n_directions


def _least(job: Job, name: str) -> Probe | None:
    """Return what a mode needs one direction at a time; ``None`` if a dry run cannot tell."""
    try:
        return least_probe(job.in_mode(name))
    except Exception:
        return None


def _own_modes(job: Job, probes: dict[str, Probe]) -> list[str]:
    """Return the modes that the call may take: finite differences only where nothing else can do it."""
    if job.options.mode != "auto":
        return [name for name in probes if name == job.options.mode]
    no_gradient = "reverse" in probes and not probes["reverse"].summary.flows
    wanted = () if no_gradient else _DERIVATIVES
    derivatives = [name for name in probes if name in wanted]
    return derivatives or [name for name in probes if name == "finite-difference"]


def _advice(job: Job, probes: dict[str, Probe], own: list[str], needed_bytes: int | None) -> list[str]:
    """Return what would help, the arguments by name."""
    advice = ["more max_memory" if needed_bytes is None else f"max_memory of {needed_bytes} bytes or more"]
    if job.options.chunk_size is not None:
        advice.append("a smaller chunk_size")
    others = {name: probe.peak_bytes for name, probe in probes.items() if name not in own}
    if others and min(others.values()) < (job.budget.n_bytes if needed_bytes is None else needed_bytes):
        name = min(others, key=lambda name: others[name])
        fits = "fits" if others[name] <= job.budget.n_bytes else "needs less"
        advice.append(f"mode={name!r}, which {fits}")
    if own == ["finite-difference"] and job.options.batching != "loop":
        advice.append("batching='loop', which evaluates one point at a time")
    if job.out.allocates_result:
        advice.append("a tensor of your own as out= (the result does not count then)")
    return advice


def _advice_on_growth(job: Job) -> list[str]:
    """Return what would help a function that keeps memory."""
    once = [] if job.options.mode == "reverse" else ["mode='reverse', which calls it once"]
    return [*once, "more max_memory"]


def _either(choices: list[str]) -> str:
    """Return choices as a sentence has them."""
    return f"{', '.join(choices[:-1])} or {choices[-1]}" if len(choices) > 1 else choices[0]


def _say(probe: Probe) -> str:
    """Say what a mode needs, and for what."""
    cost = probe.cost
    return (
        f"{probe.summary.name} in chunks of {probe.chunk_size} needs {format_bytes(probe.peak_bytes)} "
        f"(result {format_bytes(cost.result_bytes)}, prologue {format_bytes(cost.prologue_bytes)}, "
        f"saved activations {format_bytes(cost.kept_bytes)}, per direction {format_bytes(cost.direction_bytes)})"
    )
