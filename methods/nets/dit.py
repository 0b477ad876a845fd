"""Diffusion transformer (Peebles and Xie 2023, arXiv:2212.09748): adaLN-Zero blocks on patches of an image or latent.

Parameter names and shapes are those of the released checkpoints; written from their description.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.core.captions import Caption
from methods.nets.embeddings import cos_sin_embedding
from methods.nets.layers import Conv2d, Linear, xavier_linear, xavier_uniform, zeros
from methods.nets.shapes import square_size
from methods.nets.text import TextEncoder
from methods.nets.transformer import Attention, CrossAttention, Mlp, require_heads

EPS = 1e-6  # of the normalisations
TIME_WIDTH = 256  # of the sinusoids
NEAR_ZERO_STD = 0.02  # of the time's layers and of the classes at initialisation


class DiT(nn.Module):
    """A transformer over patches, conditioned on time and on a class or a caption; zero at initialisation.

    shape: of an image or latent (C, S, S). width, depth, heads, patch: XL/2 of the paper has 1152, 28, 16 and 2.
    classes: rows of the class table; its last row also serves images without a class, where `has_null` added one.
    text: encodes captions, which take the place of classes; their mean joins the time's embedding, or, with
    `cross_attention`, every block attends to their words (ours). time_scale: factor of the time.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        out_channels: int,
        *,
        width: int = 1152,
        depth: int = 28,
        heads: int = 16,
        patch: int = 2,
        mlp_ratio: float = 4.0,
        classes: int = 0,
        text: TextEncoder | None = None,
        cross_attention: bool = False,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        size, channels = square_size(shape, "dit"), shape[0]
        if size % patch:
            raise ValueError(f"patch: {patch} came, a divisor of the {size} pixels of a side was wanted")
        if width % 4:
            raise ValueError(f"width: {width} came, a multiple of 4 was wanted for the positions of net 'dit'")
        require_heads(width, heads)
        self.patch, self.side, self.time_scale = patch, size // patch, time_scale
        self.x_embedder = PatchEmbedding(channels, width, patch)
        self.t_embedder = TimeEmbedding(width)
        self.y_embedder = ClassEmbedding(classes, width) if classes else None
        self.pos_embed: Tensor
        self.register_buffer("pos_embed", grid_positions(width, self.side)[None])
        attends_to = text.width if text is not None and cross_attention else 0
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, attends_to) for _ in range(depth))
        self.final_layer = FinalLayer(width, patch**2 * out_channels)
        self.text = text
        self.pooled = xavier_linear(text.width, width) if text is not None and not cross_attention else None

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        labels: Tensor | Caption | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """x [B, C, S, S], time [B] (a step's index, fractions allowed) -> [B, out_channels, S, S].

        labels: [B] int or one-hot [B, classes - 1], zeros for no class; with text tokens [B, L] or encoded captions.
        """
        if augment_labels is not None:
            raise ValueError("augmentation labels given to a DiT, which has no such input: train it without them")
        c = self.t_embedder(time * self.time_scale)
        caption = None if self.text is None else self.text(labels, len(x))
        if self.y_embedder is not None:
            c = c + self.y_embedder(labels, len(x))
        elif caption is None and labels is not None:
            raise ValueError("labels given to a DiT without classes: pass None, or build it with the number of classes")
        if self.pooled is not None and caption is not None:
            c = c + self.pooled(caption.pooled)
        tokens, c = self.x_embedder(x) + self.pos_embed, F.silu(c)
        for block in self.blocks:
            tokens = block(tokens, c, caption)
        return self._image(self.final_layer(tokens, c))

    def _image(self, tokens: Tensor) -> Tensor:
        """Tokens in row order, whose values count row, column, then channel, as an image."""
        side, patch = self.side, self.patch
        return torch.einsum(
            "bhwpqc->bchpwq", tokens.unflatten(2, (patch, patch, -1)).unflatten(1, (side, side))
        ).reshape(len(tokens), -1, side * patch, side * patch)


class PatchEmbedding(nn.Module):
    """[B, C, S, S] -> [B, (S / patch)^2, width], in row order."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        inputs = channels * patch**2
        self.proj = Conv2d(
            channels, width, patch, weight=lambda shape, *_: xavier_uniform(shape, inputs, width), bias=zeros
        )

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.proj.weight.to(x.dtype), self.proj.bias
        assert bias is not None
        return F.conv2d(x, weight, bias.to(x.dtype), stride=weight.shape[-1]).flatten(2).mT


def _near_zero(shape: tuple[int, ...], fan_in: int, fan_out: int) -> Tensor:
    return torch.empty(shape).normal_() * NEAR_ZERO_STD


class TimeEmbedding(nn.Module):
    """[B] -> [B, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = (Linear(inputs, width, weight=_near_zero, bias=zeros) for inputs in (TIME_WIDTH, width))
        self.mlp = nn.Sequential(first, nn.SiLU(), second)

    def forward(self, time: Tensor) -> Tensor:
        return self.mlp(cos_sin_embedding(time, TIME_WIDTH))


class ClassEmbedding(nn.Module):
    """A vector of `width` for each of `classes`; the last is that of images without a class, where there are such."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(classes, width)
        nn.init.normal_(self.embedding_table.weight, std=NEAR_ZERO_STD)

    def forward(self, labels: Tensor | None, count: int) -> Tensor:
        weight = self.embedding_table.weight
        none = len(weight) - 1
        if labels is None:
            return weight[none].expand(count, -1)
        if labels.ndim == 2:
            labels = torch.where(labels.any(1), labels.argmax(1), none)
        return self.embedding_table(labels)


class Block(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the condition (adaLN-Zero); caption's words between them."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, text_width: int = 0) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(width, heads), Mlp(width, mlp_ratio)
        self.cross = CrossAttention(width, text_width, heads) if text_width else None
        self.adaLN_modulation = _modulation(width, 6)

    def forward(self, x: Tensor, c: Tensor, caption: Caption | None = None) -> Tensor:
        """x [B, N, width], c [B, width] (activated)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)[:, None].chunk(6, dim=2)
        x = x + gate1 * self.attn(torch.addcmul(shift1, _norm(x), 1 + scale1))
        if self.cross is not None and caption is not None:
            x = x + self.cross(_norm(x), caption)
        return x + gate2 * self.mlp(torch.addcmul(shift2, _norm(x), 1 + scale2))


class FinalLayer(nn.Module):
    """[B, N, width] -> [B, N, outputs]."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = Linear(width, outputs, weight=zeros, bias=zeros)
        self.adaLN_modulation = _modulation(width, 2)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=2)
        return self.linear(torch.addcmul(shift, _norm(x), 1 + scale))


def _modulation(width: int, parts: int) -> nn.Sequential:
    """Its input is activated once for all blocks; the official name has the activation as layer 0."""
    return nn.Sequential(OrderedDict({"1": Linear(width, parts * width, weight=zeros, bias=zeros)}))


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


def grid_positions(width: int, side: int) -> Tensor:
    """[side^2, width] float32 in row order: sines and cosines of the column, then of the row."""
    frequencies = 10000 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    phases = torch.arange(side, dtype=torch.float64).outer(frequencies)
    along = torch.cat([phases.sin(), phases.cos()], dim=1)
    columns, rows = along.repeat(side, 1), along.repeat_interleave(side, 0)
    return torch.cat([columns, rows], dim=1).float()
