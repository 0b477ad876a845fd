"""Encoder and decoder that EDM's two U-Nets share; entries have the names of the released checkpoints."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from methods.nets.edm.blocks import BlockStyle, UNetBlock
from methods.nets.layers import Conv2d, Linear, one_hot
from methods.nets.shapes import require_halvings

Join = Callable[[str, Tensor, Tensor], tuple[Tensor, Tensor]]  # (level, features, image) -> both, changed


class Trunk:
    """The levels of a U-Net, finest first.

    widths: channels of each level's blocks. num_blocks: of a level on the way down; one more on the way up.
    """

    def __init__(
        self, img_resolution: int, widths: tuple[int, ...], num_blocks: int, attn_resolutions: tuple[int, ...]
    ) -> None:
        require_halvings(img_resolution, len(widths) - 1)
        resolutions = [img_resolution >> level for level in range(len(widths))]
        self.widths, self.num_blocks = widths, num_blocks
        self.attends = [resolution in attn_resolutions for resolution in resolutions]
        self.names = [f"{resolution}x{resolution}" for resolution in resolutions]

    def encoder(self, stem: Conv2d, stem_width: int, style: BlockStyle) -> tuple[nn.ModuleDict, list[int]]:
        """The encoder's blocks, and the widths of their outputs, which the decoder concatenates."""
        blocks, channels, skips = nn.ModuleDict(), stem_width, []
        for name, width, attention in zip(self.names, self.widths, self.attends):
            if name == self.names[0]:
                blocks[f"{name}_conv"] = stem
            else:
                blocks[f"{name}_down"] = UNetBlock(channels, channels, style, resample="down")
            skips.append(channels)
            for index in range(self.num_blocks):
                blocks[f"{name}_block{index}"] = UNetBlock(channels, width, style, attention=attention)
                channels = width
                skips.append(channels)
        return blocks, skips

    def decoder(self, skips: list[int], style: BlockStyle, *, attend_in_every_block: bool) -> nn.ModuleDict:
        """The decoder's blocks; unless `attend_in_every_block`, only a level's last attends. The first always does."""
        blocks, channels, skips = nn.ModuleDict(), skips[-1], list(skips)
        for name, width, attention in zip(self.names[::-1], self.widths[::-1], self.attends[::-1]):
            if name == self.names[-1]:
                blocks[f"{name}_in0"] = UNetBlock(channels, channels, style, attention=True)
                blocks[f"{name}_in1"] = UNetBlock(channels, channels, style)
            else:
                blocks[f"{name}_up"] = UNetBlock(channels, channels, style, resample="up")
            for index in range(self.num_blocks + 1):
                attends = attention and (attend_in_every_block or index == self.num_blocks)
                blocks[f"{name}_block{index}"] = UNetBlock(channels + skips.pop(), width, style, attention=attends)
                channels = width
        return blocks

    def encode(self, blocks: nn.ModuleDict, image: Tensor, emb: Tensor, join: Join | None = None) -> list[Tensor]:
        """The outputs of all encoder blocks; `join` adds the image to the features after every halving."""
        skips: list[Tensor] = []
        x = image
        for name in self.names:
            if name == self.names[0]:
                x = blocks[f"{name}_conv"](x)
            else:
                x = blocks[f"{name}_down"](x, emb)
                if join is not None:
                    x, image = join(name, x, image)
            skips.append(x)
            for index in range(self.num_blocks):
                x = blocks[f"{name}_block{index}"](x, emb)
                skips.append(x)
        return skips

    def decode(self, blocks: nn.ModuleDict, skips: list[Tensor], emb: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Each level's name and features [B, width, r, r], coarsest first; consumes `skips`."""
        x = skips[-1]
        for name in self.names[::-1]:
            for entry in ("in0", "in1") if name == self.names[-1] else ("up",):
                x = blocks[f"{name}_{entry}"](x, emb)
            for index in range(self.num_blocks + 1):
                x = blocks[f"{name}_block{index}"](torch.cat([x, skips.pop()], dim=1), emb)
            yield name, x


def add_condition(emb: Tensor, layer: Linear | None, vector: Tensor | None, what: str, gain: float = 1.0) -> Tensor:
    """emb [B, E] + layer(gain * vector [B, width]); class numbers [B] become one-hot, a missing vector is zero."""
    if layer is None:
        if vector is not None:
            raise ValueError(f"{what} given to a network built without them: pass None, or build it with their width")
        return emb
    if vector is None:
        vector = emb.new_zeros(len(emb), layer.in_features)
    return emb + layer(one_hot(vector, layer.in_features).to(emb.dtype) * gain)
