"""Datasets that are folders of image files: ImageNet and its subsets, Tiny-ImageNet, and anybody's own folder."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from ..errors import DataError, nearest
from .base import ImageData
from .class_names import few, resolve_classes
from .file_index import FileIndex, ImageFile
from .files import FolderSplit
from .image_tree import ImageTree, Passed, class_files, list_folder, read_tree, shown
from .imagenet_classes import SUBSETS, imagenet_names, readable_names
from .splitting import make_image_data, stratified_cut
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
    folder, known, passed = existing_folder(name, root), imagenet_names(), Passed()
    wnids = list(SUBSETS.get(name, known))
    if classes is not None:
        wnids = [wnids[c] for c in resolve_classes(classes, [known[wnid] for wnid in wnids], wnids)]
    train, test = (
        class_split(name, folder, [folder / part / wnid for wnid in wnids], image_size, resize, passed)
        for part in ("train", "val")
    )
    others = [set(list_folder(folder / part, folder, passed).folders) - set(wnids) for part in ("train", "val")]
    notes = [f"{len(set.union(*others))} other folders of the root are not of these classes"] if any(others) else []
    return make_image_data(
        name, [known[wnid] for wnid in wnids], train, test,
        val_fraction=val_fraction, limit_per_class=limit_per_class, wnids=wnids, notes=[*notes, *passed.notes()],
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
    """Load any folder of images, one sub-folder per class; ``docs/folders.md`` has the rules.

    ``path/train/<class>/*`` with ``path/test/<class>/*`` or ``path/val/<class>/*`` (both: val is used for validation),
    or ``path/<class>/*``; without test images a stratified test split is cut, always the same, and noted.
    Classes are in sorted order; folders named by ImageNet's WordNet ids get readable names. ``image_size``: pixels;
    None takes the images' own size if a sample of them is square and alike, else 64. ``resize``: "crop" (shorter side,
    then centre crop) or "stretch" (aspect ratio ignored). ``test_fraction``: share of each class for testing where
    there is no test folder, in (0, 1). The other options are those of ``make_image_data``. DataError: the folder is
    missing, has no class folder, a class has no image, or the splits have different classes."""
    check_resize(resize)
    root = existing_folder("folder", path)
    tree = read_tree(root)
    names = list(tree.splits["train"][1])
    readable = readable_names(names)
    if classes is not None:
        chosen = resolve_classes(classes, readable or names, names if readable else None)
        names = [names[c] for c in chosen]
        readable = [readable[c] for c in chosen] if readable else None
    else:
        _check_same_classes(tree)
    size, notes = _own_size(root, list(tree.splits["train"][1].values())) if image_size is None else (image_size, [])
    splits = {
        part: class_split(
            "folder", root, [found.get(name, root / where / name) for name in names], size, resize, tree.passed
        )
        for part, (where, found) in tree.splits.items()
    }
    if "test" not in splits and "val" in splits:
        splits["test"] = splits.pop("val")
        notes.append("the folder's val is the test split; validation is cut from train")
    if "test" not in splits:
        kept, cut = stratified_cut(splits["train"].labels, names, test_fraction, "test")
        splits["test"], splits["train"] = splits["train"].subset(cut), splits["train"].subset(kept)
        notes.append(f"the folder has no test images: {test_fraction:.0%} of each class were cut for testing")
    notes = [f"{len(names)} classes by folder ({few(names)}), {tree.mapping()}", *notes, *tree.passed.notes()]
    tables = [shown(table.relative_to(root)) for table in tree.passed.tables]
    notes += [f"{table} is not read: classes come from folders" for table in tables]
    return make_image_data(
        root.resolve().name or "folder", readable or names, splits["train"], splits["test"], val=splits.get("val"),
        val_fraction=val_fraction, limit_per_class=limit_per_class, wnids=names if readable else None, notes=notes,
    )  # fmt: skip


def existing_folder(name: str, root: str | Path) -> Path:
    """Return ``root`` with ~ expanded; raise DataError when it is no folder."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"the folder {folder} of the dataset {name} does not exist; give the one that holds its files")
    return folder


def class_split(
    name: str, root: Path, folders: Sequence[Path], image_size: int, resize: str, passed: Passed
) -> FolderSplit:
    """Return the split whose class c is every image of ``folders[c]``; DataError where there is none."""
    counts: list[int] = []

    def listed() -> Iterator[ImageFile]:
        for folder in folders:
            if not folder.is_dir():
                raise DataError(
                    f"the dataset {name} expects the folder {folder}, one folder per class; it does not exist"
                )
            found = class_files(folder, root, passed)
            counts.append(len(found))
            yield from found

    files = FileIndex.of(listed())
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.int64))
    return FolderSplit(root, files, labels, image_size, resize)


def _check_same_classes(tree: ImageTree) -> None:
    """Raise DataError for a class that one split has and train has not, so that no image is dropped."""
    where, known = tree.splits["train"]
    for place, found in tree.splits.values():
        extra = [name for name in found if name not in known]
        if extra:
            count = sum(len(class_files(found[name], tree.root, Passed())) for name in extra)
            raise DataError(
                f"{tree.root / place} has the class {extra[0]!r}, which {tree.root / where} has not ({count} images of "
                f"{len(extra)} such classes){nearest(extra[0], known)}; add it to {where}, remove it, or name the "
                "classes to use with classes=[...]"
            )


def _own_size(root: Path, folders: Sequence[Path]) -> tuple[int, list[str]]:
    """Return the common square size of the first image of some classes, or 64 and a note."""
    sizes = set()
    for folder in folders[:: max(1, len(folders) // 16)]:
        for file in class_files(folder, root, Passed())[:1]:
            try:
                with Image.open(root / file.path) as opened:
                    sizes.add(opened.size)
            except Exception as problem:  # as in decode_image
                raise damaged(root / file.path, problem) from problem
    width, height = next(iter(sizes), (0, 1))
    if len(sizes) == 1 and width == height:
        return width, []
    brought = f"{FALLBACK_SIZE}x{FALLBACK_SIZE}"
    return FALLBACK_SIZE, [f"the images have no common square size: brought to {brought} (image_size changes that)"]
