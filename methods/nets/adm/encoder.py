"""ADM's classifier: the way down of its U-Net and a pool (Dhariwal and Nichol 2021, arXiv:2105.05233, section 4).

Discriminator guidance (Kim et al. 2023, arXiv:2211.17091) takes its frozen features and builds its discriminator from
it. Parameter names and shapes are those of the released checkpoints of both.
"""

import math
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from methods.core.checks import require_choice
from methods.nets.adm.blocks import BlockStyle, StyleOptions, adm_norm, head_count, split_heads
from methods.nets.adm.trunk import descend, embed, levels, middle_block, time_embedding, way_down
from methods.nets.layers import Conv1d, Conv2d, Linear, attend, zeros

Pool = Literal["adaptive", "attention", "spatial", "spatial_v2"]
SPATIAL_WIDTH = 2048


class EncoderUNetModel(nn.Module):
    """Half a U-Net: images and timestep (and class, optionally) to numbers.

    image_size: pixels per side, halved len(channel_mult) - 1 times; attention_resolutions count in the same pixels.
    pool: average of the last features, attention over them, or averages of every block's output and two layers.
    num_classes: rows of the embedding of a class *input*, which a classifier does not have; None: none.
    options: fields of `BlockStyle`.
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
        pool: Pool = "adaptive",
        **options: Unpack[StyleOptions],
    ) -> None:
        super().__init__()
        require_choice("pool", pool, Pool)
        emb_channels = 4 * model_channels
        style = BlockStyle(emb_channels=emb_channels, **options)
        widths, attends = levels(image_size, model_channels, channel_mult, attention_resolutions)
        self.pool: Pool = pool
        self.time_embed = time_embedding(model_channels, emb_channels)
        self.label_emb = None if num_classes is None else nn.Embedding(num_classes, emb_channels)
        self.input_blocks, skips = way_down(in_channels, widths, num_res_blocks, attends, style)
        self.middle_block = middle_block(widths[-1], style)
        heads = head_count(widths[-1], style.num_heads, style.num_head_channels)
        smallest = image_size >> (len(widths) - 1)
        self.out = _pool(pool, widths[-1], sum(skips) + widths[-1], smallest, heads, out_channels)

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        """x [B, in_channels, H, W], timesteps [B] in 0 ... 999, y [B] int or one-hot -> [B, out_channels]."""
        return self.pooled(self.outputs(x, timesteps, y))

    def outputs(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> list[Tensor]:
        """Of every input block and of the middle block, [B, last width, h, w]."""
        emb = embed(self.time_embed, self.label_emb, timesteps, y)
        outputs = descend(self.input_blocks, x, emb)
        return [*outputs, self.middle_block(outputs[-1], emb)]

    def pooled(self, outputs: list[Tensor]) -> Tensor:
        if self.pool in ("spatial", "spatial_v2"):
            return self.out(torch.cat([h.mean(dim=(2, 3)) for h in outputs], dim=1))
        return self.out(outputs[-1])


def _pool(pool: Pool, channels: int, all_channels: int, size: int, heads: int, outputs: int) -> nn.Sequential:
    if pool == "adaptive":
        last = Conv2d(channels, outputs, 1, weight=zeros, bias=zeros)
        return nn.Sequential(adm_norm(channels), nn.SiLU(), nn.AdaptiveAvgPool2d(1), last, nn.Flatten())
    if pool == "attention":
        return nn.Sequential(adm_norm(channels), nn.SiLU(), AttentionPool(size, channels, heads, outputs))
    first, last = Linear(all_channels, SPATIAL_WIDTH), Linear(SPATIAL_WIDTH, outputs)
    if pool == "spatial":
        return nn.Sequential(first, nn.ReLU(), last)
    return nn.Sequential(first, adm_norm(SPATIAL_WIDTH), nn.SiLU(), last)


class AttentionPool(nn.Module):
    """[B, C, size, size] -> [B, outputs]: attention with the mean of all positions as query (as in CLIP)."""

    def __init__(self, size: int, channels: int, heads: int, outputs: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.empty(channels, size**2 + 1).normal_() / math.sqrt(channels))
        self.qkv_proj = Conv1d(channels, 3 * channels)
        self.c_proj = Conv1d(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        x = torch.cat([x.mean(dim=2, keepdim=True), x], dim=2) + self.positional_embedding.to(x.dtype)
        q, k, v = split_heads(self.qkv_proj(x), self.heads, heads_first=False)
        token = attend(q[..., :1], k, v)  # only the mean's query is needed
        return self.c_proj(token.flatten(1, 2)).squeeze(2)
