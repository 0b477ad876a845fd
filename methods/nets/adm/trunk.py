"""The parts that ADM's U-Net and classifier and SIDDM's networks share: embedding, both halves, and middle."""

import torch
from torch import Tensor, nn

from methods.core.captions import Caption
from methods.nets.adm.blocks import AttentionBlock, BlockStyle, ResBlock, Stage, resample_layer
from methods.nets.embeddings import cos_sin_embedding
from methods.nets.layers import Conv2d, Linear
from methods.nets.shapes import require_halvings


def levels(
    image_size: int, model_channels: int, channel_mult: tuple[float, ...], attention_resolutions: tuple[int, ...]
) -> tuple[list[int], list[bool]]:
    """The channels of every level, finest first, and whether it has attention."""
    require_halvings(image_size, len(channel_mult) - 1)
    widths = [int(mult * model_channels) for mult in channel_mult]
    return widths, [image_size >> level in attention_resolutions for level in range(len(widths))]


def time_embedding(model_channels: int, emb_channels: int) -> nn.Sequential:
    return nn.Sequential(Linear(model_channels, emb_channels), nn.SiLU(), Linear(emb_channels, emb_channels))


def embed(time_embed: nn.Sequential, label_emb: nn.Embedding | None, timesteps: Tensor, y: Tensor | None) -> Tensor:
    """[B, emb_channels] of timesteps [B] (0 to 999, fractions allowed) and classes [B] int or [B, classes] one-hot."""
    first = time_embed[0]
    assert isinstance(first, Linear)
    emb = time_embed(cos_sin_embedding(timesteps.to(first.weight.dtype), first.in_features))
    if label_emb is None:
        if y is not None:
            raise ValueError("labels given to a network built without classes: pass None, or build it with num_classes")
        return emb
    if y is None:
        raise ValueError("no labels given to a class-conditional network: pass y")
    return emb + label_emb(y if y.ndim == 1 else y.argmax(dim=1))


def way_down(
    in_channels: int,
    widths: list[int],
    num_res_blocks: int,
    attends: list[bool],
    style: BlockStyle,
    fused: bool = False,
) -> tuple[nn.ModuleList, list[int]]:
    """`input_blocks`, and the channels of each block's output.

    fused: the layer between two levels is part of the next level's first block.
    """
    blocks, skips = [Stage([Conv2d(in_channels, widths[0], 3)])], [widths[0]]
    for level, width in enumerate(widths):
        first = [resample_layer(skips[-1], style, "down")] if level > 0 else []
        if first and not fused:
            blocks.append(Stage(first))
            skips.append(skips[-1])
            first = []
        for _ in range(num_res_blocks):
            attention = [AttentionBlock(width, style)] if attends[level] else []
            blocks.append(Stage([*first, ResBlock(skips[-1], width, style), *attention]))
            skips.append(width)
            first = []
    return nn.ModuleList(blocks), skips


def way_up(
    widths: list[int],
    skips: list[int],
    num_res_blocks: int,
    attends: list[bool],
    style: BlockStyle,
    fused: bool = False,
) -> nn.ModuleList:
    """`output_blocks`; skips and `fused` as of `way_down`."""
    blocks, channels, skips = [], widths[-1], list(skips)
    for level, width in reversed(list(enumerate(widths))):
        count = num_res_blocks + (level == 0 or not fused)  # the finest level also takes the first convolution's output
        for index in range(count):
            attention = [AttentionBlock(width, style)] if attends[level] else []
            doubles = level > 0 and index == count - 1
            last = [resample_layer(width, style, "up")] if doubles else []
            blocks.append(Stage([ResBlock(channels + skips.pop(), width, style), *attention, *last]))
            channels = width
    return nn.ModuleList(blocks)


def middle_block(channels: int, style: BlockStyle) -> Stage:
    first, last = ResBlock(channels, channels, style), ResBlock(channels, channels, style)
    return Stage([first, AttentionBlock(channels, style), last])


def descend(input_blocks: nn.ModuleList, x: Tensor, emb: Tensor, caption: Caption | None = None) -> list[Tensor]:
    """The outputs of all input blocks."""
    outputs = []
    for block in input_blocks:
        x = block(x, emb, caption)
        outputs.append(x)
    return outputs


def ascend(
    output_blocks: nn.ModuleList, h: Tensor, skips: list[Tensor], emb: Tensor, caption: Caption | None = None
) -> Tensor:
    """The last block's output; h: of the middle; each block takes the last of `skips`, those of `descend`."""
    for block in output_blocks:
        h = block(torch.cat([h, skips.pop()], dim=1), emb, caption)
    return h
