"""A function and its inputs, flattened: what is differentiated with respect to what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from chunkjac._arguments import reading
from chunkjac._control_flow import Calling
from chunkjac._errors import ArgumentError, ChunkjacError, FunctionError, add_note
from chunkjac._problem.checks import (
    check_argnums,
    check_callable,
    check_computed,
    check_inputs,
    check_pair,
    check_unchanged,
)
from chunkjac._problem.departures import Departures
from chunkjac._problem.effects.data import PlainData
from chunkjac._problem.effects.draws import Draws
from chunkjac._problem.first_time import FirstTime
from chunkjac._problem.leaves import Leaf, Outputs, alias_of, plain, without_graph
from chunkjac._problem.looks import differences_between
from chunkjac._problem.modules import forgotten_if_it_fails, is_lazy, modules_of, runs_compiled_code
from chunkjac._problem.transforms import is_inside_transform, is_plain


@dataclass(frozen=True)
class Problem:
    """Hold a function of flat inputs.

    Attributes:
        func: The user's function.
        args: All its arguments.
        argnums: Which of them to differentiate with respect to, as the user gave it.
        has_aux: Whether it returns ``(output, aux)``.
        inputs: The tensors in those arguments, flattened and detached.
        spec: The tree that they came from.
        randomness: ``"error"``, ``"same"`` or ``"different"``: what several evaluations may draw.
        draws: What is known of the random numbers that it draws.
        calling: How it is called.
        watched: What looks at the first evaluation; ``None`` for nothing.
        has_grad: Whether gradients can be taken in evaluations; ``None`` leaves that as it is.
        may_have_grad: Whether they could where the Jacobian was asked for.
        departures: What the function was seen to do that derivatives do not follow.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    argnums: int | tuple[int, ...]
    has_aux: bool
    inputs: tuple[torch.Tensor, ...]
    spec: TreeSpec
    randomness: str = "error"
    draws: Draws = field(default_factory=Draws)
    calling: Calling = field(default_factory=Calling)
    watched: AbstractContextManager[Any] | None = None
    has_grad: bool | None = None
    may_have_grad: bool = True
    departures: Departures = field(default_factory=Departures)

    @classmethod
    def of(
        cls,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        argnums: int | tuple[int, ...],
        has_aux: bool,
        randomness: str = "error",
    ) -> Problem:
        """Check and flatten a call.

        Raises:
            FunctionError: The call is inside a torch.func transform.
            ArgumentTypeError: ``func`` is not callable, ``argnums`` is not whole numbers, or
                an input is not a tensor of real floating-point numbers.
            ArgumentError: ``argnums`` is out of range or repeated, or there is nothing to
                differentiate with respect to.
        """
        if is_inside_transform(args):
            raise FunctionError(
                "no budget can be kept inside a torch.func transform (vmap, grad, jacrev, ...), where blocks cannot "
                "be written in place; use jacrev, jacfwd or hessian there."
            )
        argnums, leaves, spec = _checked(func, args, argnums)
        inputs, may_have_grad = tuple(map(plain, leaves)), torch.is_grad_enabled()
        problem = cls(func, args, argnums, has_aux, inputs, spec, randomness, may_have_grad=may_have_grad)
        if any(map(is_lazy, problem.modules)):  # its parameters are made in its first call, which must be a plain one
            problem.evaluate()
        return problem

    @classmethod
    def inside(
        cls, func: Callable[..., Any], args: tuple[Any, ...], argnums: int | tuple[int, ...], has_aux: bool
    ) -> Problem:
        """Check and flatten a call within a transform, as :meth:`of`; the inputs keep what it has made of them."""
        argnums, leaves, spec = _checked(func, args, argnums)
        return cls(func, args, argnums, has_aux, tuple(leaves), spec)

    @cached_property
    def leaves(self) -> tuple[Leaf, ...]:
        """Return what is known of each input."""
        return tuple(Leaf.of(tensor) for tensor in self.inputs)

    @property
    def device(self) -> torch.device:
        """Return where the function runs: where its first input is."""
        return self.inputs[0].device

    @cached_property
    def modules(self) -> list[nn.Module]:
        """Return the modules that the function can be seen to use."""
        return modules_of(self.func, self.args)

    @cached_property
    def runs_compiled_code(self) -> bool:
        """Tell whether the function can be seen to use scripted or compiled ones."""
        return runs_compiled_code(self.func, self.args, self.modules)

    @cached_property
    def devices(self) -> set[torch.device]:
        """Return where tensors among the arguments are, and those of modules that the function uses."""
        tensors = [leaf for leaf in tree_flatten(self.args)[0] if isinstance(leaf, torch.Tensor)]
        held = [next(iter(module._parameters.values()), None) for module in self.modules]
        return {tensor.device for tensor in (*tensors, *held) if tensor is not None}

    def with_args(self, args: tuple[Any, ...], device: torch.device) -> Problem:
        """Return the same problem at another point.

        Args:
            args: All arguments.
            device: Where those tensors must be that are now where the first input is.

        Raises:
            ArgumentError: A tree, shape, dtype or device differs; each is listed as it was and as it is.
        """
        if len(args) != len(self.args):
            raise ArgumentError(f"run must be given {len(self.args)} arguments as the plan was, found {len(args)}.")
        changes = [
            f"argument {i}: planned {was}, found {now}"
            for i, pair in enumerate(zip(self.args, args))
            for was, now in differences_between(*pair, {self.device: device})
        ]
        if changes:
            raise ArgumentError("run needs arguments like those planned for. " + "; ".join(changes) + ".")
        return Problem.of(self.func, args, self.argnums, self.has_aux, self.randomness)

    def with_inputs(self, inputs: Sequence[torch.Tensor]) -> Problem:
        """Return the same problem with other tensors as inputs (fakes, for instance)."""
        return replace(self, inputs=tuple(inputs))

    def watched_by(self, manager: AbstractContextManager[Any]) -> Problem:
        """Return the same problem so that a context manager is entered for its first whole evaluation."""
        return replace(self, watched=FirstTime(manager))

    def drawing(self, *, again: bool) -> Problem:
        """Return the same problem for a job that begins now.

        Args:
            again: Whether every evaluation is to draw what one would draw now.
        """
        return replace(self, draws=Draws(self.devices, again=again, is_compiled=self.runs_compiled_code))

    def in_its_graph(self) -> Problem:
        """Return the same problem at inputs that are not detached."""
        return self.with_inputs(tree_flatten(_chosen(self.args, self.argnums))[0])

    def call(self, *inputs: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], TreeSpec, Any]:
        """Call the function with flat inputs; return flat outputs, their tree, and aux."""
        grad_mode = nullcontext() if self.has_grad is None else torch.set_grad_enabled(self.has_grad)
        with grad_mode, self.watched or nullcontext():
            returned = self.draws.evaluate(partial(_called, self), inputs, self.inputs)
        output, aux = check_pair(returned) if self.has_aux else (returned, None)
        leaves, spec = tree_flatten(output)
        return tuple(leaves), spec, aux

    def flat(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Call the function with flat inputs; return flat outputs only, without what can be taken gradients of."""
        values = self.call(*inputs)[0]
        return tuple(map(without_graph, values)) if self.has_grad else values

    def evaluate(self) -> tuple[tuple[torch.Tensor, ...], Outputs]:
        """Return the flat output tensors of one plain evaluation, and what they tell; check them.

        The inputs are copies, so that a function that writes to them does no harm here. A graph is made only where
        that was asked for, or where the function takes gradients.

        Raises:
            FunctionError: The function changes its input in place, or its output cannot be differentiated.
        """
        try:
            return _evaluated(replace(self, has_grad=bool(self.has_grad)))
        except Exception as error:
            is_known = self.has_grad is not None or not self.may_have_grad
            if is_known or isinstance(error, (ChunkjacError, MemoryError)):
                raise
        return _evaluated(replace(self, has_grad=True))


def _evaluated(problem: Problem) -> tuple[tuple[torch.Tensor, ...], Outputs]:
    """Evaluate a function once."""
    inputs = [tensor.clone() for tensor in problem.inputs]
    versions = [tensor._version for tensor in inputs]
    try:
        leaves, spec, aux = problem.call(*inputs)
    except Exception as error:
        add_note(error, "chunkjac: func raised this when evaluated at the given inputs, before the first chunk.")
        raise
    check_unchanged(inputs, versions)
    check_computed(leaves, inputs)
    return leaves, Outputs.of(leaves, spec, aux)


def _checked(
    func: Callable[..., Any], args: tuple[Any, ...], argnums: int | tuple[int, ...]
) -> tuple[int | tuple[int, ...], list[torch.Tensor], TreeSpec]:
    """Check a call; return argnums without negative numbers, the inputs and their tree."""
    check_callable(func)
    argnums = check_argnums(argnums, len(args))
    with reading("the arguments", args):
        leaves, spec = tree_flatten(_chosen(args, argnums))
    check_inputs(leaves, argnums)
    return argnums, leaves, spec


def _called(problem: Problem, inputs: Sequence[torch.Tensor]) -> Any:
    """Call the function of a problem with flat inputs."""
    chosen = tree_unflatten(list(inputs), problem.spec)
    given = {problem.argnums: chosen} if isinstance(problem.argnums, int) else dict(zip(problem.argnums, chosen))
    args = [given[i] if i in given else tree_map(alias_of, arg) for i, arg in enumerate(problem.args)]
    if is_plain(inputs):
        return problem.calling(problem.func, args)
    with PlainData(), forgotten_if_it_fails(problem.modules):  # the next rung begins where this one did
        return problem.calling(problem.func, args)


def _chosen(args: tuple[Any, ...], argnums: int | tuple[int, ...]) -> Any:
    """Return what the arguments are differentiated by."""
    return args[argnums] if isinstance(argnums, int) else tuple(args[i] for i in argnums)
