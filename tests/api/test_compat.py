"""The paper's class: its arguments, conversions and results, and what it gets wrong."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import chunkjac as cj
from chunkjac._memory.tracker import LiveBytes
from chunkjac.compat import JacrevFinite

D = torch.float64
X = torch.tensor([0.5, -1.5, 2.0], dtype=D)
Y = torch.tensor([3.0, 0.25, -1.0], dtype=D)
CLOSE = 1e-9  # delta of 1e-5 leaves 2e-11 of an entry of 1 for functions that are linear in each argument


def product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x * y


def close(found: torch.Tensor, expected: Any, limit: float = CLOSE, dtype: torch.dtype = D) -> None:
    expected = torch.as_tensor(expected, dtype=dtype)
    assert found.dtype == dtype
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= limit


class TestThePapersExamples:
    @pytest.mark.parametrize("method", ["plus", "minus"])
    def test_a_sum_has_the_identity_by_either_argument(self, method: str) -> None:
        for number in (0, 1):
            found = JacrevFinite(function=lambda x, y: x + y, num_args=number, method=method)((1, 1), [2, 3])
            close(found, torch.eye(2))

    def test_two_times_x(self) -> None:
        x = torch.tensor((5, 2), dtype=D).requires_grad_()
        found = JacrevFinite(function=lambda x: 2 * x, num_args=0)(x)
        close(found, 2 * torch.eye(2))
        assert not found.requires_grad

    @pytest.mark.parametrize("number", range(4))
    def test_a_wrapper_makes_two_inputs_of_four_arguments(self, number: int) -> None:
        """(a + b) * (c + d): the derivative by a or b is c + d, by c or d it is a + b."""
        args = [1.0, 2.0], [5.0, 6.0], [-1.0, -2.0], [-5.0, -6.0]
        found = JacrevFinite(function=product, wrapper=lambda a, b, c, d: [a + b, c + d], num_args=number, delta=1e-6)(
            *args
        )
        close(found, torch.diag(torch.tensor([[-6.0, -8.0], [6.0, 8.0]][number // 2])), limit=1e-8)

    def test_a_product_of_matrices_of_numbers_has_the_other_factor_on_its_diagonal(self) -> None:
        x, y = torch.randn(2, 10, 10, dtype=D)
        found = JacrevFinite(function=product, num_args=0)(x, y)
        assert found.shape == (10, 10, 10, 10)
        close(found.reshape(100, 100), torch.diag(y.flatten()))

    def test_the_dimension_for_batches_and_the_method_do_not_change_the_result(self) -> None:
        x, y = torch.randn(2, 6, 1, 4, dtype=D)
        found = JacrevFinite(function=product, num_args=0)(x, y)
        for dim in (1, -2):
            other = JacrevFinite(function=product, num_args=0, dim=dim, method="minus")(x, y)
            assert other.shape == found.shape == (6, 1, 4, 6, 1, 4)
            close(other, found)
        close(found.reshape(24, 24), torch.diag(y.flatten()))

    @pytest.mark.parametrize(("shape", "dim"), [((4, 5), None), ((2, 1, 3, 5), 1)])
    def test_a_network_of_rectified_layers_is_linear_between_its_kinks(
        self, shape: tuple[int, ...], dim: int | None
    ) -> None:
        torch.manual_seed(0)
        first, second = nn.Linear(5, 32, dtype=D), nn.Linear(32, 5, dtype=D)
        x = torch.randn(shape, dtype=D)
        assert first(x).abs().min() > 1e-4  # farther from the kinks than the step goes
        found = JacrevFinite(function=nn.Sequential(first, nn.ReLU(), second), num_args=0, dim=dim)(x)
        rows = x.reshape(-1, 5)
        expected = torch.zeros(len(rows), 5, len(rows), 5, dtype=D)
        for i, row in enumerate(rows):
            expected[i, :, i] = second.weight @ torch.diag((first(row) > 0).to(D)) @ first.weight
        close(found, expected.reshape(*shape, *shape).detach())

    def test_a_method_of_an_object_is_a_function(self) -> None:
        class Update:
            def forward(self, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
                return x * y + z

        x, y, z = torch.randn(3, 2, 3, dtype=D)
        found = JacrevFinite(function=Update().forward, num_args=0)(x, y, z)
        close(found.reshape(6, 6), torch.diag(y.flatten()))


class TestTheStep:
    @pytest.mark.parametrize(
        ("method", "delta", "expected"),
        [("plus", 0.25, 3.25), ("minus", 0.25, 2.75), ("plus", -0.25, 2.75), ("minus", -0.25, 3.25), ("plus", 1, 4.0)],
    )
    def test_delta_and_method_say_where_the_other_point_is(self, method: str, delta: float, expected: float) -> None:
        """((1.5 + h)^2 - 1.5^2) / h = 3 + h, exactly for powers of two."""
        found = JacrevFinite(function=torch.square, num_args=0, delta=delta, method=method)([1.5])
        assert found.tolist() == [[expected]]

    def test_the_default_is_the_papers(self) -> None:
        assert JacrevFinite(function=torch.square, num_args=0).delta == 1e-5
        found = JacrevFinite(function=torch.square, num_args=0)([1.5])
        assert found.item() == pytest.approx(3 + 1e-5, abs=1e-10)

    def test_the_division_is_by_the_step_that_was_taken(self) -> None:
        """Near 1e9 the step of 1e-5 becomes a multiple of 2^-23, 0.1 % away from it."""
        found = JacrevFinite(function=lambda x: 3 * x, num_args=0)([2.0**30])
        assert found.item() == 3.0

    def test_a_step_that_moves_nothing_is_an_error_that_names_delta(self) -> None:
        with pytest.raises(cj.ArgumentError, match="too small to move x") as caught:
            JacrevFinite(function=torch.square, num_args=0)([1.0, 1e15])
        assert "JacrevFinite's delta, 1e-05" in caught.value.__notes__[0]


CONVERTED: dict[str, tuple[Callable[..., Any], tuple[Any, ...], list[Any]]] = {
    "a number": (torch.square, (3,), 6.0),
    "a tensor without dimensions": (torch.square, (torch.tensor(3.0),), 6.0),
    "one element": (torch.square, ([3.0],), [[6.0]]),
    "a list": (torch.square, ([3.0, 0.5],), [[6.0, 0.0], [0.0, 1.0]]),
    "a tuple of whole numbers": (torch.square, ((3, 2),), [[6.0, 0.0], [0.0, 4.0]]),
    "booleans": (torch.square, ([True, False],), [[2.0, 0.0], [0.0, 0.0]]),
    "a nested list": (lambda x: x.sum(0), ([[1, 2], [3, 4]],), [[[1, 0], [1, 0]], [[0, 1], [0, 1]]]),
    "an array": (torch.square, (X.numpy(),), torch.diag(2 * X).tolist()),
    "a list of tensors": (torch.square, ([torch.tensor(3.0), torch.tensor(0.5)],), [[6.0, 0.0], [0.0, 1.0]]),
    "a tensor in single precision": (torch.square, (X.float(),), torch.diag(2 * X).tolist()),
    "a tensor in half precision": (torch.square, (X.half(),), torch.diag(2 * X).tolist()),
    "a tensor of integers": (torch.square, (torch.tensor([3, 2]),), [[6.0, 0.0], [0.0, 4.0]]),
    "numbers": (product, (2, 3.0), 3.0),
    "lists": (product, ([1, 2], (3, 4.0)), [[3.0, 0.0], [0.0, 4.0]]),
    "a list and a tensor": (product, ([1, 2, 3], Y), torch.diag(Y).tolist()),
    "a tensor and a list": (product, (X, [3, 4, 5.0]), [[3.0, 0, 0], [0, 4.0, 0], [0, 0, 5.0]]),
    "tensors of integers": (product, (torch.tensor([1, 2]), torch.tensor([3, 4])), [[3.0, 0.0], [0.0, 4.0]]),
    "one that requires grad": (product, (X.clone().requires_grad_(), Y), torch.diag(Y).tolist()),
}


class TestConversions:
    @pytest.mark.parametrize("name", CONVERTED)
    def test_the_result_is_double_precision(self, name: str) -> None:
        function, args, expected = CONVERTED[name]
        close(JacrevFinite(function=function, num_args=0)(*args), expected, limit=1.1e-5)

    def test_lists_of_numbers_are_not_rounded_to_single_precision(self) -> None:
        """In float32, 0.1 is 1.5e-9 more."""
        points: list[float] = []

        def function(x: torch.Tensor) -> torch.Tensor:
            points.append(float(x[0]))
            return x

        JacrevFinite(function=function, num_args=0)([0.1])
        assert points[0] == 0.1

    def test_of_several_arguments_tensors_keep_their_precision(self) -> None:
        x, y = torch.tensor([0.5, -2.0]), torch.tensor([3.0, 4.0])
        close(JacrevFinite(function=product, num_args=0)(x, y), torch.diag(y), limit=1e-2, dtype=torch.float32)
        close(JacrevFinite(function=product, num_args=0)(x, y.double()), torch.diag(y), limit=1e-2)

    def test_an_argument_that_is_not_differentiated_may_hold_indices(self) -> None:
        found = JacrevFinite(function=lambda x, i: x[i], num_args=0)(X, torch.tensor([2, 0]))
        close(found, [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])

    def test_the_arguments_are_left_as_they_are(self) -> None:
        x, y = X.clone().requires_grad_(), Y.clone()
        JacrevFinite(function=product, num_args=0)(x, y)
        assert x.tolist() == X.tolist()
        assert y.tolist() == Y.tolist()
        assert x.requires_grad

    def test_a_wrapper_may_return_any_iterable(self) -> None:
        wrappers: list[Callable[..., Any]] = [
            lambda x, y: (y, x * x),
            lambda x, y: torch.stack([y, x * x]),
            lambda x, y: (part for part in (y, x * x)),
        ]
        for wrapper in wrappers:
            found = JacrevFinite(function=lambda a, b: a - b, wrapper=wrapper, num_args=0)(X, Y)
            close(found, torch.diag(-2 * X), limit=1.1e-5)


def layer(x: torch.Tensor) -> torch.Tensor:
    """Compute in single precision whatever is given."""
    return torch.tanh(x.float() * 0.5).double()


class TestWhatThePapersClassGetsWrong:
    def test_an_axis_as_long_as_the_batch_is_not_taken_for_it(self) -> None:
        """Two inputs make a batch of three, and the first axis of the output is three long, too."""
        found = JacrevFinite(function=lambda x: torch.stack([x, 2 * x, 3 * x]), num_args=0)([1.0, 2.0])
        close(found, torch.stack([torch.eye(2), 2 * torch.eye(2), 3 * torch.eye(2)]))

    def test_axes_before_the_dimension_for_batches_keep_their_places(self) -> None:
        x, y = torch.randn(2, 2, 3, 1, dtype=D)
        found = JacrevFinite(function=product, num_args=0, dim=2)(x, y)
        close(found.reshape(6, 6), torch.diag(y.flatten()))

    def test_functions_may_combine_rows(self) -> None:
        x = torch.arange(6, dtype=D).reshape(2, 3) - 2.5
        close(JacrevFinite(function=lambda x: x.sum(0), num_args=0)(x), torch.eye(3).expand(2, 3, 3).transpose(0, 1))
        close(JacrevFinite(function=lambda x: x.flip(0), num_args=0)(X), torch.eye(3).flip(0))
        close(
            JacrevFinite(function=lambda x, y: torch.cat([x, y]), num_args=1)(X, Y),
            torch.cat([torch.zeros(3, 3), torch.eye(3)]),
        )

    def test_a_matrix_product_with_another_number_of_dimensions(self) -> None:
        W = torch.arange(6, dtype=D).reshape(3, 2)
        found = JacrevFinite(function=torch.matmul, num_args=0, override_dim_constraint=True)(X, W)
        close(found, W.T)

    def test_an_output_without_dimensions(self) -> None:
        close(JacrevFinite(function=lambda x: (x * Y).sum(), num_args=0)(X), Y)

    def test_a_wrapper_that_joins_its_arguments(self) -> None:
        found = JacrevFinite(function=lambda x: 2 * x, wrapper=lambda x, y: [torch.cat([x, y])], num_args=0)(X, Y)
        close(found, torch.cat([2 * torch.eye(3), torch.zeros(3, 3)]))

    def test_an_argument_that_is_not_contiguous(self) -> None:
        x = torch.arange(6, dtype=D).reshape(2, 3).T
        close(JacrevFinite(function=torch.square, num_args=0)(x).reshape(6, 6), torch.diag(2 * x.flatten()), 1.1e-5)

    def test_a_negative_number_counts_arguments_from_the_end(self) -> None:
        close(JacrevFinite(function=lambda x, y: x - 2 * y, num_args=-1)(X, Y), -2 * torch.eye(3))
        close(JacrevFinite(function=product, num_args=-1)(X, torch.tensor([1, 2, 3])), torch.diag(X))

    def test_an_output_that_does_not_depend_on_the_argument_has_zeros(self) -> None:
        constant = torch.ones(4, dtype=D)
        assert JacrevFinite(function=lambda x: constant, num_args=0)(X).equal(torch.zeros(4, 3, dtype=D))

    @pytest.mark.parametrize("args", [(torch.tensor([0.5, -1.0]),), ([0.5, -1.0],)], ids=["tensor", "numbers"])
    def test_a_module_in_single_precision(self, args: tuple[Any, ...]) -> None:
        net = nn.Linear(2, 3)
        found = JacrevFinite(function=net, num_args=0)(*args)
        close(found, net.weight.detach(), limit=2e-3, dtype=torch.float32)

    @pytest.mark.parametrize("function", [layer, lambda x: layer(x).float()], ids=["within", "at the end"])
    def test_a_step_for_double_precision_is_not_taken_where_less_is_computed(
        self, function: Callable[..., Any]
    ) -> None:
        """The error of sqrt(eps) is some 1e-3; 1e-5 would leave 1e-2 and more."""
        found = JacrevFinite(function=function, num_args=0)(X)
        expected = torch.diag(0.5 * (1 - torch.tanh(0.5 * X) ** 2))
        assert (found - expected).abs().max() <= 1e-3

    @pytest.mark.parametrize("method", ["plus", "minus"])
    def test_several_arguments_in_single_precision_do_not_drown(self, method: str) -> None:
        """tanh' = 1 - tanh^2; a step of 1e-5 makes errors of some percent of it."""
        x, y = X.float(), Y.float()
        found = JacrevFinite(function=lambda x, y: torch.tanh(x) + y, num_args=0, method=method)(x, y)
        close(found, torch.diag(1 - torch.tanh(x) ** 2), limit=1e-3, dtype=torch.float32)

    def test_a_step_that_drowns_is_warned_of(self) -> None:
        with pytest.warns(UserWarning, match=r"delta=1e-06 is lost in the rounding.*12%"):
            JacrevFinite(function=product, num_args=0, delta=1e-6)(X.float(), Y.float())


