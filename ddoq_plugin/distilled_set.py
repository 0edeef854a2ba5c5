"""DistilledSet: what a distiller returns, and its form on disk.

On disk a set is an image folder that other tools read as it is, beside the exact tensors::

    train/00003_dog/00003.png    what a person looks at (torchvision's ImageFolder keeps the class order)
    train/metadata.parquet       file_name, label, weight: Hugging Face `datasets` reads the folder as an imagefolder
    images.safetensors           the images
    tensors.safetensors          labels, weights and, where there are any, logits
    provenance.json              class names, where the set comes from, hash

Images are rounded to uint8 once, when the set is made: the PNG, the tensors and what is scored are the same bytes.
A set may be larger than memory: it is written piece by piece and read as a mapped file. Sets with the same images, such
as those that differ in their weights, share their images' files in a store, by hard links.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DataError, nearest
from .store.artifacts import Store, hash_tensors, link_files, write_atomic
from .store.code import code_hash
from .store.tensor_files import empty_tensor, read_tensors, write_tensors

if TYPE_CHECKING:
    import torch

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
IMAGES, TENSORS, PROVENANCE, METADATA = (
    "images.safetensors", "tensors.safetensors", "provenance.json", "metadata.parquet",
)  # fmt: skip


@dataclass(frozen=True)
class DistilledSet:
    """Images with labels and weights.

    images: uint8 ``[n, 3, H, W]``. labels: int64 ``[n]``, ascending (class-major), every class present.
    weights: float32 ``[n]``, non-negative, of mean 1 within each class; default all 1. logits: float32
    ``[n, classes]`` or None, plain soft labels of the images as they are. provenance: JSON-able.
    Raises DataError where the tensors do not fit each other.
    """

    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple[str, ...]
    weights: torch.Tensor | None = None  # never None once constructed
    logits: torch.Tensor | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import torch

        if self.weights is None:
            object.__setattr__(self, "weights", torch.ones(len(self.labels)))
        object.__setattr__(self, "class_names", tuple(self.class_names))
        _check(self)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def ipc(self) -> int:
        """Images per class (the largest, where classes differ)."""
        return int(self.labels.bincount(minlength=self.num_classes).max())

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def image_hash(self) -> str:
        """Hash of images and labels: the key of soft labels, which know nothing of weights."""
        return hash_tensors(self.images, self.labels)[:20]

    @cached_property
    def hash(self) -> str:
        """Hash of all that a student sees: images, labels, weights, logits."""
        return hash_tensors(self.images, self.labels, self.weights, self.logits)[:20]

    def save(self, folder: str | Path, store: Store | None = None) -> Path:
        """Write the set into ``folder`` (made if needed; it must not hold another set) and return it.

        ``store`` keeps the images and their PNGs once for all sets that have them; the folder holds hard links to them.
        Images are written one by one, from where they lie: memory does not grow with their number.
        """
        import pandas as pd

        folder = Path(folder)
        if (folder / TENSORS).exists() or (folder / "train").exists():
            raise DataError(f"{folder} already holds a distilled set; give a new folder or remove the old one")
        if store is None:
            self._write_images(folder)
        else:
            key = {"image_hash": self.image_hash, "class_names": self.class_names, "code": code_hash(__name__)}
            link_files(store.get("set_images", key, self._write_images), folder)
        rows = {"file_name": self._file_names(), "label": self.labels.tolist(), "weight": self.weights.tolist()}
        pd.DataFrame(rows).to_parquet(folder / "train" / METADATA, index=False)
        tensors = {"labels": self.labels, "weights": self.weights}
        if self.logits is not None:
            tensors["logits"] = self.logits
        write_tensors(folder / TENSORS, tensors)
        about = {"class_names": list(self.class_names), "hash": self.hash, "image_hash": self.image_hash}
        about["provenance"] = dict(self.provenance)
        write_atomic(folder / PROVENANCE, json.dumps(about, indent=1, default=str))
        return folder

    def _file_names(self) -> list[str]:
        """Return the names of the PNGs below ``train``, in the set's order."""
        counts = self.labels.bincount(minlength=self.num_classes).tolist()
        folders = [class_folder(label, name) for label, name in enumerate(self.class_names)]
        return [f"{folders[label]}/{number:05d}.png" for label, count in enumerate(counts) for number in range(count)]

    def _write_images(self, folder: Path) -> None:
        """Write what knows nothing of weights: the PNGs and the tensor of the images."""
        from PIL import Image

        for image, name in zip(self.images, self._file_names(), strict=True):
            path = folder / "train" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(path)
        write_tensors(folder / IMAGES, {"images": self.images})

    @classmethod
    def load(
        cls, folder: str | Path, class_names: Sequence[str] | None = None, *, verified: bool = False
    ) -> DistilledSet:
        """Read a set that :meth:`save` wrote (exactly), or a folder of images made by any other method.

        ``class_names`` are the dataset's: the folders are matched to them by name or number, and the labels follow
        their order. The images of a saved set are mapped from its file. ``verified`` says that its files have just
        been checked, as a store does: they are not read once more to compare the hash. Raises DataError naming the
        folder or file and the mend.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}; give the folder of a distilled set or of class folders")
        made = _load_exact(folder, verified) if (folder / TENSORS).exists() else _load_images(folder, class_names)
        if class_names is not None and list(class_names) != list(made.class_names):
            raise DataError(
                f"the classes of {folder} ({_few(made.class_names)}) are not those of the dataset "
                f"({_few(class_names)}), in that order; evaluate the set on the dataset it was made from"
            )
        return made


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Round images in [0, 1] to uint8, halves to even, clamped."""
    return (images.clamp(0, 1) * 255).round().byte()


