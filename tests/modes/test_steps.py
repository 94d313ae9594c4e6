"""How far finite differences go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten

from chunkjac._chunker.slices import Segment
from chunkjac._errors import ArgumentError, ArgumentTypeError
from chunkjac._modes.differences.schemes import SCHEMES
from chunkjac._modes.differences.steps import Step, Steps, check_steps, read_step
from chunkjac._problem import PrecisionWatcher

CENTRAL = SCHEMES["central"]
X = torch.tensor([0.0, -0.5, 1.0, -3.0, 100.0])


def steps_at(x: torch.Tensor, relative: float) -> torch.Tensor:
    """Return the default steps."""
    return Steps((None,), relative).of_segment(Segment(0, slice(0, len(x)), slice(0, len(x))), x)


def read(step: Any, inputs: Any, scheme: str = "central") -> tuple[Step, ...]:
    """Check a step for a tree of inputs."""
    leaves, spec = tree_flatten(inputs)
    given = read_step(step, leaves, spec)
    check_steps(given, SCHEMES[scheme], leaves)
    return given


# 2^-52 has no whole third of a power, so roots are taken; the others are by hand.
@pytest.mark.parametrize(
    ("dtypes", "scheme", "relative"),
    [
        ([torch.float64], "forward", 2**-26),
        ([torch.float64], "backward", 2**-26),
        ([torch.float64], "central", 2 ** (-52 / 3)),
        ([torch.float32], "forward", 2**-11.5),
        ([torch.float32], "central", 2 ** (-23 / 3)),
        ([torch.float16], "forward", 2**-5),
        ([torch.bfloat16], "forward", 2**-3.5),
        ([torch.float64, torch.float32], "forward", 2**-11.5),
        ([torch.float16, torch.float64, torch.bfloat16], "central", 2 ** (-7 / 3)),
    ],
)
def test_the_default_step_is_a_root_of_the_lowest_precision(
    dtypes: list[torch.dtype], scheme: str, relative: float
) -> None:
    eps = max(torch.finfo(dtype).eps for dtype in dtypes)
    assert Steps.of((None,), SCHEMES[scheme], eps).relative == pytest.approx(relative, rel=1e-12)


def test_the_default_step_grows_with_the_input_from_1_on() -> None:
    assert torch.equal(steps_at(X, 0.25), torch.tensor([0.25, 0.25, 0.25, 0.75, 25.0]))
    assert torch.equal(X, torch.tensor([0.0, -0.5, 1.0, -3.0, 100.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scheme", [name for name, scheme in SCHEMES.items() if not scheme.is_complex])
def test_the_default_step_always_moves_the_input(scheme: str, dtype: torch.dtype) -> None:
    x = torch.cat([torch.zeros(1), torch.logspace(-4, 4, 33)]).to(dtype)
    h = steps_at(x, Steps.of((None,), SCHEMES[scheme], torch.finfo(dtype).eps).relative)
    assert h.dtype == dtype
    assert bool((x + h != x).all())
    assert bool((x - h != x).all())


@pytest.mark.parametrize("step", [0.5, 1])
def test_a_number_is_the_step_of_every_element(step: float) -> None:
    inputs = (torch.zeros(2), {"a": torch.zeros(3)})
    given = read(step, inputs)
    assert given == (step, step)
    second = Segment(1, slice(0, 2), slice(1, 3))
    assert torch.equal(Steps(given, 0.25).of_segment(second, torch.zeros(2)), torch.tensor([step, step]))


def test_a_tensor_gives_each_element_its_own_step() -> None:
    inputs = (torch.zeros(2), torch.zeros(2, 2))
    given = read((torch.ones(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]])), inputs)
    second = Segment(1, slice(0, 2), slice(1, 3))
    assert torch.equal(Steps(given, 0.25).of_segment(second, torch.zeros(2)), torch.tensor([2.0, 3.0]))


def test_no_step_is_no_step_for_each_leaf() -> None:
    assert read(None, (torch.zeros(2), torch.zeros(3))) == (None, None)


@pytest.mark.parametrize("step", [0, 0.0, -1, -1e-3, float("inf"), float("-inf"), float("nan")])
def test_a_number_that_is_no_distance_is_a_value_error(step: float) -> None:
    with pytest.raises(ArgumentError, match=f"^step must be positive and finite, found {step!r}"):
        read(step, torch.zeros(2))


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf"), float("nan")])
def test_a_tensor_with_an_element_that_is_no_distance_is_a_value_error(bad: float) -> None:
    with pytest.raises(ArgumentError, match=r"^step must be positive and finite in every element"):
        read(torch.tensor([1.0, bad]), torch.zeros(2))


@pytest.mark.parametrize(
    "step",
    [
        torch.ones(3),
        torch.ones(2, 1),
        torch.tensor(1.0),
        torch.ones(2, dtype=torch.float64),
        torch.ones(2, dtype=torch.int64),
        torch.ones(2, device="meta"),
    ],
    ids=lambda step: f"{tuple(step.shape)} {step.dtype} {step.device}",
)
def test_a_tensor_unlike_the_input_is_an_error_that_shows_both(step: torch.Tensor) -> None:
    with pytest.raises(ArgumentError, match=r"^step must be like the input") as caught:
        read(step, torch.zeros(2))
    assert "(2,) torch.float32 on cpu" in str(caught.value)
    assert f"{tuple(step.shape)} {step.dtype} on {step.device}" in str(caught.value)


@pytest.mark.parametrize(
    ("step", "inputs"),
    [
        (True, torch.zeros(2)),
        ("0.1", torch.zeros(2)),
        ([0.1, 0.1], torch.zeros(2)),
        (1j, torch.zeros(2)),
        (torch.ones(2), (torch.zeros(2),)),
        ((torch.ones(2),), (torch.zeros(2), torch.zeros(2))),
        ({"b": torch.ones(2)}, {"a": torch.zeros(2)}),
        ((torch.ones(2), 0.1), (torch.zeros(2), torch.zeros(2))),
        ((torch.ones(2), None), (torch.zeros(2), torch.zeros(2))),
    ],
)
def test_what_is_not_a_tree_like_the_inputs_is_a_type_error(step: Any, inputs: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"^step must be None, a float, or tensors shaped like the inputs"):
        read(step, inputs)


# From 2^24 on, float32 has no odd numbers: 2^24 + 1 rounds to 2^24, while 2^24 - 1 is exact.
@pytest.mark.parametrize(
    ("at", "step", "scheme", "swallowed"),
    [
        (2.0**24, 2.0, "forward", False),
        (2.0**24, 1.0, "forward", True),
        (2.0**24, 1.0, "central", True),
        (2.0**24, 1.0, "backward", False),
        (2.0**24, 0.5, "backward", True),
        (-(2.0**24), 1.0, "forward", False),
        (-(2.0**24), 1.0, "central", True),
        (-(2.0**24), 1.0, "backward", True),
    ],
)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_step_that_rounding_swallows_names_the_element(
    at: float, step: float, scheme: str, swallowed: bool, as_tensor: bool
) -> None:
    x = torch.tensor([[0.0, 1.0, 2.0], [3.0, at, 5.0]])
    given = torch.full_like(x, step) if as_tensor else step
    if not swallowed:
        assert len(read(given, x, scheme)) == 1
        return
    with pytest.raises(ArgumentError, match=r"^step is too small to move x at index \(1, 1\) \(x is -?1\.67772e\+07"):
        read(given, x, scheme)


def test_a_swallowed_step_of_a_number_without_dimensions_is_found_too() -> None:
    with pytest.raises(ArgumentError, match=r"at index \(\)"):
        read(1e-20, torch.tensor(1.0))


def a_number(x: torch.Tensor) -> torch.Tensor:
    """Compare with numbers in float32, and give float64."""
    return x.sin() + torch.bucketize(x.detach(), torch.tensor([0.0, 10.0]))


def in_float32(x: torch.Tensor) -> torch.Tensor:
    """Compute in float32, from numbers that were read."""
    return x.sin() + torch.tensor(x.tolist()).cos()


@pytest.mark.parametrize(("func", "eps"), [(a_number, 2**-52), (in_float32, 2**-23)])
def test_numbers_that_a_function_makes_count_for_what_they_are_part_of(func: Any, eps: float) -> None:
    """Each time: memory that was given back to the system may be the next number's."""
    x = torch.tensor([0.3, 0.7, -1.2], dtype=torch.float64)
    for _ in range(20):
        with PrecisionWatcher() as seen:
            func(x)
        assert seen.eps == eps
