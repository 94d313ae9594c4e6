"""Bad input: each a clear error that names the argument, before anything is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import chunkjac as cj
from tests.zoo import Stateless

X = torch.tensor([1.0, 2.0, 3.0])


def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


BAD = {
    "not callable": (lambda: cj.jacobian(5, X), TypeError, "func must be callable"),
    "not callable, torch's spelling": (lambda: cj.jacrev(5), TypeError, "func must be callable"),
    "no arguments": (lambda: cj.jacobian(double), ValueError, "argnums"),
    "no tensor": (lambda: cj.jacobian(double, 3.0), TypeError, "argnums=0 names must hold tensors only, found float"),
    "an empty tree": (lambda: cj.jacobian(double, []), ValueError, "hold no tensor"),
    "integers": (lambda: cj.jacobian(double, X.long()), TypeError, r"torch.int64.*x.float\(\)"),
    "complex numbers": (lambda: cj.jacobian(double, X.cfloat()), TypeError, "complex.*real and imaginary"),
    "sparse tensor": (lambda: cj.jacobian(double, X.to_sparse()), TypeError, "to_dense"),
    "output is a float": (lambda: cj.jacobian(lambda x: 1.0, X), RuntimeError, "only tensors, found float"),
    "output is None": (lambda: cj.jacobian(lambda x: None, X), RuntimeError, "non-empty output"),
    "output is integers": (lambda: cj.jacobian(lambda x: x.long(), X), RuntimeError, "output of func.*int64"),
    "output is complex": (
        lambda: cj.jacobian(lambda x: x.cfloat(), X),
        RuntimeError,
        "all outputs to be real.*complex64",
    ),
    "output is an empty tree": (lambda: cj.jacobian(lambda x: (), X), RuntimeError, "at least one tensor"),
    "aux is missing": (lambda: cj.jacobian(double, X, has_aux=True), RuntimeError, "has_aux"),
    "argnums out of range": (lambda: cj.jacobian(double, X, argnums=1), ValueError, "argnums 1 is out of range"),
    "argnums repeated": (lambda: cj.jacobian(torch.add, X, X, argnums=(0, -2)), ValueError, "argnums must be unique"),
    "argnums empty": (
        lambda: cj.jacobian(double, X, argnums=()),
        ValueError,
        "argnums must be non-empty.*name at least",
    ),
    "argnums float": (lambda: cj.jacobian(double, X, argnums=0.0), TypeError, "argnums must be int"),
    "argnums bool": (lambda: cj.jacobian(double, X, argnums=False), TypeError, "argnums must be int"),
    "unknown mode": (lambda: cj.jacobian(double, X, mode="revers"), ValueError, "mode .*did you mean 'reverse'"),
    "mode None": (lambda: cj.jacobian(double, X, mode=None), ValueError, "mode must be one of"),
    "unknown scheme": (lambda: cj.jacobian(double, X, scheme="centre"), ValueError, "scheme.*did you mean 'central'"),
    "verify for ever": (lambda: cj.jacobian(double, X, verify=10**30), ValueError, "verify must be 0 to 1000 checks"),
    "a number for a bool": (lambda: cj.jacobian(double, X, has_aux=1), TypeError, "has_aux must be a bool.*found 1"),
    "a class of modules": (lambda: cj.jacobian(torch.nn.Tanh, X), TypeError, "class torch.Tanh; give an"),
    "step nan": (lambda: cj.jacfd(double, step=float("nan"))(X), ValueError, "step must be positive.*found nan"),
    "step out of range": (lambda: cj.jacfd(double, step=10**400)(X), ValueError, "step must.*an int of 1329 bits"),
    "chunk_size 0": (lambda: cj.jacobian(double, X, chunk_size=0), ValueError, "`chunk_size` should be greater than 0"),
    "chunk_size -1": (
        lambda: cj.jacobian(double, X, chunk_size=-1),
        ValueError,
        "`chunk_size` should be greater than 0",
    ),
    "chunk_size 1.5": (lambda: cj.jacobian(double, X, chunk_size=1.5), TypeError, "chunk_size must be None or an int"),
    "chunk_size of a spelling": (
        lambda: cj.jacrev(double, chunk_size=0),
        ValueError,
        "`chunk_size` should be greater than 0",
    ),
    "scheme of a spelling": (lambda: cj.jacfd(double, scheme="centre"), ValueError, "scheme.*did you mean 'central'"),
    "out is sparse": (lambda: cj.jacobian(double, X, out=torch.eye(3).to_sparse()), ValueError, "dense"),
    "out for a plan": (lambda: cj.plan(double, X, out=torch.empty(7)), ValueError, r"out must be \(3, 3\)"),
    "chunk_size True": (
        lambda: cj.jacobian(double, X, chunk_size=True),
        TypeError,
        "chunk_size must be None or an int",
    ),
    "max_memory 0": (lambda: cj.jacobian(double, X, max_memory=0), ValueError, "max_memory must be at least 1"),
    "max_memory -1": (lambda: cj.jacobian(double, X, max_memory=-1), ValueError, "max_memory must be at least 1"),
    "max_memory float": (lambda: cj.jacobian(double, X, max_memory=1e9), TypeError, "max_memory must be an int or a"),
    "max_memory words": (lambda: cj.jacobian(double, X, max_memory="12 potatoes"), ValueError, "max_memory.*potatoes"),
    "max_memory bits": (lambda: cj.jacobian(double, X, max_memory="4 Gb"), ValueError, "max_memory.*ambiguous.*GiB"),
    "max_memory 150 %": (lambda: cj.jacobian(double, X, max_memory="150 %"), ValueError, "max_memory.*100%"),
    "max_memory too small": (lambda: cj.jacobian(double, X, max_memory=40), MemoryError, "max_memory of [0-9]+ bytes"),
    "step in reverse": (lambda: cj.jacobian(double, X, mode="reverse", step=0.1), ValueError, "finite differences"),
    "step 0": (lambda: cj.jacfd(double, step=0.0)(X), ValueError, "step must be positive"),
    "step too small": (lambda: cj.jacfd(double, step=1e-30)(X), ValueError, r"step is too small.*index \(0,\)"),
    "step of wrong shape": (lambda: cj.jacfd(double, step=torch.ones(2))(X), ValueError, "step must be like"),
    "step of words": (lambda: cj.jacfd(double, step="small")(X), TypeError, "step must be None, a float"),
    "out of wrong shape": (lambda: cj.jacobian(double, X, out=torch.empty(3, 4)), ValueError, r"out must be \(3, 3\)"),
    "out of wrong dtype": (lambda: cj.jacobian(double, X, out=torch.empty(3, 3).half()), ValueError, "out.*float16"),
    "out elsewhere": (lambda: cj.jacobian(double, X, out=torch.empty(3, 3, device="meta")), ValueError, "out.*on meta"),
    "out in a tree": (lambda: cj.jacobian(double, X, out=[torch.empty(3, 3)]), ValueError, "out must have the struc"),
    "out is a number": (lambda: cj.jacobian(double, X, out=3), TypeError, "out must be a tensor"),
    "out requires grad": (lambda: cj.jacobian(double, X, out=torch.empty(3, 3).requires_grad_()), ValueError, "detach"),
    "out is expanded": (lambda: cj.jacobian(double, X, out=torch.empty(3, 1).expand(3, 3)), ValueError, "expanded"),
    "out lies over itself": (
        lambda: cj.jacobian(double, X, out=torch.empty(9).as_strided((3, 3), (1, 1))),
        ValueError,
        "several of its elements",
    ),
    "out twice": (
        lambda: cj.jacobian(lambda x: (x, x * 2), X, out=(J := torch.empty(3, 3), J)),
        ValueError,
        "with one another",
    ),
    "out is another argument": (
        lambda: cj.jacobian(torch.mv, (W := torch.zeros(3, 3)), X, argnums=1, out=W),
        ValueError,
        "another argument",
    ),
    "meta tensors": (lambda: cj.jacobian(double, X.to("meta")), ValueError, "on meta, where nothing"),
    "out is the input": (lambda: cj.jacobian(torch.sum, X, out=X), ValueError, "share memory with an input"),
    "progress": (lambda: cj.jacobian(double, X, progress=3), TypeError, "progress must be a bool"),
    "unknown setting": (lambda: cj.set_config(max_memroy=1), ValueError, "max_memroy"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_clear_error(name: str) -> None:
    call, kind, message = BAD[name]
    with pytest.raises(cj.ChunkjacError, match=message) as caught:
        call()
    assert isinstance(caught.value, kind)


def test_numbers_of_other_libraries_and_huge_ones_are_taken() -> None:
    for options in (
        {"chunk_size": 10**30},
        {"chunk_size": np.int64(2)},
        {"max_memory": 10**400},
        {"mode": np.str_("reverse")},
        {"mode": "finite-difference", "step": np.float32(0.25)},
        {"argnums": np.int64(0)},
    ):
        assert torch.equal(cj.jacobian(double, X, **options), 2 * torch.eye(3))


@pytest.mark.parametrize("name", ["chunk_size 0", "unknown mode", "argnums out of range", "step 0"])
def test_bad_arguments_are_found_before_the_function_is_called(name: str) -> None:
    def never(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("called")

    options = {
        "chunk_size 0": {"chunk_size": 0},
        "unknown mode": {"mode": "x"},
        "argnums out of range": {"argnums": 3},
        "step 0": {"step": 0, "mode": "finite-difference"},
    }
    with pytest.raises(cj.ChunkjacError):
        cj.jacobian(never, X, **options[name])


@pytest.mark.parametrize("mode", ["reverse", "forward", "finite-difference", "auto"])
def test_a_function_that_changes_its_input_is_refused_and_the_input_survives(mode: str) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        return x * 2

    x = X.clone()
    with pytest.raises(cj.FunctionError, match=r"in place.*clone"):
        cj.jacobian(func, x, mode=mode)
    assert torch.equal(x, X)


@pytest.mark.parametrize("mode", ["reverse", "forward", "finite-difference", "auto"])
def test_a_function_that_changes_its_input_behind_autograds_back_is_refused(mode: str) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x.add_(1)
        return x * x

    with pytest.raises(cj.FunctionError, match="in place"):
        cj.jacobian(func, X.clone(), mode=mode)


@pytest.mark.parametrize("mode", ["reverse", "forward", "finite-difference", "auto"])
def test_a_function_that_changes_a_copy_of_its_input_works(mode: str) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[0] *= 3
        return y

    found = cj.jacobian(func, X.double(), mode=mode)
    assert torch.allclose(found, torch.diag(torch.tensor([3.0, 1, 1])).double(), atol=1e-8)


def test_a_step_that_moves_nothing_at_another_point_is_refused_there() -> None:
    planned = cj.plan(double, X, mode="finite-difference", step=1e-3)
    with pytest.raises(cj.ArgumentError, match="step is too small to move x"):
        planned.run(torch.full((3,), 1e6))


def test_a_step_out_of_the_range_of_the_dtype_is_refused() -> None:
    with pytest.raises(cj.ArgumentError, match="out of the range"):
        cj.jacfd(double)(torch.tensor([6e4], dtype=torch.float16))


class BrokenError(Exception):
    """Be an exception of the user's own."""


