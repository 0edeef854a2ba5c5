"""The folder of a distilled set: an image folder that other tools read as it is, beside the exact tensors.

    train/00003_dog/00003.png    what a person looks at (torchvision's ImageFolder keeps the class order)
    train/metadata.parquet       file_name, label, weight: Hugging Face `datasets` reads the folder as an imagefolder
    images.safetensors           the images, and where a set has them, the exact floats and their preprocessing
    tensors.safetensors          labels, weights and, where there are any, targets (named after their kind) and stages
    provenance.json              class names, where the set comes from, what its PNGs are, hash

Images are written one by one, from where they lie: memory does not grow with their number."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DataError, nearest
from .preprocessing import Preprocessing
from .store.artifacts import write_atomic
from .store.tensor_files import empty_tensor, read_tensors, write_tensors

if TYPE_CHECKING:
    import torch

    from .distilled_set import DistilledSet

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
IMAGES, TENSORS = "images.safetensors", "tensors.safetensors"
PROVENANCE, METADATA = "provenance.json", "metadata.parquet"
TARGET_KINDS = ("logits", "regression")
_PREPROCESSING = "preprocessing."


def class_folder(label: int, name: str) -> str:
    """Return the folder name of a class: its number, so that sorting keeps the order, and its name for people."""
    return f"{label:05d}_{re.sub(r'[^0-9A-Za-z-]+', '_', name).strip('_')[:40]}".rstrip("_")


def _file_names(made: DistilledSet) -> list[str]:
    """Return the names of the PNGs below ``train``, in the set's order."""
    counts = made.labels.bincount(minlength=made.num_classes).tolist()
    folders = [class_folder(label, name) for label, name in enumerate(made.class_names)]
    return [f"{folders[label]}/{number:05d}.png" for label, count in enumerate(counts) for number in range(count)]


def write_images(folder: Path, made: DistilledSet) -> None:
    """Write what knows nothing of weights and targets: the PNGs and the tensors of the images."""
    from PIL import Image

    for image, name in zip(made.images, _file_names(made), strict=True):
        path = folder / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(path)
    exact = {} if made.floats is None else {"floats": made.floats}
    space = {f"{_PREPROCESSING}{name}": tensor for name, tensor in made.preprocessing.tensors().items()}
    write_tensors(folder / IMAGES, {"images": made.images, **exact, **space})


def write_tables(folder: Path, made: DistilledSet) -> None:
    """Write labels, weights and the like, the table that Hugging Face reads, and last what the set says of itself."""
    import pandas as pd

    rows = {"file_name": _file_names(made), "label": made.labels.tolist(), "weight": made.weights.tolist()}
    pd.DataFrame(rows).to_parquet(folder / "train" / METADATA, index=False)
    tensors = {"labels": made.labels, "weights": made.weights, "stage": made.stage, made.target_kind: made.targets}
    write_tensors(folder / TENSORS, {name: tensor for name, tensor in tensors.items() if tensor is not None})
    kind, pictures = made.preprocessing.kind, "The PNGs are the images of the set, bit for bit."
    if made.floats is not None:
        pictures = "The PNGs are previews, rounded and cut to what a picture can show: the set is its float images."
    if kind != "none":
        pictures += f" Students see the images {kind}, with the tensors in images.safetensors."
    if made.mosaic > 1:
        pictures += f" Each holds {made.mosaic**2} images of 1/{made.mosaic**2} of its area, enlarged before training."
    about = {
        "class_names": list(made.class_names), "hash": made.hash, "image_hash": made.image_hash,
        "learning_rate": made.learning_rate, "mosaic": made.mosaic, "preprocessing": kind,
        "preview": made.floats is not None, "pictures": pictures, "provenance": dict(made.provenance),
    }  # fmt: skip
    write_atomic(folder / PROVENANCE, json.dumps(about, indent=1, default=str))


def read_exact(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of a set as it was saved, and its provenance file; DataError where a file is damaged."""
    from safetensors import SafetensorError

    try:
        about = json.loads((folder / PROVENANCE).read_text())
        tensors: dict[str, Any] = read_tensors(folder / TENSORS)
        if "images" not in tensors:  # sets of earlier versions have them there
            tensors |= read_tensors(folder / IMAGES)
        space = {name.removeprefix(_PREPROCESSING): tensors.pop(name) for name in list(tensors) if "." in name}
        fields = {"class_names": tuple(about["class_names"]), "provenance": about["provenance"]}
        fields |= {name: about[name] for name in ("learning_rate", "mosaic") if name in about}
        for kind in TARGET_KINDS:
            if kind in tensors:
                fields |= {"targets": tensors.pop(kind), "target_kind": kind}
        return {**fields, **tensors, "preprocessing": Preprocessing.from_tensors(space)}, about
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as problem:
        raise DataError(f"the distilled set {folder} is damaged ({problem}); distil it again") from problem


def read_images(folder: Path, class_names: Sequence[str] | None) -> dict[str, Any]:
    """Return the fields of a set that is a folder of images of any other method."""
    import torch

    root = folder / "train" if (folder / "train").is_dir() else folder
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise DataError(f"{root} has no class folders; a set is a folder with one sub-folder of images a class")
    names = list(class_names) if class_names is not None else [path.name for path in folders]
    by_label = {_match_class(path.name, names, root): path for path in folders}
    files: list[Path] = []
    labels: list[int] = []
    for label, path in sorted(by_label.items()):
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise DataError(f"the class folder {path} has no images; add some or remove it")
        files += found
        labels += [label] * len(found)
    weights_of: dict[str, float] = {}
    if (root / METADATA).exists():
        import pandas as pd

        frame = pd.read_parquet(root / METADATA)
        weights_of = dict(zip(frame["file_name"], frame["weight"], strict=True)) if "weight" in frame else {}
    weights = torch.tensor([weights_of.get(f"{file.parent.name}/{file.name}", 1.0) for file in files])
    fields = {"images": _read_images(files), "labels": torch.tensor(labels), "weights": weights.float()}
    return {**fields, "class_names": tuple(names), "provenance": {"method": "folder", "folder": folder.name}}


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
        f"after the classes ({few(names)}) or number them 0 to {len(names) - 1}"
    )


def few(names: Sequence[str], limit: int = 5) -> str:
    """Return the first names, for a message."""
    return ", ".join(map(repr, names[:limit])) + (", ..." if len(names) > limit else "")