def test_complex_outputs_are_differentiated_by_real_inputs() -> None:
    """Of the discrete Fourier transform the Jacobian is its matrix."""
    k = torch.arange(3)
    expected = torch.exp(-2j * torch.pi * torch.outer(k, k).to(D) / 3)
    found = JacrevFinite(function=torch.fft.fft, num_args=0)(X)
    assert found.dtype == torch.complex128
    assert (found - expected).abs().max() <= CLOSE
    conjugate = JacrevFinite(function=lambda x: torch.fft.fft(x).conj(), num_args=0)(X)
    assert (conjugate - expected.conj()).abs().max() <= CLOSE


def changes_its_input(x: torch.Tensor) -> torch.Tensor:
    return x.add_(1)


def make(**options: Any) -> JacrevFinite:
    return JacrevFinite(**{"function": torch.square, "num_args": 0, **options})


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "function": (lambda: make(function=3), cj.ArgumentTypeError, "function must be callable, found 3"),
    "wrapper": (lambda: make(wrapper=3), cj.ArgumentTypeError, "wrapper must be None or callable"),
    "num_args of words": (lambda: make(num_args="0"), cj.ArgumentTypeError, "num_args must be an int, found '0'"),
    "num_args of several": (lambda: make(num_args=(0, 1)), cj.ArgumentTypeError, "num_args must be an int"),
    "num_args True": (lambda: make(num_args=True), cj.ArgumentTypeError, "num_args must be an int"),
    "dim": (lambda: make(dim=0.0), cj.ArgumentTypeError, "dim must be None or an int"),
    "override": (lambda: make(override_dim_constraint=1), cj.ArgumentTypeError, "override_dim_constraint must be a b"),
    "method": (lambda: make(method="central"), cj.ArgumentError, "method must be 'plus' or 'minus'.*jacfd"),
    "delta None": (lambda: make(delta=None), cj.ArgumentTypeError, "delta must be a number"),
    "delta of words": (lambda: make(delta="1e-5"), cj.ArgumentTypeError, "delta must be a number"),
    "deltas": (lambda: make(delta=torch.ones(2)), cj.ArgumentTypeError, "delta must be a number"),
    "delta 0": (lambda: make(delta=0), cj.ArgumentError, "delta must be finite and not 0"),
    "delta infinite": (lambda: make(delta=float("inf")), cj.ArgumentError, "delta must be finite and not 0"),
    "no arguments": (lambda: make()(), cj.ArgumentError, "num_args 0 is out of range: 0 arguments"),
    "num_args too large": (lambda: make(num_args=1)(X), cj.ArgumentError, "num_args 1 is out of range: 1 arg"),
    "num_args too small": (lambda: make(num_args=-2)(X), cj.ArgumentError, "num_args -2 is out of range"),
    "different dimensions": (
        lambda: make(function=product)(X, 3.0),
        cj.ArgumentError,
        r"same number of dimensions, found \[1, 0\].*override_dim_constraint=True",
    ),
    "dim of size 3": (lambda: make(dim=0)(X), cj.ArgumentError, r"dim must be a dimension of size 1.*shape \(3,\)"),
    "dim out of range": (lambda: make(dim=1)(X[:1]), cj.ArgumentError, "dim must be a dimension of size 1"),
    "dim of a number": (lambda: make(dim=0)(3.0), cj.ArgumentError, "dim must be a dimension of size 1"),
    "words": (lambda: make()("x"), cj.ArgumentTypeError, "argument 0 must be a tensor, a number, or lists.*str"),
    "None": (lambda: make(function=product)(X, None), cj.ArgumentTypeError, "argument 1 must be a tensor.*NoneType"),
    "a ragged list": (lambda: make()([[1.0], [1.0, 2.0]]), cj.ArgumentTypeError, "argument 0 must be .* of one shape"),
    "complex numbers": (lambda: make()(X.cfloat()), cj.ArgumentTypeError, "argument 0 must have real numbers"),
    "complex list": (lambda: make()([1j]), cj.ArgumentTypeError, "argument 0 must be a tensor, a number, or lists"),
    "several outputs": (lambda: make(function=lambda x: (x, x))(X), cj.FunctionError, "one tensor, found tuple.*jacfd"),
    "no output": (lambda: make(function=lambda x: None)(X), cj.FunctionError, "one tensor, found NoneType"),
    "integers": (lambda: make(function=lambda x: x.long())(X), cj.FunctionError, "real floating-point.*int64"),
    "in place": (lambda: make(function=changes_its_input)(X), cj.FunctionError, "changes its input|changes input 0"),
    "random": (lambda: make(function=lambda x: x + torch.rand(3))(X), cj.FunctionError, "different answers"),
    "its own error": (lambda: make(function=lambda x: x @ torch.ones(4).double())(X), RuntimeError, "size|shape"),
}


