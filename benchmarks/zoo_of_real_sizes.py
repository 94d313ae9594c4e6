"""Networks at the sizes that people have, from their published configurations, with random weights.

Each is differentiated by embeddings or pixels, as attributions are, in some rows.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.architectures import Architecture
from benchmarks.zoo_of_libraries import ready


@dataclass(frozen=True, slots=True)
class RealSize:
    """Hold what a network is, before it is built.

    Attributes:
        name: What it is.
        n_rows: How many rows of its Jacobian are asked for.
        make: Builds it, for so many rows.
    """

    name: str
    n_rows: int
    make: Callable[[int], Architecture]

    def build(self) -> Architecture:
        """Return the function and its point, the same in every process."""
        torch.manual_seed(0)
        return self.make(self.n_rows)


def networks(*, quick: bool = False) -> Iterator[RealSize]:
    """Yield those whose library is there; a quick run takes few of them."""
    for library, entries in _NETWORKS.items():
        if importlib.util.find_spec(library) is None:
            print(f"without the package {library}, its networks are left out")
            continue
        yield from (RealSize(make.__name__, n_rows, make) for make, n_rows in entries if not quick or make in _QUICK)


def gpt_2(n_rows: int) -> Architecture:
    """GPT-2 small, 124 M parameters with its embeddings, 256 tokens."""
    from transformers import GPT2Config, GPT2Model

    return _of_tokens(GPT2Model(GPT2Config()), 256, -1, n_rows)


def bert_base(n_rows: int) -> Architecture:
    """BERT-base, 160 tokens, of which a mask hides the last 40."""
    from transformers import BertConfig, BertModel

    mask = torch.ones(1, 160, dtype=torch.long)
    mask[:, 120:] = 0
    return _of_tokens(BertModel(BertConfig()), 160, 0, n_rows, attention_mask=mask)


def llama(n_rows: int) -> Architecture:
    """A Llama of 12 layers, 768 wide, 160 tokens."""
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=2048, vocab_size=1000
    )
    return _of_tokens(LlamaModel(config), 160, -1, n_rows)


def qwen_2(n_rows: int) -> Architecture:
    """Qwen2-0.5B's layers with their grouped attention, half of them, 128 tokens."""
    from transformers import Qwen2Config, Qwen2Model

    config = Qwen2Config(
        hidden_size=896,
        num_hidden_layers=12,
        num_attention_heads=14,
        num_key_value_heads=2,
        intermediate_size=4864,
        vocab_size=1000,
    )
    return _of_tokens(Qwen2Model(config), 128, -1, n_rows)


def vit_b_16(n_rows: int) -> Architecture:
    """ViT-B/16 at 224 x 224."""
    from transformers import ViTConfig, ViTModel

    return _of_pixels(ViTModel(ViTConfig(), add_pooling_layer=False), lambda out: out[0][0, 0], 224, n_rows)


def whisper_small_encoder(n_rows: int) -> Architecture:
    """Whisper-small's encoder, 3 seconds of sound."""
    from transformers import WhisperConfig, WhisperModel

    config = WhisperConfig(
        d_model=768,
        encoder_layers=12,
        encoder_attention_heads=12,
        encoder_ffn_dim=3072,
        decoder_layers=1,
        decoder_attention_heads=1,
        max_source_positions=150,
        vocab_size=100,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    net = ready(WhisperModel(config).encoder)
    return Architecture(lambda x: net(x)[0].mean(1)[0, :n_rows], (torch.randn(1, 80, 300),), (net,))


def resnet_50(n_rows: int) -> Architecture:
    """ResNet-50 at 224 x 224."""
    from transformers import ResNetConfig, ResNetModel

    return _of_pixels(ResNetModel(ResNetConfig()), lambda out: out.pooler_output.flatten(), 224, n_rows)


def convnext_tiny(n_rows: int) -> Architecture:
    """ConvNeXt-T at 160 x 160."""
    from transformers import ConvNextConfig, ConvNextModel

    return _of_pixels(ConvNextModel(ConvNextConfig()), lambda out: out.pooler_output[0], 160, n_rows)


def ddpm_u_net(n_rows: int) -> Architecture:
    """The U-Net with attention of DDPM on CIFAR-10, 36 M parameters: pixels of the noise, by the image."""
    from diffusers import UNet2DModel

    net = UNet2DModel(
        sample_size=32,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        downsample_padding=0,
        attention_head_dim=None,
        norm_eps=1e-6,
        flip_sin_to_cos=False,
        freq_shift=1,
    ).eval()
    return Architecture(lambda x: net(x, 100).sample[0, 0, 16][:n_rows], (torch.randn(1, 3, 32, 32),), (net,))


def vae_decoder(n_rows: int) -> Architecture:
    """Stable Diffusion's decoder, 49 M parameters: pixels of 64 x 64, by a latent of 8 x 8."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    ).eval()
    del vae.encoder
    return Architecture(lambda z: vae.decode(z).sample[0, 0, 32, :n_rows], (torch.randn(1, 4, 8, 8),), (vae,))


def _of_tokens(net: nn.Module, n_tokens: int, token: int, n_rows: int, **given: Any) -> Architecture:
    """Differentiate a token's features by the embeddings of all."""
    ready(net)
    embedded = torch.randn(1, n_tokens, net.config.hidden_size)
    return Architecture(lambda x: net(inputs_embeds=x, **given)[0][0, token, :n_rows], (embedded,), (net,))


def _of_pixels(net: nn.Module, features: Callable[[Any], torch.Tensor], side: int, n_rows: int) -> Architecture:
    """Differentiate features by the pixels of an image."""
    ready(net)
    return Architecture(lambda x: features(net(pixel_values=x))[:n_rows], (torch.randn(1, 3, side, side),), (net,))


_NETWORKS: dict[str, tuple[tuple[Callable[[int], Architecture], int], ...]] = {
    "transformers": (
        (gpt_2, 64),
        (bert_base, 40),
        (llama, 32),
        (qwen_2, 32),
        (vit_b_16, 48),
        (whisper_small_encoder, 32),
        (resnet_50, 96),
        (convnext_tiny, 48),
    ),
    "diffusers": ((ddpm_u_net, 32), (vae_decoder, 32)),
}
_QUICK = (gpt_2, resnet_50)
