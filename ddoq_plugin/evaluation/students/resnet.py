"""ResNets: torchvision's classes with the stem that small images need, and those of the IDC and Minimax line."""

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from .layers import Classifier, make_norm, norm_relu_pool, start_convolutions

SMALL_IMAGE = 128
"""Up to this size (pixels) the stem is one 3x3 convolution of stride 1 without max pooling, as is usual for CIFAR and
in Minimax's code. Convolutions begin as torchvision's do; DC's ResNet keeps PyTorch's default, 2.4 times smaller."""


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


def _resnet(num_classes: int, image_size: int, *, block: type, blocks: list[int], norm: str = "batch") -> nn.Module:
    """Return a torchvision ResNet (He et al., CVPR 2016) of ``blocks`` a stage and the stem for ``image_size``."""
    model = Network(block, blocks, num_classes=num_classes, norm_layer=partial(make_norm, norm))
    if image_size <= SMALL_IMAGE:
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        start_convolutions(model.conv1)
        model.maxpool = nn.Identity()
    return model


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
            pool = nn.AvgPool2d(2) if downsample else nn.Identity()
            convolution = nn.Conv2d(inputs, outputs, 1, bias=False)
            self.shortcut = nn.Sequential(convolution, pool, make_norm("instance", outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = norm_relu_pool(self.conv1(x), self.norm1, pool=self.pool)
        out = norm_relu_pool(self.conv2(out), self.norm2, relu=False)
        if isinstance(self.shortcut, nn.Sequential):
            convolution, pool, norm = self.shortcut
            x = norm_relu_pool(pool(convolution(x)), norm, relu=False)
        return F.relu(out + x, inplace=True)


def resnet_ap10(num_classes: int, image_size: int) -> nn.Module:
    """ResNetAP-10: four stages of one block, widths 64 to 512, instance norm.

    After models/resnet_ap.py of snu-mllab/Efficient-Dataset-Condensation (Kim et al., ICML 2022, "IDC"), which Minimax
    uses too: above 128 px the stem is a 7x7 convolution and 4x4 average pooling, above 64 px a 3x3 convolution and
    2x2 average pooling, up to 64 px the 3x3 convolution alone."""
    kernel, pool = (7, 4) if image_size > 128 else (3, 2 if image_size > 64 else 1)
    widths = (64, 64, 128, 256, 512)
    stem = [nn.Conv2d(3, 64, kernel, padding=kernel // 2, bias=False), make_norm("instance", 64)]
    pooling = [nn.ReLU(inplace=True), nn.AvgPool2d(pool)]
    blocks = [AveragePoolBlock(widths[i], widths[i + 1], downsample=i > 0) for i in range(4)]
    features = [*stem, *pooling, *blocks, nn.AdaptiveAvgPool2d(1)]
    model = Classifier(features, nn.Linear(widths[-1], num_classes))
    start_convolutions(model)
    return model


class NarrowResNet(nn.Module):
    """ResNet-10 for the embedded data: basic blocks of widths (w, 2w, 4w, 8w), one a stage, 3x3 stem, mean pooling."""

    def __init__(self, num_classes: int, image_size: int, *, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        stages = [Basic(width, width)]
        for outputs in (2 * width, 4 * width, 8 * width):
            inputs = outputs // 2
            shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs))
            stages.append(Basic(inputs, outputs, 2, shortcut))
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(8 * width, num_classes)
        start_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(norm_relu_pool(self.stem(x), self.norm))
        return self.classifier(x.mean((2, 3)))


resnet10 = partial(_resnet, block=Basic, blocks=[1, 1, 1, 1])
resnet18 = partial(_resnet, block=Basic, blocks=[2, 2, 2, 2])
resnet50 = partial(_resnet, block=Deep, blocks=[3, 4, 6, 3])
resnet101 = partial(_resnet, block=Deep, blocks=[3, 4, 23, 3])
resnet18_in = partial(_resnet, block=Basic, blocks=[2, 2, 2, 2], norm="instance")
resnet10_w16 = partial(NarrowResNet, width=16)
