"""Live bytes, counted by hand."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import jvp, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from chunkjac._memory.foresight import NO_MEMORY, Traits, _most_bytes, tensors_among, traits_of
from chunkjac._memory.out_of_memory import OverBudget
from chunkjac._memory.tracker import LiveBytes

CPU = torch.device("cpu")
ONE = torch.ones(1)


def track(make: Callable[[], Any], **options: Any) -> tuple[int, int, Any]:
    """Return live bytes and peak after making something, and what was made."""
    tracker = LiveBytes(CPU, **options)
    with tracker:
        made = make()
    return tracker.live_bytes, tracker.peak_bytes, made


@pytest.mark.parametrize(
    ("make", "n_bytes"),
    [
        (lambda: torch.zeros(10), 40),
        (lambda: torch.empty(3, 5, dtype=torch.float64), 120),
        (lambda: torch.ones(10, dtype=torch.bool), 10),
        (lambda: torch.arange(6), 48),
        (lambda: torch.zeros(0), 0),
        (lambda: torch.tensor(1.0) + 1, 4),
        (lambda: [torch.zeros(2), {"a": torch.zeros(3)}], 20),
        (lambda: torch.zeros(8).sort(), 32 + 64),  # values and indices
    ],
)
def test_a_new_tensor_counts_its_bytes(make: Callable[[], Any], n_bytes: int) -> None:
    live_bytes, _, made = track(make)
    assert made is not None
    assert live_bytes == n_bytes


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[1:],
        lambda x: x.T,
        lambda x: x.view(-1),
        lambda x: x.expand(5, 4, 4),
        lambda x: x.diagonal(),
        lambda x: x.detach(),
        lambda x: x.unbind(),
        lambda x: x.add_(1),
        lambda x: x.T[1:].mul_(2),
        lambda x: torch.add(x, 1, out=x),
    ],
)
def test_views_and_writes_in_place_count_nothing(view: Callable[[torch.Tensor], Any]) -> None:
    old = torch.zeros(4, 4)
    assert track(lambda: view(old))[:2] == (0, 0)
    assert track(lambda: view(torch.zeros(4, 4)))[:2] == (64, 64)


def test_freeing_lowers_what_is_alive_and_not_the_peak() -> None:
    with LiveBytes(CPU) as tracker:
        a = torch.zeros(10)
        b = torch.zeros(20)
        view = a[2:]
        del a
        assert tracker.live_bytes == 120  # the view holds all of it
        del view
        assert tracker.live_bytes == 80
        c = torch.zeros(5)
        assert (tracker.live_bytes, tracker.peak_bytes) == (100, 120)
        tracker.restart_peak()
        assert tracker.peak_bytes == 100
        del b, c
        assert (tracker.live_bytes, tracker.peak_bytes) == (0, 100)


def test_what_lives_between_two_uses_counts_and_may_die_outside() -> None:
    tracker = LiveBytes(CPU)
    with tracker:
        a, b = torch.zeros(10), torch.zeros(20)
    outside = torch.zeros(1000)
    del a
    assert tracker.live_bytes == 80
    with tracker:
        made = outside + 1
        assert tracker.live_bytes == 4080
    del b, made
    assert tracker.live_bytes == 0


def test_a_tensor_from_before_counts_nothing_when_it_dies() -> None:
    old = torch.zeros(10)
    with LiveBytes(CPU) as tracker:
        old.add_(1)
        del old
        assert tracker.live_bytes == 0


def test_temporaries_count_towards_the_peak() -> None:
    x = torch.ones(10)
    assert track(lambda: ((x + 1) * 2).sum())[:2] == (4, 80)


@pytest.mark.parametrize("start", [0, 10])
def test_growing_and_shrinking_in_place_is_counted(start: int) -> None:
    with LiveBytes(CPU) as tracker:
        x = torch.empty(start)
        x.resize_(100)
        assert tracker.live_bytes == 400
        x.untyped_storage().resize_(0)
        x.resize_(0)
        assert (tracker.live_bytes, tracker.peak_bytes) == (0, 400)


def test_a_result_written_into_an_empty_tensor_counts() -> None:
    x = torch.ones(100)
    assert track(lambda: torch.add(x, 1, out=torch.empty(0)))[0] == 400


def test_a_linear_map_in_reverse_counts_as_by_hand() -> None:
    weight, x = torch.ones(3, 5), torch.ones(5)
    with LiveBytes(CPU) as tracker, torch.no_grad():
        _, pull = vjp(lambda x: weight @ x, x)
        seeds = torch.eye(3)
        level_bytes = tracker.live_bytes
        tracker.restart_peak()
        rows = vmap(pull)(seeds)
        assert tracker.live_bytes - level_bytes == 4 * 3 * 5
        assert tracker.peak_bytes - level_bytes == 4 * 3 * 5
    assert torch.equal(rows[0], weight)


def test_a_linear_map_forward_counts_as_by_hand() -> None:
    x, tangents = torch.ones(5), torch.eye(5)
    with LiveBytes(CPU) as tracker, torch.no_grad():
        columns = vmap(lambda tangent: jvp(torch.neg, (x,), (tangent,))[1])(tangents)
        assert tracker.live_bytes == 4 * 5 * 5
        assert tracker.peak_bytes == 4 * (5 + 5 * 5)  # the value beside the columns
    assert torch.equal(columns, -tangents)


@pytest.mark.parametrize(
    "make",
    [
        lambda n: torch.empty(n),
        lambda n: torch.zeros(n),
        lambda n: torch.full((n,), 2.0),
        lambda n: torch.randn(n),
        lambda n: ONE.expand(n).clone(),
        lambda n: ONE.expand(n) * 2,
    ],
)
def test_what_exceeds_the_limit_is_refused_before_it_exists(make: Callable[[int], torch.Tensor]) -> None:
    tracker = LiveBytes(CPU, limit_bytes=1000)
    with tracker:
        kept = torch.zeros(100)
        with pytest.raises(OverBudget) as caught:
            make(2**48)  # 2^50 bytes, which no machine has
        assert (tracker.live_bytes, tracker.peak_bytes) == (kept.nbytes, kept.nbytes)
    assert isinstance(caught.value, MemoryError)
    assert str(2**50) in str(caught.value)
    assert "600" in str(caught.value)


def test_the_limit_itself_is_allowed() -> None:
    assert track(lambda: torch.zeros(250), limit_bytes=1000)[0] == 1000
    with pytest.raises(OverBudget):
        track(lambda: torch.zeros(250), limit_bytes=999)


def test_the_limit_is_on_what_is_alive_and_not_on_the_sum() -> None:
    def one_after_the_other() -> None:
        for _ in range(10):
            torch.zeros(200).add_(1)

    assert track(one_after_the_other, limit_bytes=1000)[:2] == (0, 800)


@pytest.mark.parametrize(
    "grow",
    [
        pytest.param(lambda x: x.new_zeros(10**5), id="new_zeros"),
        pytest.param(lambda x: x.repeat(10**5), id="repeat"),
        pytest.param(lambda x: x.repeat_interleave(10**5), id="repeat_interleave"),
        pytest.param(lambda x: nn.functional.pad(x, (0, 10**5)), id="pad"),
        pytest.param(lambda x: torch.ops.aten.select_backward(x[0], [10**5], 0, 3), id="select_backward"),
        pytest.param(lambda x: torch.ops.aten.slice_backward(x, [10**5], 0, 0, 1, 1), id="slice_backward"),
        pytest.param(lambda x: nn.functional.interpolate(x.view(1, 1, 1), scale_factor=10**5), id="interpolate"),
        pytest.param(lambda x: x.resize_(10**5), id="resize_"),
    ],
)
def test_a_large_result_of_a_small_tensor_is_refused(grow: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(OverBudget):
        track(lambda: grow(ONE.clone()), limit_bytes=1000)


def test_what_operations_make_is_remembered_by_the_layouts_of_their_arguments() -> None:
    """A gather makes as much as its index holds: neither other sizes nor other types are taken for what was seen."""
    source = torch.randn(10)
    for _ in range(2):
        for n in (3, 300, 30):
            index = torch.zeros(n, dtype=torch.int64)
            assert track(lambda index=index: source.gather(0, index), limit_bytes=4 * n)[1] == 4 * n
            with pytest.raises(OverBudget):
                track(lambda index=index: source.gather(0, index), limit_bytes=4 * n - 1)
            with pytest.raises(OverBudget):
                track(lambda index=index: source.double().gather(0, index), limit_bytes=80 + 8 * n - 1)


def test_memory_under_arguments_is_told_apart_in_what_is_remembered() -> None:
    """What is resized makes only what its memory has not: tensors of one shape may have much of it or little."""
    for n_held, n_made in ((1000, 0), (10, 3960), (500, 2000)):
        x = torch.zeros(n_held)[:10]
        if n_made:
            with pytest.raises(OverBudget, match="would make"):
                track(lambda x=x: x.resize_(1000), limit_bytes=n_made - 1)
        assert track(lambda x=x: x.resize_(1000), limit_bytes=n_made)[1] == n_made


def test_numbers_of_different_types_are_told_apart_in_what_is_remembered() -> None:
    """``1 == 1.0`` in Python, and torch makes 8 bytes of the one and 4 of the other."""
    for _ in range(2):
        assert track(lambda: torch.full((10**4,), 1.0), limit_bytes=4 * 10**4)[1] == 4 * 10**4
        with pytest.raises(OverBudget, match="would make"):
            track(lambda: torch.full((10**4,), 1), limit_bytes=4 * 10**4)


def test_the_default_type_is_told_apart_in_what_is_remembered() -> None:
    assert track(lambda: torch.full((10**4,), 1.0), limit_bytes=4 * 10**4)[1] == 4 * 10**4
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(OverBudget, match="would make"):
            track(lambda: torch.full((10**4,), 1.0), limit_bytes=4 * 10**4)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "make",
    [lambda: torch.zeros(10**6, device="meta"), lambda: torch.ones(100).to("meta").repeat(10**4)],
    ids=["new", "copied"],
)
@pytest.mark.parametrize("limit_bytes", [None, 1000])
def test_another_device_counts_nothing(make: Callable[[], torch.Tensor], limit_bytes: int | None) -> None:
    live_bytes, peak_bytes, made = track(make, limit_bytes=limit_bytes)
    assert made.numel() == 10**6
    assert live_bytes == 0
    assert peak_bytes <= 400


def network() -> nn.Module:
    """Return a small network whose parameters require grad."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 3))


