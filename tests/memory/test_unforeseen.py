"""What no shape foretells: sizes that depend on values, operators nobody knows, storages that no operation makes."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import chunkjac as cj
from chunkjac._memory.out_of_memory import OverBudget
from chunkjac._memory.storages import has_a_tensor
from chunkjac._memory.tracker import LiveBytes

CPU = torch.device("cpu")
MODES = ("reverse", "forward", "finite-difference")


def peak_of(make: Callable[[], Any], limit_bytes: int | None = None) -> int:
    """Return the peak of what is made, which is kept until then."""
    with LiveBytes(CPU, limit_bytes=limit_bytes) as tracker:
        made = make()
    del made
    return tracker.peak_bytes


WIDE = torch.arange(400.0).reshape(20, 20)
BY_VALUES = {
    "nonzero": lambda: (WIDE - 9).nonzero(),
    "mask": lambda: WIDE[torch.ones(20, 20, dtype=torch.bool)],
    "mask of rows": lambda: WIDE[torch.ones(20, dtype=torch.bool)],
    "masked_select": lambda: WIDE.masked_select(torch.ones(20, dtype=torch.bool)),
    "unique": lambda: WIDE.unique(return_inverse=True, return_counts=True),
    "unique_consecutive": lambda: WIDE.unique_consecutive(return_counts=True),
    "repeat_interleave": lambda: torch.repeat_interleave(torch.tensor([3, 200])),
    "bincount": lambda: torch.bincount(torch.tensor([3, 200])),
    "to sparse": lambda: WIDE.to_sparse(),
    "to sparse rows": lambda: WIDE.to_sparse_csr(),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("make", BY_VALUES.values(), ids=BY_VALUES)
def test_what_depends_on_values_is_refused_before_it_exists(make: Callable[[], Any]) -> None:
    needed = peak_of(make)
    assert needed >= 1600
    with LiveBytes(CPU, limit_bytes=needed - 1) as tracker, pytest.raises(OverBudget, match="would make"):
        make()
    assert tracker.peak_bytes < needed


MATRIX = (WIDE * (WIDE % 3 == 0)).to_sparse()
OF_SPARSE = {
    "times dense": lambda: torch.sparse.mm(MATRIX, WIDE),
    "times a vector": lambda: MATRIX @ WIDE[0],
    "rows times dense": lambda: MATRIX.to_sparse_csr() @ WIDE,
    "plus": lambda: torch.sparse.addmm(WIDE, MATRIX, WIDE),
    "times sparse": lambda: torch.sparse.mm(MATRIX, MATRIX),
    "scaled": lambda: MATRIX * 3,
    "pointwise": lambda: torch.sin(MATRIX),
    "sum of two": lambda: MATRIX + MATRIX,
    "dense": lambda: MATRIX.to_dense(),
    "softmax": lambda: torch.sparse.softmax(MATRIX, 1),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("make", OF_SPARSE.values(), ids=OF_SPARSE)
def test_what_is_made_of_sparse_tensors_is_bounded_by_what_they_hold(make: Callable[[], Any]) -> None:
    needed = peak_of(make)
    assert needed >= 80
    assert peak_of(make, limit_bytes=12 * needed) == needed
    with LiveBytes(CPU, limit_bytes=needed - 1) as tracker, pytest.raises(OverBudget, match="would make"):
        make()
    assert tracker.peak_bytes < needed


def test_what_nobody_bounds_of_sparse_tensors_is_refused_only_under_a_limit_that_was_set() -> None:
    """A sum over a dimension is neither a product nor pointwise: dense, the matrix would take 40 GB."""
    places = torch.arange(10**5).expand(2, -1)
    matrix = torch.sparse_coo_tensor(places, torch.ones(10**5), check_invariants=True).coalesce()
    with LiveBytes(CPU, limit_bytes=2**30, is_guess=True):
        assert torch.ops.aten.sum.dim_IntList(matrix, [1]).shape == (10**5,)
    with LiveBytes(CPU, limit_bytes=2**30), pytest.raises(OverBudget, match="would make"):
        torch.ops.aten.sum.dim_IntList(matrix, [1])


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning", "ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("mode", MODES)
def test_a_function_of_a_sparse_matrix_keeps_to_a_limit(mode: str) -> None:
    """J of A sin(x) is A diag(cos x)."""
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)
    matrix = MATRIX.double()
    found, report = cj.jacobian(
        lambda x: torch.sparse.mm(matrix, x.sin()[:, None])[:, 0], x, mode=mode, max_memory="1MiB", return_report=True
    )
    assert torch.allclose(found, matrix.to_dense() * x.cos(), atol=1e-5, rtol=1e-7)
    assert report.peak_bytes <= 2**20


MASKED = {
    "mask": lambda: WIDE[WIDE > 300],
    "nonzero": lambda: (WIDE > 300).nonzero(),
    "repeat_interleave": lambda: torch.repeat_interleave(torch.tensor([3, 200])),
}


@pytest.mark.parametrize("make", MASKED.values(), ids=MASKED)
def test_what_depends_on_values_is_foreseen_by_those_values(make: Callable[[], Any]) -> None:
    """99 of 400 elements pass: room for all of them is not asked for, only for their indices."""
    assert peak_of(make, limit_bytes=400 + 99 * (4 + 2 * 8)) > 0


def test_a_zero_that_is_made_like_the_memory_under_a_view_is_foreseen() -> None:
    """Forward AD makes as much as the whole memory under a slice, times the batch."""
    like, batch = torch.zeros(20, 40)[:, :7], torch.zeros(5, 3)
    make = torch.ops.aten._new_zeros_with_same_feature_meta.default
    assert peak_of(lambda: make(batch, like, self_num_batch_dims=1)) == 5 * 20 * 40 * 4
    with pytest.raises(OverBudget, match="would make 16000 bytes"):
        peak_of(lambda: make(batch, like, self_num_batch_dims=1), limit_bytes=15_000)


@torch.library.custom_op("chunkjac_tests::grow", mutates_args=())
def grow(x: torch.Tensor) -> torch.Tensor:
    """Make much of little, and tell nobody."""
    return x.new_ones(10**6)


@torch.library.custom_op("chunkjac_tests::grow_foreseen", mutates_args=())
def grow_foreseen(x: torch.Tensor) -> torch.Tensor:
    """Make much of little, and say so."""
    return x.new_ones(10**6)


@grow_foreseen.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(10**6)


@pytest.mark.parametrize("func", [grow, grow_foreseen], ids=["unknown", "foreseen"])
def test_an_operator_of_others_is_run_only_where_it_tells_what_it_makes(func: Any) -> None:
    x = torch.ones(3)
    assert peak_of(lambda: func(x)) == 4 * 10**6
    with LiveBytes(CPU, limit_bytes=4 * 10**6 - 1) as tracker, pytest.raises(OverBudget):
        func(x)
    assert tracker.peak_bytes == 0
    if func is grow_foreseen:
        assert peak_of(lambda: func(x), limit_bytes=4 * 10**6) == 4 * 10**6
    else:
        with pytest.raises(cj.BudgetError, match="register_fake"):
            cj.jacobian(lambda x: x * grow(x.detach())[0], x, max_memory="64MiB")
        assert torch.equal(cj.jacobian(lambda x: x * grow(x.detach())[0], x, chunk_size=1), torch.eye(3))
        assert torch.equal(cj.jacobian(lambda x: x * grow(x.detach())[0], x, return_report=True)[0], torch.eye(3))


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning", "ignore:There is a performance drop:UserWarning")
def test_a_bound_that_only_numbers_tell_refuses_nothing_where_nobody_set_a_limit() -> None:
    """Sixteen lengths of fifty would be 50^16, if each could multiply a size."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 16, 5, dtype=torch.float64, generator=generator)
    targets = torch.randint(1, 5, (16, 20), generator=generator)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        lengths = [[50] * 16, [20] * 16]
        return torch.nn.functional.ctc_loss(logits.log_softmax(-1), targets, *lengths, reduction="none")

    wanted = torch.stack(
        [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in loss(logits.requires_grad_())]
    )
    for options in ({}, {"max_memory": "64MiB"}):
        found = cj.jacobian(loss, logits.detach(), mode="reverse", **options)
        assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-12)


