"""FolderSplit: images that stay on disk and are decoded when they are asked for, a few at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from ..errors import DataError
from ..progress import bar
from .base import Split
from .content_hashes import content_hashes, unread_bytes
from .file_index import FileIndex, ImageFile
from .transforms import check_image_size, check_resize, damaged, decode_image, verify_image

THREADS = min(8, os.cpu_count() or 1)  # Pillow releases the interpreter lock while it decodes
MEMORY_SHARE = 0.8  # of the machine's memory that one request for images may fill


class FolderSplit(Split):
    """A split of N image files, whose paths are relative to ``root``; ``labels`` are int64 [N].

    Memory holds the index of the files, and the images of one request: uint8, 3 * size * size bytes each. A pickled
    split is its index, so that a folder of a million files is listed by one process and not by every one.
    ``image_size``: height and width of the decoded images, in pixels. ``resize``: "crop" (shorter side to
    ``image_size``, then centre crop) or "stretch" (aspect ratio ignored). DataError: an unknown ``resize``, or a
    different number of files and labels."""

    in_files = True

    def __init__(
        self, root: Path, files: Iterable[ImageFile], labels: Tensor, image_size: int, resize: str = "crop"
    ) -> None:
        check_resize(resize)
        check_image_size(image_size)
        self.root, self.resize = Path(root), resize
        self.files = files if isinstance(files, FileIndex) else FileIndex.of(files)
        if len(self.files) != len(labels):
            raise DataError(f"{len(self.files)} image files but {len(labels)} labels; give one label per file")
        self.labels, self.image_size = labels.to(torch.int64), image_size
        self._digest: str | None = None

    def images(self, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Return uint8 [n, 3, H, W]; DataError names a damaged file, or that so many images do not fit in memory."""
        rows = self._rows(indices)
        needed, total = len(rows) * 3 * self.image_size**2, psutil.virtual_memory().total
        if needed > MEMORY_SHARE * total:
            raise DataError(
                f"{len(rows)} images of {self.image_size}x{self.image_size} pixels need {needed / 2**30:.0f} GiB of "
                f"the {total / 2**30:.0f} GiB of memory; take a smaller image_size, fewer classes or limit_per_class"
            )
        with torch.inference_mode(False):  # the mode is one thread's own: others may not fill an inference tensor
            out = torch.empty((len(rows), 3, self.image_size, self.image_size), dtype=torch.uint8)

        def fill(place: int) -> None:
            pixels = decode_image(self.root / self.files[rows[place]].path, self.image_size, self.resize)
            out[place] = torch.from_numpy(pixels.copy()).permute(2, 0, 1)

        _in_threads(fill, range(len(rows)), "decoding", show=False)
        return out

    def subset(self, indices: Sequence[int] | Tensor, labels: Tensor | None = None) -> FolderSplit:
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        kept = self.labels[chosen] if labels is None else labels
        return FolderSplit(self.root, self.files.take(chosen), kept, self.image_size, self.resize)

    def digest(self) -> str:
        """Return a hash of the files' contents, labels, image size and resize mode; a changed file is read again."""
        if self._digest is None:
            found = hashlib.sha256(repr((len(self), self.image_size, self.resize)).encode())

            def each(work: Callable[[int], None], places: Sequence[int]) -> None:
                _in_threads(work, places, "reading image files", show=True)

            try:
                hashes = content_hashes(self.root, self.files, each)
            except OSError as problem:
                raise damaged(Path(str(problem.filename)), problem) from None
            for content, label in zip(hashes, self.labels.tolist(), strict=True):
                found.update(f"{content} {label}\n".encode())
            self._digest = found.hexdigest()
        return self._digest

    def unread_bytes(self) -> int:
        return 0 if self._digest is not None else unread_bytes(self.root, self.files)

    def check(self, indices: Sequence[int] | Tensor | None = None, *, progress: bool = True) -> None:
        """Decode every file once, JPEGs at reduced scale; raise DataError naming the first that is damaged."""
        rows = self._rows(indices)
        _in_threads(lambda row: verify_image(self.root / self.files[row].path), rows, "checking images", show=progress)

    def _rows(self, indices: Sequence[int] | Tensor | None) -> Sequence[int]:
        return range(len(self)) if indices is None else torch.as_tensor(indices, dtype=torch.int64).tolist()


def _in_threads(work: Callable[[Any], None], items: Sequence, title: str, *, show: bool) -> None:
    """Call ``work`` on every item; the first failure in order is raised and what has not begun is dropped."""
    threads = min(THREADS, max(1, len(items)))
    with ThreadPoolExecutor(threads) as pool, bar(len(items), title, show=show) as shown:
        # a bounded window, so that a million files never become a million waiting futures
        for start in range(0, len(items), 1024):
            futures = [pool.submit(work, item) for item in items[start : start + 1024]]
            try:
                for future in futures:
                    future.result()
                    shown.update(1)
            except BaseException:
                for future in futures:
                    future.cancel()
                raise