def rows(func: Callable[..., Any], x: torch.Tensor, seeds: torch.Tensor) -> Any:
    """Return rows by vmap of the vjp."""
    with torch.no_grad():
        return vmap(vjp(func, x)[1])(seeds)


def columns(func: Callable[..., Any], x: torch.Tensor, seeds: torch.Tensor) -> Any:
    """Return columns by vmap of the jvp."""
    with torch.no_grad():
        return vmap(lambda tangent: jvp(func, (x,), (tangent,))[1])(seeds)


@pytest.mark.parametrize(("sweep", "n_seeds"), [(rows, 3), (columns, 4)])
def test_a_dry_run_counts_what_a_real_run_does(sweep: Callable[..., Any], n_seeds: int) -> None:
    func, x, seeds = network(), torch.ones(4), torch.eye(n_seeds)
    live_bytes, peak_bytes, made = track(lambda: sweep(func, x, seeds))
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        fakes = fake.from_tensor(x), fake.from_tensor(seeds)
        dry = track(lambda: sweep(func, *fakes), fake=fake)
    assert dry[:2] == (live_bytes, peak_bytes)
    assert live_bytes == 4 * n_seeds * (4 if sweep is rows else 3)
    assert peak_bytes > live_bytes
    assert made is not None


def test_a_dry_run_inside_a_real_one_counts_nothing_there() -> None:
    with LiveBytes(CPU) as outer, FakeTensorMode(allow_non_fake_inputs=True) as fake:
        assert track(lambda: torch.zeros(100), fake=fake)[0] == 400
    assert outer.peak_bytes == 0


