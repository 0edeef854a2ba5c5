"""DistilledSet: what a distiller returns. :mod:`ddoq_plugin.set_folder` describes its form on disk.

Most sets are uint8 images, rounded once when made: the PNG, the tensors and what is scored are the same bytes. Images
of another space, or that must not be rounded, are ``floats`` with a ``preprocessing``; the PNGs are then previews.
A set may be larger than memory: it is written piece by piece and read as a mapped file."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .data.class_names import few
from .errors import DataError
from .outputs import writing
from .preprocessing import PIXELS, Preprocessing
from .set_folder import (
    IMAGES,
    PROVENANCE,
    TARGET_KINDS,
    TENSORS,
    files_hash,
    read_exact,
    write_images,
    write_tables,
)
from .set_reader import read_images
from .store.artifacts import Store, hash_key, hash_tensors, link_files
from .store.code import code_hash

if TYPE_CHECKING:
    import torch

PREVIEW_BATCH = 256  # images brought back to pixels at a time


@dataclass(frozen=True)
class DistilledSet:
    """Images with labels and weights.

    images: uint8 ``[n, 3, H, W]``; None where ``floats`` are given: they become the preview, ``floats`` brought back to
    [0, 1], clamped and rounded. labels: int64 ``[n]``, ascending (class-major), every class present. weights: float32
    ``[n]``, non-negative, of mean 1 within each class; default all 1. targets: float ``[n, classes]`` or None;
    target_kind ``logits`` (plain soft labels of the images as they are) or ``regression`` (outputs to be met by squared
    error). provenance: JSON-able.

    floats: float32 ``[n, 3, H, W]`` or None, the exact images, in the space of ``preprocessing`` (kind ``none``: [0,
    1]). preprocessing: of kind ``none``, students see the images as their protocol normalises them; otherwise they see
    them in its space, and test images are brought there too. learning_rate: what the method learnt for the student, or
    None. stage: int64 ``[n]`` or None, 0 to P - 1 for sets made in P stages. mosaic: 2 where each stored image holds
    four of a quarter of its size; ``len`` and ``ipc`` count stored images.

    Raises DataError where the parts do not fit each other."""

    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple[str, ...]
    weights: torch.Tensor = None  # type: ignore[assignment]  # set to ones
    targets: torch.Tensor | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    target_kind: Literal["logits", "regression"] = "logits"
    floats: torch.Tensor | None = None
    preprocessing: Preprocessing = PIXELS
    learning_rate: float | None = None
    stage: torch.Tensor | None = None
    mosaic: int = 1

    def __post_init__(self) -> None:
        import torch

        if self.weights is None:
            object.__setattr__(self, "weights", torch.ones(len(self.labels)))
        object.__setattr__(self, "class_names", tuple(self.class_names))
        for name in ("images", "labels", "weights", "targets", "floats", "stage"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, torch.Tensor):
                raise DataError(
                    f"{name} of a distilled set must be a torch.Tensor, not {type(value).__name__}; convert it"
                )
        if self.floats is not None:
            _check_floats(self, self.floats)
        if self.images is None:
            if self.floats is None:
                raise DataError("a distilled set needs images (uint8) or floats (float32)")
            parts = [to_uint8(self.preprocessing.undo(part)) for part in self.floats.split(PREVIEW_BATCH)]
            object.__setattr__(self, "images", torch.cat(parts))
        _check(self)
        _check_form(self)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def ipc(self) -> int:
        """Stored images per class (the largest, where classes differ)."""
        return int(self.labels.bincount(minlength=self.num_classes).max())

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def image_hash(self) -> str:
        """Hash of what soft labels depend on: images (or floats), labels, preprocessing, mosaic; no weights."""
        return self._hash(hash_tensors(self.images if self.floats is None else self.floats, self.labels), self._space)

    @cached_property
    def hash(self) -> str:
        """Hash of everything but the provenance."""
        more = {
            "floats": None if self.floats is None else hash_tensors(self.floats),
            "target_kind": None if self.target_kind == "logits" else self.target_kind,
            "learning_rate": self.learning_rate,
            "stage": None if self.stage is None else hash_tensors(self.stage),
        }
        own = {name: value for name, value in more.items() if value is not None}
        return self._hash(hash_tensors(self.images, self.labels, self.weights, self.targets), self._space | own)

    @property
    def _space(self) -> dict[str, Any]:
        """What the images stand for, beside their values; empty for plain uint8 images."""
        named = {"preprocessing": self.preprocessing.hash} if self.preprocessing.kind != "none" else {}
        return named | ({"mosaic": self.mosaic} if self.mosaic != 1 else {})

    @staticmethod
    def _hash(tensors: str, more: Mapping[str, Any]) -> str:
        return (hash_key([tensors, more]) if more else tensors)[:20]  # that of the tensors alone for plain sets

    def save(self, folder: str | Path, store: Store | None = None) -> Path:
        """Write the set into ``folder`` (made if needed; it must not hold another set) and return it. ``store`` keeps
        the images and their PNGs once for all sets that have them; the folder holds hard links to them."""
        folder = Path(folder).expanduser()
        if (folder / TENSORS).exists() or (folder / "train").exists():
            raise DataError(f"{folder} already holds a distilled set; give a new folder or remove the old one")
        # a new folder is written beside its place, so that it is there whole or not at all
        new = not folder.exists() or not any(folder.iterdir())
        place = folder.with_name(f".{folder.name}.partial") if new else folder
        with writing(folder, "the set's folder"):
            try:
                if new:
                    shutil.rmtree(place, ignore_errors=True)
                    place.mkdir(parents=True)
                self._write(place, store)
                if new:
                    os.replace(place, folder)
            finally:
                if new:
                    shutil.rmtree(place, ignore_errors=True)
        return folder

    def _write(self, folder: Path, store: Store | None) -> None:
        if store is None:
            write_images(folder, self)
        else:
            code = code_hash("ddoq_plugin.set_folder")
            key = {"image_hash": self.image_hash, "class_names": self.class_names, "code": code}
            if self.floats is not None:
                key["preview"] = hash_tensors(self.images)
            link_files(store.get("set_images", key, lambda target: write_images(target, self)), folder)
        write_tables(folder, self)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        class_names: Sequence[str] | None = None,
        *,
        wnids: Sequence[str] | None = None,
        verified: bool = False,
    ) -> DistilledSet:
        """Read a set that :meth:`save` wrote (exactly), or a folder of images made by any other method.

        ``class_names`` and ``wnids`` are the dataset's: the folders are matched to them by name, WordNet id or number,
        and the labels follow their order. The images of a saved set are mapped from its file; where its PNGs or its
        table were edited since, they count. ``verified``: its files have just been checked, so they are not read once
        more for the hash. How a folder was read stands in the provenance (``notes``). Raises DataError naming the
        folder or file and what to do."""
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}; give the folder of a distilled set or of class folders")
        if (folder / TENSORS).exists():
            made = cls._load_saved(folder, verified)
        else:
            made = cls(**read_images(folder, class_names, wnids))
        if class_names is not None and list(class_names) != list(made.class_names):
            raise DataError(
                f"the classes of {folder} ({few(made.class_names)}) are not those of the dataset "
                f"({few(class_names)}), in that order; evaluate the set on the dataset it was made from"
            )
        return made

    @classmethod
    def _load_saved(cls, folder: Path, verified: bool) -> DistilledSet:
        fields, about = read_exact(folder)
        try:
            made = cls(**fields)
        except TypeError as problem:
            raise DataError(f"the distilled set {folder} is damaged ({problem}); distil it again") from problem
        if verified and "image_hash" in about:
            vars(made).update(hash=about["hash"], image_hash=about["image_hash"])  # as the cached properties would
        if made.hash != about.get("hash"):
            raise DataError(f"the tensors of {folder} do not match the hash in its {PROVENANCE}; distil it again")
        if verified or about.get("files") == files_hash(folder):
            return made
        seen = read_images(folder, made.class_names, own=(IMAGES, TENSORS, PROVENANCE))
        if all(_equal(seen[name], getattr(made, name)) for name in ("images", "labels", "weights")):
            return made
        only = [name for name in ("floats", "targets", "stage") if getattr(made, name) is not None]
        if only:
            raise DataError(
                f"the pictures or the table of {folder} were edited, and {' and '.join(only)} of the set are not in "
                f"them; undo the edit, or remove {TENSORS}, {IMAGES} and {PROVENANCE} to have a set of the pictures"
            )
        notes = ["edited since it was saved: its pictures and table count", *seen.pop("provenance")["notes"]]
        return replace(made, **seen, provenance={**made.provenance, "notes": notes})


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Round images in [0, 1] to uint8, halves to even, clamped."""
    return (images.clamp(0, 1) * 255).round().byte()


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def _check(made: DistilledSet) -> None:
    import torch

    n, images = len(made.labels), made.images
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[:2] != (n, 3):
        got = f"got {images.dtype} of shape {list(images.shape)}"
        raise DataError(f"a distilled set needs uint8 images of shape [{n}, 3, H, W], one a label; {got}")
    if made.labels.dtype != torch.int64 or made.labels.ndim != 1:
        raise DataError(f"a distilled set needs int64 labels of one dimension; got {made.labels.dtype}")
    counts = made.labels.bincount(minlength=made.num_classes) if n and made.labels.min() >= 0 else torch.zeros(1)
    if len(counts) != made.num_classes or (counts == 0).any():
        missing = [name for name, count in zip(made.class_names, counts.tolist(), strict=False) if count == 0]
        said = f"{few(missing)} have no image" if missing else "some labels are outside the class names"
        raise DataError(f"a distilled set needs images of every class and of no other; {said}")
    if (made.labels.diff() < 0).any():
        raise DataError("a distilled set is ordered by class; sort the images by label")
    weights = made.weights
    if weights.shape != made.labels.shape or not torch.isfinite(weights).all() or (weights < 0).any():
        raise DataError("weights must be finite, non-negative and one an image")
    means = torch.zeros(made.num_classes, dtype=torch.float64).index_add_(0, made.labels, weights.double()) / counts
    worst = int((means - 1).abs().argmax())
    if abs(float(means[worst]) - 1) > 1e-4:
        found = f"class {made.class_names[worst]!r} has {float(means[worst]):.4g}"
        raise DataError(f"weights must have mean 1 within each class; {found}: divide its weights by that")
    if made.target_kind not in TARGET_KINDS:
        raise DataError(f"there is no target_kind {made.target_kind!r}; use {' or '.join(map(repr, TARGET_KINDS))}")
    shape, targets = (n, made.num_classes), made.targets
    if targets is not None and (targets.shape != shape or not torch.isfinite(targets).all()):
        said = "logits" if made.target_kind == "logits" else "regression targets"
        raise DataError(f"{said} must be finite and of shape {list(shape)}; got {list(targets.shape)}")
    if targets is None and made.target_kind == "regression":
        raise DataError("the set's target_kind is 'regression' and it has no targets; give them")


