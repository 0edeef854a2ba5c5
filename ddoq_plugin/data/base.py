"""ImageData: three splits of labelled images of one square size, and what a split must offer.

Images are always uint8 [n, 3, H, W] with H = W; they become floats in [0, 1] only at a model's door."""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DataError

HASH_CHUNK = 4096  # images hashed at a time, so that a fingerprint never copies a whole split


class Split(ABC):
    """Labelled images, in a fixed order."""

    labels: Tensor  # int64 [N], the class index of each image
    image_size: int  # height and width of every image, in pixels
    in_files: bool = False  # whether images are files that are decoded at each look
    _by_class: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def images(self, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Return uint8 [n, 3, H, W]: the images at ``indices`` in that order (None: all)."""

    @abstractmethod
    def subset(self, indices: Sequence[int] | Tensor, labels: Tensor | None = None) -> Split:
        """Return a split of the images at ``indices``, in that order, that shares the stored pixels or files.

        ``labels`` (int64, one per index) replaces the labels, as a choice of classes needs; None keeps them."""

    @abstractmethod
    def digest(self) -> str:
        """Return a hex hash of labels and contents, the same in every process."""

    def unread_bytes(self) -> int:
        """Return the bytes of files that :meth:`digest` would have to read."""
        return 0

    @abstractmethod
    def check(self, indices: Sequence[int] | Tensor | None = None, *, progress: bool = True) -> None:
        """Raise DataError naming the first image, of those at ``indices`` (None: all), that cannot be read."""

    def class_indices(self, c: int) -> Tensor:
        """Return int64 [n_c]: the indices of class ``c``, ascending."""
        if self._by_class is None:
            self._by_class = rows_by_class(self.labels)
        return self._by_class[c] if 0 <= c < len(self._by_class) else torch.empty(0, dtype=torch.int64)

    def batches(
        self, batch_size: int, indices: Sequence[int] | Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images uint8 [b, 3, H, W], labels int64 [b]) in order, ``batch_size`` at a time."""
        rows = torch.arange(len(self)) if indices is None else torch.as_tensor(indices, dtype=torch.int64)
        for chunk in rows.split(batch_size):
            yield self.images(chunk), self.labels[chunk]


class ArraySplit(Split):
    """A split whose pixels are in memory: uint8 [M, 3, H, W] with H = W, shared by its subsets.

    ``labels``: int64 [N]. ``rows``: int64 [N], which rows of ``pixels`` belong to this split, in order (None: all,
    N = M). DataError: a wrong dtype or shape, or a different number of images and labels."""

    def __init__(self, pixels: Tensor, labels: Tensor, rows: Tensor | None = None) -> None:
        shape = list(pixels.shape)
        if pixels.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            raise DataError(f"images must be uint8 [n, 3, size, size], not {pixels.dtype} {shape}; convert them first")
        self._pixels, self._rows = pixels, torch.arange(len(pixels)) if rows is None else rows
        if len(self._rows) != len(labels):
            raise DataError(f"{len(self._rows)} images but {len(labels)} labels; give one label per image")
        self.labels, self.image_size = labels.to(torch.int64), int(pixels.shape[-1])

    def images(self, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        return self._pixels[self._rows if indices is None else self._rows[torch.as_tensor(indices, dtype=torch.int64)]]

    def subset(self, indices: Sequence[int] | Tensor, labels: Tensor | None = None) -> ArraySplit:
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return ArraySplit(self._pixels, self.labels[chosen] if labels is None else labels, self._rows[chosen])

    def digest(self) -> str:
        found = hashlib.sha256(repr((len(self), self.image_size)).encode())
        for images, labels in self.batches(HASH_CHUNK):
            found.update(images.numpy().data)
            found.update(labels.numpy().data)
        return found.hexdigest()

    def check(self, indices: Sequence[int] | Tensor | None = None, *, progress: bool = True) -> None:
        """Arrays are validated when they are made; there is nothing left that could be corrupt."""


@dataclass(frozen=True)
class ImageData:
    """A dataset in three parts that are kept apart: train, validation (cut from train) and test.

    Every choice (a hyper-parameter, a checkpoint) is made on ``val``; ``test`` is for reports. No image of ``val`` is
    in ``train``. ``identity`` stands for ``fingerprint`` where it is given, as for a part of another dataset."""

    name: str
    class_names: tuple[str, ...]  # readable; the class index is the position
    image_size: int  # height and width of every image, in pixels
    train: Split
    val: Split
    test: Split
    wnids: tuple[str, ...] | None = None  # WordNet ids in class order, of ImageNet and its relatives
    notes: tuple[str, ...] = ()  # what a report must say about how the splits were made
    identity: str | None = None

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of class names, labels, contents, size and split; files are read for it, once."""
        if self.identity is not None:
            return self.identity
        names, ids = list(self.class_names), None if self.wnids is None else list(self.wnids)
        digests = [part.digest() for part in (self.train, self.val, self.test)]
        return hashlib.sha256(repr((names, ids, self.image_size, *digests)).encode()).hexdigest()

    @property
    def num_classes(self) -> int:
        """Return the number of classes C."""
        return len(self.class_names)

    def class_counts(self, split: str = "train") -> Tensor:
        """Return int64 [C]: the number of images of each class in ``split`` ("train", "val" or "test")."""
        return torch.bincount(self.split(split).labels, minlength=self.num_classes)

    def split(self, name: str) -> Split:
        """Return the split called "train", "val" or "test"; any other name raises DataError."""
        if name not in ("train", "val", "test"):
            raise DataError(f"a dataset has no split {name!r}; use 'train', 'val' or 'test'")
        return getattr(self, name)

    def check(self, *, progress: bool = True) -> None:
        """Read every image file once and raise DataError naming the first that is damaged.

        Cheap beside any distillation, so it is called before expensive work; in-memory data needs no reading."""
        for part in (self.train, self.val, self.test):
            part.check(progress=progress)

    def check_class(self, c: int) -> None:
        """Read every image file of class ``c`` in all splits; :meth:`check` for many processes, a class each."""
        for part in (self.train, self.val, self.test):
            part.check(part.class_indices(c), progress=False)


def rows_by_class(labels: Tensor, classes: int = 0) -> tuple[Tensor, ...]:
    """Return for each class, as many as there are labels and at least ``classes``, the int64 indices, ascending."""
    counts = torch.bincount(labels, minlength=classes)
    return torch.argsort(labels, stable=True).split(counts.tolist())
