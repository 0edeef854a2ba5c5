"""The classic sets as torchvision stores them: MNIST, Fashion-MNIST, CIFAR-10/100, SVHN, STL-10."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import DataError
from .base import ArraySplit, ImageData
from .digits import DIGIT_NAMES
from .splitting import make_image_data
from .transforms import fit_arrays


class _Source(NamedTuple):
    """How torchvision calls a set, and the files it expects under the root."""

    torchvision_name: str
    split_options: tuple[dict[str, Any], dict[str, Any]]  # for train and for test
    files: str
    class_names: tuple[str, ...] | None = None  # None: torchvision's own


_BY_FLAG = ({"train": True}, {"train": False})
_BY_NAME = ({"split": "train"}, {"split": "test"})
_SOURCES = {
    "mnist": _Source("MNIST", _BY_FLAG, "MNIST/raw/train-images-idx3-ubyte and its companions", DIGIT_NAMES),
    "fashion_mnist": _Source("FashionMNIST", _BY_FLAG, "FashionMNIST/raw/train-images-idx3-ubyte and its companions"),
    "cifar10": _Source("CIFAR10", _BY_FLAG, "cifar-10-batches-py/data_batch_1 to 5, test_batch and batches.meta"),
    "cifar100": _Source("CIFAR100", _BY_FLAG, "cifar-100-python/train, test and meta"),
    "svhn": _Source("SVHN", _BY_NAME, "train_32x32.mat and test_32x32.mat", DIGIT_NAMES),
    "stl10": _Source("STL10", _BY_NAME, "stl10_binary/train_X.bin, train_y.bin, test_X.bin, test_y.bin"),
}


def _load(
    name: str,
    *,
    root: str | Path = "data",
    download: bool = False,
    image_size: int | None = None,
    val_fraction: float = 0.1,
    classes: Sequence[str | int] | None = None,
    limit_per_class: int | None = None,
) -> ImageData:
    """Load a torchvision set from ``root``, the folder that torchvision's ``root`` would be.

    ``download`` fetches missing files; that is never done unasked. ``image_size``: pixels; None keeps the set's size
    (28x28 is padded to 32x32). The other options are those of ``make_image_data``. DataError: the files are not there
    or damaged; it names the root, the files and ``download: true``."""
    source, folder = _SOURCES[name], Path(root).expanduser()
    splits, names = [], source.class_names
    for options in source.split_options:
        raw = _open(name, source, folder, download, options)
        labels = torch.as_tensor(np.asarray(raw.targets if hasattr(raw, "targets") else raw.labels), dtype=torch.int64)
        splits.append(ArraySplit(fit_arrays(_pixels(raw.data), image_size), labels))
        names = names or tuple(raw.classes)
    return make_image_data(
        name, names, *splits, val_fraction=val_fraction, classes=classes, limit_per_class=limit_per_class
    )


def _open(name: str, source: _Source, folder: Path, download: bool, options: dict[str, Any]) -> Any:
    import torchvision.datasets

    kind = getattr(torchvision.datasets, source.torchvision_name)
    try:
        return kind(str(folder), download=download, **options)
    except OSError as problem:  # URLError is one
        what = "could not be downloaded to" if download else "could not be read from"
        raise DataError(f"the dataset {name} {what} {folder} ({problem}); expected {source.files}") from problem
    except (RuntimeError, ValueError, EOFError) as problem:
        raise DataError(
            f"the dataset {name} is not in {folder} or is damaged: expected {source.files}; copy them there or set "
            "download: true"
        ) from problem


def _pixels(data: Any) -> torch.Tensor:
    """Return uint8 [n, C, H, W] from the three layouts that torchvision uses."""
    if isinstance(data, torch.Tensor):  # MNIST: [n, 28, 28]
        return data[:, None]
    array = torch.from_numpy(np.ascontiguousarray(data))
    return array.permute(0, 3, 1, 2) if array.shape[-1] == 3 else array  # CIFAR is NHWC; SVHN and STL-10 are NCHW


load_mnist, load_fashion_mnist = partial(_load, "mnist"), partial(_load, "fashion_mnist")
load_cifar10, load_cifar100 = partial(_load, "cifar10"), partial(_load, "cifar100")
load_svhn, load_stl10 = partial(_load, "svhn"), partial(_load, "stl10")
