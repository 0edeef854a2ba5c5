"""Datasets that are folders of image files: ImageNet and its subsets, Tiny-ImageNet, and anybody's own folder."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from ..errors import DataError
from .base import ImageData
from .file_index import FileIndex, ImageFile
from .files import FolderSplit, list_images
from .imagenet_classes import SUBSETS, imagenet_names, readable_names
from .splitting import make_image_data, resolve_classes, stratified_cut
from .transforms import check_resize, damaged

IMAGENET_SIZE = 256  # the resolution of DiT-XL-2-256 and of the papers that distil ImageNet through it
FALLBACK_SIZE = 64  # for a folder whose images have no common square size


def _load_imagenet(
    name: str,
    root: str | Path,
    *,
    image_size: int = IMAGENET_SIZE,
    resize: str = "crop",
    val_fraction: float = 0.1,
    classes: Sequence[str | int] | None = None,
    limit_per_class: int | None = None,
) -> ImageData:
    """Load ImageNet-1K or a subset from ``root/train/<wnid>/*`` and ``root/val/<wnid>/*``.

    ``root`` may hold all 1000 classes or only those of the subset. ImageNet's val is the test split, as everywhere
    in this field; validation is cut from train. Classes are in the order of their sorted WordNet ids. ``image_size`` is
    in pixels. ``resize``: "crop" (shorter side, then centre crop) or "stretch" (D4M: aspect ratio ignored).
    ``classes``: readable names or WordNet ids to keep, in the new order; only their folders need to exist. The other
    options are those of ``make_image_data``. DataError: a missing folder, or a class without images."""
    check_resize(resize)
    folder, known = existing_folder(name, root), imagenet_names()
    wnids = list(SUBSETS.get(name, known))
    if classes is not None:
        wnids = [wnids[c] for c in resolve_classes(classes, [known[wnid] for wnid in wnids], wnids)]
    train, test = (
        class_split(name, folder, [folder / part / wnid for wnid in wnids], image_size, resize)
        for part in ("train", "val")
    )
    return make_image_data(
        name, [known[wnid] for wnid in wnids], train, test,
        val_fraction=val_fraction, limit_per_class=limit_per_class, wnids=wnids,
    )  # fmt: skip


load_imagenet, load_imagenet100 = partial(_load_imagenet, "imagenet"), partial(_load_imagenet, "imagenet100")
load_imagenette, load_imagewoof = partial(_load_imagenet, "imagenette"), partial(_load_imagenet, "imagewoof")
load_imagemeow, load_imagesquawk = partial(_load_imagenet, "imagemeow"), partial(_load_imagenet, "imagesquawk")
load_imagefruit, load_imageyellow = partial(_load_imagenet, "imagefruit"), partial(_load_imagenet, "imageyellow")


def load_folder(
    path: str | Path,
    *,
    image_size: int | None = None,
    resize: str = "crop",
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    classes: Sequence[str | int] | None = None,
    limit_per_class: int | None = None,
) -> ImageData:
    """Load any folder of images, one sub-folder per class.

    ``path/train/<class>/*`` with ``path/test/<class>/*`` or ``path/val/<class>/*`` (both: val is used for validation),
    or ``path/<class>/*``; without test images a stratified test split is cut, always the same, and noted.
    Classes are in sorted order; folders named by ImageNet's WordNet ids get readable names. ``image_size``: pixels;
    None takes the images' own size if a sample of them is square and alike, else 64. ``resize``: "crop" (shorter side,
    then centre crop) or "stretch" (aspect ratio ignored). ``test_fraction``: share of each class for testing where
    there is no test folder, in (0, 1). The other options are those of ``make_image_data``. DataError: the folder is
    missing, has no class folder, or a class has no image."""
    check_resize(resize)
    root = existing_folder("folder", path)
    parts = {part: root / part for part in ("train", "val", "test") if (root / part).is_dir()}
    pooled = "train" not in parts
    base = root if pooled else parts["train"]
    if pooled and parts and set(parts) == set(subfolders(root)):
        raise DataError(f"{root} has {' and '.join(parts)} but no train folder; add {root / 'train'}")
    names = subfolders(base)
    if not names:
        raise DataError(f"{base} has no class folders; put the images of each class in {base}/<class>/")
    size, notes = _own_size(base, names) if image_size is None else (image_size, [])
    splits = {
        part: class_split("folder", root, [where / name for name in names], size, resize)
        for part, where in ({"train": root} if pooled else parts).items()
    }
    if "test" not in splits and "val" in splits:
        splits["test"] = splits.pop("val")
        notes.append("the folder's val is the test split; validation is cut from train")
    if "test" not in splits:
        kept, cut = stratified_cut(splits["train"].labels, names, test_fraction, "test")
        splits["test"], splits["train"] = splits["train"].subset(cut), splits["train"].subset(kept)
        notes.append(f"the folder has no test images: {test_fraction:.0%} of each class were cut for testing")
    readable = readable_names(names)
    return make_image_data(
        root.name, readable or names, splits["train"], splits["test"], val=splits.get("val"),
        val_fraction=val_fraction, classes=classes, limit_per_class=limit_per_class,
        wnids=names if readable else None, notes=notes,
    )  # fmt: skip


def existing_folder(name: str, root: str | Path) -> Path:
    """Return ``root`` with ~ expanded; raise DataError when it is no folder."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"the folder {folder} of the dataset {name} does not exist; give the one that holds its files")
    return folder


def subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the sub-folders; hidden ones are passed over."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def class_split(name: str, root: Path, folders: Sequence[Path], image_size: int, resize: str) -> FolderSplit:
    """Return the split whose class c is every image directly in ``folders[c]``; DataError where there is none."""
    counts: list[int] = []

    def listed() -> Iterator[ImageFile]:
        for folder in folders:
            if not folder.is_dir():
                raise DataError(
                    f"the dataset {name} expects the folder {folder}, one folder per class; it does not exist"
                )
            found = list_images(folder, root)
            if not found:
                raise DataError(f"the class folder {folder} of {name} has no image; add images or remove the folder")
            counts.append(len(found))
            yield from found

    files = FileIndex.of(listed())
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.int64))
    return FolderSplit(root, files, labels, image_size, resize)


def _own_size(base: Path, names: Sequence[str]) -> tuple[int, list[str]]:
    """Return the common square size of the first image of some classes, or 64 and a note."""
    sizes = set()
    for name in names[:: max(1, len(names) // 16)]:
        for file in list_images(base / name, base)[:1]:
            try:
                with Image.open(base / file.path) as opened:
                    sizes.add(opened.size)
            except Exception as problem:  # as in decode_image
                raise damaged(base / file.path, problem) from problem
    width, height = next(iter(sizes), (0, 1))
    if len(sizes) == 1 and width == height:
        return width, []
    brought = f"{FALLBACK_SIZE}x{FALLBACK_SIZE}"
    return FALLBACK_SIZE, [f"the images have no common square size: brought to {brought} (image_size changes that)"]
