"""Hashes of image files by content, kept from run to run: a file is read again only after it was changed.

What was read before is known by path, inode, size and times of change, in a file a dataset in the user's cache folder.
Small folders are read each time, which is as fast."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .file_index import FileIndex

SMALL = 64 << 20  # bytes of a folder that no cache is kept for
DIGEST = 16  # bytes kept of each sha256
_STAMP = np.dtype([("path", "u8"), ("inode", "u8"), ("size", "i8"), ("changed", "i8"), ("moved", "i8")])
_KNOWN = np.dtype([*_STAMP.descr, ("digest", f"S{2 * DIGEST}")])
Progress = Callable[[Callable[[int], None], Sequence[int]], None]


def unread_bytes(root: Path, files: FileIndex) -> int:
    """Return the bytes that :func:`content_hashes` would have to read."""
    total = int(files.sizes.sum())
    if total <= SMALL:
        return total
    digests = _lookup(_stamps(root, files), _load(_cache_file(root)))
    return int(files.sizes[[not digest for digest in digests]].sum())


def content_hashes(root: Path, files: FileIndex, each: Progress) -> list[str]:
    """Return 32 hexadecimal digits of each file's content; ``each(work, places)`` calls ``work`` on all places."""
    small = int(files.sizes.sum()) <= SMALL
    file = _cache_file(root)
    stamps = np.zeros(len(files), _STAMP) if small else _stamps(root, files)
    known = np.zeros(0, _KNOWN) if small else _load(file)
    digests = [""] * len(files) if small else _lookup(stamps, known)
    missing = [place for place, digest in enumerate(digests) if not digest]

    def read(place: int) -> None:
        with open(root / files[place].path, "rb") as opened:
            digests[place] = hashlib.file_digest(opened, "sha256").hexdigest()[: 2 * DIGEST]

    each(read, missing)
    if missing and not small:
        found = np.zeros(len(files), _KNOWN)
        for name in _STAMP.names:
            found[name] = stamps[name]
        found["digest"] = [digest.encode() for digest in digests]
        others = known[~np.isin(known["path"], found["path"])]
        with contextlib.suppress(OSError):  # no place to keep them: they are read again
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f"{file.name}.{os.getpid()}")
            with open(partial, "wb") as opened:
                np.save(opened, np.concatenate([found, others]))
            os.replace(partial, file)
    return digests


def _cache_file(root: Path) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:24]
    return base / "ddoq_plugin" / "content_hashes" / f"{name}.npy"


def _load(file: Path) -> np.ndarray:
    try:
        known = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return np.zeros(0, _KNOWN)
    return known if known.dtype == _KNOWN else np.zeros(0, _KNOWN)


def _stamps(root: Path, files: FileIndex) -> np.ndarray:
    stamps = np.zeros(len(files), _STAMP)
    for place, file in enumerate(files):
        about = os.stat(root / file.path)
        name = hashlib.blake2b(file.path.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        path = int.from_bytes(name, "big")
        stamps[place] = (path, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    return stamps


def _lookup(stamps: np.ndarray, known: np.ndarray) -> list[str]:
    """Return the known digest of each file, "" where there is none or the file has changed."""
    if not len(known):
        return [""] * len(stamps)
    known = known[np.argsort(known["path"])]
    at = np.searchsorted(known["path"], stamps["path"]).clip(max=len(known) - 1)
    same = np.all([known[name][at] == stamps[name] for name in _STAMP.names], axis=0)
    return [known["digest"][row].decode() if hit else "" for row, hit in zip(at, same, strict=True)]
