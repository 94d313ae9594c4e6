"""Whether the time of a chunk tells that of the next."""

from __future__ import annotations

import sys

# torch imports it in the first vmap of a process, which takes a second.
_LATE_IMPORT = "torch._dynamo"


def is_warm() -> bool:
    """Tell whether all is imported that evaluations under ``vmap`` need."""
    return _LATE_IMPORT in sys.modules