@pytest.mark.parametrize("dry", [False, True])
def test_captured_parameters_count_nothing(dry: bool) -> None:
    weight, bias = nn.Parameter(torch.ones(3, 50)), torch.ones(3)

    def use() -> torch.Tensor:
        return weight.detach().sum(1).add_(bias)

    if dry:
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            assert track(use, fake=fake)[:2] == (12, 12)
    else:
        assert track(use)[:2] == (12, 12)


IMAGE, KERNEL = torch.ones(1, 2, 6, 6), torch.ones(4, 2, 3, 3)  # 288 and 288 bytes; 256 of the result


IMAGES, KERNELS = torch.ones(2, 2, 6, 6, dtype=torch.float64), torch.ones(4, 2, 3, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("func", "peak", "worked"),
    [
        (lambda: torch.ones(3, 3) @ torch.ones(3), 36 + 12 + 12, 36 + 12 + 12),
        (lambda: nn.functional.conv2d(IMAGE, KERNEL), 256, 256 + 288),
        (lambda: nn.functional.conv2d(IMAGE[:1].expand(2, 2, 6, 6), KERNEL), 512, 512 + 576 + 576),
        (lambda: nn.functional.conv_transpose2d(IMAGE, torch.ones(2, 1, 3, 3)), 72 + 256, 72 + 256 + 2 * 288),
        (lambda: nn.functional.conv2d(IMAGES, KERNELS), 1024, 1024 + 2 * 2 * 9 * 16 * 8),
        (lambda: nn.functional.conv2d(IMAGES, KERNELS[:, :, :1, :1]), 2304, 2304),
        (lambda: nn.functional.conv2d(IMAGES, KERNELS, dilation=2), 256, 256 + 2 * 9 * 4 * 8),
    ],
    ids=[
        "product",
        "convolution",
        "of an expanded input",
        "transposed",
        "double",
        "double, by points",
        "double, dilated",
    ],
)
def test_what_convolutions_work_in_is_foreseen(func: Callable[[], Any], peak: int, worked: int) -> None:
    with LiveBytes(CPU) as tracker:
        func()
    assert tracker.peak_bytes == peak
    assert tracker.margin == pytest.approx(worked / peak)
    tracker.restart_peak()
    assert tracker.margin == 1.0


