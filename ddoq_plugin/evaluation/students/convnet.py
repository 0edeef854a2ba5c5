"""ConvNet-D, the standard student of the dataset-condensation line."""

from functools import partial

import torch
from timm.layers import lecun_normal_
from torch import Tensor, nn
from torch.nn import functional as F

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


def _kernel_convnet(
    num_classes: int, image_size: int, *, depth: int = 3, width: int = 128, norm: bool = False
) -> nn.Module:
    """Return D blocks of 3x3 convolution, ReLU and 2x2 average pooling, twice as wide each, then one linear layer.

    With ``norm`` there is batch norm before every convolution but the first. Width, norms and initial weights (LeCun's,
    no biases) are those of Zhou et al., "Dataset Distillation using Neural Feature Regression", NeurIPS 2022 (class
    Conv of yongchaoz/FRePo)."""
    features: list[nn.Module] = []
    channels = 3
    for block in range(depth):
        if norm and block:
            features.append(BiasedBatchNorm(channels, momentum=0.9))  # of the new value; flax keeps 0.1 of the old
        features += [nn.Conv2d(channels, width << block, 3, padding=1), nn.ReLU(inplace=True), nn.AvgPool2d(2)]
        channels = width << block
    made = Classifier(features, nn.Linear(channels * (image_size >> depth) ** 2, num_classes))
    for module in made.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            lecun_normal_(module.weight)
            nn.init.zeros_(module.bias)
    return made


class BiasedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose running variance is that of the batch as it is, divided by n, as in flax."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        with torch.no_grad():
            var, mean = torch.var_mean(x.detach(), (0, 2, 3), correction=0)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(var.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)
        return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


convnet3 = partial(_convnet, depth=3)
convnet4 = partial(_convnet, depth=4)
convnet5 = partial(_convnet, depth=5)
convnet6 = partial(_convnet, depth=6)
convnet3_bn = partial(_convnet, depth=3, norm="batch")
convnet4_bn = partial(_convnet, depth=4, norm="batch")
convnet6_bn = partial(_convnet, depth=6, norm="batch")
convnet3_w32 = partial(_convnet, depth=3, width=32)
convnet3_bn_w32 = partial(_convnet, depth=3, width=32, norm="batch")
frepo3 = partial(_kernel_convnet)
frepo3_bn = partial(_kernel_convnet, norm=True)
frepo4 = partial(_kernel_convnet, depth=4)
frepo4_bn = partial(_kernel_convnet, depth=4, norm=True)
frepo2_w32 = partial(_kernel_convnet, depth=2, width=32)
frepo2_bn_w32 = partial(_kernel_convnet, depth=2, width=32, norm=True)
frepo3_w32 = partial(_kernel_convnet, width=32)
frepo3_bn_w32 = partial(_kernel_convnet, width=32, norm=True)
