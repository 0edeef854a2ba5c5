"""Students whose layers come from torchvision and timm, with stems and patches that suit small images."""

from functools import partial

from torch import nn
from torchvision.models import SwinTransformer, get_model

from ...errors import EvaluationError
from .resnet import SMALL_IMAGE


def _torchvision(name: str, num_classes: int, image_size: int) -> nn.Module:
    """Return torchvision's network; below 128 px its stem has stride 1, as is usual for CIFAR."""
    model = get_model(name, weights=None, num_classes=num_classes)
    if image_size < SMALL_IMAGE:
        model.features[0][0].stride = (1, 1)
    return model


def swin_t(num_classes: int, image_size: int) -> nn.Module:
    """Swin-T (Liu et al., ICCV 2021): patch 4 and window 7 from 128 px on, patch 2 and window 4 below."""
    patch, window = (2, 4) if image_size < SMALL_IMAGE else (4, 7)
    return SwinTransformer(
        [patch] * 2, 96, [2, 2, 6, 2], [3, 6, 12, 24], [window] * 2, stochastic_depth_prob=0.2, num_classes=num_classes
    )


def _vit(name: str, num_classes: int, image_size: int) -> nn.Module:
    import timm

    patch = patch_size(image_size)
    return timm.create_model(name, num_classes=num_classes, img_size=image_size, patch_size=patch)


def patch_size(image_size: int) -> int:
    """Return the ViT's patch size in pixels: 16 from 128 px on; below, the divisor of ``image_size`` nearest to an
    eighth of it. Raises EvaluationError where no divisor leaves between 4 and 16 patches a side."""
    if image_size >= SMALL_IMAGE and image_size % 16 == 0:
        return 16
    fitting = [p for p in range(1, image_size + 1) if image_size % p == 0 and 4 <= image_size // p <= 16]
    if not fitting:
        raise EvaluationError(
            f"a ViT cannot cut {image_size} px into equal patches; resize the data to a multiple of 8"
        )
    return min(fitting, key=lambda p: (abs(p - image_size / 8), p))


mobilenet_v2 = partial(_torchvision, "mobilenet_v2")  # Sandler et al., CVPR 2018
efficientnet_b0 = partial(_torchvision, "efficientnet_b0")  # Tan & Le, ICML 2019
vit_tiny = partial(_vit, "vit_tiny_patch16_224")  # width 192, 12 layers, 3 heads
deit_tiny = partial(_vit, "deit_tiny_patch16_224")  # without the distillation token (Touvron et al., ICML 2021)
