"""A two-layer vision transformer for the embedded data."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import EvaluationError


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a GELU MLP."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width))

    def forward(self, x: Tensor) -> Tensor:
        b, n, w = x.shape
        q, k, v = self.query_key_value(self.norm1(x)).view(b, n, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, w))
        return x + self.mlp(self.norm2(x))


class NarrowViT(nn.Module):
    """ViT (Dosovitskiy et al., ICLR 2021) of ``depth`` layers with learned positions and mean pooling in the place of a
    class token (both forms are in the paper's appendix D.3).

    Patches of image_size / 4 pixels a side up to 16 px and of image_size / 8 above, so that the sequence has 16 or 64
    tokens.
    """

    def __init__(
        self, num_classes: int, image_size: int, *, width: int = 64, depth: int = 2, heads: int = 2, mlp_ratio: int = 2
    ) -> None:
        super().__init__()
        self.side = 4 if image_size <= 16 else 8
        if image_size % self.side:
            raise EvaluationError(
                f"the narrow ViT needs an image size divisible by {self.side}, not {image_size}; resize the data"
            )
        self.patch = image_size // self.side
        self.embed = nn.Linear(3 * self.patch**2, width)
        self.position = nn.Parameter(torch.randn(1, self.side**2, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads, mlp_ratio) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        b, s, p = len(x), self.side, self.patch
        tokens = x.reshape(b, 3, s, p, s, p).permute(0, 2, 4, 1, 3, 5).reshape(b, s * s, 3 * p * p)
        tokens = self.blocks(self.embed(tokens) + self.position)
        return self.classifier(self.norm(tokens.mean(1)))


vit2_w64 = partial(NarrowViT, width=64, depth=2)
