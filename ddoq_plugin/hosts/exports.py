"""Data and distilled sets on disk, as DD-Ranking reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from ..data.transforms import resize_images
from ..distilled_set import to_uint8
from ..errors import DataError, EvaluationError, nearest
from ..evaluation.inputs import IMAGENET_MEAN, IMAGENET_STD, Normaliser
from ..store.artifacts import Store, hash_tensors

if TYPE_CHECKING:
    from ..data import ImageData
    from ..distilled_set import DistilledSet
    from ..evaluation import Protocol, Teacher

CIFAR = Normaliser((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
IMAGENET = Normaliser(IMAGENET_MEAN, IMAGENET_STD)
# ddranking 0.2.0, utils/data.py:58-163: classes, pixels, normalisation. Its ImageNet subsets are left out: they are
# `Subset`s without the targets that soft_label.py:185 reads; load them with load_data("imagenette", root=...).
OWN_DATASETS = {
    "CIFAR10": (10, 32, CIFAR),
    "CIFAR100": (100, 32, CIFAR),
    "TinyImageNet": (200, 64, IMAGENET),
    "ImageNet1K": (1000, 224, IMAGENET),
}


@dataclass(frozen=True)
class HostData:
    """A dataset as DD-Ranking's evaluators find it, under the ``name`` that it has there.

    ``folder`` holds ``train/00000/00000.png`` and ``val/...`` (the test images), or, where ``own``, the files of one of
    its own datasets. ``image_size`` is the side in pixels that students see."""

    name: str
    folder: Path
    image_size: int
    num_classes: int
    normaliser: Normaliser
    own: bool = False


def export_data(data: ImageData, protocol: Protocol, store: Store) -> HostData:
    """Write the train and test splits of ``data`` as class folders of PNGs, once, and return where they are."""
    key = {"data": data.fingerprint, "layout": "class folders of png, 1"}

    def make(folder: Path) -> None:
        for part, split in (("train", data.train), ("val", data.test)):
            _write_pngs(split.batches(256), folder / part)

    size, normaliser = protocol.image_size or data.image_size, Normaliser.named(protocol.normalisation, data)
    # never one of its own names, which would take its own loader
    folder = store.get("ddranking_data", key, make)
    return HostData(f"ddoq-{data.name}", folder, size, data.num_classes, normaliser)


def own_data(name: str, folder: str | Path) -> HostData:
    """Return one of DD-Ranking's own datasets, whose files are in ``folder``; DataError where they are not."""
    if name not in OWN_DATASETS:
        raise DataError(
            f"DD-Ranking's dataset {name!r} is not known{nearest(name, OWN_DATASETS)} (known: "
            f"{', '.join(OWN_DATASETS)}); load any other with a dataset of this package"
        )
    classes, size, normaliser = OWN_DATASETS[name]
    root = Path(folder).expanduser()
    inside = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python"}.get(name, "train")
    if not (root / inside).is_dir():  # otherwise utils/data.py:75 and :98 would download
        raise DataError(f"the folder {root / inside} of {name} does not exist; give the folder that holds it")
    return HostData(name, root, size, classes, normaliser, own=True)


def export_set(
    made: DistilledSet,
    folder: str | Path,
    normaliser: Normaliser,
    *,
    image_size: int | None = None,
    teacher: Teacher | None = None,
    learning_rate: float | None = None,
) -> Path:
    """Write a set in DD-Ranking's formats and return the folder; ``image_size`` resizes.

    ``images/00000/00000.png``: class folders. ``images.pt``: float32 [n, 3, H, W], class-major, normalised by
    ``normaliser``; exact for a set of floats. ``labels.pt``: float32 logits [n, C], the set's own or the ``teacher``'s;
    left out where there is neither. ``lr.pt``: a scalar, where ``learning_rate`` is given."""
    folder = Path(folder)
    if (folder / "images").exists():
        raise DataError(f"{folder} already holds an exported set; give a new folder or remove the old one")
    images = made.images if made.floats is None else made.floats
    images = images if image_size is None else resize_images(images, image_size)
    _write_pngs([(images if made.floats is None else to_uint8(images), made.labels)], folder / "images")
    torch.save(normaliser(images), folder / "images.pt")
    logits = made.targets if made.targets is not None or teacher is None else teacher.logits(images)
    if logits is not None:
        torch.save(logits, folder / "labels.pt")
    if learning_rate is not None:
        torch.save(torch.tensor(learning_rate), folder / "lr.pt")
    return folder


def stored_set(made: DistilledSet, data: HostData, store: Store) -> Path:
    """Return the stored class folders of a set, as :func:`export_set` writes them."""
    key = {"images": made.image_hash, "logits": hash_tensors(made.targets), "size": data.image_size}
    key |= {"normaliser": [data.normaliser.mean, data.normaliser.std], "layout": "class folders of png, 1"}

    def make(folder: Path) -> None:
        export_set(made, folder, data.normaliser, image_size=data.image_size)

    return store.get("ddranking_sets", key, make)


def check_set(made: DistilledSet, data: HostData | ImageData, train_counts: Tensor | None) -> None:
    """Raise EvaluationError unless the set fits the dataset, has one number of images a class and is pictures that
    the host can read: it knows nothing of preprocessing, mosaics and regression targets."""
    if made.preprocessing.kind != "none" or made.mosaic > 1 or made.target_kind == "regression":
        raise EvaluationError(
            "DD-Ranking's scores train on plain pictures, and the set is preprocessed, a mosaic or has regression "
            "targets; score it with ddoq evaluate"
        )
    if made.num_classes != data.num_classes:
        classes = f"the set has {made.num_classes} classes and the dataset {data.name!r} {data.num_classes}"
        raise EvaluationError(f"{classes}; score it on the dataset it was made from")
    fewest, most = (int(count) for count in made.labels.bincount(minlength=made.num_classes).aminmax())
    if fewest != most:
        raise EvaluationError(
            f"the set has {fewest} to {most} images a class; the random reference has one number, so give every class "
            "as many"
        )
    if train_counts is not None and int(train_counts.min()) < made.ipc:
        raise EvaluationError(
            f"the random reference needs {made.ipc} training images a class, and class {int(train_counts.argmin())} of "
            f"{data.name!r} has {int(train_counts.min())}; lower the set's IPC"
        )


def _write_pngs(batches: Iterable[tuple[Tensor, Tensor]], root: Path) -> None:
    """Write uint8 images as ``root/<class>/<number within the class>.png``."""
    counts: Counter[int] = Counter()
    for images, labels in batches:
        for image, label in zip(images, labels.tolist(), strict=True):
            path = root / f"{label:05d}" / f"{counts[label]:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(path)
            counts[label] += 1