def class_folder(label: int, name: str) -> str:
    """Return the folder name of a class: its number, so that sorting keeps the order, and its name for people."""
    return f"{label:05d}_{re.sub(r'[^0-9A-Za-z-]+', '_', name).strip('_')[:40]}".rstrip("_")


def _check(made: DistilledSet) -> None:
    import torch

    n = len(made.labels)
    if made.images.dtype != torch.uint8 or made.images.ndim != 4 or made.images.shape[:2] != (n, 3):
        raise DataError(
            f"a distilled set needs uint8 images of shape [{n}, 3, H, W], one a label; "
            f"got {made.images.dtype} of shape {list(made.images.shape)}"
        )
    if made.labels.dtype != torch.int64 or made.labels.ndim != 1:
        raise DataError(f"a distilled set needs int64 labels of one dimension; got {made.labels.dtype}")
    counts = made.labels.bincount(minlength=made.num_classes) if n and made.labels.min() >= 0 else torch.zeros(1)
    if len(counts) != made.num_classes or (counts == 0).any():
        missing = [name for name, count in zip(made.class_names, counts.tolist(), strict=False) if count == 0]
        raise DataError(
            f"a distilled set needs images of every class and of no other; {_few(missing) or 'some labels'} "
            f"{'have no image' if missing else 'are outside the class names'}"
        )
    if (made.labels.diff() < 0).any():
        raise DataError("a distilled set is ordered by class; sort the images by label")
    _check_weights(made, counts)
    if made.logits is not None and (
        made.logits.shape != (n, made.num_classes) or not torch.isfinite(made.logits).all()
    ):
        raise DataError(f"logits must be finite and of shape [{n}, {made.num_classes}]; got {list(made.logits.shape)}")


def _check_weights(made: DistilledSet, counts: torch.Tensor) -> None:
    import torch

    weights = made.weights
    if weights.shape != made.labels.shape or not torch.isfinite(weights).all() or (weights < 0).any():
        raise DataError("weights must be finite, non-negative and one an image")
    means = torch.zeros(made.num_classes, dtype=torch.float64).index_add_(0, made.labels, weights.double()) / counts
    worst = int((means - 1).abs().argmax())
    if abs(float(means[worst]) - 1) > 1e-4:
        raise DataError(
            f"weights must have mean 1 within each class; class {made.class_names[worst]!r} has "
            f"{float(means[worst]):.4g}: divide its weights by that"
        )


