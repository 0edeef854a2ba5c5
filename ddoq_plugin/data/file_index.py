"""Lists of image files that stay small and travel cheaply: an index of ImageNet-1K is some 70 MB, not 300."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor


class ImageFile(NamedTuple):
    """One image file: path relative to the dataset's root, with forward slashes, and size in bytes."""

    path: str
    size: int


class FileIndex(Sequence[ImageFile]):
    """An immutable sequence of image files, held as arrays: the paths' bytes one after the other, and where they end.

    A selection shares the arrays. Pickled, it is these arrays: a process is given the list that another one made."""

    def __init__(self, text: np.ndarray, ends: np.ndarray, sizes: np.ndarray, rows: np.ndarray) -> None:
        self._text, self._ends, self._sizes, self._rows = text, ends, sizes, rows

    @classmethod
    def of(cls, files: Iterable[ImageFile]) -> FileIndex:
        """Return the index of files, taken one by one."""
        text, ends, sizes = bytearray(), array("q", [0]), array("q")
        for path, size in files:
            text += path.encode("utf-8", "surrogateescape")
            ends.append(len(text))
            sizes.append(size)
        arrays = (np.frombuffer(bytes(text), np.uint8), np.array(ends, np.int64), np.array(sizes, np.int64))
        return cls(*arrays, np.arange(len(sizes)))

    def take(self, rows: Tensor) -> FileIndex:
        """Return the files at ``rows``, in that order."""
        return FileIndex(self._text, self._ends, self._sizes, self._rows[rows.numpy()])

    @property
    def sizes(self) -> np.ndarray:
        """The files' bytes, int64 ``[N]``."""
        return self._sizes[self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place):
        if isinstance(place, slice):
            return FileIndex(self._text, self._ends, self._sizes, self._rows[place])
        row = self._rows[place]
        path = self._text[self._ends[row] : self._ends[row + 1]].tobytes().decode("utf-8", "surrogateescape")
        return ImageFile(path, int(self._sizes[row]))
