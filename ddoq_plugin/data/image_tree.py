"""Folders of images as people have them, read by one rule for datasets and for distilled sets.

Every file below the folder is used, is counted in a note, or is an error; ``docs/folders.md`` states what is which."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError, nearest
from .file_index import ImageFile

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})  # as torchvision
# the names that Hugging Face datasets takes for splits, in any case
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SYSTEM = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found"})
TABLES = ("metadata.parquet", "metadata.csv", "metadata.jsonl")
_PART_OF = {word: part for part, words in SPLITS.items() for word in words}


class Passed:
    """The files that are not used: why, how many, and the first of them."""

    def __init__(self) -> None:
        self.tables: list[Path] = []
        self._found: dict[str, Counter[str]] = {}
        self._first: dict[str, str] = {}

    def add(self, why: str, path: str, count: int = 1) -> None:
        """Count ``count`` files, the first of which is ``path``."""
        kind = os.path.splitext(path)[1].lower() or "without suffix"
        self._found.setdefault(why, Counter())[kind] += count
        self._first.setdefault(why, path)

    def notes(self) -> list[str]:
        """Return a sentence for each reason."""
        said = []
        for why, kinds in self._found.items():
            number = sum(kinds.values())
            most = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))[:4]
            listed = ", ".join(f"{count} {kind}" for kind, count in most)
            files = "1 file" if number == 1 else f"{number} files"
            said.append(f"{files} not used: {why} ({listed}), such as {shown(self._first[why])}")
        return said


@dataclass(frozen=True)
class Listing:
    """What lies directly in a folder, sorted by name: image files and the names of sub-folders."""

    images: list[ImageFile]
    folders: list[str]


@dataclass(frozen=True)
class ImageTree:
    """A folder of images: for each split its folder's name ("" for the root itself) and its class folders by name."""

    root: Path
    splits: dict[str, tuple[str, dict[str, Path]]]
    passed: Passed = field(default_factory=Passed)

    def mapping(self) -> str:
        """Return which folder is read as which split, for a note."""
        said = {"train": "training", "val": "validation", "test": "test"}
        return ", ".join(
            f"{said[part]} images from {name or self.root.name}/" for part, (name, _) in self.splits.items()
        )


def read_tree(root: Path, own: Iterable[str] = ()) -> ImageTree:
    """Return splits and classes of a folder; no class folder is listed yet. ``own``: names in it that are not images'.

    A folder called like a split is one if it holds folders with images; one that holds images itself is a class.
    DataError: no class folder, two folders of one split, no train folder beside other splits, a folder with images that
    is no split, a link that leads nowhere or back, or a folder that cannot be read."""
    passed = Passed()
    top = list_folder(root, root, passed, frozenset(own))
    inside = {name: list_folder(root / name, root, Passed()) for name in top.folders if name.casefold() in _PART_OF}
    deep = [name for name, one in inside.items() if any(_has_image(root / name / other) for other in one.folders)]
    if not deep:
        if not top.folders:
            raise DataError(f"{root} has no class folders; put the images of each class in {root}/<class>/")
        for file in top.images:
            passed.add("images beside the class folders", file.path)
        return ImageTree(root, {"train": ("", class_folders(root, top.folders))}, passed)
    classes = [name for name in top.folders if name not in inside and _has_image(root / name)]
    for name in deep:
        if inside[name].images and classes:
            raise DataError(
                f"{root / name} holds images and folders of images, beside the class {classes[0]!r}: a split holds "
                "class folders, a class images; move what does not belong"
            )
    splits: dict[str, str] = {}
    for name in deep:
        part = _PART_OF[name.casefold()]
        if part in splits:
            raise DataError(f"{root} has two folders of one split, {splits[part]} and {name}; keep one, or join them")
        splits[part] = name
    if "train" not in splits:
        raise DataError(f"{root} has {' and '.join(deep)} but no train folder; add {root / 'train'}")
    for name in inside.keys() - deep:
        what = "images but no class folders" if inside[name].images else "no images"
        raise DataError(
            f"{root / name} holds {what}; give it class folders like {root / splits['train']}, or remove it"
        )
    if classes:
        words = nearest(classes[0].casefold(), _PART_OF, limit=1)
        raise DataError(
            f"{root / classes[0]} holds images and is no split beside {', '.join(deep)}{words}; rename it, or move it "
            "out of the folder"
        )
    for name in top.folders:
        if name not in inside:
            _pass_all(root / name, root, "in folders without images", passed)
    for file in top.images:
        passed.add("images beside the splits", file.path)
    found = {}
    for part in [part for part in SPLITS if part in splits]:
        listing = list_folder(root / splits[part], root, passed)
        for file in listing.images:
            passed.add("images beside the class folders", file.path)
        found[part] = splits[part], class_folders(root / splits[part], listing.folders)
    return ImageTree(root, found, passed)