@pytest.mark.parametrize("mode", ["reverse", "forward", "finite-difference", "auto"])
def test_the_functions_own_exception_comes_through_with_a_note(mode: str) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        raise BrokenError("mine")

    with pytest.raises(BrokenError, match="mine") as caught:
        cj.jacobian(func, X, mode=mode)
    assert any("before the first chunk" in note for note in caught.value.__notes__)


class SilentError(RuntimeError):
    """Be one that cannot say what it is."""

    def __str__(self) -> str:
        raise BrokenError("no words")

    __repr__ = __str__


@pytest.mark.parametrize("mode", ["reverse", "forward", "finite-difference", "auto"])
def test_an_exception_without_words_comes_through_too(mode: str) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        raise SilentError

    for call in (cj.jacobian, cj.plan, cj.gram, lambda f, x, mode: cj.jacobian(f, x, mode=mode, max_memory="1GiB")):
        with pytest.raises(SilentError):
            call(func, X, mode=mode)


@pytest.mark.parametrize("mode", ["forward", "finite-difference"])
def test_an_exception_in_a_chunk_says_in_which(mode: str) -> None:
    calls = []
    # Evaluations before the first chunk: one at the point; in finite differences also three of batches and points,
    # to see whether rows are independent. One that failed only once would be made up for on the next rung.
    n_before = {"forward": 1, "finite-difference": 4}[mode]
    failing = 3

    def func(x: torch.Tensor) -> torch.Tensor:
        calls.append(x)
        if len(calls) >= n_before + failing:
            raise BrokenError("mine")
        return x * 2

    x = torch.zeros(12)
    with pytest.raises(BrokenError) as caught:
        cj.jacobian(func, x, mode=mode, chunk_size=2)
    note = caught.value.__notes__[-1]
    assert f"chunk {failing}, directions {2 * failing - 2}:{2 * failing}" in note
    assert f"directions 0:{2 * failing - 2} of 12 are finished" in note


