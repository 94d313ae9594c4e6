"""The same numbers, trees and shapes as torch.func, whatever the chunk size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten

import chunkjac as cj
from tests.zoo import NAMES, Example, example

LIMIT = {torch.float32: 1e-5, torch.float64: 1e-10}
DIFFERENCE_LIMIT = 1e-6


def relative_error(found: Any, expected: Any) -> float:
    """Return the largest difference, as a part of the largest entry, after comparing the trees."""
    found_leaves, found_tree = tree_flatten(found)
    leaves, tree = tree_flatten(expected)
    assert found_tree == tree
    assert [leaf.shape for leaf in found_leaves] == [leaf.shape for leaf in leaves]
    assert [leaf.dtype for leaf in found_leaves] == [leaf.dtype for leaf in leaves]
    scale = max(leaf.abs().max().item() for leaf in leaves)
    return max((a - b).abs().max().item() for a, b in zip(found_leaves, leaves)) / scale


def chunk_sizes(n: int) -> list[int | None]:
    """Return the sizes at which chunking goes wrong, if it does."""
    return [*sorted({1, 2, 3, 7, max(1, n - 1), n, n + 5}), None]


def expected_of(case: Example) -> Any:
    """Return torch.func's Jacobian."""
    with torch.no_grad():
        return torch.func.jacrev(case.func, case.argnums)(*case.args)


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("name", NAMES)
def test_chunk_size_never_changes_the_result(name: str, mode: str, dtype: torch.dtype) -> None:
    case = example(name, dtype)
    expected = expected_of(case)
    n = cj.plan(case.func, *case.args, argnums=case.argnums, mode=mode).n_directions
    for size in chunk_sizes(n):
        found, report = cj.jacobian(
            case.func, *case.args, argnums=case.argnums, mode=mode, chunk_size=size, return_report=True
        )
        assert relative_error(found, expected) <= LIMIT[dtype]
        assert sum(report.chunk_sizes) == n
        if size is not None:
            assert set(report.chunk_sizes[:-1]) <= {size}


@pytest.mark.parametrize("name", NAMES)
def test_central_differences_agree(name: str) -> None:
    case = example(name)
    expected = expected_of(case)
    n = cj.plan(case.func, *case.args, argnums=case.argnums, mode="finite-difference").n_directions
    for size in chunk_sizes(n):
        found = cj.jacobian(case.func, *case.args, argnums=case.argnums, mode="finite-difference", chunk_size=size)
        assert relative_error(found, expected) <= DIFFERENCE_LIMIT


@pytest.mark.parametrize("name", NAMES)
def test_auto_and_a_plan_agree(name: str) -> None:
    case = example(name)
    expected = expected_of(case)
    assert relative_error(cj.jacobian(case.func, *case.args, argnums=case.argnums), expected) <= LIMIT[torch.float64]
    planned = cj.plan(case.func, *case.args, argnums=case.argnums)
    for _ in range(2):
        assert relative_error(planned.run(), expected) <= LIMIT[torch.float64]


@pytest.mark.parametrize("name", ["parameters", "several_arguments", "tree_of_outputs"])
def test_the_spellings_of_torch_give_its_results(name: str) -> None:
    case = example(name)
    expected = expected_of(case)
    assert relative_error(cj.jacrev(case.func, case.argnums)(*case.args), expected) <= LIMIT[torch.float64]
    assert relative_error(cj.jacfwd(case.func, case.argnums)(*case.args), expected) <= LIMIT[torch.float64]
    assert relative_error(cj.jacfd(case.func, case.argnums)(*case.args), expected) <= DIFFERENCE_LIMIT


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_dtypes_of_mixed_precision_follow_torch(mode: str) -> None:
    x = torch.linspace(0, 1, 5, dtype=torch.float32)
    by_torch = {"reverse": torch.func.jacrev, "forward": torch.func.jacfwd}[mode](lambda x: x.double() ** 2)(x)
    assert cj.jacobian(lambda x: x.double() ** 2, x, mode=mode).dtype == by_torch.dtype


@pytest.mark.parametrize("mode", ["reverse", "forward", "finite-difference", "auto"])
def test_blocks_of_several_pairs_do_not_share_memory(mode: str) -> None:
    case = example("several_arguments")
    by_first, by_second = cj.jacobian(case.func, *case.args, argnums=case.argnums, mode=mode)
    assert by_first.untyped_storage().data_ptr() != by_second.untyped_storage().data_ptr()


@pytest.mark.parametrize("mode", ["reverse", "forward", "finite-difference", "auto"])
def test_a_point_that_is_not_contiguous_works(mode: str) -> None:
    x = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).T[::2]
    assert not x.is_contiguous()
    expected = torch.func.jacrev(lambda x: x.sin().cumsum(0))(x)
    assert relative_error(cj.jacobian(lambda x: x.sin().cumsum(0), x, mode=mode), expected) <= DIFFERENCE_LIMIT


@pytest.mark.parametrize("mode", ["reverse", "forward", "finite-difference", "auto"])
def test_a_point_that_requires_grad_gives_a_jacobian_that_does_not(mode: str) -> None:
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    found = cj.jacobian(lambda x: x**2, x, mode=mode)
    assert not found.requires_grad
    assert x.grad is None
    assert x.requires_grad


def test_a_plan_runs_at_other_points() -> None:
    case = example("transformer_layer")
    planned = cj.plan(case.func, *case.args)
    other = case.args[0] * 0.5 + 1
    assert relative_error(planned.run(other), torch.func.jacrev(case.func)(other)) <= LIMIT[torch.float64]


def test_the_plan_in_a_report_runs_again() -> None:
    case = example("cnn")
    found, report = cj.jacobian(case.func, *case.args, return_report=True)
    again, second = report.plan.run(return_report=True)
    assert relative_error(again, found) <= LIMIT[torch.float64]  # by the linear program
    assert len(set(second.chunk_sizes[:-1])) <= 1  # nothing is probed


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("cell", [torch.nn.LSTM, torch.nn.GRU])
def test_recurrent_layers_with_trainable_weights_work_in_reverse_mode(cell: type[torch.nn.RNNBase]) -> None:
    """oneDNN's LSTM saves its workspace only in grad mode; nothing keeps a graph all the same."""
    torch.manual_seed(0)
    net, x = cell(4, 5), torch.randn(6, 1, 4)
    assert any(parameter.requires_grad for parameter in net.parameters())
    expected = torch.func.jacrev(lambda x: net(x)[0][-1])(x).detach()
    found = cj.jacobian(lambda x: net(x)[0][-1], x, mode="reverse", chunk_size=2)
    assert not found.requires_grad
    assert relative_error(found, expected) <= LIMIT[torch.float32]


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_the_encoder_layer_of_torch_works_in_reverse_mode_and_in_auto() -> None:
    """Its fused attention has no forward derivative; the layer of the zoo attends by hand."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True).double().eval()
    x = torch.randn(1, 5, 16, dtype=torch.float64)
    expected = expected_of(Example("", layer, (x,)))
    for mode in ("reverse", "auto"):
        for size in (1, 3, 80, None):
            assert relative_error(cj.jacobian(layer, x, mode=mode, chunk_size=size), expected) <= LIMIT[torch.float64]
