"""How many bytes an operation will allocate, found without running it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from math import ceil, inf, isfinite, prod
from typing import Any

import torch
from torch.utils._pytree import tree_map

from chunkjac._memory.value_sizes import SIZES, depends_on_values, is_sparse, sparse_bytes
from chunkjac._tensors import tensors_among

# Gives a tensor of zeros that has a size and no memory (forward AD of functions that ignore x).
NO_MEMORY = torch.ops.aten._efficientzerotensor.default

# `torch.tensor` makes its memory unseen, and hands it on through this as if it were a view.
LIFT_FRESH = torch.ops.aten.lift_fresh.default

# Unfolding and padding make a result this many times larger than their inputs at most.
_GROWTH = 16

_LARGEST_ITEM_BYTES = 16  # complex128

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd

_MOST_KNOWN = 4096  # What operations make is remembered for so many kinds of arguments.
_known_bytes: dict[Any, int | None] = {}

# These make as much as the memory under a tensor has, however little of it the tensor is, or as values say.
_UNBOUNDED = {torch.ops.aten._new_zeros_with_same_feature_meta.default, *SIZES} - {torch.ops.aten.index.Tensor}

# Their result has the rows of the last tensor but one and the columns of the last.
_PRODUCTS = {
    torch.ops.aten.mm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.baddbmm.default,
}

# They have no meta kernel, and what they give is like their first argument.
_SOFT, _GATED = ("cumsumexp", "_masked_softmax", "_masked_softmax_backward"), ("glu_jvp", "glu_backward_jvp")
_LIKE_THE_FIRST = (*_SOFT, *_GATED, "gamma_grad", "_sample_dirichlet", "dirichlet_grad")

# Their results hold no more elements than their arguments do, together. The last line has no meta kernel.
_NO_LARGER = (
    *("cat", "stack", "clone", "_to_copy", "roll", "flip"),
    *("sum", "mean", "amax", "var", "cumsum"),
    *("norm", "norm_backward", "_softmax", "_softmax_backward_data"),
    *("_flash_attention_for_cpu", "_flash_attention_for_cpu_backward"),
    *("margin_loss_backward", "ctc_loss_backward", "geqrf", "_aminmax", "binomial", "pack_padded_sequence"),
)

# The bounds below are of torch's own operations; nobody knows what others do.
_OWN = ("aten::", "prims::")


@dataclass(frozen=True, slots=True)
class Traits:
    """Hold what is known of an operation.

    Attributes:
        is_view: Whether it gives views, whatever its arguments.
        allocates: Whether it gives new memory: it works not in place, and gives no view.
        resizes: Whether it may give a tensor that it writes to more memory.
        is_own: Whether it is torch's own.
        is_bounded: Whether its arguments tell a bound for what it makes.
        is_pointwise: Whether its result has its arguments' shapes, broadcast.
        is_product: Whether it is a product of matrices.
        is_like_first: Whether its result is like its first argument.
        is_no_larger: Whether its results hold no more elements than its arguments.
        is_new: Whether its result is never an argument's memory (some say so, and it is: ``unsafe_split``).
    """

    is_view: bool
    allocates: bool
    resizes: bool
    is_own: bool
    is_bounded: bool
    is_pointwise: bool
    is_product: bool
    is_like_first: bool
    is_no_larger: bool
    is_new: bool


@cache
def traits_of(func: Any) -> Traits:
    """Look up an operation."""
    schema = func._schema
    aliases = [result.alias_info for result in schema.returns]
    may_be_view = bool(aliases) and all(aliases) and not schema.is_mutable
    makes_tensors = any("Tensor" in str(result.type) for result in schema.returns)
    allocates = makes_tensors and func not in (NO_MEMORY, torch.ops.aten._unsafe_view.default) and not any(aliases)
    is_pointwise = torch.Tag.pointwise in func.tags and len(schema.returns) == 1
    is_product = func in _PRODUCTS
    is_own = schema.name.startswith(_OWN)
    is_like_first = is_own and schema.name.endswith(_LIKE_THE_FIRST) and not schema.is_mutable
    is_no_larger = is_own and schema.name.endswith(_NO_LARGER)
    is_simple = is_pointwise or is_product or is_like_first or is_no_larger
    return Traits(
        # What is made of other operations says that it gives a view where it may give a copy (``reshape``).
        is_view=may_be_view and func is not LIFT_FRESH and not func.has_kernel_for_dispatch_key(_COMPOSITE),
        allocates=allocates,
        resizes=schema.is_mutable and (schema.overload_name.endswith("out") or "resize" in schema.name),
        is_own=is_own,
        is_bounded=is_own and func not in _UNBOUNDED,
        is_pointwise=is_pointwise,
        is_product=is_product,
        is_like_first=is_like_first,
        is_no_larger=is_no_larger,
        is_new=allocates and is_simple and not func.has_kernel_for_dispatch_key(_COMPOSITE),
    )


def bytes_to_be_made(
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    tensors: list[torch.Tensor],
    device: torch.device,
    spare_bytes: int,
    is_strict: bool = True,
) -> float:
    """Return the bytes that ``func(*args, **kwargs)`` will allocate for its results on a device, at most.

    The operation runs on meta tensors, which have shapes and no memory, unless its arguments show that it cannot fill
    ``spare_bytes`` (0 then), or one like it was seen: that takes 2 microseconds instead of 50. Where sizes depend on
    values, those are read. Without a meta kernel there is a bound if it is torch's own, and else nothing (``inf``);
    neither is a reason to refuse where nobody set a limit.

    Args:
        func: The operation.
        args: Its arguments.
        kwargs: Its arguments by name.
        tensors: The tensors among them.
        device: Where memory counts.
        spare_bytes: What is left.
        is_strict: Whether somebody set a limit.
    """
    traits = traits_of(func)
    most_bytes = _most_bytes(traits, args, kwargs, tensors)
    if most_bytes <= spare_bytes:
        return 0
    place = kwargs.get("device")
    if any(tensor.is_meta for tensor in tensors) or (place is not None and place.type != device.type):
        return 0
    if depends_on_values(func, tensors):
        return SIZES[func](*args, **kwargs)
    known_bytes = sparse_bytes(func, tensors) if is_sparse(tensors) else _known_on_meta(func, args, kwargs, tensors)
    return known_bytes if known_bytes is not None else most_bytes if is_strict else 0


def _known_on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[torch.Tensor]) -> int | None:
    """Return the bytes that an operation makes on meta tensors, from memory if such a one was seen."""
    key = (func, torch.get_default_dtype(), _likeness(args), _likeness(tuple(kwargs.items())))
    try:
        if key not in _known_bytes:
            if len(_known_bytes) >= _MOST_KNOWN:
                _known_bytes.clear()
            _known_bytes[key] = _bytes_on_meta(func, args, kwargs, tensors)
        return _known_bytes[key]
    except (TypeError, NotImplementedError):  # something among the arguments has no hash; script objects no equality
        return _bytes_on_meta(func, args, kwargs, tensors)


def _likeness(value: Any) -> Any:
    """Return what a result's size can depend on: the tensors' layouts and memory, and all else with its type."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype, value.untyped_storage().nbytes()
    return tuple(map(_likeness, value)) if isinstance(value, (tuple, list)) else (type(value), value)


