"""Kernels that forward AD can differentiate, where the fused ones cannot be."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from chunkjac._switches import Switch


def plain_kernels() -> Switch:
    """Take attention apart into products and a softmax, and RNNs into their steps.

    The fused attention kernels have no forward derivative (pytorch#98164), nor have the
    encoder layers' fast paths and the RNNs of oneDNN and cuDNN (pytorch#110422). These switches are the process's.
    """
    return _plain


def _switch(set_back: ExitStack) -> None:
    """Switch fused kernels off, and note how to set that back."""
    set_back.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
    # `torch.backends.mkldnn.flags` would set its precision too, and warns of TF32 (torch 2.13); and
    # `torch.backends.cudnn.enabled` cannot be set after `torch.backends.disable_global_flags()`.
    set_back.callback(torch._C._set_mkldnn_enabled, torch._C._get_mkldnn_enabled())
    set_back.callback(torch._C._set_cudnn_enabled, torch._C._get_cudnn_enabled())
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    torch._C._set_cudnn_enabled(False)
    set_back.enter_context(sdpa_kernel(SDPBackend.MATH))


_plain = Switch(_switch)
