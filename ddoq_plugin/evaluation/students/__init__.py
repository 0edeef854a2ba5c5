"""Student architectures, by name: a factory is called as ``factory(num_classes, image_size)`` and returns a module.

Importing this package loads no torch; :func:`build_student` is imported on first use. Names that end in ":" are
namespaces: every ``timm:NAME`` and ``torchvision:NAME`` is a student.

Flags of an entry: ``family``; ``min_size``, the smallest image size in pixels it accepts; ``channels_last``, whether
its layers run faster in that memory format (with instance norm that is so on a CPU, where it has its own kernels:
"cpu"); ``bfloat16``, whether its accuracy in that format was measured to be float32's and its training faster;
``embedded``, whether it is small enough for the embedded data on one core."""

from typing import TYPE_CHECKING

from ...lazy_imports import lazy_names
from ...registry import Entry

if TYPE_CHECKING:
    from .build import build_student, flag_of

_HERE = "ddoq_plugin.evaluation.students"


def _entry(name: str, module: str, family: str, min_size: int, summary: str, **flags: object) -> Entry:
    return Entry(name, f"{_HERE}.{module}:{name}", summary, {"family": family, "min_size": min_size, **flags})


ENTRIES = [
    _entry("convnet3", "convnet", "convnet", 8,
           "ConvNet-3 of the DC line: width 128, instance norm, average pooling", bfloat16="cpu", channels_last="cpu"),
    _entry("convnet4", "convnet", "convnet", 16, "ConvNet-4 of the DC line", channels_last="cpu"),
    _entry("convnet5", "convnet", "convnet", 32, "ConvNet-5 of the DC line", channels_last="cpu"),
    _entry("convnet6", "convnet", "convnet", 64, "ConvNet-6 of the DC line", channels_last="cpu"),
    _entry("convnet3_bn", "convnet", "convnet", 8, "ConvNet-3 with batch norm", channels_last=True),
    _entry("convnet4_bn", "convnet", "convnet", 16, "ConvNet-4 with batch norm", channels_last=True),
    _entry("convnet6_bn", "convnet", "convnet", 64, "ConvNet-6 with batch norm", channels_last=True),
    _entry("convnet3_w32", "convnet", "convnet", 8,
           "ConvNet-3 of width 32, for the embedded data", embedded=True, bfloat16="cpu", channels_last="cpu"),
    _entry("convnet3_bn_w32", "convnet", "convnet", 8,
           "ConvNet-3 of width 32 with batch norm, for the embedded data", channels_last=True, embedded=True),
    _entry("frepo3", "convnet", "convnet", 8,
           "FRePo's network: widths 128, 256 and 512, no norm; what its sets are scored with", channels_last=True),
    _entry("frepo3_bn", "convnet", "convnet", 8, "FRePo's network with batch norm; what it learns on",
           channels_last=True),
    _entry("frepo4", "convnet", "convnet", 16, "the same of four blocks, for 64 px", channels_last=True),
    _entry("frepo4_bn", "convnet", "convnet", 16, "the same of four blocks with batch norm", channels_last=True),
    _entry("frepo3_w32", "convnet", "convnet", 8,
           "FRePo's network of widths 32, 64 and 128, for 32 px", channels_last=True, embedded=True),
    _entry("frepo3_bn_w32", "convnet", "convnet", 8, "the same with batch norm", channels_last=True, embedded=True),
    _entry("frepo2_w32", "convnet", "convnet", 8,
           "FRePo's network of widths 32 and 64, for 16 px", channels_last=True, embedded=True),
    _entry("frepo2_bn_w32", "convnet", "convnet", 8, "the same with batch norm", channels_last=True, embedded=True),
    _entry("mlp", "classic", "mlp", 1, "MLP of the DC line: two hidden layers of 128", embedded=True),
    _entry("lenet", "classic", "lenet", 16, "LeNet-5 with ReLU and max pooling, as in the DC line", embedded=True),
    _entry("alexnet", "classic", "alexnet", 8, "AlexNet of the DC line, for small images"),
    _entry("vgg11", "classic", "vgg", 32, "VGG-11 of the DC line: instance norm", channels_last="cpu"),
    _entry("vgg11_bn", "classic", "vgg", 32, "VGG-11 with batch norm", channels_last=True),
    _entry("resnet10", "resnet", "resnet", 8, "ResNet-10: one basic block a stage", channels_last=True),
    _entry("resnet18", "resnet", "resnet", 8, "ResNet-18", bfloat16="cpu", channels_last=True),
    _entry("resnet50", "resnet", "resnet", 8, "ResNet-50", channels_last=True),
    _entry("resnet101", "resnet", "resnet", 8, "ResNet-101", channels_last=True),
    _entry("resnet18_in", "resnet", "resnet", 16, "ResNet-18 with instance norm (IDC, Minimax)", channels_last="cpu"),
    _entry("resnet10_w16", "resnet", "resnet", 8,
           "ResNet-10 of width 16, for the embedded data", embedded=True, bfloat16="cpu", channels_last=True),
    _entry("resnet_ap10", "resnet", "resnet", 16,
           "ResNetAP-10: average-pool downsampling, instance norm", channels_last="cpu"),
    _entry("mobilenet_v2", "backed", "mobilenet", 16, "MobileNet-V2 (torchvision)", channels_last=True),
    _entry("efficientnet_b0", "backed", "efficientnet", 16, "EfficientNet-B0 (torchvision)", channels_last=True),
    _entry("swin_t", "backed", "swin", 16, "Swin-T (torchvision); smaller patches and windows under 128 px"),
    _entry("vit_tiny", "backed", "vit", 16, "ViT-tiny (timm); about eight patches a side under 128 px"),
    _entry("deit_tiny", "backed", "vit", 16, "DeiT-tiny (timm); about eight patches a side under 128 px"),
    _entry("vit2_w64", "vit", "vit", 8,
           "ViT of two layers and width 64, for the embedded data", embedded=True, channels_last="cpu"),
    Entry("timm:", f"{_HERE}.build:timm_student", "every architecture of timm, without pretrained weights"),
    Entry("torchvision:", f"{_HERE}.build:torchvision_student", "every architecture of torchvision, without weights"),
]  # fmt: skip

__all__ = ["ENTRIES", "build_student", "flag_of"]
__getattr__, __dir__ = lazy_names(__name__)
