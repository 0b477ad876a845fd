"""A small transformer that encodes captions of a closed vocabulary; it is trained with the network that reads it."""

import torch
from torch import Tensor, nn

from methods.core.captions import NULL, PAD, Caption
from methods.core.checks import require
from methods.core.types import DataSpec
from methods.nets.transformer import Attention, Mlp, require_heads

WIDTH = 64


def check_text(text: bool, net: str, nets: tuple[str, ...], cross_attention: bool) -> None:
    """Of a method: ValueError for captions where the network takes none, or attention to words where there are none."""
    require(not text or net in nets, "text", text, f"false beside net {net!r} ({' and '.join(nets)} take captions)")
    attends = not cross_attention or (text and net == "dit")
    require(attends, "cross_attention", cross_attention, "false unless net is 'dit' and text is true")


def text_encoder(data: DataSpec) -> "TextEncoder":
    """For the captions of these data; ValueError if they have none."""
    require(data.vocabulary > 0, "text", True, "false for data without captions")
    return TextEncoder(data.vocabulary, data.tokens)


class TextEncoder(nn.Module):
    """Captions of at most `length` tokens, below `vocabulary`, to vectors of `width`.

    Padding changes no number, and no caption depends on those beside it.
    """

    def __init__(self, vocabulary: int, length: int, width: int = WIDTH, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        require_heads(width, heads)
        self.vocabulary, self.length, self.width = vocabulary, length, width
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.02)
        self.blocks = nn.ModuleList(TextBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor | Caption | None, count: int) -> Caption:
        """tokens: [count, L] int64; None: empty captions; encoded captions are returned as they are."""
        if isinstance(tokens, Caption):
            return tokens
        if tokens is None:
            tokens = torch.full((count, 1), NULL, device=self.positions.device)
        if tokens.ndim != 2 or tokens.shape[1] > self.length:
            came = list(tokens.shape)
            raise ValueError(f"captions: shape {came} came, [{count}, {self.length}] tokens were wanted")
        mask = tokens != PAD
        mask[:, 0] = True  # of a caption of padding alone there would be nothing to attend to
        x = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, mask)
        words = self.norm(x)
        weights = mask[:, :, None].to(words)
        return Caption(words, mask, (words * weights).sum(1) / weights.sum(1))


class TextBlock(nn.Module):
    """x [B, L, D] plus its self-attention and an MLP, each of normalised input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = Attention(width, heads), Mlp(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))
