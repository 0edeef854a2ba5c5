"""ResNetAP-10, the student of the IDC and Minimax line: average pooling in the place of strided convolutions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .layers import in_sequence, make_norm, norm_relu_pool


class AveragePoolBlock(nn.Module):
    """Basic block whose downsampling is a stride-1 convolution followed by 2x2 average pooling."""

    def __init__(self, inputs: int, outputs: int, downsample: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = make_norm("instance", outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = make_norm("instance", outputs)
        self.pool = 2 if downsample else 1
        self.shortcut: nn.Module = nn.Identity()
        if downsample or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.AvgPool2d(2) if downsample else nn.Identity(),
                make_norm("instance", outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = norm_relu_pool(self.conv1(x), self.norm1, pool=self.pool)
        out = norm_relu_pool(self.conv2(out), self.norm2, relu=False)
        if isinstance(self.shortcut, nn.Sequential):
            convolution, pool, norm = self.shortcut
            x = norm_relu_pool(pool(convolution(x)), norm, relu=False)
        return F.relu(out + x, inplace=True)


class ResNetAP(nn.Module):
    """ResNetAP-10: four stages of one block, widths 64 to 512, instance norm.

    After models/resnet_ap.py of snu-mllab/Efficient-Dataset-Condensation (Kim et al., ICML 2022, "IDC"), which Minimax
    uses too: above 128 px the stem is a 7x7 convolution and 4x4 average pooling, above 64 px a 3x3 convolution and
    2x2 average pooling, up to 64 px the 3x3 convolution alone.
    """

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        kernel, pool = (7, 4) if image_size > 128 else (3, 2 if image_size > 64 else 1)
        stem = [
            nn.Conv2d(3, 64, kernel, padding=kernel // 2, bias=False),
            make_norm("instance", 64),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(pool),
        ]
        widths = (64, 64, 128, 256, 512)
        blocks = [AveragePoolBlock(widths[i], widths[i + 1], downsample=i > 0) for i in range(4)]
        self.features = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(in_sequence(self.features, x))


resnet_ap10 = ResNetAP
