"""The folder of a distilled set: an image folder that other tools read as it is, beside the exact tensors.

    train/00003_dog/00003.png    what a person looks at (torchvision's ImageFolder keeps the class order)
    train/metadata.parquet       file_name, label, weight: Hugging Face `datasets` reads them from version 4 on
    images.safetensors           the images, and where a set has them, the exact floats and their preprocessing
    tensors.safetensors          labels, weights and, where there are any, targets (named after their kind) and stages
    provenance.json              class names, where the set comes from, what its PNGs are, hash

Images are written one by one, from where they lie: memory does not grow with their number."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .data.class_names import class_folder
from .errors import DataError
from .preprocessing import Preprocessing
from .store.artifacts import hash_file, write_atomic
from .store.tensor_files import read_tensors, write_tensors

if TYPE_CHECKING:
    from .distilled_set import DistilledSet

IMAGES, TENSORS = "images.safetensors", "tensors.safetensors"
PROVENANCE, METADATA = "provenance.json", "metadata.parquet"
TARGET_KINDS = ("logits", "regression")
_PREPROCESSING = "preprocessing."


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
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {"file_name": _file_names(made), "label": made.labels.tolist(), "weight": made.weights.tolist()}
    # plain strings: older readers refuse Arrow's large ones
    kinds = pa.schema([("file_name", pa.string()), ("label", pa.int64()), ("weight", pa.float64())])
    (folder / "train").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows, schema=kinds), folder / "train" / METADATA)
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
        "preview": made.floats is not None, "pictures": pictures, "files": files_hash(folder),
        "provenance": dict(made.provenance),
    }  # fmt: skip
    write_atomic(folder / PROVENANCE, json.dumps(about, indent=1, default=str))


def files_hash(folder: Path) -> str:
    """Return a hash of what people edit: the names and contents of the PNGs, and the table."""
    found = hashlib.sha256()
    for file in sorted(path for path in (folder / "train").rglob("*") if path.is_file()):
        found.update(f"{file.relative_to(folder).as_posix()} {hash_file(file)}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()[:20]


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
