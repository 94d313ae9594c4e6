"""Errors sorted into a few kinds."""

from __future__ import annotations

import re

# The first that is found in an error names it.
_KINDS = (
    (r"no elements|is empty", "without elements"),
    (r"random operation|randomness|rrelu_with_noise", "random inside vmap"),
    (r"different answers for the same input", "random"),
    (r"setup_context", "legacy autograd.Function"),
    (r"forward AD.*(not|NYI)|does not support.*forward|not have a formula for forward", "no forward derivative"),
    (r"derivative for .* is not implemented|not differentiable|not implemented the derivative", "no derivative"),
    (r"data-dependent|\.item\(\)|data pointer", "reads values"),
    (r"sparse", "sparse"),
    (r"nested", "nested"),
    (r"setStorage|memory outside of", "reads memory beside its input"),
    (r"channels_last|memory_format", "memory format inside vmap"),
    (r"not at all, or out of the range", "no step moves an input that is not finite"),
    (r"in place|in-place|inplace", "writes in place"),
    (r"size of tensor a", "shapes inside vmap"),
    (r"vmap|batching rule", "no batching rule"),
    (r"does not require grad", "no gradient"),
)


def reason_of(error: str) -> str:
    """Return the kind of an error; its beginning, if it is of none."""
    for pattern, kind in _KINDS:
        if re.search(pattern, error, re.IGNORECASE):
            return kind
    return re.sub(r"\d+", "N", error)[:100]