def class_folders(parent: Path, names: Iterable[str]) -> dict[str, Path]:
    """Return {class name: folder}, sorted; names in Unicode's composed form, as another system may have split them.

    DataError: a name that is not UTF-8, or two that are the same composed."""
    found: dict[str, Path] = {}
    for name in names:
        composed = unicodedata.normalize("NFC", name)
        if composed in found:
            raise DataError(f"{parent} has two folders of the class {composed!r}, spelt differently in bytes; keep one")
        try:
            composed.encode()
        except UnicodeEncodeError:
            raise DataError(f"the name of the class folder {shown(parent / name)} is not UTF-8; rename it") from None
        found[composed] = parent / name
    return dict(sorted(found.items()))


def class_files(folder: Path, root: Path, passed: Passed) -> list[ImageFile]:
    """Return the images of a class folder and of the folders below it (as torchvision's ImageFolder), sorted by path.

    DataError where there is none."""
    found = list(_images_below(folder, root, passed))
    if not found:
        raise DataError(f"the class folder {shown(folder)} has no image; add images or remove the folder")
    return sorted(found, key=lambda file: file.path)


def list_folder(folder: Path, root: Path, passed: Passed, own: frozenset[str] = frozenset()) -> Listing:
    """Return what lies directly in ``folder``; paths are relative to ``root``. What is not used is ``passed``."""
    prefix = folder.relative_to(root).as_posix()
    images, folders = [], []
    for entry in _entries(folder):
        path = entry.name if prefix == "." else f"{prefix}/{entry.name}"
        hidden = entry.name.startswith(".") or entry.name.casefold() in SYSTEM
        if not hidden and entry.is_symlink() and not os.path.exists(entry.path):
            target = shown(os.readlink(entry.path))
            raise DataError(f"the link {shown(entry.path)} leads nowhere ({target} is not there); mend or remove it")
        if entry.is_dir():
            if hidden:
                _pass_all(folder / entry.name, root, "files of the system", passed)
            elif entry.is_symlink() and _is_above(os.path.realpath(entry.path), os.path.realpath(folder)):
                raise DataError(f"the link {shown(entry.path)} leads back to a folder above it; remove it")
            else:
                folders.append(entry.name)
        elif hidden:
            passed.add("files of the system", path)
        elif entry.is_file() and os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
            images.append(ImageFile(path, entry.stat().st_size))
        elif entry.name in TABLES:
            passed.tables.append(folder / entry.name)
        elif entry.name not in own:
            passed.add("no images of a known type", path)
    return Listing(images, folders)


def shown(path: str | Path) -> str:
    """Return a path that can be printed, whatever bytes it has."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as problem:
        raise DataError(f"the folder {shown(folder)} cannot be read ({problem.strerror}); mend or move it") from None


def _images_below(folder: Path, root: Path, passed: Passed) -> Iterator[ImageFile]:
    listing = list_folder(folder, root, passed)
    yield from listing.images
    for name in listing.folders:
        yield from _images_below(folder / name, root, passed)


def _has_image(folder: Path) -> bool:
    listing = list_folder(folder, folder, Passed())
    return bool(listing.images) or any(_has_image(folder / name) for name in listing.folders)


def _pass_all(folder: Path, root: Path, why: str, passed: Passed) -> None:
    for place, _, names in os.walk(folder):
        for name in sorted(names):
            passed.add(why, (Path(place) / name).relative_to(root).as_posix())


def _is_above(upper: str, lower: str) -> bool:
    return lower == upper or lower.startswith(upper.rstrip(os.sep) + os.sep)