def _load_exact(folder: Path, verified: bool) -> DistilledSet:
    from safetensors import SafetensorError

    try:
        about = json.loads((folder / PROVENANCE).read_text())
        tensors = read_tensors(folder / TENSORS)
        if "images" not in tensors:  # sets of earlier versions have them there
            tensors |= read_tensors(folder / IMAGES)
        made = DistilledSet(class_names=tuple(about["class_names"]), provenance=about["provenance"], **tensors)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as problem:
        raise DataError(f"the distilled set {folder} is damaged ({problem}); distil it again") from problem
    if verified and "image_hash" in about:
        vars(made).update(hash=about["hash"], image_hash=about["image_hash"])  # what the cached properties would find
    if made.hash != about["hash"]:
        raise DataError(f"the tensors of {folder} do not match the hash in its {PROVENANCE}; distil it again")
    return made


def _load_images(folder: Path, class_names: Sequence[str] | None) -> DistilledSet:
    import torch

    root = folder / "train" if (folder / "train").is_dir() else folder
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise DataError(f"{root} has no class folders; a set is a folder with one sub-folder of images a class")
    names = list(class_names) if class_names is not None else [path.name for path in folders]
    by_label = {_match_class(path.name, names, root): path for path in folders}
    weights_of = _read_weights(root)
    files: list[Path] = []
    labels: list[int] = []
    for label, path in sorted(by_label.items()):
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise DataError(f"the class folder {path} has no images; add some or remove it")
        files += found
        labels += [label] * len(found)
    weights = [weights_of.get(f"{file.parent.name}/{file.name}", 1.0) for file in files]
    return DistilledSet(
        _read_images(files),
        torch.tensor(labels),
        tuple(names),
        weights=torch.tensor(weights, dtype=torch.float32),
        provenance={"method": "folder", "folder": folder.name},
    )


def _read_images(files: Sequence[Path]) -> torch.Tensor:
    """Return uint8 ``[n, 3, H, W]``; many images lie in a file instead of in memory."""
    import numpy as np
    import torch
    from PIL import Image

    from .data.transforms import verify_image

    images = None
    for index, file in enumerate(files):
        verify_image(file)
        with Image.open(file) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        if images is None:
            images = empty_tensor((len(files), *pixels.shape), torch.uint8)
        if pixels.shape != images.shape[1:]:
            raise DataError(
                f"{file} is {pixels.shape[2]}x{pixels.shape[1]} pixels and the first image of the set "
                f"{images.shape[3]}x{images.shape[2]}; give all images one size"
            )
        images[index] = pixels
    return images


def _match_class(folder: str, names: Sequence[str], root: Path) -> int:
    """Return the label of a class folder: by name, by our own "00003_dog", or by number."""
    if folder in names:
        return list(names).index(folder)
    number = re.fullmatch(r"(\d+)(_.*)?", folder)
    if number and int(number[1]) < len(names):
        label = int(number[1])
        if number[2] is None or folder == class_folder(label, names[label]):
            return label
    raise DataError(
        f"the folder {root / folder} matches no class of the dataset{nearest(folder, names)}; name the folders "
        f"after the classes ({_few(names)}) or number them 0 to {len(names) - 1}"
    )


def _read_weights(root: Path) -> dict[str, float]:
    if not (root / METADATA).exists():
        return {}
    import pandas as pd

    frame = pd.read_parquet(root / METADATA)
    return dict(zip(frame["file_name"], frame["weight"], strict=True)) if "weight" in frame else {}


def _few(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(map(repr, names[:limit])) + (", ..." if len(names) > limit else "")