class Strange:
    """Run code where it is asked what it is."""

    @property
    def __class__(self) -> type:
        raise AssertionError


def test_looking_for_a_storage_asks_no_object_what_it_is() -> None:
    strange = [Strange()]
    assert not has_a_tensor(torch.UntypedStorage(8))
    assert len(strange) == 1


@torch.library.custom_op("chunkjac_tests::grow_untold", mutates_args=())
def grow_untold(x: torch.Tensor) -> torch.Tensor:
    """Make much of little, and say that it is little."""
    return x.new_ones(10**6)


@grow_untold.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(1)


def test_what_is_there_and_was_not_foreseen_is_refused() -> None:
    x = torch.ones(3)
    with pytest.raises(OverBudget, match="more than could be foreseen"):
        peak_of(lambda: grow_untold(x), limit_bytes=10**6)


PICKLED = pickle.dumps(WIDE)
SAVED = io.BytesIO()
torch.save({"a": WIDE, "b": WIDE[3:]}, SAVED)


def loaded() -> Any:
    """Return what was saved: two tensors in one memory."""
    SAVED.seek(0)
    return torch.load(SAVED)


def resized() -> torch.Tensor:
    """Return a tensor in memory that was taken for it without an operation."""
    x = torch.empty(0)
    x.untyped_storage().resize_(1600).fill_(0)
    return x


