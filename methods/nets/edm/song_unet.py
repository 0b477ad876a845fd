"""DDPM++ and NCSN++ in EDM's form (Karras et al. 2022, arXiv:2206.00364; Song et al. 2021, arXiv:2011.13456).

Parameter names and shapes are those of the released EDM checkpoints.
"""

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from methods.core.checks import require_choice
from methods.nets.edm.blocks import BlockStyle
from methods.nets.edm.trunk import Trunk, add_condition
from methods.nets.embeddings import FourierEmbedding, SinCosEmbedding, split_pair
from methods.nets.fir import FirConv
from methods.nets.layers import (
    EPS,
    NEAR_ZERO,
    UNIT_SUM,
    Linear,
    group_norm,
    scaled,
    xavier_conv,
    xavier_linear,
    xavier_uniform,
    zeros,
)
from methods.nets.resample import Resample, Resampling

EmbeddingType = Literal["positional", "fourier"]
EncoderType = Literal["standard", "skip", "residual"]
DecoderType = Literal["standard", "skip"]


class SongUNet(nn.Module):
    """A U-Net over images, conditioned on noise level, class and augmentation.

    As it stands it is DDPM++; NCSN++ is embedding_type="fourier", channel_mult_noise=2, encoder_type="residual",
    resample_filter=(1, 3, 3, 1).

    img_resolution: pixels per side; halved len(channel_mult) - 1 times. attn_resolutions count in the same pixels.
    label_dim, augment_dim: widths of the class and augmentation vectors; 0: not conditioned.
    pairs: two noise labels per image.
    encoder_type, decoder_type: how the input image enters every level, and how the output image is formed.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        *,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: tuple[int, ...] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: tuple[int, ...] = (16,),
        dropout: float = 0.10,
        embedding_type: EmbeddingType = "positional",
        channel_mult_noise: int = 1,
        encoder_type: EncoderType = "standard",
        decoder_type: DecoderType = "standard",
        resample_filter: tuple[int, ...] = (1, 1),
        pairs: bool = False,
    ) -> None:
        super().__init__()
        require_choice("embedding_type", embedding_type, EmbeddingType)
        require_choice("encoder_type", encoder_type, EncoderType)
        require_choice("decoder_type", decoder_type, DecoderType)
        self.encoder_type, self.label_dim = encoder_type, label_dim
        noise_channels, emb_channels = model_channels * channel_mult_noise, model_channels * channel_mult_emb
        positional = embedding_type == "positional"
        self.map_noise = SinCosEmbedding(noise_channels) if positional else FourierEmbedding(noise_channels)
        self.map_label = xavier_linear(label_dim, noise_channels) if label_dim else None
        self.map_augment = (
            Linear(augment_dim, noise_channels, weight=xavier_uniform, bias=None) if augment_dim else None
        )
        self.map_second = xavier_linear(noise_channels, noise_channels) if pairs else None
        self.map_layer0 = xavier_linear(noise_channels, emb_channels)
        self.map_layer1 = xavier_linear(emb_channels, emb_channels)
        style = BlockStyle(
            emb_channels, dropout, heads=lambda channels: 1, eps=EPS, skip_scale=UNIT_SUM, adaptive_scale=False,
            resample_proj=True, taps=tuple(resample_filter), weight=xavier_uniform, bias=zeros,
            residual_weight=NEAR_ZERO, attention_weight=scaled(xavier_uniform, math.sqrt(0.2)),
        )  # fmt: skip
        widths = tuple(model_channels * mult for mult in channel_mult)
        self.trunk = Trunk(img_resolution, widths, num_blocks, tuple(attn_resolutions))
        stem = xavier_conv(in_channels, model_channels)
        self.enc, skips = self.trunk.encoder(stem, model_channels, style)
        self._image_inputs(in_channels, style.taps)
        self.dec = self.trunk.decoder(skips, style, attend_in_every_block=False)
        self._image_outputs(out_channels, decoder_type, style.taps)

    def _image_inputs(self, in_channels: int, taps: tuple[int, ...]) -> None:
        """How a smaller copy of the image joins each level but the finest."""
        channels = in_channels
        for name, width in zip(self.trunk.names[1:], self.trunk.widths):
            if self.encoder_type == "skip":
                self.enc[f"{name}_aux_down"] = Resample(Resampling("down", taps))
                self.enc[f"{name}_aux_skip"] = xavier_conv(channels, width, kernel=1)
            if self.encoder_type == "residual":
                self.enc[f"{name}_aux_residual"] = FirConv(channels, width, "down", taps, in_checkpoints=True)
                channels = width

    def _image_outputs(self, out_channels: int, decoder_type: str, taps: tuple[int, ...]) -> None:
        """The finest level's image; with "skip", a sum of every level's."""
        for name, width in zip(self.trunk.names, self.trunk.widths):
            if decoder_type == "skip" or name == self.trunk.names[0]:
                self.dec[f"{name}_aux_norm"] = group_norm(width, EPS)
                self.dec[f"{name}_aux_conv"] = xavier_conv(width, out_channels, NEAR_ZERO)
            if decoder_type == "skip" and name != self.trunk.names[-1]:
                self.dec[f"{name}_aux_up"] = Resample(Resampling("up", taps))

    def forward(
        self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """[B, in_channels, H, W], [B], [B, label_dim] or [B] int, [B, augment_dim] -> [B, out_channels, H, W].

        pairs: the second is [B, 2].
        """
        emb = self._embed(noise_labels, class_labels, augment_labels)
        skips = self.trunk.encode(self.enc, x, emb, self._join)
        image = None
        for name, features in self.trunk.decode(self.dec, skips, emb):
            image = self._image(name, features, image)
        assert image is not None
        return image

    def _embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        first, second = split_pair(noise_labels.to(self.map_layer0.weight.dtype), self.map_second)
        emb = self.map_noise(first)
        if self.map_second is not None and second is not None:
            emb = emb + self.map_second(self.map_noise(second))
        emb = add_condition(emb, self.map_label, class_labels, "class labels", gain=math.sqrt(self.label_dim))
        emb = add_condition(emb, self.map_augment, augment_labels, "augmentation labels")
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def _join(self, name: str, x: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        if self.encoder_type == "skip":
            image = self.enc[f"{name}_aux_down"](image)
            x = x + self.enc[f"{name}_aux_skip"](image)
        if self.encoder_type == "residual":
            x = image = (x + self.enc[f"{name}_aux_residual"](image)) * UNIT_SUM
        return x, image

    def _image(self, name: str, x: Tensor, coarser: Tensor | None) -> Tensor | None:
        """The output image of the levels so far."""
        if f"{name}_aux_conv" not in self.dec:
            return coarser
        image = self.dec[f"{name}_aux_conv"](F.silu(self.dec[f"{name}_aux_norm"](x)))
        return image if coarser is None else self.dec[f"{name}_aux_up"](coarser) + image
