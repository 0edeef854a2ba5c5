"""The images that students are scored on, decoded and cropped once for all students and workers.

Only for folders of files; arrays are in memory already."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.base import ImageData, Split
from ..data.files import FolderSplit
from ..store.artifacts import Store
from ..store.code import code_hash
from ..store.tensor_files import Stream, read_tensors, write_tensors
from .inputs import centre_crop
from .protocol import Scoring

KIND, FILE = "scored_images", "images.safetensors"
BATCH = 256  # images decoded at a time


class CachedSplit(FolderSplit):
    """A split of files whose centre crops are kept in ``store``."""

    def __init__(self, split: FolderSplit, store: Store) -> None:
        super().__init__(split.root, split.files, split.labels, split.image_size, split.resize)
        self._store, self._digest = store, split._digest

    def key(self, resize: float, image_size: int) -> dict[str, Any]:
        """Return what the crops depend on."""
        code = code_hash("ddoq_plugin.data.transforms", centre_crop.__module__)
        return {"split": self.digest(), "scoring_resize": resize, "size": image_size, "code": code}

    def centre_crops(self, resize: float, image_size: int) -> Tensor:
        """Return uint8 ``[N, 3, image_size, image_size]``, mapped: :func:`centre_crop` of every image."""

        def make(folder: Path) -> None:
            crops = (centre_crop(images, resize, image_size) for images, _ in self.batches(BATCH))
            shape = (len(self), 3, image_size, image_size)
            write_tensors(folder / FILE, {"images": Stream(torch.uint8, shape, crops)})

        return read_tensors(self._store.get(KIND, self.key(resize, image_size), make) / FILE)["images"]


def with_cached_scoring(data: ImageData, store: Store) -> ImageData:
    """Return the same data, whose validation and test images are decoded only once where they are files."""
    val, test = (CachedSplit(part, store) if isinstance(part, FolderSplit) else part for part in (data.val, data.test))
    return replace(data, val=val, test=test)


def cropped_batches(split: Split, scoring: Scoring, image_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the split's centre crops uint8 ``[b, 3, image_size, image_size]`` and labels int64 ``[b]``, in order."""
    if isinstance(split, CachedSplit):
        crops = split.centre_crops(scoring.zoom(image_size), image_size)
        yield from zip(crops.split(scoring.batch_size), split.labels.split(scoring.batch_size), strict=True)
        return
    for images, labels in split.batches(scoring.batch_size):
        yield centre_crop(images, scoring.zoom(image_size), image_size), labels
