"""Tiny-ImageNet, in its own layout or reorganised into class folders."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import DataError
from .base import ImageData
from .file_index import ImageFile
from .files import FolderSplit
from .folders import class_split, existing_folder
from .image_tree import Passed, list_folder
from .splitting import make_image_data
from .transforms import check_resize


def load_tiny_imagenet(
    root: str | Path,
    *,
    image_size: int = 64,
    resize: str = "crop",
    val_fraction: float = 0.1,
    classes: Sequence[str | int] | None = None,
    limit_per_class: int | None = None,
) -> ImageData:
    """Load Tiny-ImageNet (Stanford CS231n, 200 classes) from ``tiny-imagenet-200`` or its parent.

    train/<wnid>/images/* or train/<wnid>/*; val/images/* with val/val_annotations.txt, or val/<wnid>/*. Its val is
    the test split, as everywhere in this field (the labels of its test are not public). Classes are in the order of
    their sorted WordNet ids, not in that of wnids.txt; readable names come from words.txt. ``image_size`` is in pixels,
    ``resize`` "crop" or "stretch"; the other options are those of ``make_image_data``. DataError: missing folders or
    annotations, or a class without images."""
    check_resize(resize)
    folder = existing_folder("tiny_imagenet", root)
    folder = folder / "tiny-imagenet-200" if (folder / "tiny-imagenet-200").is_dir() else folder
    for part in ("train", "val"):
        if not (folder / part).is_dir():
            raise DataError(f"tiny_imagenet expects the folder {folder / part}; give the unpacked archive as root")
    passed = Passed()
    wnids = list_folder(folder / "train", folder, passed).folders
    train = _class_folders(folder, "train", wnids, image_size, resize, passed)
    if (folder / "val" / "images").is_dir():
        test = _annotated(folder, wnids, image_size, resize, passed)
    else:
        test = _class_folders(folder, "val", wnids, image_size, resize, passed)
    return make_image_data(
        "tiny_imagenet", _readable(folder, wnids), train, test,
        val_fraction=val_fraction, classes=classes, limit_per_class=limit_per_class, wnids=wnids, notes=passed.notes(),
    )  # fmt: skip


def _class_folders(
    folder: Path, part: str, wnids: list[str], image_size: int, resize: str, passed: Passed
) -> FolderSplit:
    places = [folder / part / wnid for wnid in wnids]
    places = [place / "images" if (place / "images").is_dir() else place for place in places]
    return class_split("tiny_imagenet", folder, places, image_size, resize, passed)


def _annotated(folder: Path, wnids: list[str], image_size: int, resize: str, passed: Passed) -> FolderSplit:
    """Return the test split of the original layout: a line of val_annotations.txt is file, wnid and a box, by tabs."""
    annotations = folder / "val" / "val_annotations.txt"
    if not annotations.is_file():
        raise DataError(f"tiny_imagenet expects {annotations} beside val/images, or val/<wnid>/ folders")
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    present = {Path(file.path).name: file for file in list_folder(folder / "val" / "images", folder, passed).images}
    files: list[ImageFile] = []
    labels: list[int] = []
    for line in annotations.read_text().splitlines():
        name, wnid, *_ = [*line.split("\t"), ""]
        if name not in present or wnid not in label_of:
            what = f"the image {name!r}" if name not in present else f"the class {wnid!r}"
            raise DataError(f"{annotations} names {what}, which is not there; unpack tiny-imagenet-200 again")
        files.append(present.pop(name))
        labels.append(label_of[wnid])
    for name in present:
        passed.add("images without a line in val_annotations.txt", f"val/images/{name}")
    return FolderSplit(folder, files, torch.tensor(labels, dtype=torch.int64), image_size, resize)


def _readable(folder: Path, wnids: list[str]) -> list[str]:
    """Return each class's first word in words.txt: all its words where that is not unique, its id where it has none."""
    file = folder / "words.txt"
    lines = file.read_text().splitlines() if file.is_file() else []
    words = {wnid: text.strip() for wnid, _, text in (line.partition("\t") for line in lines)}
    full = [words.get(wnid) or wnid for wnid in wnids]
    first = [text.split(",")[0].strip() for text in full]
    taken, taken_full = Counter(first), Counter(full)
    return [
        short if taken[short] == 1 else long if taken_full[long] == 1 else wnid
        for short, long, wnid in zip(first, full, wnids, strict=True)
    ]
