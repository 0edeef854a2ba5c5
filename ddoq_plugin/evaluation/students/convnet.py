"""ConvNet-D, the standard student of the dataset-condensation line."""

from functools import partial

from torch import nn

from .layers import Classifier, make_norm


def _convnet(num_classes: int, image_size: int, *, depth: int, width: int = 128, norm: str = "instance") -> nn.Module:
    """Return D blocks of 3x3 convolution, norm, ReLU and 2x2 average pooling, then one linear layer.

    Width 128, depth 3 at 32 px (4 at 64, 6 at 256) and instance norm are the settings of Zhao et al., "Dataset
    Condensation with Gradient Matching", ICLR 2021 (networks.py, class ConvNet, of VICO-UoE/DatasetCondensation)."""
    features: list[nn.Module] = []
    for channels in (3, *[width] * (depth - 1)):
        features += [nn.Conv2d(channels, width, 3, padding=1), make_norm(norm, width), nn.ReLU(inplace=True)]
        features.append(nn.AvgPool2d(2))
    return Classifier(features, nn.Linear(width * (image_size >> depth) ** 2, num_classes))


convnet3 = partial(_convnet, depth=3)
convnet4 = partial(_convnet, depth=4)
convnet5 = partial(_convnet, depth=5)
convnet6 = partial(_convnet, depth=6)
convnet3_bn = partial(_convnet, depth=3, norm="batch")
convnet4_bn = partial(_convnet, depth=4, norm="batch")
convnet6_bn = partial(_convnet, depth=6, norm="batch")
convnet3_w32 = partial(_convnet, depth=3, width=32)
convnet3_bn_w32 = partial(_convnet, depth=3, width=32, norm="batch")
