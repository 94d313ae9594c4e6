"""Architectures of the library transformers, built from their configurations: no weights are loaded.

What is differentiated is what attributions and sensitivities are made of: a token's or an image's
features by the embeddings or the pixels, in eval mode, with the library's own default of attention
unless said otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.architectures import Architecture

_TOKENS = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # embeddings are given


def gpt_2(width: int, n_layers: int, n_tokens: int) -> Architecture:
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(n_embd=width, n_layer=n_layers, n_head=width // 64, n_positions=64, **_TOKENS)
    return _of_tokens(GPT2Model(config), _last_token, n_tokens, width)


def llama(width: int, n_layers: int, n_tokens: int) -> Architecture:
    """Rotary embeddings, RMSNorm, SwiGLU, grouped queries."""
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        hidden_size=width,
        num_hidden_layers=n_layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 64,
        intermediate_size=width * 11 // 4,
        **_TOKENS,
    )
    return _of_tokens(LlamaModel(config), _last_token, n_tokens, width)


def bert(width: int, n_layers: int, n_tokens: int) -> Architecture:
    """Eager attention, which is what users have who look at attentions; BERT-Tiny is 128 x 2, BERT-Mini 256 x 4."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=width,
        num_hidden_layers=n_layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        attn_implementation="eager",
        **_TOKENS,
    )
    return _of_tokens(BertModel(config), _first_token, n_tokens, width)


def t5_encoder(width: int, n_layers: int, n_tokens: int) -> Architecture:
    """T5-Efficient-Tiny is 256 x 4."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        d_model=width,
        d_kv=64,
        d_ff=4 * width,
        num_layers=n_layers,
        num_heads=width // 64,
        vocab_size=100,
        pad_token_id=0,
        eos_token_id=1,
    )
    return _of_tokens(T5EncoderModel(config), _first_token, n_tokens, width)


def mamba(width: int, n_layers: int, n_tokens: int) -> Architecture:
    """A selective state space, scanned one token after the other, as the library does without CUDA kernels."""
    from transformers import MambaConfig, MambaModel

    config = MambaConfig(hidden_size=width, num_hidden_layers=n_layers, state_size=16, **_TOKENS)
    return _of_tokens(MambaModel(config), _last_token, n_tokens, width)


def vit(width: int, n_layers: int, side: int) -> Architecture:
    """Patches of 4 x 4; ViT-Tiny is 192 wide."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=n_layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        image_size=side,
        patch_size=4,
    )
    return _of_pixels(ViTModel(config), lambda out: out.last_hidden_state[:, 0], side)


def convnext(width: int, depths: tuple[int, ...], side: int) -> Architecture:
    """ConvNeXt-Atto is 40 wide, 2-2-6-2 deep."""
    from transformers import ConvNextConfig, ConvNextModel

    widths = [width * 2**stage for stage in range(len(depths))]
    config = ConvNextConfig(num_stages=len(depths), depths=list(depths), hidden_sizes=widths)
    return _of_pixels(ConvNextModel(config), lambda out: out.pooler_output, side)


def resnet(width: int, depths: tuple[int, ...], side: int) -> Architecture:
    """ResNet-18 is 64 wide, 2-2-2-2 deep."""
    from transformers import ResNetConfig, ResNetModel

    widths = [width * 2**stage for stage in range(len(depths))]
    config = ResNetConfig(embedding_size=width, depths=list(depths), hidden_sizes=widths, layer_type="basic")
    return _of_pixels(ResNetModel(config), lambda out: out.pooler_output.flatten(1), side)


def swin(width: int, depths: tuple[int, ...], side: int) -> Architecture:
    """Attention in shifted windows."""
    from transformers import SwinConfig, SwinModel

    heads = [width * 2**stage // 16 for stage in range(len(depths))]
    config = SwinConfig(
        image_size=side, patch_size=4, embed_dim=width, depths=list(depths), num_heads=heads, window_size=4
    )
    return _of_pixels(SwinModel(config), lambda out: out.pooler_output, side)


def whisper_encoder(width: int, n_layers: int, n_frames: int) -> Architecture:
    """Two convolutions over a spectrogram, then a transformer; Whisper-Tiny is 384 x 4."""
    from transformers import WhisperConfig, WhisperModel

    config = WhisperConfig(
        d_model=width,
        encoder_layers=n_layers,
        encoder_attention_heads=width // 64,
        encoder_ffn_dim=4 * width,
        decoder_layers=1,
        decoder_attention_heads=1,
        max_source_positions=n_frames // 2,
        decoder_start_token_id=1,
        **_TOKENS,
    )
    net = ready(WhisperModel(config).encoder)
    return Architecture(lambda x: net(x).last_hidden_state.mean(1), (torch.randn(1, 80, n_frames),), (net,))


def _last_token(out: Any) -> torch.Tensor:
    return out.last_hidden_state[:, -1]


def _first_token(out: Any) -> torch.Tensor:
    return out.last_hidden_state[:, 0]


def _of_tokens(net: nn.Module, features: Callable[[Any], torch.Tensor], n_tokens: int, width: int) -> Architecture:
    """Differentiate features by the embeddings of the tokens."""
    ready(net)
    return Architecture(lambda x: features(net(inputs_embeds=x)), (torch.randn(1, n_tokens, width),), (net,))


def _of_pixels(net: nn.Module, features: Callable[[Any], torch.Tensor], side: int) -> Architecture:
    """Differentiate features by the pixels of an image."""
    ready(net)
    return Architecture(lambda x: features(net(pixel_values=x)), (torch.randn(1, 3, side, side),), (net,))


def ready(net: nn.Module) -> nn.Module:
    """Let a network be evaluated, without a cache and without words."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if hasattr(net.config, "use_cache"):
        net.config.use_cache = False  # nothing is generated
    return net.eval()