class TestErrors:
    @pytest.mark.parametrize("name", BAD)
    def test_bad_input_is_a_clear_error(self, name: str) -> None:
        call, error, message = BAD[name]
        with pytest.raises(error, match=message):
            call()

    def test_everything_is_given_by_name(self) -> None:
        with pytest.raises(TypeError, match="positional"):
            JacrevFinite(torch.square, 0)  # type: ignore[misc]

    def test_the_object_does_not_change(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            make().delta = 1e-4  # type: ignore[misc]

    def test_a_function_that_fails_later_is_not_tried_again_in_lower_precision(self) -> None:
        calls: list[torch.dtype] = []

        def function(x: torch.Tensor) -> torch.Tensor:
            calls.append(x.dtype)
            if len(calls) > 1:
                raise OSError("the disk is gone")
            return x

        with pytest.raises(OSError, match="the disk is gone"):
            make(function=function)(X.float())
        assert set(calls) == {D}


class TestMemory:
    @pytest.mark.parametrize("beside_mib", [1, 8])
    def test_three_thousand_inputs_keep_to_a_small_budget(self, beside_mib: int) -> None:
        """All copies at once would hold four results; here it is one, and a mebibyte or eight."""
        x, y = torch.randn(2, 3000, dtype=D)
        budget = 8 * 3000**2 + beside_mib * 2**20
        with cj.config_context(max_memory=budget), LiveBytes(x.device) as tracker:
            found = make(function=product)(x, y)
        assert tracker.peak_bytes <= budget
        assert found.shape == (3000, 3000)
        found.diagonal().sub_(y)
        assert found.abs_().max() <= 1e-9

    def test_complex_results_are_not_copied(self) -> None:
        x = torch.randn(500, dtype=D)
        budget = 16 * 500**2 + 2**19
        with cj.config_context(max_memory=budget), LiveBytes(x.device) as tracker:
            found = make(function=lambda x: 1j * x)(x)
        assert tracker.peak_bytes <= budget
        assert found.dtype == torch.complex128

    def test_what_does_not_fit_is_refused(self) -> None:
        with cj.config_context(max_memory="1MiB"), pytest.raises(cj.BudgetError, match="result"):
            make()(torch.zeros(1000))


def test_the_arguments_are_the_papers() -> None:
    parameters = inspect.signature(JacrevFinite).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    required = inspect.Parameter.empty
    assert defaults == {
        "function": required,
        "num_args": required,
        "wrapper": None,
        "dim": None,
        "delta": 1e-5,
        "override_dim_constraint": False,
        "method": "plus",
    }
    text = inspect.getdoc(JacrevFinite) or ""
    assert all(re.search(rf"^ +{name}: ", text, re.MULTILINE) for name in parameters)