def _check_floats(made: DistilledSet, floats: torch.Tensor) -> None:
    import torch

    n = len(made.labels)
    if floats.dtype != torch.float32 or floats.ndim != 4 or floats.shape[:2] != (n, 3):
        got = f"got {floats.dtype} {list(floats.shape)}"
        raise DataError(f"floats must be float32 of shape [{n}, 3, H, W], one a label; {got}")
    if not all(torch.isfinite(part).all() for part in floats.split(PREVIEW_BATCH)):
        raise DataError("floats must be finite; the method diverged or its preprocessing is broken")
    if made.images is not None and made.images.shape != floats.shape:
        raise DataError(
            f"images are the preview of floats and must have their shape {list(floats.shape)}, not "
            f"{list(made.images.shape)}; leave images None and the preview is made"
        )
    made.preprocessing.check_size(floats.shape)


def _check_form(made: DistilledSet) -> None:
    height, width = made.images.shape[-2:]
    made.preprocessing.check_size(made.images.shape)
    if made.mosaic not in (1, 2):
        raise DataError(f"mosaic must be 1 (plain images) or 2 (four in one), not {made.mosaic!r}")
    if made.mosaic == 2 and (height % 2 or width % 2):
        raise DataError(f"mosaics have even sides, to be cut into quarters; the images are {height}x{width} px")
    if made.mosaic == 2 and made.preprocessing.kind == "zca":
        raise DataError("a mosaic cannot live in ZCA space, whose matrix is for whole images; use 'standardised'")
    rate = made.learning_rate
    if rate is not None and not (isinstance(rate, (int, float)) and math.isfinite(rate) and rate > 0):
        raise DataError(f"learning_rate must be a positive finite number or None, not {rate!r}")
    stage = made.stage
    if stage is not None:
        if stage.dtype != made.labels.dtype or stage.shape != made.labels.shape:
            raise DataError(f"stage must be int64 and one an image; got {stage.dtype} of shape {list(stage.shape)}")
        if stage.unique().tolist() != list(range(int(stage.max()) + 1)):
            raise DataError("stages are numbered 0, 1, ... without a gap; number those of the set so")