def test_recurrent_layers_are_taken_to_need_a_third_more_than_they_hold() -> None:
    for other_bytes in (0, 10**6):
        with LiveBytes(CPU) as tracker:
            other = torch.zeros(other_bytes, dtype=torch.uint8)
            tracker.restart_peak()
            nn.LSTM(2, 2)(torch.ones(3, 2))
            assert tracker.margin == pytest.approx(1.35, abs=0.05)
            del other


@pytest.mark.parametrize("dry", [False, True])
def test_the_tracker_is_freed_while_what_it_counted_lives(dry: bool) -> None:
    fake = FakeTensorMode(allow_non_fake_inputs=True) if dry else None
    tracker = LiveBytes(CPU, fake=fake)
    with fake or nullcontext(), tracker:
        made = ONE + 1
    gone = weakref.ref(tracker)
    del tracker
    assert gone() is None
    assert made.shape == (1,)


A, B, C = torch.ones(6, 5), torch.ones(5, 7), torch.ones(3, 6, 5)
BOUNDED = {
    "broadcast": lambda: torch.ones(40, 1) * torch.ones(50),
    "outer": lambda: torch.outer(torch.ones(40), torch.ones(50)),
    "compare": lambda: A > 1,
    "to double": lambda: A.double(),
    "to complex": lambda: A.to(torch.complex128),
    "product": lambda: A @ B,
    "batched product": lambda: torch.bmm(C, torch.ones(3, 5, 90)),
    "addmm": lambda: torch.addmm(torch.ones(90), A, torch.ones(5, 90)),
    "baddbmm": lambda: torch.baddbmm(torch.ones(3, 6, 90), C, torch.ones(3, 5, 90)),
    "empty product": lambda: torch.ones(60, 0) @ torch.ones(0, 70),
    "layer norm": lambda: torch.native_layer_norm(torch.ones(64, 1, dtype=torch.float64), [1], None, None, 1e-5),
    "softmax": lambda: torch.softmax(A, 0),
    "cat": lambda: torch.cat([A, A, A.double()]),
    "stack": lambda: torch.stack([A, A]),
    "where": lambda: torch.where(torch.ones(30, 1) > 0, torch.ones(40), 1.0),
    "clone of a view": lambda: torch.ones(1).expand(500).clone(),
    "contiguous": lambda: torch.ones(1, 9).expand(50, 9).contiguous(),
    "convolution": lambda: nn.functional.conv1d(torch.ones(1, 1, 50), torch.ones(30, 1, 3), padding=20),
    "unfold": lambda: nn.functional.unfold(torch.ones(1, 1, 9, 9), 5, padding=4),
    "embedding": lambda: nn.functional.embedding(torch.zeros(100, dtype=torch.long), torch.ones(2, 50)),
    "index": lambda: A[torch.zeros(200, dtype=torch.long)],
    "one hot": lambda: nn.functional.one_hot(torch.arange(20), 90),
    "repeat": lambda: torch.ones(3).repeat(50, 20),
    "arange": lambda: torch.arange(700),
    "new zeros": lambda: A.new_zeros(40, 40),
    "cdist": lambda: torch.cdist(torch.ones(60, 2), torch.ones(70, 2)),
    "norm": lambda: torch.linalg.vector_norm(A, dim=1, keepdim=True),
    "fft": lambda: torch.fft.rfft(torch.ones(10), n=2000),
    "interpolate": lambda: nn.functional.interpolate(torch.ones(1, 1, 5, 5), scale_factor=20),
    "pad": lambda: nn.functional.pad(torch.ones(5), (300, 300)),
    "kron": lambda: torch.kron(torch.eye(15), torch.eye(16)),
    "diag": lambda: torch.diag_embed(torch.ones(60)),
    "identity": lambda: torch.eye(300),
    "bases": lambda: torch.linalg.svd(torch.ones(90, 1), full_matrices=True),
    "resized": lambda: torch.empty(0).resize_(5000),
    "small steps": lambda: torch.arange(0, 1, 1e-4),
    "blocks": lambda: torch.block_diag(*[torch.ones(1, 1)] * 200),
    "tril": lambda: torch.tril_indices(30, 30),
}


