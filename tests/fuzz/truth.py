"""What a Jacobian must be: plain autograd row by row in float64, and central differences beside it."""

import traceback
import warnings
from unittest.mock import patch

import torch
from torch.utils._pytree import tree_flatten

import chunkjac


def rows(func, point, argnums):
    """Return blocks, ``(*output.shape, *input.shape)``, by plain autograd."""
    point = [x.detach().clone() for x in point]
    by = [point[i].requires_grad_() for i in argnums]
    blocks = []
    for out in tree_flatten(func(*point))[0]:
        numbers = out.reshape(-1)
        made = [
            torch.autograd.grad(number, by, retain_graph=True, allow_unused=True)
            if number.requires_grad
            else [None] * len(by)
            for number in numbers
        ]
        for x, *values in zip(by, *made):
            lines = [torch.zeros_like(x) if value is None else value.detach() for value in values]
            blocks.append(torch.stack(lines).view(*out.shape, *x.shape))
    return blocks


def columns(func, point, argnums, step, signs=(1, -1)):
    """Return the same by differences: central ones, or those to one side."""
    point = [x.detach().clone() for x in point]
    n_outputs = len(tree_flatten(func(*point))[0])
    blocks = [[] for _ in range(n_outputs * len(argnums))]
    for place, i in enumerate(argnums):
        for k in range(point[i].numel()):
            ends = []
            for sign in signs:
                moved = [x.clone() for x in point]
                moved[i].view(-1)[k] += sign * step
                ends.append([out.detach().clone() for out in tree_flatten(func(*moved))[0]])
            for j, (high, low) in enumerate(zip(*ends)):
                blocks[j * len(argnums) + place].append((high - low) / ((signs[0] - signs[1]) * step))
    shapes = [point[i].shape for i in argnums]
    made = [torch.stack(block, -1) for block in blocks]
    return [block.reshape(*block.shape[:-1], *shapes[k % len(argnums)]) for k, block in enumerate(made)]


def largest(block):
    """Return the largest magnitude."""
    return float(block.abs().max()) if block.numel() else 0.0


def error_of(found, expected, tolerances):
    """Say what is wrong with blocks; nothing if they are right.

    Each is judged by its own size: a tolerance is for each.
    """
    found = tree_flatten(found)[0]
    if [tuple(block.shape) for block in found] != [tuple(block.shape) for block in expected]:
        return f"shapes {[tuple(b.shape) for b in found]} where {[tuple(b.shape) for b in expected]} are right"
    for number, (block, right, tolerance) in enumerate(zip(found, expected, tolerances)):
        off = (block.detach().double() - right.double()).abs()
        if off.numel() and not bool((off <= tolerance).all()):
            at = int(off.nan_to_num(float("inf")).argmax())
            told = f"{block.reshape(-1)[at]} where {right.reshape(-1)[at]} is right"
            return f"block {number}, element {at}: {told} (tolerance {tolerance:.1e})"
    return ""