BY_NO_OPERATION = {
    "deepcopy": lambda: copy.deepcopy(WIDE * 1),
    "pickle": lambda: pickle.loads(PICKLED),
    "load": loaded,
    "resize_": resized,
    "storage": lambda: torch.UntypedStorage(1600).fill_(0),
    "cloned storage": lambda: (WIDE * 1).untyped_storage().clone(),
    "sparse": lambda: WIDE.to_sparse(),
}


@pytest.mark.parametrize("make", BY_NO_OPERATION.values(), ids=BY_NO_OPERATION)
def test_storages_that_no_operation_makes_are_counted(make: Callable[[], Any]) -> None:
    peak_bytes = peak_of(make)
    assert peak_bytes >= (3200 if "copy" in str(make) else 960)
    with pytest.raises(OverBudget):
        peak_of(make, limit_bytes=900)


def test_memory_that_was_there_before_is_not_counted_when_it_comes_to_another_tensor() -> None:
    held = torch.zeros(2**19)
    with LiveBytes(CPU) as tracker:
        torch.empty(0).set_(held.untyped_storage())
        assert tracker.live_bytes == 0
        made = copy.deepcopy(held)
        assert tracker.live_bytes == held.nbytes
    del made


def test_memory_that_was_there_before_counts_by_what_it_grows() -> None:
    held = torch.zeros(100)
    with LiveBytes(CPU) as tracker:
        held.resize_(250)
        assert tracker.live_bytes == 600
        held.untyped_storage().resize_(0)
        held.resize_(0)
        held.resize_(100)
        assert tracker.live_bytes == 0


