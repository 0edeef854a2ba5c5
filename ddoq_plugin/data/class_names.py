"""Classes by their names: the ``classes`` option of datasets, and the class folders of distilled sets."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import DataError, nearest


def class_folder(label: int, name: str) -> str:
    """Return the folder name of a class: its number, so that sorting keeps the order, and its name for people."""
    return f"{label:05d}_{re.sub(r'[^0-9A-Za-z-]+', '_', name).strip('_')[:40]}".rstrip("_")


def resolve_classes(wanted: Sequence[str | int], names: Sequence[str], wnids: Sequence[str] | None = None) -> list[int]:
    """Return the class indices of ``wanted``: names, WordNet ids, or positions; one list is read in one way.

    Where class names are numbers, a number is a name. DataError names an unknown or repeated class, a list of names
    and positions, and what YAML does not read as text."""
    if isinstance(wanted, str) or not isinstance(wanted, Sequence):
        raise DataError(f"classes must be a list of class names, not {wanted!r}")
    for item in wanted:
        if not isinstance(item, (str, int)) or isinstance(item, bool):
            raise DataError(
                f"classes has {item!r}, which is no text: YAML reads yes, no, on, off, null and 1.0 as other things; "
                "write class names in quotes ('no')"
            )
    positions = [item for item in wanted if isinstance(item, int)]
    if positions and not _numbered(names):
        if len(positions) < len(wanted):
            raise DataError(f"classes has names and positions ({', '.join(map(str, wanted))}); give one of the two")
        wrong = [item for item in positions if not 0 <= item < len(names)]
        if wrong:
            raise DataError(f"there is no class at position {wrong[0]}; the dataset has 0 to {len(names) - 1}")
        found = positions
    else:
        found = [_position(str(item), names, wnids) for item in wanted]
    if len(set(found)) != len(found):
        raise DataError(f"classes names a class twice: {', '.join(map(str, wanted))}")
    return found


def match_folders(
    folders: Sequence[str], names: Sequence[str], wnids: Sequence[str] | None, parent: Path
) -> tuple[list[int], str]:
    """Return the label of each class folder of ``parent``, and how the folders were read: all of them in one way.

    The ways: class names, WordNet ids, our own "00003_dog", positions 0, 1, ... (not where class names are numbers),
    and SRe2L's "new003". DataError: a folder that is no class, two folders of one class, or folders named in several
    ways."""
    composed = [unicodedata.normalize("NFC", name) for name in names]
    ways: dict[str, Callable[[str], int | None]] = {
        "class names": lambda folder: composed.index(folder) if folder in composed else None,
        "WordNet ids": lambda folder: list(wnids).index(folder) if wnids and folder in wnids else None,
        "numbers and names": lambda folder: _own_label(folder, names),
        "positions": lambda folder: None if _numbered(names) else _number(folder, len(names)),
        "SRe2L's numbers": lambda folder: _number(folder[3:], len(names)) if folder.startswith("new") else None,
    }
    read = {way: [label_of(folder) for folder in folders] for way, label_of in ways.items()}
    labels = [next((found[at] for found in read.values() if found[at] is not None), None) for at in range(len(folders))]
    taken: dict[int, str] = {}
    for folder, label in zip(folders, labels, strict=True):
        if label is None:
            raise DataError(_no_class(folder, names, parent))
        if taken.setdefault(label, folder) != folder:
            raise DataError(
                f"{parent} has two folders of the class {names[label]!r}, {taken[label]} and {folder}; keep one, or "
                "join them"
            )
    way = next((way for way, found in read.items() if None not in found), None)
    if way is None:
        (first, one), (second, other) = _two_ways(folders, read)
        raise DataError(
            f"the folders of {parent} are named in several ways ({first} by {one}, {second} by {other}); use one"
        )
    return [label for label in read[way] if label is not None], way


def few(names: Sequence[str], limit: int = 5) -> str:
    """Return the first names, for a message."""
    return ", ".join(map(repr, names[:limit])) + (", ..." if len(names) > limit else "")


def _numbered(names: Sequence[str]) -> bool:
    return any(name.strip().isdecimal() for name in names)


def _number(folder: str, count: int) -> int | None:
    return int(folder) if re.fullmatch(r"[0-9]+", folder) and int(folder) < count else None


def _own_label(folder: str, names: Sequence[str]) -> int | None:
    number = re.fullmatch(r"([0-9]{5,})(_.*)?", folder)
    label = int(number[1]) if number else len(names)
    return label if label < len(names) and folder == class_folder(label, names[label]) else None


def _position(wanted: str, names: Sequence[str], wnids: Sequence[str] | None) -> int:
    for known in (names, wnids or ()):
        if wanted in known:
            return list(known).index(wanted)
    numbers = " (its class names are numbers, so a number is a name)" if _numbered(names) else ""
    raise DataError(f"the dataset has no class {wanted!r}{nearest(wanted, names)}{numbers} (classes: {few(names, 10)})")


def _no_class(folder: str, names: Sequence[str], parent: Path) -> str:
    said = f"the folder {parent / folder} matches no class of the dataset{nearest(folder, names)}; name the folders "
    if not _numbered(names):
        return f"{said}after the classes ({few(names)}) or number them 0 to {len(names) - 1}"
    at = _number(folder, len(names))
    place = "" if at is None else f" ({folder} could be the position of {names[at]!r})"
    return f"{said}after the classes ({few(names)}), whose names are numbers: a number is a name here{place}"


def _two_ways(folders: Sequence[str], read: dict[str, list[int | None]]) -> list[tuple[str, str]]:
    """Return two folders that are read in different ways, with the ways."""
    ways = [next(way for way, found in read.items() if found[at] is not None) for at in range(len(folders))]
    pairs = list(zip(folders, ways, strict=True))
    return [pairs[0], next((pair for pair in pairs if pair[1] != pairs[0][1]), pairs[-1])]
