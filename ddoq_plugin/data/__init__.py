"""Datasets: ``load_data(name, **options)`` gives an :class:`ImageData` with train, validation and test kept apart.

>>> data = load_data("digits")
>>> data = load_data("cifar10", root="data", download=True)
>>> data = load_data("imagenette", root="/data/imagenet", image_size=128)
>>> data = load_data("folder:/my/images", image_size=64)
>>> data = load_data("npz:/my/pack.npz")
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from ..errors import DataError, nearest
from ..lazy_imports import lazy_names
from ..registry import DATASETS, Entry

if TYPE_CHECKING:
    from .base import ArraySplit, ImageData, Split
    from .files import FolderSplit
    from .splitting import make_image_data

__all__ = ["ENTRIES", "ArraySplit", "FolderSplit", "ImageData", "Split", "load_data", "make_image_data"]

__getattr__, __dir__ = lazy_names(__name__)


def _entries(module: str, summaries: dict[str, str], **flags: object) -> list[Entry]:
    return [Entry(name, f"ddoq_plugin.data.{module}:load_{name}", text, flags) for name, text in summaries.items()]


ENTRIES = [
    *_entries("digits", {"digits": "scikit-learn digits, 16x16 grey, 10 classes, embedded"}, needs_files=False),
    *_entries(
        "torchvision_sets",
        {
            "mnist": "MNIST, 28x28 grey padded to 32x32, 10 classes",
            "fashion_mnist": "Fashion-MNIST, 28x28 grey padded to 32x32, 10 classes",
            "cifar10": "CIFAR-10, 32x32, 10 classes",
            "cifar100": "CIFAR-100, 32x32, 100 classes",
            "svhn": "SVHN (cropped digits), 32x32, 10 classes",
            "stl10": "STL-10 (labelled part), 96x96, 10 classes",
        },
        needs_files=True,
        can_download=True,
    ),
    *_entries(
        "folders",
        {
            "imagenet": "ImageNet-1K (ILSVRC 2012), 1000 classes",
            "imagenet100": "100 classes of ImageNet (the list of CMC)",
            "imagenette": "ten easy classes of ImageNet",
            "imagewoof": "ten dog breeds of ImageNet",
            "imagemeow": "ten cats of ImageNet",
            "imagesquawk": "ten birds of ImageNet",
            "imagefruit": "ten fruits of ImageNet",
            "imageyellow": "ten yellow things of ImageNet",
            "folder": "any folder of images: PATH/<class>/*.png, or PATH/train and PATH/test",
        },
        needs_files=True,
    ),
    *_entries("tiny_imagenet", {"tiny_imagenet": "Tiny-ImageNet, 64x64, 200 classes"}, needs_files=True),
    *_entries("npz", {"npz": "a .npz pack: x_train, y_train, x_test, y_test, class_names"}, needs_files=True),
]


def load_data(name: str, **options: Any) -> ImageData:
    """Load the dataset registered as ``name``, or ``"folder:PATH"`` or ``"npz:PATH"``, with its loader's options.

    All built-in loaders take ``image_size``, ``val_fraction``, ``classes`` and ``limit_per_class``. Those with files
    take ``root`` or ``path`` (either word), the torchvision sets ``download``. UnknownNameError: no such dataset.
    DataError: an unknown or missing option, or missing or damaged data."""
    prefix, colon, rest = name.partition(":")
    if colon and prefix in ("folder", "npz"):
        if {"path", "root"} & set(options):
            raise DataError(f"the dataset {name!r} names its path already; drop the option path")
        name, options = prefix, {**options, "path": rest}
    loader = DATASETS.load(name)
    return loader(**_checked_options(name, loader, options))


def _checked_options(name: str, loader: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return ``options`` for ``loader``, ``root`` and ``path`` taken for the same; unknown and missing ones raise."""
    parameters = inspect.signature(loader).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return options
    renamed = dict(options)
    for given, known in (("root", "path"), ("path", "root")):
        if given in renamed and given not in parameters and known in parameters:
            renamed[known] = renamed.pop(given)
    for option in renamed:
        if option not in parameters:
            hint = f"{nearest(option, parameters)} (options: {', '.join(parameters)})"
            raise DataError(f"the dataset {name} has no option {option!r}{hint}")
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and option not in renamed:
            raise DataError(f"the dataset {name} needs the option {option!r}; give where its files are")
    return renamed
