"""The loop: what runs out of memory is halved, what is finished stays."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import chunkjac as cj
from chunkjac._chunker.cost import Cost
from chunkjac._chunker.pacer import Limits, Pacer
from chunkjac._executor.loop import Log, filled
from chunkjac._memory.out_of_memory import OverBudget, is_out_of_memory
from chunkjac._memory.tracker import LiveBytes
from chunkjac._modes.derivatives.reverse import Reverse
from chunkjac._problem.problem import Problem
from chunkjac._sinks.sink import Whole
from chunkjac._sinks.tensor import TensorSink
from tests.zoo import Stateless, example

MODES = ("reverse", "forward", "finite-difference")
CPU = torch.device("cpu")


class SimulatedDevice(TorchDispatchMode):
    """Run out of memory when an operation leaves more alive than the device has."""

    def __init__(self, n_bytes: int) -> None:
        super().__init__()
        self.n_bytes = n_bytes
        self.tracker = LiveBytes(CPU)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = self.tracker.__torch_dispatch__(func, types, args, kwargs)
        if self.tracker.live_bytes > self.n_bytes:
            raise torch.OutOfMemoryError(f"{self.tracker.live_bytes} bytes on a device of {self.n_bytes}")
        return made


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["cnn", "mlp", "u_net", "transformer_layer", "autoencoder", "convolution_norm"])
@pytest.mark.parametrize("mode", MODES)
def test_a_device_that_is_smaller_than_believed_still_gives_the_jacobian(mode: str, name: str) -> None:
    """A plan for four times too large chunks is halved twice, and no direction is lost or repeated."""
    case = example(name)
    size = 4 if name != "mlp" else 2  # nine rows are few
    expected = cj.jacobian(case.func, *case.args, mode=mode, chunk_size=size)
    fits = cj.plan(case.func, *case.args, mode=mode, chunk_size=size)
    with SimulatedDevice(int(fits.predicted_peak_bytes * 1.05)) as device:
        found, report = cj.plan(case.func, *case.args, mode=mode, chunk_size=4 * size).run(return_report=True)
        assert report.n_retries == 2
        assert set(report.chunk_sizes[:-1]) == {size}
        assert sum(report.chunk_sizes) == report.plan.n_directions
        assert torch.allclose(found, expected, rtol=0, atol=1e-8)
        del found
        gc.collect()
        assert device.tracker.live_bytes == 0


def test_a_device_too_small_for_a_batch_of_one_direction_takes_one_point_at_a_time() -> None:
    case, options = example("cnn"), {"mode": "finite-difference"}
    expected = cj.jacobian(case.func, *case.args, **options)
    most, least = (
        cj.plan(case.func, *case.args, **options, chunk_size=1, batching=batching).predicted_peak_bytes
        for batching in ("vmap", "loop")
    )
    with SimulatedDevice((most + least) // 2), pytest.warns(cj.RungWarning, match="there is no room"):
        found = cj.jacobian(case.func, *case.args, **options)
    assert torch.allclose(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("mode", [*MODES, "auto"])
def test_a_planned_chunk_size_that_runs_out_of_memory_is_halved_as_well(mode: str) -> None:
    """Nothing was said of memory, and the device has an eighth of what the plan believed."""
    case = example("u_net")
    expected = cj.jacobian(case.func, *case.args, mode=mode)
    planned = cj.plan(case.func, *case.args, mode=mode)
    working_bytes = planned.predicted_peak_bytes - planned.result_bytes
    with SimulatedDevice(planned.result_bytes + working_bytes // 8) as device:
        found, report = planned.run(return_report=True)
        assert report.n_retries >= 3
        assert max(report.chunk_sizes) <= planned.chunk_size / 8
        assert torch.allclose(found, expected, rtol=0, atol=1e-8)
        del found
        gc.collect()
        assert device.tracker.live_bytes == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_device_too_small_for_one_direction_gives_its_own_error(mode: str) -> None:
    case = example("cnn")
    alone: dict[str, Any] = {"batching": "loop"} if mode == "finite-difference" else {}
    least = cj.plan(case.func, *case.args, mode=mode, chunk_size=1, **alone).predicted_peak_bytes
    with SimulatedDevice(int(least * 0.98)) as device:
        with pytest.raises(torch.OutOfMemoryError, match="on a device of") as caught:
            cj.jacobian(case.func, *case.args, mode=mode, chunk_size=8, **alone)
        del caught
        gc.collect()
        assert device.tracker.live_bytes == 0


@pytest.mark.parametrize("options", [{}, {"max_memory": "1MiB"}])
@pytest.mark.parametrize("mode", [*MODES, "auto"])
@pytest.mark.parametrize("inside_only", [False, True])
def test_an_ambiguous_failure_that_persists_comes_through_as_it_was(
    inside_only: bool, mode: str, options: dict[str, Any]
) -> None:
    failure = RuntimeError("could not create a primitive")

    def func(x: torch.Tensor) -> torch.Tensor:
        if not inside_only or torch._C._functorch.peek_interpreter_stack() is not None:
            raise failure
        return x * 2

    if inside_only and mode == "finite-difference":
        options = {**options, "batching": "vmap"}  # by itself it takes a native batch, which does not fail
    if inside_only and mode in ("reverse", "auto"):
        options = {**options, "return_report": True}  # a plain graph, which is within no transform, does not fail
    with pytest.raises(RuntimeError, match="could not create a primitive") as caught:
        cj.jacobian(func, torch.zeros(5), mode=mode, **options)
    assert caught.value is failure


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        OverBudget("x"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:113] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
        RuntimeError("could not create a primitive"),
    ],
)
def test_what_allocators_say_is_recognised(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), ValueError("can't allocate memory"), KeyboardInterrupt()]
)
def test_nothing_else_is_swallowed(error: BaseException) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    "message", ["could not create a primitive", "DefaultCPUAllocator: can't allocate memory: you tried to allocate"]
)
def test_an_allocation_failure_halves_the_chunk_and_computes_nothing_twice(message: str) -> None:
    class Greedy(Stateless):
        """Fail for more than three rows."""

        seen: list[int] = []  # noqa: RUF012

        @staticmethod
        def forward(x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            raise AssertionError("vmap is used")

        @staticmethod
        def vmap(info: Any, in_dims: Any, x: torch.Tensor) -> Any:
            return Greedy.apply(x), in_dims[0]

    class GreedyBackward(Stateless):
        @staticmethod
        def forward(grad: torch.Tensor) -> torch.Tensor:
            return grad * 2

        @staticmethod
        def vmap(info: Any, in_dims: Any, grad: torch.Tensor) -> Any:
            Greedy.seen.append(info.batch_size)
            if info.batch_size > 3:
                raise RuntimeError(message)
            return grad * 2, in_dims[0]

    Greedy.backward = staticmethod(lambda ctx, grad: GreedyBackward.apply(grad))
    found, report = cj.jacobian(Greedy.apply, torch.zeros(10), mode="reverse", chunk_size=10, return_report=True)
    assert torch.equal(found, 2 * torch.eye(10))
    assert Greedy.seen == [10, 5, 3, 3, 3]  # a single direction is not batched
    assert report.chunk_sizes == (3, 3, 3, 1)
    assert report.n_retries == 2


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupt_leaves_finished_blocks_in_out(mode: str) -> None:
    case = example("mlp")
    expected = cj.jacobian(case.func, *case.args, mode=mode, chunk_size=2)
    out = torch.full_like(expected, torch.nan)

    def stop(progress: cj.Progress) -> None:
        if progress.done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cj.jacobian(case.func, *case.args, mode=mode, chunk_size=2, out=out, progress=stop)
    finished, rest = (out[:4], out[4:]) if mode == "reverse" else (out[:, :4], out[:, 4:])
    assert torch.equal(finished, expected[:4] if mode == "reverse" else expected[:, :4])
    assert rest.isnan().all()


def test_an_interrupt_within_a_chunk_says_what_is_finished() -> None:
    n_calls = 0

    def func(x: torch.Tensor) -> torch.Tensor:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 4:  # one in the prologue; all operations are known, so no chunk is compared
            raise KeyboardInterrupt
        return x * 2

    out = torch.zeros(9, 9)
    with pytest.raises(KeyboardInterrupt) as caught:
        cj.jacobian(func, torch.zeros(9), mode="forward", chunk_size=2, out=out)
    assert "directions 0:4 of 9 are finished" in caught.value.__notes__[0]
    assert torch.equal(out[:, :4], 2 * torch.eye(9)[:, :4])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided", "no matrix"])
def test_out_of_any_strides_is_written_in_place(layout: str, mode: str) -> None:
    x = torch.linspace(0, 1, 6, dtype=torch.float64).reshape(2, 3)

    def func(x: torch.Tensor) -> torch.Tensor:
        return x.T @ x

    expected = cj.jacobian(func, x, mode=mode)
    out = {
        "contiguous": lambda: torch.empty(3, 3, 2, 3, dtype=torch.float64),
        "transposed": lambda: torch.empty(2, 3, 3, 3, dtype=torch.float64).permute(2, 3, 0, 1),
        "strided": lambda: torch.empty(3, 3, 2, 6, dtype=torch.float64)[..., ::2],
        "no matrix": lambda: torch.empty(3, 2, 3, 3, dtype=torch.float64).permute(3, 2, 1, 0)[:, :, :, :],
    }[layout]()
    found = cj.jacobian(func, x, mode=mode, chunk_size=2, out=out)
    assert found.untyped_storage().data_ptr() == out.untyped_storage().data_ptr()
    assert torch.equal(out, expected)


def test_out_takes_the_tree_of_the_result() -> None:
    case = example("parameters")
    expected = cj.jacobian(case.func, *case.args)
    out = {name: torch.empty_like(leaf) for name, leaf in expected.items()}
    cj.jacobian(case.func, *case.args, out=out)
    assert all(torch.equal(out[name], expected[name]) for name in expected)


def test_a_sink_gets_each_direction_once_in_order() -> None:
    case = example("autoencoder")
    problem = Problem.of(case.func, case.args, 0, has_aux=False)
    written: list[slice] = []

    class Recorder(Whole):
        def places(self, chunk: slice) -> None:
            return None

        def write(self, chunk: slice, block: Any) -> None:
            assert all(len(values) == chunk.stop - chunk.start for values in block)
            written.append(chunk)

    tracker = LiveBytes(CPU)
    limits = Limits(n_directions=30, base=Cost(0, 0, 0, 0, 1), budget_bytes=10**9, target_bytes=None)
    chunks = [*filled(Recorder(), Reverse(problem), Pacer(limits), tracker, Log())]
    assert chunks == written
    assert [i for chunk in written for i in range(chunk.start, chunk.stop)] == list(range(30))


def test_progress_is_shown_when_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    cj.jacobian(torch.sin, torch.zeros(50), progress=True)
    shown = capfd.readouterr().err
    assert "jacobian" in shown
    assert "50/50" in shown.replace("50.0", "50")
    cj.jacobian(torch.sin, torch.zeros(50), progress=False)
    cj.jacobian(torch.sin, torch.zeros(50))  # stderr is no terminal here
    assert capfd.readouterr().err == ""


def test_a_callable_gets_the_progress_of_each_chunk() -> None:
    seen: list[cj.Progress] = []
    cj.jacobian(torch.sin, torch.zeros(10), chunk_size=4, progress=seen.append)
    assert [(progress.done, progress.total) for progress in seen] == [(4, 10), (8, 10), (10, 10)]
    assert seen[-1].remaining_s == 0
    assert all(progress.directions_per_s > 0 for progress in seen)


def test_targets_are_allocated_once_and_written_in_place() -> None:
    case = example("mlp")
    mode = Reverse(Problem.of(case.func, case.args, 0, has_aux=False))
    sink = TensorSink(mode)
    before = sink.result().data_ptr()
    sink.write(slice(0, 3), mode.block(slice(0, 3)))
    assert sink.result().data_ptr() == before


def test_a_backward_pass_that_failed_holds_nothing_afterwards() -> None:
    """torch's engine keeps the nodes that were still to run, until it is told otherwise."""
    case = example("transformer_layer")
    budget = cj.plan(case.func, *case.args, mode="reverse", chunk_size=1).predicted_peak_bytes
    with LiveBytes(CPU) as tracker:
        for too_little in range(budget - 4000, budget, 1000):
            with pytest.raises(cj.BudgetError):
                cj.jacobian(case.func, *case.args, mode="reverse", max_memory=too_little)
            assert tracker.live_bytes == 0


def test_threads_do_not_disturb_one_another() -> None:
    """torch has one forward-AD level for the whole process; without a lock this crashes."""
    case = example("mlp")
    expected = {mode: cj.jacobian(case.func, *case.args, mode=mode) for mode in MODES}
    wrong: list[str] = []

    def work(mode: str) -> None:
        for _ in range(15):
            if not torch.allclose(cj.jacobian(case.func, *case.args, mode=mode), expected[mode], atol=1e-12):
                wrong.append(mode)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, [*MODES, *MODES]))  # raises what a thread raised
    assert not wrong
