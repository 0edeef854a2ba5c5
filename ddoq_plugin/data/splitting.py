"""Cutting validation from train, subsampling, choosing classes, and putting an ImageData together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import DataError, nearest
from ..seeding import numpy_rng
from .base import ImageData, Split, rows_by_class


def stratified_cut(
    labels: Tensor, class_names: Sequence[str], fraction: float, purpose: str = "validation"
) -> tuple[Tensor, Tensor]:
    """Divide indices into a kept and a cut part, class by class.

    The cut of a class depends on ``purpose``, its name and its number of images only, so a class keeps its
    validation images when it is loaded as part of a subset.

    Args:
        labels: int64 [N].
        class_names: the C class names.
        fraction: share of each class that is cut, in (0, 1): rounded, at least one image of a class that has
            more than one, and never all of them.
        purpose: names the random stream.

    Returns:
        (kept, cut), int64 and ascending.

    Raises:
        DataError: ``fraction`` is outside (0, 1).
    """
    if not 0 < fraction < 1:
        raise DataError(f"the {purpose} fraction must lie between 0 and 1, not {fraction}")
    kept, cut = [], []
    for name, rows in zip(class_names, rows_by_class(labels, len(class_names)), strict=True):
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1) if len(rows) > 1 else 0
        order = torch.from_numpy(numpy_rng("cut", purpose, name).permutation(len(rows)))
        cut.append(rows[order[:count]])
        kept.append(rows[order[count:]])
    return torch.cat(kept).sort().values, torch.cat(cut).sort().values


def limit_indices(labels: Tensor, class_names: Sequence[str], limit: int) -> Tensor:
    """Return int64, ascending: a fixed random choice of at most ``limit`` indices of each class."""
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise DataError(f"limit_per_class={limit!r} must be a positive number of images")
    kept = []
    for name, rows in zip(class_names, rows_by_class(labels, len(class_names)), strict=True):
        kept.append(rows[torch.from_numpy(numpy_rng("limit", name).permutation(len(rows))[:limit])])
    return torch.cat(kept).sort().values


def resolve_classes(wanted: Sequence[str | int], *known: Sequence[str] | None) -> list[int]:
    """Return the class indices of ``wanted``: names from any of the ``known`` lists (names, WordNet ids), or indices.

    Raises:
        DataError: an unknown or repeated class.
    """
    lists = [list(names) for names in known if names is not None]
    if isinstance(wanted, str) or not isinstance(wanted, Sequence):
        raise DataError(f"classes must be a list of class names, not {wanted!r}")
    found = [_resolve_class(item, lists) for item in wanted]
    if len(set(found)) != len(found):
        raise DataError(f"classes names a class twice: {', '.join(map(str, wanted))}")
    return found


def _resolve_class(wanted: str | int, lists: list[list[str]]) -> int:
    if isinstance(wanted, int) and not isinstance(wanted, bool) and 0 <= wanted < len(lists[0]):
        return wanted
    for names in lists:
        if str(wanted) in names:
            return names.index(str(wanted))
    hint = nearest(str(wanted), [name for names in lists for name in names])
    some = ", ".join(lists[0][:10]) + (", ..." if len(lists[0]) > 10 else "")
    raise DataError(f"the dataset has no class {wanted!r}{hint} (classes: {some})")


def make_image_data(
    name: str,
    class_names: Sequence[str],
    train: Split,
    test: Split,
    *,
    val: Split | None = None,
    val_fraction: float = 0.1,
    classes: Sequence[str | int] | None = None,
    limit_per_class: int | None = None,
    wnids: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> ImageData:
    """Put an ImageData together: choose classes, cut validation from train, limit train, fingerprint.

    Args:
        name: the dataset's name.
        class_names: the names of all classes of ``train`` and ``test``.
        train: the images to train on; where ``val`` is None, validation is cut from them.
        test: the test images.
        val: validation images that come apart from ``train`` (``val_fraction`` is then unused).
        val_fraction: share of each class that goes to validation, in (0, 1).
        classes: names (or WordNet ids, or indices) to keep, in the new class order; None keeps all.
        limit_per_class: keep at most so many train images of each class, after the cut; val and test stay whole.
        wnids: WordNet ids in class order, where there are any.
        notes: what a report must say.

    Raises:
        DataError: fewer than two classes, a label outside the class list, or a class without a train or test image.
    """
    names, ids = list(class_names), None if wnids is None else list(wnids)
    splits = {"train": train, "test": test} | ({} if val is None else {"val": val})
    for part, split in splits.items():
        _check_labels(name, part, split.labels, len(names))
    if classes is not None:
        chosen = resolve_classes(classes, names, ids)
        splits = {part: _choose(split, chosen, len(names)) for part, split in splits.items()}
        names, ids = [names[c] for c in chosen], None if ids is None else [ids[c] for c in chosen]
    _check_names(name, names)
    for part in ("train", "test"):
        _check_populated(name, part, splits[part].labels, names)
    # the stable WordNet id names the stream where there is one, so a renamed class keeps its cut
    streams = ids if ids is not None else names
    if val is None:
        kept, cut = stratified_cut(splits["train"].labels, streams, val_fraction)
        splits["val"], splits["train"] = splits["train"].subset(cut), splits["train"].subset(kept)
    if limit_per_class is not None:
        splits["train"] = splits["train"].subset(limit_indices(splits["train"].labels, streams, limit_per_class))
    train, val, test = splits["train"], splits["val"], splits["test"]
    lonely = [names[c] for c, count in enumerate(torch.bincount(val.labels, minlength=len(names))) if count == 0]
    said = [*notes, *([f"no validation image of {', '.join(lonely)}"] if lonely else [])]
    return ImageData(
        name=name,
        class_names=tuple(names),
        image_size=train.image_size,
        train=train,
        val=val,
        test=test,
        fingerprint=_fingerprint(names, ids, train, val, test),
        wnids=None if ids is None else tuple(ids),
        notes=tuple(said),
    )


def _choose(split: Split, chosen: list[int], count: int) -> Split:
    mapping = torch.full((count,), -1, dtype=torch.int64)
    mapping[chosen] = torch.arange(len(chosen))
    rows = torch.nonzero(mapping[split.labels] >= 0).flatten()
    return split.subset(rows, mapping[split.labels[rows]])


def _check_names(name: str, names: list[str]) -> None:
    if len(names) < 2:
        raise DataError(f"the dataset {name} has {len(names)} class; classification needs at least two")
    repeated = sorted({other for other in names if names.count(other) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise DataError(f"the dataset {name} has two classes called {repeated[0]!r}; class names must differ")


def _check_labels(name: str, part: str, labels: Tensor, classes: int) -> None:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        raise DataError(
            f"the {part} split of {name} has the label {wrong}, but there are {classes} class names (labels 0 to "
            f"{classes - 1}); mend the labels or the class names"
        )


def _check_populated(name: str, part: str, labels: Tensor, names: list[str]) -> None:
    empty = torch.nonzero(torch.bincount(labels, minlength=len(names)) == 0).flatten().tolist()
    if empty:
        listed = ", ".join(repr(names[c]) for c in empty[:5]) + (" and others" if len(empty) > 5 else "")
        raise DataError(
            f"the dataset {name} has no {part} image of class {listed}; add images or leave it out with classes=[...]"
        )


def _fingerprint(names: list[str], wnids: list[str] | None, train: Split, val: Split, test: Split) -> str:
    parts = (names, wnids, train.image_size, train.digest(), val.digest(), test.digest())
    return hashlib.sha256(repr(parts).encode()).hexdigest()