class Wrapped(torch.Tensor):
    """Be a tensor that holds another one."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Wrapped:
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*[arg.inner if isinstance(arg, Wrapped) else arg for arg in args], **(kwargs or {}))
        return Wrapped(made) if isinstance(made, torch.Tensor) else made


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")  # torch.func hides what is wrapped
def test_what_a_wrapper_holds_is_counted_and_the_wrapper_is_not() -> None:
    assert peak_of(lambda: Wrapped(WIDE) * 2) == 1600
    with pytest.raises(OverBudget):
        peak_of(lambda: Wrapped(WIDE) * 2, limit_bytes=1599)
    x = torch.ones(3)
    J = cj.jacobian(lambda x: x * (Wrapped(WIDE) * 2).inner[0, 1], x, max_memory="64KiB")
    assert torch.equal(J, 2 * torch.eye(3))
    with pytest.raises(cj.BudgetError):
        cj.jacobian(lambda x: x * (Wrapped(WIDE) * 2).inner[0, 1], x, max_memory=1500)


@pytest.mark.parametrize(
    ("make", "copied"),
    [
        (lambda: WIDE @ torch.ones(()).expand(20, 30), 20 * 30),
        (lambda: WIDE @ torch.ones(20).expand(20, 20), 20 * 20),
        (lambda: WIDE[::2, ::2] @ torch.ones(10, 3), 10 * 10 + 30),
        (lambda: torch.mv(WIDE[::2, ::2], WIDE[0, :10]), 10 * 10),
        (lambda: torch.bmm(WIDE.expand(5, 20, 20), torch.ones(()).expand(5, 20, 3)), 20 * 3),
        (lambda: WIDE.T @ WIDE[:, 2:], 0),
    ],
    ids=["zero", "rows", "steps", "vector", "batch", "as they lie"],
)
def test_a_matrix_that_a_product_copies_counts_for_as_long_as_that(make: Callable[[], Any], copied: int) -> None:
    made = make()
    largest_operand = 2400  # what is made for the product lives beside it
    assert made.nbytes + 4 * copied <= peak_of(make, limit_bytes=10**6) <= made.nbytes + 4 * copied + largest_operand
    with pytest.raises(OverBudget):
        peak_of(make, limit_bytes=made.nbytes + 4 * copied - 1)


@pytest.mark.parametrize("hold", [lambda w: {"w": [w]}, lambda w: type("Held", (), {"parts": {"w": w}})()])
def test_weights_are_not_multiplied_by_zeros_wherever_they_are_held(hold: Callable[[torch.Tensor], Any]) -> None:
    """Forward AD takes a zero as large as the weight, and copies it."""
    weight = torch.ones(40, 3000)
    held = hold(weight)

    def func(x: torch.Tensor) -> torch.Tensor:
        w = held["w"][0] if isinstance(held, dict) else held.parts["w"]
        return (x @ w)[:5] * 2

    x = torch.ones(40)
    J, report = cj.jacobian(func, x, mode="forward", max_memory=weight.nbytes // 2, return_report=True)
    assert torch.equal(J, torch.full((5, 40), 2.0))
    assert report.peak_bytes <= weight.nbytes // 2


@pytest.mark.parametrize("mode", MODES)
def test_a_scripted_function_is_refused_and_halved_as_another_is(mode: str) -> None:
    def plain(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.tanh(x @ w) @ w.t())

    scripted = torch.jit.script(plain)
    x, w = torch.ones(20), torch.linspace(-1, 1, 600).reshape(20, 30)
    with pytest.raises(cj.BudgetError, match="max_memory of"):
        cj.jacobian(scripted, x, w, mode=mode, max_memory=100)
    budget = 2 * cj.plan(plain, x, w, mode=mode, chunk_size=1).predicted_peak_bytes
    for _ in range(3):  # TorchScript rewrites it in its second run
        J, report = cj.jacobian(scripted, x, w, mode=mode, max_memory=budget, return_report=True)
        assert report.peak_bytes <= budget
        assert report.plan.rung == cj.jacobian(plain, x, w, mode=mode, return_report=True)[1].plan.rung
        torch.testing.assert_close(J, cj.jacobian(plain, x, w, mode=mode), atol=1e-3, rtol=1e-3)


def test_replayed_slices_in_forward_mode_keep_to_the_limit() -> None:
    torch.manual_seed(0)
    weight = torch.randn(2, 2, 4, 3, dtype=torch.cfloat)

    def func(x: torch.Tensor) -> torch.Tensor:
        wide = torch.tanh(x)[None].expand(2, -1, -1)
        spectrum = torch.fft.rfft2(wide)
        kept = torch.zeros_like(spectrum)
        kept[:, :4, :3] = torch.einsum("ixy,ioxy->oxy", spectrum[:, :4, :3], weight)
        return torch.fft.irfft2(kept, s=wide.shape[-2:]).sum(0)

    plan = cj.plan(func, torch.randn(12, 12), mode="forward", max_memory="512KiB")
    for _ in range(3):
        assert plan.run(return_report=True)[1].peak_bytes <= 512 * 2**10


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
@pytest.mark.parametrize("mode", MODES)
def test_what_a_recurrent_layer_keeps_is_foreseen(mode: str) -> None:
    """Its meta kernel says that it keeps nothing for its backward pass: it keeps 40 KiB here."""
    net, x = torch.nn.LSTM(4, 8), torch.ones(40)

    def func(x: torch.Tensor) -> Any:
        return net(x.view(10, 1, 4))[0]

    with pytest.raises(cj.BudgetError) as caught:
        cj.jacobian(func, x, mode=mode, max_memory=1)
    needed = caught.value.needed_bytes
    assert needed is not None
    for budget in (needed // 4, needed // 2, needed):
        with LiveBytes(CPU) as tracker:
            try:
                cj.jacobian(func, x, mode=mode, max_memory=budget)
            except cj.BudgetError:
                assert budget < needed
        assert tracker.peak_bytes <= budget


@pytest.mark.parametrize("options", [{}, {"chunk_size": 7}])
@pytest.mark.parametrize("mode", MODES)
def test_what_an_error_asks_for_has_a_files_buffers_in_it(mode: str, options: dict[str, Any], tmp_path: Any) -> None:
    weight = torch.linspace(-1, 1, 30 * 20).reshape(30, 20)
    x = torch.ones(20)
    with pytest.raises(cj.BudgetError) as caught:
        cj.jacobian(lambda x: (weight @ x).sin(), x, mode=mode, out=tmp_path / "a.npy", max_memory=1, **options)
    needed = caught.value.needed_bytes
    J, report = cj.jacobian(
        lambda x: (weight @ x).sin(),
        x,
        mode=mode,
        out=tmp_path / "b.npy",
        max_memory=needed,
        return_report=True,
        **options,
    )
    assert report.peak_bytes <= needed
    assert torch.allclose(torch.as_tensor(J), (weight @ x).cos()[:, None] * weight, atol=1e-2)


def test_a_peak_over_a_limit_is_an_error_however_it_came() -> None:
    """A function that swallows our refusal, after the memory was taken, gets no Jacobian."""
    packed = pickle.dumps(torch.ones(10**5))

    def func(x: torch.Tensor) -> torch.Tensor:
        with contextlib.suppress(MemoryError):
            pickle.loads(packed)
        return x * 2

    with pytest.raises(cj.BudgetError, match="unforeseen"):
        cj.jacobian(func, torch.ones(3), max_memory=10**5)


def test_a_mode_of_far_more_directions_is_warned_of_and_the_budget_that_saves_it_named() -> None:
    layers = [torch.nn.Tanh() for _ in range(30)]
    func = torch.nn.Sequential(torch.nn.Linear(100, 1000), *layers, torch.nn.Linear(1000, 3)).requires_grad_(False)
    x = torch.zeros(100)
    forward = cj.plan(func, x, mode="forward", chunk_size=1, max_memory="1GiB").predicted_peak_bytes
    with pytest.warns(cj.RungWarning, match=r"reverse mode, of 3 directions, .* max_memory of \d+ bytes") as caught:
        J = cj.jacobian(func, x, max_memory=int(1.2 * forward))
    (needed,) = [int(n) for n in re.findall(r"max_memory of (\d+)", str(caught[0].message))]
    again, report = cj.jacobian(func, x, max_memory=needed, return_report=True)
    assert report.plan.mode == "reverse"
    torch.testing.assert_close(J, again)
