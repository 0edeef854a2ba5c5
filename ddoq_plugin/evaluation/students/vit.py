"""A two-layer vision transformer for the embedded data."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
        parts = self.query_key_value(self.norm1(x)).view(b, n, 3, self.heads, w // self.heads).unbind(2)
        with torch.autocast(x.device.type, enabled=False):  # on a CPU attention's backward pass is slow in bfloat16
            attended = F.scaled_dot_product_attention(*(part.float().transpose(1, 2) for part in parts))
        x = x + self.project(attended.transpose(1, 2).reshape(b, n, w))
        return x + self.mlp(self.norm2(x))


class NarrowViT(nn.Module):
    """ViT of ``depth`` layers with learned positions, mean pooling and a convolutional stem.

    Dosovitskiy et al., ICLR 2021, with mean pooling in the place of a class token (both are in its appendix D.3). The
    stem (Xiao et al., "Early Convolutions Help Transformers See Better", NeurIPS 2021) halves the image until at most
    4 tokens a side are left: 16 at 16 and 32 px. On the digits 500 steps with it reach plain patches' 900."""

    def __init__(
        self, num_classes: int, image_size: int, *, width: int = 64, depth: int = 2, heads: int = 2, mlp_ratio: int = 1
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, side = 3, image_size
        while side > 8 or len(layers) < 2:
            layers += [nn.Conv2d(channels, width // 4, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
            channels, side = width // 4, (side + 1) // 2
        side = (side + 1) // 2
        layers.append(nn.Conv2d(channels, width, 3, stride=2, padding=1))
        self.stem = nn.Sequential(*layers)
        self.position = nn.Parameter(torch.randn(1, side**2, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads, mlp_ratio) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        return self.classifier(self.norm(self.blocks(tokens + self.position).mean(1)))


vit2_w64 = partial(NarrowViT, width=64, depth=2)
