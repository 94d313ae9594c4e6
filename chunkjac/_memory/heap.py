"""What the C library does with memory that was freed."""

from __future__ import annotations

from contextlib import suppress
from functools import cache

import torch

# glibc adapts up to here (malloc.c, DEFAULT_MMAP_THRESHOLD_MAX), its own header and the page's rest included.
_LARGEST_BYTES = 32 * 2**20 - 2**16


@cache
def keep_freed_memory() -> None:
    """Let malloc keep up to 64 MiB of what is freed, as it does once any tensor of 32 MiB was freed in a process.

    Before that, glibc gives back to the system what large tensors took as soon as they are freed, and takes it again,
    page by page, for the next: chunks of 4-8 MiB a tensor take up to twice as long. This frees a tensor that was
    never touched, which takes 20 microseconds, once. It changes nothing where somebody has set the thresholds.

    Source:
        glibc, mallopt(3), M_MMAP_THRESHOLD: "dynamic mmap threshold".
    """
    with suppress(RuntimeError, MemoryError):  # there may be a limit that has no room for that
        torch.UntypedStorage(_LARGEST_BYTES)  # no operation, so that nobody who counts memory sees it
