"""ADM's U-Net (Dhariwal and Nichol 2021, arXiv:2105.05233), also that of improved DDPM (arXiv:2102.09672).

Parameter names and shapes are those of the released checkpoints.
"""

from typing import Unpack

from torch import Tensor, nn

from methods.core.captions import Caption
from methods.nets.adm.blocks import BlockStyle, StyleOptions, adm_norm
from methods.nets.adm.trunk import ascend, descend, embed, levels, middle_block, time_embedding, way_down, way_up
from methods.nets.layers import Conv2d, zeros
from methods.nets.text import TextEncoder


class UNetModel(nn.Module):
    """A U-Net over images, conditioned on timestep and class.

    image_size: pixels per side, halved len(channel_mult) - 1 times; attention_resolutions count in the same pixels.
    out_channels: twice in_channels where the variance is learned.
    num_classes: rows of the class embedding; None: without classes. text: encodes captions, to whose words attention
    blocks attend (as latent diffusion's, arXiv:2112.10752).
    options: fields of `BlockStyle`; improved DDPM is use_scale_shift_norm=True and the other defaults.
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        *,
        num_res_blocks: int,
        attention_resolutions: tuple[int, ...],
        channel_mult: tuple[float, ...] = (1, 2, 4, 8),
        num_classes: int | None = None,
        text: TextEncoder | None = None,
        **options: Unpack[StyleOptions],
    ) -> None:
        super().__init__()
        emb_channels = 4 * model_channels
        style = BlockStyle(emb_channels=emb_channels, text_width=0 if text is None else text.width, **options)
        widths, attends = levels(image_size, model_channels, channel_mult, attention_resolutions)
        self.time_embed = time_embedding(model_channels, emb_channels)
        self.label_emb = None if num_classes is None else nn.Embedding(num_classes, emb_channels)
        self.input_blocks, skips = way_down(in_channels, widths, num_res_blocks, attends, style)
        self.middle_block = middle_block(widths[-1], style)
        self.output_blocks = way_up(widths, skips, num_res_blocks, attends, style)
        last = Conv2d(widths[0], out_channels, 3, weight=zeros, bias=zeros)
        self.out = nn.Sequential(adm_norm(widths[0]), nn.SiLU(), last)
        self.text = text

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | Caption | None = None) -> Tensor:
        """x [B, in_channels, H, W], timesteps [B] in 0 ... 999 -> [B, out_channels, H, W].

        y: [B] int; with text tokens [B, L] or encoded captions, None for empty ones.
        """
        caption = None if self.text is None else self.text(y, len(x))
        label = y if isinstance(y, Tensor) and caption is None else None
        emb = embed(self.time_embed, self.label_emb, timesteps, label)
        skips = descend(self.input_blocks, x, emb, caption)
        middle = self.middle_block(skips[-1], emb, caption)
        return self.out(ascend(self.output_blocks, middle, skips, emb, caption))