def test_an_exception_in_the_backward_pass_says_in_which_chunk() -> None:
    class Fragile(Stateless):
        generate_vmap_rule = True
        n_calls = 0

        @staticmethod
        def forward(x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            Fragile.n_calls += 1
            if Fragile.n_calls == 4:  # the second is what the first chunk is compared with
                raise BrokenError("mine")
            return grad * 2

    with pytest.raises(BrokenError) as caught:
        cj.jacobian(Fragile.apply, torch.zeros(12), mode="reverse", chunk_size=2, verify=0)
    assert "chunk 3, directions 4:6" in caught.value.__notes__[-1]


def test_a_random_function_has_no_finite_differences() -> None:
    with pytest.raises(cj.FunctionError, match="different answers"):
        cj.jacfd(lambda x: x + torch.randn(3))(X)


def test_a_budget_inside_of_a_transform_is_refused_clearly() -> None:
    for call in (lambda x: cj.jacobian(torch.sin, x), cj.jacfd(torch.sin), lambda x: cj.plan(torch.sin, x).run()):
        with pytest.raises(cj.FunctionError, match=r"inside a torch\.func transform.*use jacrev"):
            torch.func.vmap(call)(torch.zeros(2, 3))


def test_a_transform_through_a_captured_tensor_is_refused_too() -> None:
    """It would give zeros: blocks written in place carry no gradient."""
    with pytest.raises(cj.FunctionError, match=r"inside a torch\.func transform"):
        torch.func.grad(lambda w: cj.jacobian(lambda x: w * x, X).sum())(X)


def test_all_errors_are_of_one_tree() -> None:
    builtins = {
        cj.ArgumentError: ValueError,
        cj.ArgumentTypeError: TypeError,
        cj.ConfigError: ValueError,
        cj.FunctionError: RuntimeError,
        cj.BudgetError: MemoryError,
    }
    for error, builtin in builtins.items():
        assert issubclass(error, (cj.ChunkjacError,))
        assert issubclass(error, builtin)