class Assumptions(TorchDispatchMode):
    """Hold what is assumed of operations against what they do.

    Attributes:
        seen: The operations.
        wrong: Those that give an argument's memory back, or make more than their bound.
    """

    def __init__(self, traits_of: Callable[[Any], Traits] = traits_of) -> None:
        super().__init__()
        self.seen: set[Any] = set()
        self.wrong: set[Any] = set()
        self._traits_of = traits_of

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tensors_among((*args, *kwargs.values())) if x.layout == torch.strided]
        memory = {x.untyped_storage()._cdata for x in given}
        traits = self._traits_of(func)
        most_bytes = _most_bytes(traits, args, kwargs, given)
        made = func(*args, **kwargs)
        dense = [x for x in tensors_among((made,)) if x.layout == torch.strided]
        storages = {x.untyped_storage() for x in dense}
        shares = any(storage._cdata in memory for storage in storages)
        made_bytes = sum(storage.nbytes() for storage in storages if storage._cdata not in memory)
        if (traits.is_new and shares) or made_bytes > most_bytes:
            self.wrong.add(func)
        self.seen.add(func)
        return made


@pytest.mark.parametrize("name", BOUNDED)
def test_no_result_is_larger_than_its_bound(name: str) -> None:
    """A limit that is not reached by the bound is not looked at closer, so the bound must hold."""
    with Assumptions() as mode:
        BOUNDED[name]()
    assert mode.seen
    assert not mode.wrong


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(600),
        lambda: torch.linalg.svd(torch.ones(600, 1), full_matrices=True),
        lambda: torch.ones(300_000, device="cpu:0"),
        lambda: torch.arange(0, 1, 1e-6),
        lambda: torch.block_diag(*[torch.ones(1, 1)] * 600),
        lambda: torch.ops.aten.zeros([600, 600]),
        lambda: torch.empty(0).resize_(300_000),
        lambda: torch.mm(torch.ones(600, 1), torch.ones(1, 600), out=torch.empty(0)),
        lambda: torch.ones(100, 100)[torch.zeros(3000, dtype=torch.long)],
    ],
    ids=["identity", "bases", "device by number", "small steps", "blocks", "zeros", "resized", "out", "index"],
)
def test_what_makes_much_of_little_is_refused_before_it_is_made(make: Callable[[], Any]) -> None:
    with LiveBytes(CPU, limit_bytes=10**6) as tracker, pytest.raises(OverBudget, match="would make"):
        make()
    assert tracker.highest_bytes < 10**6


def test_an_operation_that_gives_an_arguments_memory_would_be_seen() -> None:
    with Assumptions() as mode:
        torch.unsafe_split(torch.ones(4), 2)
    assert not mode.wrong
    with Assumptions(lambda func: replace(traits_of(func), is_new=True)) as mode:
        torch.unsafe_split(torch.ones(4), 2)
    assert mode.wrong == {torch.ops.aten.unsafe_split.Tensor}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_operations_make_new_memory_where_that_is_assumed_and_no_more_than_their_bound() -> None:
    """All of torch's samples of its operators, back as well."""
    from torch.testing._internal.common_methods_invocations import op_db

    with Assumptions() as mode:
        for op in op_db:
            if not op.supports_autograd or torch.float32 not in op.supported_backward_dtypes("cpu"):
                continue
            for sample in islice(op.sample_inputs("cpu", torch.float32, requires_grad=True), 12):
                try:
                    made = op(sample.input, *sample.args, **sample.kwargs)
                    parts = [x for x in tensors_among((made,)) if x.requires_grad]
                    torch.autograd.backward(parts, [torch.ones_like(x) for x in parts])
                except Exception:  # samples that need more than this call
                    continue
    assert len(mode.seen) > 400
    assert mode.wrong <= {NO_MEMORY}  # which takes none


def test_nothing_of_python_runs_where_a_storage_dies() -> None:
    """A Ctrl-C that came in there would be printed and lost."""
    ran: list[str] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            ran.append(frame.f_code.co_name)

    with LiveBytes(torch.device("cpu")) as tracker:
        kept = [torch.ones(10)]
        before = sys.getprofile()
        sys.setprofile(note)
        try:
            kept.clear()
        finally:
            sys.setprofile(before)
        assert tracker.live_bytes == 0
    assert not ran
