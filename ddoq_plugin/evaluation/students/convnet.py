"""ConvNet-D, the standard student of the dataset-condensation line."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from .layers import in_sequence, make_norm


class ConvNet(nn.Module):
    """D blocks of 3x3 convolution, norm, ReLU and 2x2 average pooling, then one linear layer.

    Width 128, depth 3 at 32 px (4 at 64, 6 at 256) and instance norm are the settings of Zhao et al., "Dataset
    Condensation with Gradient Matching", ICLR 2021 (networks.py, class ConvNet, of VICO-UoE/DatasetCondensation).
    Input float [B, 3, image_size, image_size]; output [B, num_classes].
    """

    def __init__(
        self, num_classes: int, image_size: int, *, depth: int = 3, width: int = 128, norm: str = "instance"
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for _ in range(depth):
            layers += [
                nn.Conv2d(channels, width, 3, padding=1),
                make_norm(norm, width),
                nn.ReLU(inplace=True),
                nn.AvgPool2d(2),
            ]
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * (image_size >> depth) ** 2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(in_sequence(self.features, x).flatten(1))


convnet3 = partial(ConvNet, depth=3)
convnet4 = partial(ConvNet, depth=4)
convnet5 = partial(ConvNet, depth=5)
convnet6 = partial(ConvNet, depth=6)
convnet3_bn = partial(ConvNet, depth=3, norm="batch")
convnet4_bn = partial(ConvNet, depth=4, norm="batch")
convnet6_bn = partial(ConvNet, depth=6, norm="batch")
convnet3_w32 = partial(ConvNet, depth=3, width=32)
convnet3_bn_w32 = partial(ConvNet, depth=3, width=32, norm="batch")
