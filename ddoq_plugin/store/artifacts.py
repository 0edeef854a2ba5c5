"""Content-addressed artifacts on disk: made once, whole or not at all, checked on every read.

An artifact is a folder. Its address is the hash of its key (everything that determines its content), so a changed
setting is another artifact and an unchanged one is never made twice. It is made in a temporary folder beside its
place and renamed into it, under a lock, so that a killed process leaves nothing half done and two processes do not
make the same thing. ``manifest.json`` holds the sha256 of every file; a damaged artifact is made again, with a warning.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ..errors import StoreError
from ..outputs import check_folder, writing
from .metering import Cost
from .tensor_files import raw_chunks

if TYPE_CHECKING:
    import torch

MANIFEST = "manifest.json"


class Store:
    """A folder of artifacts, ``<root>/<kind>/<hash of the key>/``. Processes may share it."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()
        self._verified: set[Path] = set()  # each artifact is checked once a process, not at each look

    def check(self) -> None:
        """Raise StoreError where the store's folder cannot be written."""
        check_folder(self.root, "the store")

    def path(self, kind: str, key: Mapping[str, Any]) -> Path:
        """Return where the artifact of ``key`` is or will be."""
        return self.root / kind / hash_key(key)[:20]

    def find(self, kind: str, key: Mapping[str, Any]) -> Path | None:
        """Return the artifact's folder if it is there and undamaged, else None."""
        path = self.path(kind, key)
        if path in self._verified and path.is_dir():
            return path
        if not (path / MANIFEST).is_file():
            return None
        if damaged := damaged_files(path):
            text = f"the stored {kind} {path.name} is damaged ({', '.join(damaged)}): it is made again"
            warnings.warn(text, stacklevel=2)
            return None
        self._verified.add(path)
        return path

    def get(
        self, kind: str, key: Mapping[str, Any], make: Callable[[Path], Cost | float | None], *, resumable: bool = False
    ) -> Path:
        """Return the artifact's folder, calling ``make(folder)`` to fill it if it is not there.

        What it cost is kept beside it: the seconds that ``make`` took, or what ``make`` returns, which is seconds
        (where the work was shared) or a whole :class:`Cost`. With ``resumable``, ``make`` finds what a killed process
        left in the working folder, so that it can go on from a checkpoint. Raises StoreError where the store cannot
        be written."""
        found = self.find(kind, key)
        if found is not None:
            return found
        path = self.path(kind, key)
        check_folder(path.parent, "the store's folder")
        with writing(self.root, "the store"), FileLock(f"{path}.lock"):
            if (path / MANIFEST).is_file() and not damaged_files(path):  # another process made it meanwhile
                self._verified.add(path)
                return path
            work = path.with_name(f"{path.name}.work")
            if not resumable:  # left by a killed process: nobody else is at work here, the lock is held
                shutil.rmtree(work, ignore_errors=True)
            work.mkdir(exist_ok=True)
            try:
                started = time.perf_counter()
                told = make(work)
                seconds = time.perf_counter() - started if told is None else told
                cost = seconds if isinstance(seconds, Cost) else Cost(seconds=float(seconds))
                files = {
                    file.relative_to(work).as_posix(): hash_file(file) for file in work.rglob("*") if file.is_file()
                }
                content = {"key": _plain(key, "key"), "seconds": cost.seconds, "cost": asdict(cost), "files": files}
                write_atomic(work / MANIFEST, json.dumps(content, indent=1, sort_keys=True))
                if path.exists():  # a damaged one
                    shutil.rmtree(path)
                os.replace(work, path)
            finally:
                if not resumable:
                    shutil.rmtree(work, ignore_errors=True)
        self._verified.add(path)
        return path

    def scratch(self) -> Path:
        """Return the folder for large temporary files: on the store's disk, which is the one with room."""
        return self.root / "scratch"


def cost_of(path: Path) -> Cost:
    """Return what an artifact cost to make, whoever made it."""
    content = json.loads((path / MANIFEST).read_text())
    return Cost(**content["cost"]) if "cost" in content else Cost(seconds=float(content["seconds"]))


def link_files(artifact: Path, folder: Path) -> None:
    """Show the files of an artifact in ``folder`` too, without the manifest: the same bytes of the disk by hard links,
    copies where the file system has no links."""
    for file in artifact.rglob("*"):
        target = folder / file.relative_to(artifact)
        if file.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif file != artifact / MANIFEST:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, target)
            except OSError:
                shutil.copyfile(file, target)


def damaged_files(path: Path) -> list[str]:
    """Return the names of an artifact's files that are missing or differ from its manifest."""
    try:
        files = json.loads((path / MANIFEST).read_text())["files"]
        named = list(files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # JSON of another kind is damage too
        return [MANIFEST]
    return [name for name, digest in named if not (path / name).is_file() or hash_file(path / name) != digest]


def write_atomic(path: str | Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds either its old content or all of the new one, also after kill -9."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def hash_key(key: Any) -> str:
    """Return the sha256 of plain data, independent of the order of its keys.

    Plain data are None, booleans, finite numbers, strings, lists, tuples, and mappings with string keys. Raises
    StoreError naming the place of anything else: its text could be the same for two different things."""
    return hashlib.sha256(json.dumps(_plain(key, "key"), sort_keys=True).encode()).hexdigest()


def _plain(value: Any, place: str) -> Any:
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, (list, tuple)):
        if set(map(type, value)) == {str}:  # the names of a thousand classes stand in many a key
            return value
        return [_plain(one, f"{place}[{number}]") for number, one in enumerate(value)]
    if isinstance(value, Mapping):
        wrong = next((name for name in value if not isinstance(name, str)), None)
        if wrong is None:
            return {name: _plain(one, f"{place}.{name}") for name, one in value.items()}
        place, value = f"a name in {place}", wrong
    raise StoreError(
        f"{place} is {value!r:.80}, a {type(value).__name__}: the key of an artifact takes plain data (finite numbers, "
        "texts, lists and mappings with text as names); convert it"
    )


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_tensors(*tensors: torch.Tensor | None) -> str:
    """Return the sha256 of tensors' dtypes, shapes and bytes (None counts as absent), read piece by piece: a mapped
    tensor never lies in memory as a whole."""
    digest = hashlib.sha256()
    for tensor in tensors:
        if tensor is None:
            digest.update(b"none")
            continue
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        for chunk in raw_chunks(tensor):
            digest.update(chunk)
    return digest.hexdigest()