def _bytes_on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[torch.Tensor]) -> int | None:
    """Return the bytes that an operation makes on meta tensors; ``None`` if it cannot run on them.

    Where torch's own operations raise anything else, they raise it for real as well, before they make anything.
    """
    try:
        meta_args, meta_kwargs = tree_map(_to_meta, (args, kwargs))
        if not tensors:
            meta_kwargs["device"] = torch.device("meta")
        given = [tensor.untyped_storage() for tensor in tensors_among((*meta_args, *meta_kwargs.values()))]
        before_bytes = {storage._cdata: storage.nbytes() for storage in given}
        made = func(*meta_args, **meta_kwargs)
    except Exception as error:
        return 0 if traits_of(func).is_own and not isinstance(error, NotImplementedError) else None
    after_bytes = {storage._cdata: storage.nbytes() for storage in given}
    for tensor in tensors_among((made,)):
        after_bytes[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
    return sum(max(0, n_bytes - before_bytes.get(key, 0)) for key, n_bytes in after_bytes.items())


def _most_bytes(traits: Traits, args: tuple[Any, ...], kwargs: Mapping[str, Any], tensors: list[torch.Tensor]) -> float:
    """Return a bound for what an operation makes; cheap, since it is asked for each one."""
    if not (traits.allocates or traits.resizes):
        return 0
    if not traits.is_bounded:
        return inf
    if traits.is_pointwise and tensors and not traits.resizes:
        return _LARGEST_ITEM_BYTES * _broadcast([tensor.shape for tensor in tensors])
    if traits.is_product:
        left, right = tensors[-2:]
        return _LARGEST_ITEM_BYTES * prod(left.shape[:-1]) * right.shape[-1]
    if traits.is_like_first:
        return tensors[0].nbytes
    # Padding, say, makes something of nothing.
    numels = [tensor.numel() or prod(max(1, size) for size in tensor.shape) for tensor in tensors] or [1]
    if traits.is_no_larger:
        return 2 * _LARGEST_ITEM_BYTES * sum(numels)
    # Products make all pairs of elements of two inputs, or of one with itself (bases of a decomposition, say). Sizes,
    # repeats and counts stand as numbers among the arguments and can each multiply; without a tensor for two sides.
    times = _times((*args, *kwargs.values()))
    pairs = sum(numels) ** 2 if tensors else times
    return _LARGEST_ITEM_BYTES * times * max(1, _GROWTH * sum(numels), pairs)


def _broadcast(shapes: list[torch.Size]) -> int:
    """Return the elements of what shapes are broadcast to."""
    first = shapes[0]
    if all(shape == first for shape in shapes):
        return first.numel()
    return prod(map(max, zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)))


def _times(values: Iterable[Any]) -> int:
    """Return how far the numbers among arguments can multiply sizes; a step below one divides."""
    times = 1
    for value in values:
        if isinstance(value, (int, float)):
            if value and isfinite(value):
                times *= ceil(max(abs(value), 1 / abs(value)))
        elif isinstance(value, (list, tuple)):
            times *= _times(value)
    return times


def _to_meta(value: Any) -> Any:
    """Return a tensor's shape, in as much memory, without that memory; a device becomes meta."""
    if isinstance(value, torch.Tensor):
        made = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        whole, storage = value.untyped_storage().nbytes(), made.untyped_storage()
        if whole > storage.nbytes():
            storage.resize_(whole)
        return made
    return torch.device("meta") if isinstance(value, torch.device) else value
