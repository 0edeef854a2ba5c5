"""Cutting validation from train, subsampling, choosing classes, and putting an ImageData together."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import DataError
from ..seeding import numpy_rng
from .base import ImageData, Split, rows_by_class
from .class_names import resolve_classes


def stratified_cut(
    labels: Tensor, class_names: Sequence[str], fraction: float, purpose: str = "validation"
) -> tuple[Tensor, Tensor]:
    """Divide the indices of ``labels`` (int64 [N]) class by class; return (kept, cut), int64 and ascending.

    ``fraction`` of each class is cut, in (0, 1), else DataError: rounded, at least one image of a class that has more
    than one, and never all of them. ``purpose`` names the random stream. The cut of a class depends on it, its name and
    its number of images only, so a class keeps its validation images when it is loaded as part of a subset."""
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
        raise DataError(f"the {purpose} fraction must be a number between 0 and 1, not {fraction!r}")
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
        kept.append(drawn(rows, limit, "limit", name))
    return torch.cat(kept).sort().values


def drawn(rows: Tensor, count: int, *stream: str | int) -> Tensor:
    """Return ``count`` of ``rows`` (all, where there are fewer), drawn without replacement from the named stream."""
    return rows[torch.from_numpy(numpy_rng(*stream).permutation(len(rows))[:count])]


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
    """Put an ImageData together: choose classes, cut validation from train, limit train.

    ``class_names``: of all classes of the splits. ``val``: validation images that come apart from ``train``; None cuts
    them from it, ``val_fraction`` of each class, in (0, 1). ``classes``: names (or WordNet ids, or indices) to keep, in
    the new class order; None keeps all. ``limit_per_class``: keep at most so many train images of each class, after
    the cut; val and test stay whole. ``wnids``: WordNet ids in class order, where there are any. ``notes``: what a
    report must say. DataError: fewer than two classes, a label outside the class list, or a class without a train or
    test image."""
    names, ids = list(class_names), None if wnids is None else list(wnids)
    splits = {"train": train, "test": test} | ({} if val is None else {"val": val})
    for part, split in splits.items():
        wrong = split.labels[(split.labels < 0) | (split.labels >= len(names))].sort().values.tolist()
        if wrong:
            raise DataError(
                f"the {part} split of {name} has the label {wrong[0] if wrong[0] < 0 else wrong[-1]}, but there are "
                f"{len(names)} class names (labels 0 to {len(names) - 1}); mend the labels or the class names"
            )
    if classes is not None:
        chosen = resolve_classes(classes, names, ids)
        splits = {part: _choose(split, chosen, len(names)) for part, split in splits.items()}
        names, ids = [names[c] for c in chosen], None if ids is None else [ids[c] for c in chosen]
    _check_classes(name, names, splits)
    # the stable WordNet id names the stream where there is one, so a renamed class keeps its cut
    streams = ids if ids is not None else names
    if val is None:
        kept, cut = stratified_cut(splits["train"].labels, streams, val_fraction)
        splits["val"], splits["train"] = splits["train"].subset(cut), splits["train"].subset(kept)
    if limit_per_class is not None:
        splits["train"] = splits["train"].subset(limit_indices(splits["train"].labels, streams, limit_per_class))
    train, val, test = splits["train"], splits["val"], splits["test"]
    lonely = _empty_classes(val, names)
    said = (*notes, *([f"no validation image of {', '.join(lonely)}"] if lonely else []))
    wordnet = None if ids is None else tuple(ids)
    return ImageData(name, tuple(names), train.image_size, train, val, test, wordnet, said)


def _choose(split: Split, chosen: list[int], count: int) -> Split:
    mapping = torch.full((count,), -1, dtype=torch.int64)
    mapping[chosen] = torch.arange(len(chosen))
    rows = torch.nonzero(mapping[split.labels] >= 0).flatten()
    return split.subset(rows, mapping[split.labels[rows]])


def _check_classes(name: str, names: list[str], splits: dict[str, Split]) -> None:
    """Raise DataError unless there are two classes or more, all named differently, with train and test images."""
    if len(names) < 2:
        raise DataError(f"the dataset {name} has {len(names)} class; classification needs at least two")
    repeated = [other for other, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"the dataset {name} has two classes called {min(repeated)!r}; class names must differ")
    for part in ("train", "test"):
        empty = _empty_classes(splits[part], names)
        if empty:
            listed = ", ".join(map(repr, empty[:5])) + (" and others" if len(empty) > 5 else "")
            message = f"the dataset {name} has no {part} image of class {listed}; add images or leave it out with "
            raise DataError(message + "classes=[...]")


def _empty_classes(split: Split, names: list[str]) -> list[str]:
    counts = torch.bincount(split.labels, minlength=len(names)).tolist()
    return [name for name, count in zip(names, counts, strict=True) if count == 0]
