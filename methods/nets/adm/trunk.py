"""The parts that ADM's U-Net and its classifier share: embedding, downsampling half, and middle."""

from torch import Tensor, nn

from methods.nets.adm.blocks import AttentionBlock, BlockStyle, ResBlock, Stage, resample_layer
from methods.nets.embeddings import cos_sin_embedding
from methods.nets.layers import Conv2d, Linear
from methods.nets.shapes import require_halvings


def attends_at(image_size: int, levels: int, attention_resolutions: tuple[int, ...]) -> list[bool]:
    """Whether each level, finest first, has attention."""
    return [image_size >> level in attention_resolutions for level in range(levels)]


def level_widths(image_size: int, model_channels: int, channel_mult: tuple[float, ...]) -> list[int]:
    """Channels of every level, finest first."""
    require_halvings(image_size, len(channel_mult) - 1)
    return [int(mult * model_channels) for mult in channel_mult]


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
    in_channels: int, widths: list[int], num_res_blocks: int, attends: list[bool], style: BlockStyle
) -> tuple[nn.ModuleList, list[int]]:
    """`input_blocks`, and the channels of each block's output."""
    channels = widths[0]
    blocks, skips = [Stage([Conv2d(in_channels, channels, 3)])], [channels]
    for level, width in enumerate(widths):
        for _ in range(num_res_blocks):
            attention = [AttentionBlock(width, style)] if attends[level] else []
            blocks.append(Stage([ResBlock(channels, width, style), *attention]))
            channels = width
            skips.append(channels)
        if level < len(widths) - 1:
            blocks.append(Stage([resample_layer(channels, style, "down")]))
            skips.append(channels)
    return nn.ModuleList(blocks), skips


def middle_block(channels: int, style: BlockStyle) -> Stage:
    first, last = ResBlock(channels, channels, style), ResBlock(channels, channels, style)
    return Stage([first, AttentionBlock(channels, style), last])


def descend(input_blocks: nn.ModuleList, x: Tensor, emb: Tensor) -> list[Tensor]:
    """The outputs of all input blocks."""
    outputs = []
    for block in input_blocks:
        x = block(x, emb)
        outputs.append(x)
    return outputs
