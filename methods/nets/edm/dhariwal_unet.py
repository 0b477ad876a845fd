"""ADM's U-Net in EDM's form (Dhariwal and Nichol 2021, arXiv:2105.05233; Karras et al. 2022, arXiv:2206.00364).

Parameter names and shapes are those of the released EDM checkpoint; for ADM's own, see `adm/unet.py`.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from methods.nets.edm.blocks import BlockStyle
from methods.nets.edm.trunk import Trunk, add_condition
from methods.nets.embeddings import cos_sin_embedding
from methods.nets.layers import Conv2d, Linear, group_norm, kaiming_normal, scaled, zeros

HEAD_CHANNELS = 64


class DhariwalUNet(nn.Module):
    """A U-Net over images, conditioned on noise level, class and augmentation; the defaults are ADM's at ImageNet-64.

    img_resolution: pixels per side; halved len(channel_mult) - 1 times. attn_resolutions count in the same pixels.
    Attention has one head for every 64 channels, hence none at all in layers narrower than that.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        *,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: tuple[int, ...] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: tuple[int, ...] = (32, 16, 8),
        dropout: float = 0.10,
    ) -> None:
        super().__init__()
        emb_channels = model_channels * channel_mult_emb
        self.map_augment = Linear(augment_dim, model_channels, weight=zeros, bias=None) if augment_dim else None
        self.map_layer0 = Linear(model_channels, emb_channels)
        self.map_layer1 = Linear(emb_channels, emb_channels)
        label_weight = scaled(kaiming_normal, math.sqrt(label_dim))
        self.map_label = Linear(label_dim, emb_channels, weight=label_weight, bias=None) if label_dim else None
        style = BlockStyle(
            emb_channels, dropout, heads=lambda channels: channels // HEAD_CHANNELS, residual_weight=zeros
        )
        widths = tuple(model_channels * mult for mult in channel_mult)
        self.trunk = Trunk(img_resolution, widths, num_blocks, tuple(attn_resolutions))
        self.enc, skips = self.trunk.encoder(Conv2d(in_channels, widths[0], 3), widths[0], style)
        self.dec = self.trunk.decoder(skips, style, attend_in_every_block=True)
        self.out_norm = group_norm(widths[0], style.eps)
        self.out_conv = Conv2d(widths[0], out_channels, 3, weight=zeros, bias=zeros)

    def forward(
        self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """[B, in_channels, H, W], [B], [B, label_dim] or [B] int, [B, augment_dim] -> [B, out_channels, H, W]."""
        labels = noise_labels.to(self.map_layer0.weight.dtype)
        emb = cos_sin_embedding(labels, self.map_layer0.in_features)
        emb = add_condition(emb, self.map_augment, augment_labels, "augmentation labels")
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        emb = F.silu(add_condition(emb, self.map_label, class_labels, "class labels"))
        skips = self.trunk.encode(self.enc, x, emb)
        *_, (_, features) = self.trunk.decode(self.dec, skips, emb)
        return self.out_conv(F.silu(self.out_norm(features)))
