"""Distilled sets of any method, read from folders of images: classes, weights and upright pixels.

``docs/folders.md`` states the rules; nothing below the folder is passed over in silence."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from .data.class_names import few, match_folders
from .data.image_tree import ImageTree, class_files, read_tree, shown
from .errors import DataError
from .store.tensor_files import empty_tensor

if TYPE_CHECKING:
    import pandas as pd
    import torch

WEIGHT_COLUMNS = ("weight", "weights")


def read_images(
    folder: Path, class_names: Sequence[str] | None, wnids: Sequence[str] | None = None, own: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the fields of a set that is a folder of images, its notes in the provenance.

    ``own``: names of files in it that are no images and need no word. DataError names what does not fit."""
    import torch

    tree = read_tree(folder, own)
    base, folders = folder / tree.splits["train"][0], tree.splits["train"][1]
    names = list(class_names) if class_names is not None else list(folders)
    labels, way = match_folders(list(folders), names, wnids, base)
    in_order = sorted(zip(labels, folders.values(), strict=True))
    files = {label: class_files(place, folder, tree.passed) for label, place in in_order}
    paths = [file.path for found in files.values() for file in found]
    of_image = torch.tensor([label for label, found in files.items() for _ in found], dtype=torch.int64)
    notes = [f"{len(folders)} class folders read by {way}: {_pairs(in_order, names)}"]
    for part, (place, found) in tree.splits.items():
        if part != "train":
            count = sum(len(class_files(one, folder, tree.passed)) for one in found.values())
            notes.append(f"{count} images of {place}/ not used: a set has training images only")
    weights, said = _weights(tree, base, paths, of_image.tolist(), names)
    fields = {"images": _read_images([folder / path for path in paths]), "labels": of_image, "weights": weights}
    provenance = {"method": "folder", "folder": folder.resolve().name, "notes": notes + said + tree.passed.notes()}
    return {**fields, "class_names": tuple(names), "provenance": provenance}


def _pairs(in_order: Sequence[tuple[int, Path]], names: Sequence[str], limit: int = 10) -> str:
    said = [f"{place.name} is {names[label]}" for label, place in in_order]
    return ", ".join(said[:limit]) + (", ..." if len(said) > limit else "")


def _read_images(files: Sequence[Path]) -> torch.Tensor:
    """Return uint8 ``[n, 3, H, W]``, upright; many images lie in a file instead of in memory."""
    import torch

    from .data.transforms import decode_upright

    images = None
    for index, file in enumerate(files):
        pixels = torch.from_numpy(decode_upright(file).copy()).permute(2, 0, 1)
        if images is None:
            images = empty_tensor((len(files), *pixels.shape), torch.uint8)
        if pixels.shape != images.shape[1:]:
            raise DataError(
                f"{shown(file)} is {pixels.shape[2]}x{pixels.shape[1]} pixels and the first image of the set "
                f"{images.shape[3]}x{images.shape[2]}; give all images one size"
            )
        images[index] = pixels
    assert images is not None  # every class folder has an image
    return images


def _weights(
    tree: ImageTree, base: Path, paths: Sequence[str], labels: Sequence[int], names: Sequence[str]
) -> tuple[torch.Tensor, list[str]]:
    """Return the weights float32 ``[n]`` that a metadata table gives, else ones, and what to say of them."""
    import torch

    if not tree.passed.tables:
        return torch.ones(len(paths)), []
    if len(tree.passed.tables) > 1:
        raise DataError(f"{tree.root} has {len(tree.passed.tables)} tables ({few(_names(tree))}); keep one")
    table = tree.passed.tables[0]
    frame = _read_table(table)
    if frame.empty:
        raise DataError(f"{shown(table)} has no rows; give one an image, or remove it to weigh all images alike")
    name = next((name for name in WEIGHT_COLUMNS if name in frame), None)
    if name is None:
        return torch.ones(len(paths)), [f"{table.name} has no column weight: all images weigh the same"]
    if "file_name" not in frame:
        raise DataError(
            f"{shown(table)} has no column file_name (but {few(list(map(str, frame.columns)))}); name each file"
        )
    image_of = _image_of_row(frame["file_name"].tolist(), table, tree.root, base, paths)
    values = _numbers(frame, name, table)
    weights = torch.ones(len(paths), dtype=torch.float64)
    weights[image_of] = torch.tensor(values, dtype=torch.float64)
    if "label" in frame:
        for given, image in zip(frame["label"].tolist(), image_of, strict=True):
            label = labels[image]
            if given != label and str(given) != names[label]:
                raise DataError(
                    f"{shown(table)} gives {paths[image]} the label {given!r}, and its folder is class {label}, "
                    f"{names[label]!r}; mend one of the two"
                )
    return weights.float(), [f"weights from {table.name}, column {name}"]


def _names(tree: ImageTree) -> list[str]:
    return [table.relative_to(tree.root).as_posix() for table in tree.passed.tables]


def _read_table(table: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        if table.suffix == ".parquet":
            return pd.read_parquet(table)
        return (
            pd.read_csv(table, dtype={"file_name": str}) if table.suffix == ".csv" else pd.read_json(table, lines=True)
        )
    except Exception as problem:  # pandas, pyarrow and the parsers raise what they like for a damaged file
        first = str(problem).partition("\n")[0]
        raise DataError(f"the table {shown(table)} cannot be read ({first}); mend or remove it") from None


def _numbers(frame: pd.DataFrame, name: str, table: Path) -> list[float]:
    import pandas as pd

    values = pd.to_numeric(frame[name], errors="coerce").astype(float)
    if values.isna().any():
        row = int(values.isna().to_numpy().argmax())
        raise DataError(
            f"{shown(table)} gives {frame['file_name'].iloc[row]!r} the {name} {frame[name].iloc[row]!r}, which is no "
            "number; mend it"
        )
    return values.tolist()


def _image_of_row(given: Sequence[Any], table: Path, root: Path, base: Path, paths: Sequence[str]) -> list[int]:
    """Return the place in ``paths`` of each row's image: by path from the table, the split or the set, or by a file
    name that only one image has. DataError: a row without image, an image without row, an image in two rows."""
    places: dict[str, int | None] = {}
    for at, path in enumerate(paths):
        plain = unicodedata.normalize("NFC", path)
        ways = {plain, PurePosixPath(plain).name}
        for parent in (table.parent, base):
            if (root / path).is_relative_to(parent):
                ways.add(unicodedata.normalize("NFC", (root / path).relative_to(parent).as_posix()))
        for way in ways:
            places[way] = None if places.get(way, at) != at else at
    found: dict[int, str] = {}
    image_of = []
    for name in given:
        plain = unicodedata.normalize("NFC", re.sub(r"^(\./)+", "", str(name).replace("\\", "/")))
        at = places.get(plain)
        if at is None:
            what = "means several images" if plain in places else "is no image of the set"
            raise DataError(
                f"{shown(table)} has a row for {name!r}, which {what}; give each image's path from the table"
            )
        if at in found:
            raise DataError(f"{shown(table)} has two rows for the image {paths[at]}; keep one")
        found[at] = plain
        image_of.append(at)
    missing = [path for at, path in enumerate(paths) if at not in found]
    if missing:
        raise DataError(
            f"{shown(table)} has no row for the image {shown(missing[0])} ({len(missing)} such images); add rows, or "
            "remove the table to weigh all alike"
        )
    return image_of
