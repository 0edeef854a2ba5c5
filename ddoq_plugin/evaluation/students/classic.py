"""MLP, LeNet, AlexNet and VGG-11 in the small-image forms of the dataset-condensation line.

Shapes after networks.py of VICO-UoE/DatasetCondensation (Zhao et al., ICLR 2021), which takes them at 28 or 32 px; here
the first linear layer follows the image size.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from .layers import in_sequence, make_norm


class MLP(nn.Module):
    """Two hidden layers of 128 with ReLU on the flattened image."""

    def __init__(self, num_classes: int, image_size: int, *, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(3 * image_size**2, width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width),
            nn.ReLU(inplace=True),
            nn.Linear(width, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class LeNet(nn.Module):
    """Two unpadded 5x5 convolutions (6 and 16 maps) with ReLU and max pooling, then 120, 84 and the classes."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        side = ((image_size - 4) // 2 - 4) // 2
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * side**2, 120),
            nn.ReLU(inplace=True),
            nn.Linear(120, 84),
            nn.ReLU(inplace=True),
            nn.Linear(84, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class AlexNet(nn.Module):
    """Five convolutions (128, 192, 256, 192, 192 maps) with three max pools, then one linear layer."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(3, 128, 5),
            nn.MaxPool2d(2),
            *_convolution(128, 192, 5),
            nn.MaxPool2d(2),
            *_convolution(192, 256, 3),
            *_convolution(256, 192, 3),
            *_convolution(192, 192, 3),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(192 * (image_size // 8) ** 2, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class VGG11(nn.Module):
    """Eight 3x3 convolutions with a norm, five max pools, global average (the identity at 32 px), one linear layer."""

    LAYOUT = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")

    def __init__(self, num_classes: int, image_size: int, *, norm: str = "instance") -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, side = 3, image_size
        for step in self.LAYOUT:
            if step == "pool":
                layers.append(nn.MaxPool2d(2))
                side //= 2
            elif isinstance(step, int):
                # a single pixel has no spread: the norm of one would erase it
                kind = "none" if norm == "instance" and side == 1 else norm
                layers += [nn.Conv2d(channels, step, 3, padding=1), make_norm(kind, step), nn.ReLU(inplace=True)]
                channels = step
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(in_sequence(self.features, x))


def _convolution(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.ReLU(inplace=True)]


mlp = MLP
lenet = LeNet
alexnet = AlexNet
vgg11 = VGG11
vgg11_bn = partial(VGG11, norm="batch")
