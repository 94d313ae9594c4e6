"""Kernels that forward AD can differentiate, where the fused ones cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Take attention apart into products and a softmax, and RNNs into their steps.

    The fused attention kernels have no forward derivative (pytorch#98164), nor have the
    encoder layers' fast paths and the RNNs of oneDNN and cuDNN (pytorch#110422).
    """
    had_fast_paths, had_mkldnn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    had_cudnn = torch._C._get_cudnn_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        # `torch.backends.mkldnn.flags` would set its precision too, and warns of TF32 (torch 2.13); and
        # `torch.backends.cudnn.enabled` cannot be set after `torch.backends.disable_global_flags()`.
        torch._C._set_mkldnn_enabled(False)
        torch._C._set_cudnn_enabled(False)
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(had_fast_paths)
        torch._C._set_mkldnn_enabled(had_mkldnn)
        torch._C._set_cudnn_enabled(had_cudnn)
