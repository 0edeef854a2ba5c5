"""ResNets: torchvision's classes with the stem that small images need."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from .layers import make_norm, norm_relu_pool

SMALL_IMAGE = 128
"""Below this size (pixels) the stem is one 3x3 convolution of stride 1 without max pooling, as is usual for CIFAR."""


class Basic(BasicBlock):
    """torchvision's basic block, with norm and ReLU in one pass where that can be."""

    def forward(self, x: Tensor) -> Tensor:
        out = norm_relu_pool(self.conv1(x), self.bn1)
        out = norm_relu_pool(self.conv2(out), self.bn2, relu=False)
        return F.relu(out + _shortcut(self, x), inplace=True)


class Deep(Bottleneck):
    """torchvision's bottleneck block, likewise."""

    def forward(self, x: Tensor) -> Tensor:
        out = norm_relu_pool(self.conv1(x), self.bn1)
        out = norm_relu_pool(self.conv2(out), self.bn2)
        out = norm_relu_pool(self.conv3(out), self.bn3, relu=False)
        return F.relu(out + _shortcut(self, x), inplace=True)


class Network(ResNet):
    """torchvision's ResNet, likewise."""

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = self.maxpool(norm_relu_pool(self.conv1(x), self.bn1))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def _shortcut(block: Any, x: Tensor) -> Tensor:
    if block.downsample is None:
        return x
    convolution, norm = block.downsample
    return norm_relu_pool(convolution(x), norm, relu=False)


def _resnet(
    num_classes: int, image_size: int, *, block: type, blocks: tuple[int, ...], norm: str = "batch"
) -> nn.Module:
    """Return a torchvision ResNet (He et al., CVPR 2016) of ``blocks`` a stage and the stem for ``image_size``."""
    layer: Callable[[int], nn.Module] = partial(make_norm, norm)
    model = Network(block, list(blocks), num_classes=num_classes, norm_layer=layer)
    if image_size < SMALL_IMAGE:
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model


class NarrowResNet(nn.Module):
    """ResNet-10 for the embedded data: basic blocks of widths (w, 2w, 4w, 8w), one a stage, 3x3 stem, mean pooling."""

    def __init__(self, num_classes: int, image_size: int, *, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        stages, channels = [], width
        for stage in range(4):
            outputs, stride = width << stage, 2 if stage else 1
            shortcut = None
            if stride > 1:
                shortcut = nn.Sequential(nn.Conv2d(channels, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            stages.append(Basic(channels, outputs, stride, shortcut))
            channels = outputs
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(norm_relu_pool(self.stem(x), self.norm))
        return self.classifier(x.mean((2, 3)))


resnet10 = partial(_resnet, block=Basic, blocks=(1, 1, 1, 1))
resnet18 = partial(_resnet, block=Basic, blocks=(2, 2, 2, 2))
resnet50 = partial(_resnet, block=Deep, blocks=(3, 4, 6, 3))
resnet101 = partial(_resnet, block=Deep, blocks=(3, 4, 23, 3))
resnet18_in = partial(_resnet, block=Basic, blocks=(2, 2, 2, 2), norm="instance")
resnet10_w16 = partial(NarrowResNet, width=16)
