"""Layers of the networks that are transformers: attention within tokens and from tokens to a caption, and the MLP."""

import torch.nn.functional as F
from torch import Tensor, nn

from methods.core.captions import Caption
from methods.nets.layers import Linear, xavier_linear, zeros


class Attention(nn.Module):
    """Self-attention of tokens [B, N, D], of which those where `mask` [B, N] is False are not attended to."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = xavier_linear(width, 3 * width), xavier_linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(_attended(q, k, v, mask))


class CrossAttention(nn.Module):
    """From tokens [B, N, D] to the words of a caption; zero at initialisation."""

    def __init__(self, width: int, text_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = xavier_linear(width, width), xavier_linear(text_width, 2 * width)
        self.proj = Linear(width, width, weight=zeros, bias=zeros)

    def forward(self, x: Tensor, caption: Caption) -> Tensor:
        q = self.q(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(caption.words).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(_attended(q, k, v, caption.mask))


class Mlp(nn.Module):
    """Two layers with the tanh approximation of GELU between them."""

    def __init__(self, width: int, ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(width * ratio)
        self.fc1, self.fc2 = xavier_linear(width, hidden), xavier_linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def require_heads(width: int, heads: int) -> None:
    """ValueError unless so many heads divide the width."""
    if width % heads:
        raise ValueError(f"heads: {heads} came, a divisor of the width, {width}, was wanted")


def _attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """q [B, heads, N, d], k, v [B, heads, M, d], mask [B, M] -> [B, N, heads d]."""
    keys = None if mask is None else mask[:, None, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keys).transpose(1, 2).flatten(2)
