"""SIDDM's networks for images (Xu et al. 2023, arXiv:2306.12511, section 5 and supplement IV).

Generator and discriminator are the same U-Net of ADM's blocks. A block that changes the resolution halves it first, or
doubles it last, so that it always convolves at the smaller size (Imagen's efficient U-Net, arXiv:2205.11487).
"""

import torch
from torch import Tensor, nn

from methods.nets.adm.blocks import BlockStyle, adm_norm
from methods.nets.adm.trunk import ascend, descend, embed, levels, middle_block, time_embedding, way_down, way_up
from methods.nets.discriminator_output import DiscriminatorOutput
from methods.nets.layers import Conv2d, zeros


class Trunk(nn.Module):
    """The U-Net without its last layer: channels in, features [B, width, H, W] out.

    size: pixels per side, halved len(channel_mult) - 1 times; attn_resolutions count in the same pixels.
    latent: length of a vector concatenated to the time's embedding of 4 model_channels; 0: none.
    classes: labels given as input, added to that embedding; 0: none.
    """

    def __init__(
        self,
        size: int,
        channels: int,
        *,
        model_channels: int = 256,
        channel_mult: tuple[float, ...] = (2, 2, 2),
        num_res_blocks: int = 2,
        attn_resolutions: tuple[int, ...] = (16, 8),
        num_head_channels: int = 64,
        dropout: float = 0.1,
        latent: int = 0,
        classes: int = 0,
    ) -> None:
        super().__init__()
        style = BlockStyle(
            emb_channels=4 * model_channels + latent,
            dropout=dropout,
            num_head_channels=num_head_channels,
            use_scale_shift_norm=True,
            conv_resample=False,
        )
        widths, attends = levels(size, model_channels, channel_mult, attn_resolutions)
        self.width = widths[0]
        self.time_embed = time_embedding(model_channels, 4 * model_channels)
        self.label_emb = nn.Embedding(classes, 4 * model_channels) if classes else None
        self.input_blocks, skips = way_down(channels, widths, num_res_blocks, attends, style, fused=True)
        self.output_blocks = way_up(widths, skips, num_res_blocks, attends, style, fused=True)
        self.middle_block = middle_block(widths[-1], style)
        self.out = nn.Sequential(adm_norm(widths[0]), nn.SiLU())

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None, z: Tensor | None = None) -> Tensor:
        """x [B, channels, H, W], time [B] in [0, 1000], labels [B] int, z [B, latent] -> [B, width, H, W]."""
        emb = embed(self.time_embed, self.label_emb, time, labels)
        if z is not None:
            emb = torch.cat([emb, z], dim=1)
        skips = descend(self.input_blocks, x, emb)
        return self.out(ascend(self.output_blocks, self.middle_block(skips[-1], emb), skips, emb))


class SIDDMGenerator(nn.Module):
    """(x_u, time, z) -> the image. `trunk` is on as many channels as an image of `shape` (C, H, W) has."""

    def __init__(self, shape: tuple[int, ...], trunk: Trunk) -> None:
        super().__init__()
        self.shape, self.trunk = tuple(shape), trunk
        self.last = Conv2d(trunk.width, shape[0], 3, weight=zeros, bias=zeros)

    def forward(self, x: Tensor, time: Tensor, z: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """x, output: [B, C, H, W]; time [B] in [0, 1000]; z [B, latent] as the trunk was built; labels [B] int."""
        return self.last(self.trunk(x, time, labels, z))


class SIDDMDiscriminator(nn.Module):
    """A logit for every pixel; with `heads`, also estimates of x_u and x_0, each by one 1x1 layer on the same features.

    `trunk` is on as many channels as an image has, or twice as many if its input is the pair (x_s, x_u).
    """

    def __init__(self, channels: int, trunk: Trunk, *, heads: bool = True) -> None:
        super().__init__()
        self.trunk = trunk
        self.adversarial = Conv2d(trunk.width, 1, 1)
        self.noisier = Conv2d(trunk.width, channels, 1) if heads else None
        self.clean = Conv2d(trunk.width, channels, 1) if heads else None

    def forward(
        self, x_s: Tensor, time: Tensor, x_u: Tensor | None = None, labels: Tensor | None = None
    ) -> DiscriminatorOutput:
        """x_s, x_u, estimates [B, C, H, W]; time [B] in [0, 1000]; labels [B] int; logits [B, 1, H, W]."""
        features = self.trunk(x_s if x_u is None else torch.cat([x_s, x_u], dim=1), time, labels)
        estimates = (None if head is None else head(features) for head in (self.noisier, self.clean))
        return DiscriminatorOutput(self.adversarial(features), *estimates)
