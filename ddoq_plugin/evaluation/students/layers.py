"""Layers that the student families share: norms by name and a 2x2 average pool that is fast on a CPU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def make_norm(name: str, channels: int) -> nn.Module:
    """Return the norm called ``name``: "instance" (affine GroupNorm of one channel a group), "batch" or "none"."""
    if name == "instance":
        return nn.GroupNorm(channels, channels)
    return nn.BatchNorm2d(channels) if name == "batch" else nn.Identity()


class AveragePool2(nn.Module):
    """Average pooling of 2x2 windows with stride 2; an odd last row or column is dropped, as ``AvgPool2d(2)`` does.

    On a CPU, contiguous maps of even size are pooled by adding rows, then columns: with the backward pass that is
    several times faster than ``avg_pool2d``, which is half of a narrow ConvNet's step. The two differ by float
    rounding only.
    """

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        if x.device.type != "cpu" or h % 2 or w % 2 or not x.is_contiguous():
            return F.avg_pool2d(x, 2)
        rows = x.view(b * c * h // 2, 2 * w)
        pairs = (rows[:, :w] + rows[:, w:]).view(-1, 2)
        return ((pairs[:, 0] + pairs[:, 1]) * 0.25).view(b, c, h // 2, w // 2)