def joined(parts, expected, n_by):
    """Return what blocks of rows or columns are as a Jacobian's.

    Args:
        parts: The axis of each, and its tensors, in order.
        expected: Blocks of the Jacobian, whose shapes are taken.
        n_by: By how many inputs it was differentiated.
    """
    by_rows = parts[0][0] == "output"
    whole = [torch.cat(values) for values in zip(*(values for _, values in parts))]
    each = max(1, whole[0][0].numel())
    firsts = expected[::n_by] if by_rows else expected[:n_by]
    sizes = [block.numel() // each for block in firsts]
    split = [values.split(sizes) for values in whole]
    found = []
    for k, right in enumerate(expected):
        i, j = divmod(k, n_by)
        part = split[j][i] if by_rows else split[i][j].movedim(0, -1)
        found.append(part.reshape(right.shape))
    return found


class Truth:
    """Hold what a case's Jacobians must be, in each run of a plan.

    Args:
        text: The case.
        dtype: What it computes in.
        argnums: What it is differentiated by.
        n_runs: How many runs there are.

    Attributes:
        blocks: The Jacobian's, for each run.
        torch_is_wrong: Whether plain autograd gives another Jacobian than differences do, which are taken then.

    Raises:
        UnclearError: It cannot be told.
    """

    def __init__(self, text, dtype, argnums, n_runs):
        self.text, self.dtype, self.argnums = text, dtype, argnums
        self.casts = "float32" in text.partition("S = SimpleNamespace()")[2]  # whatever it is given
        self.is_low = self.casts or dtype == "float32"
        self.torch_is_wrong = False
        self.blocks, self.noise, self.n_inputs = [], [], []
        clean, low = self.names("float64"), self.names("float32")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._take(clean, low, n_runs)

    def _take(self, clean, low, n_runs):
        """Compute the Jacobian of each run."""
        argnums = self.argnums
        for run in range(n_runs):
            if run:
                clean["change"](run)
                low["change"](run)
            try:
                point = clean["inputs"](run)
                self.n_inputs = [point[i].numel() for i in argnums]
                made = rows(clean["func"], point, argnums)
                in_low = rows(low["func"], low["inputs"](run), argnums) if self.is_low else made
                if not run or self.torch_is_wrong:
                    self._compare(clean["func"], point, made)
            except Exception as error:
                raise error if isinstance(error, UnclearError) else UnclearError(f"torch: {error}") from error
            if [block.shape for block in in_low] != [block.shape for block in made]:
                raise UnclearError("other shapes in low precision")
            if not all(bool(block.isfinite().all()) and largest(block) < 1e4 for block in (*made, *in_low)):
                raise UnclearError("not finite")
            self.noise.append([largest(a - b) for a, b in zip(made, in_low)])
            if any(noise > 1e-2 * max(largest(block), 1e-2) for noise, block in zip(self.noise[-1], made)):
                raise UnclearError("ill-conditioned")
            self.blocks.append(made)

    def names(self, dtype):
        """Return all names of the case, freshly made, in a precision."""
        names = {"__name__": "fuzzed"}
        exec(compile(self.text.replace(f"D = torch.{self.dtype}", f"D = torch.{dtype}", 1), "<fuzzed>", "exec"), names)
        return names

    def tolerances(self, run, mode):
        """Return what each block may be off by."""
        overall = max([1e-3, *map(largest, self.blocks[run])])
        if mode == "finite-difference":
            return [(0.1 if self.is_low else 1e-3) * max(1.0, overall) for _ in self.blocks[run]]
        base = 2e-3 if self.is_low else 1e-4 if self.torch_is_wrong else 1e-7
        return [
            # Where all of a derivative cancels, rounding of numbers near 1 is left.
            20 * noise + base * max(largest(block), 1e-3 * overall, 1e-3 if self.is_low else 1e-5)
            for block, noise in zip(self.blocks[run], self.noise[run])
        ]

    def is_smooth(self, run):
        """Tell whether a function has no kinks within the reach of wide differences, in a run.

        Where both steps reach beyond a kink (a tie that is all but there), they agree with one another, and not with
        what is right.
        """
        with torch.random.fork_rng(devices=[]):  # modules are filled with random numbers first
            clean = self.names("float64")
            for earlier in range(1, run + 1):
                clean["change"](earlier)
            found = self._differences(clean["func"], clean["inputs"](run), 0.1)
        bounds = self.tolerances(run, "finite-difference")
        return all(
            largest(a - b) <= 0.03 * max(1.0, largest(b)) and largest((9 * b - a) / 8 - right) <= 3 * bound
            for a, b, right, bound in zip(*found, self.blocks[run], bounds)
        )

    def _differences(self, func, point, step):
        """Return what two steps tell."""
        return [columns(func, point, self.argnums, h) for h in (step, step / 3)]

    def _bound(self, block):
        return (0.02 if self.casts else 1e-3) * max(1.0, largest(block))

    def _compare(self, func, point, made):
        """Compare autograd with differences, with two steps: where these agree, they are right."""
        wide, narrow = self._differences(func, point, 1e-2 if self.casts else 1e-4)
        for block, a, b in zip(made, wide, narrow):
            if largest(a - b) > self._bound(block):
                raise UnclearError("not smooth")
            bound = self._bound(block) if self.casts else 1e-3 * largest(block) + largest(a - b) + 1e-10
            if not largest(block - b) <= 5 * bound:
                if self.casts:
                    raise UnclearError("torch may be wrong")
                self.torch_is_wrong = True
        if self.torch_is_wrong:
            if self._is_bent(func, point):
                raise UnclearError("a kink, where any slope between is right")
            made[:] = [(9 * b - a) / 8 for a, b in zip(wide, narrow)]

    def _is_bent(self, func, point):
        """Tell whether slopes to both sides differ."""
        ahead, behind = (columns(func, point, self.argnums, 1e-4, signs) for signs in ((1, 0), (0, -1)))
        return any(largest(a - b) > 0.02 * max(largest(a), largest(b)) for a, b in zip(ahead, behind))


class UnclearError(Exception):
    """Say why a case tells nothing."""


class Outcome:
    """Hold what came of asking for a Jacobian.

    Attributes:
        kind: ``right``, ``wrong``, ``refused`` (a clear error), ``cannot`` (torch's way in that mode fails, too),
            ``crash`` (any other error), ``over`` (more memory than the limit), ``again`` (refused with the limit that
            an error asked for) or ``left`` (something is not as it was).
        told: More of it.
        rungs: What each run was made by.
    """

    def __init__(self):
        self.kind, self.told, self.rungs = "right", "", []

    def say(self, kind, told):
        """Take note of the first thing that is not right."""
        if self.kind == "right":
            self.kind, self.told = kind, told


def outcome_of(truth, mode, way):
    """Ask for a Jacobian in a way, and judge what comes."""
    outcome, names = Outcome(), truth.names(truth.dtype)
    poison()

    def keep(run, found, report):
        if report is not None:
            outcome.rungs.append(report.plan.rung)
            budget = names.get("budget")
            if budget and report.peak_bytes > budget:
                outcome.say("over", f"{report.peak_bytes} bytes with a limit of {budget}")
        wrong = error_of(found, truth.blocks[run], truth.tolerances(run, mode))
        if wrong and (mode != "finite-difference" or truth.is_smooth(run)):
            rung = report.plan.rung if report is not None else ""
            outcome.say("wrong", f"run {run} {rung}: {wrong}")

    def keep_parts(run, parts, report):
        keep(run, joined(parts, truth.blocks[run], len(truth.argnums)), report)

    def keep_gram(found):
        blocks = truth.blocks[0]
        n_by = len(truth.argnums)
        if len(blocks) == n_by:  # one output
            n_rows = blocks[0].numel() // max(1, truth.n_inputs[0])
            matrix = torch.cat([block.reshape(n_rows, -1) for block in blocks], 1)
            bound = max(truth.tolerances(0, mode)) * 2 * matrix.abs().sum(1).max()
            wrong = error_of(found.reshape(n_rows, n_rows), [matrix @ matrix.T], [float(bound)])
            if wrong:
                outcome.say("wrong", f"gram: {wrong}")

    names.update(
        keep=keep, keep_parts=keep_parts, keep_gram=keep_gram, flat=lambda values: tree_flatten(values)[0], budget=None
    )
    before = torch.get_rng_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(way, "<way>", "exec"), names)
    except chunkjac.ChunkjacError as error:
        is_again = isinstance(error, chunkjac.BudgetError) and names.get("budget")
        outcome.say("again" if is_again else "refused", f"{type(error).__name__}: {error}")
    except Exception as error:
        is_told = str(error).startswith("a backward pass in func has no derivative")
        kind = "refused" if is_told else "cannot" if peer_fails(truth, mode) else "crash"
        outcome.say(kind, f"{type(error).__name__}: {error}")
        outcome.traceback = traceback.format_exc()
    finally:
        patch.stopall()
    if not torch.equal(before, torch.get_rng_state()):
        outcome.say("left", "the global generator")
    return outcome


def peer_fails(truth, mode):
    """Tell whether torch itself fails in a mode."""
    names = truth.names(truth.dtype)
    func, point = names["func"], names["inputs"](0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if mode == "finite-difference":
                func(*(x.detach() for x in point))
                torch.func.vmap(func)(*(torch.stack([x.detach(), x.detach()]) for x in point))
            elif mode == "forward":
                torch.func.jacfwd(func, truth.argnums)(*point)
            else:
                return False
    except Exception:
        return True
    return False


def poison():
    """Leave NaN in memory that is free."""
    held = [torch.full((n,), float("nan"), dtype=torch.float64) for n in (8, 16, 32, 64, 128, 256, 512, 1024) * 4]
    del held
