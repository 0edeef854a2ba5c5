"""MLP, LeNet, AlexNet and VGG-11 in the small-image forms of the dataset-condensation line.

Shapes after networks.py of VICO-UoE/DatasetCondensation (Zhao et al., ICLR 2021), which takes them at 28 or 32 px; here
the first linear layer follows the image size."""

from functools import partial

from torch import Tensor, nn

from .layers import Classifier, make_norm


class Layers(nn.Module):
    """Layers one after the other."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def mlp(num_classes: int, image_size: int) -> nn.Module:
    """Two hidden layers of 128 with ReLU on the flattened image."""
    return Layers(nn.Flatten(), *_linear(3 * image_size**2, 128), *_linear(128, 128), nn.Linear(128, num_classes))


def lenet(num_classes: int, image_size: int) -> nn.Module:
    """Two unpadded 5x5 convolutions (6 and 16 maps) with ReLU and max pooling, then 120, 84 and the classes."""
    side = ((image_size - 4) // 2 - 4) // 2
    first, second = _convolution(3, 6, 5, padding=0), _convolution(6, 16, 5, padding=0)
    maps = [*first, nn.MaxPool2d(2), *second, nn.MaxPool2d(2), nn.Flatten()]
    return Layers(*maps, *_linear(16 * side**2, 120), *_linear(120, 84), nn.Linear(84, num_classes))


def alexnet(num_classes: int, image_size: int) -> nn.Module:
    """Five convolutions (128, 192, 256, 192, 192 maps) with three max pools, then one linear layer."""
    large = [*_convolution(3, 128, 5), nn.MaxPool2d(2), *_convolution(128, 192, 5), nn.MaxPool2d(2)]
    small = [*_convolution(192, 256, 3), *_convolution(256, 192, 3), *_convolution(192, 192, 3), nn.MaxPool2d(2)]
    return Layers(*large, *small, nn.Flatten(), nn.Linear(192 * (image_size // 8) ** 2, num_classes))


def vgg11(num_classes: int, image_size: int, *, norm: str = "instance") -> nn.Module:
    """Eight 3x3 convolutions with a norm, five max pools, global average (the identity at 32 px), one linear layer."""
    layers: list[nn.Module] = []
    channels, side = 3, image_size
    for stage in ((64,), (128,), (256, 256), (512, 512), (512, 512)):
        # a single pixel has no spread: the norm of one would erase it
        kind = "none" if norm == "instance" and side == 1 else norm
        for width in stage:
            layers += [nn.Conv2d(channels, width, 3, padding=1), make_norm(kind, width), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
        side //= 2
    return Classifier([*layers, nn.AdaptiveAvgPool2d(1)], nn.Linear(channels, num_classes))


vgg11_bn = partial(vgg11, norm="batch")


def _convolution(inputs: int, outputs: int, kernel: int, *, padding: int | None = None) -> list[nn.Module]:
    pixels = kernel // 2 if padding is None else padding
    return [nn.Conv2d(inputs, outputs, kernel, padding=pixels), nn.ReLU(inplace=True)]


def _linear(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
