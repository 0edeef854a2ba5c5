"""Output folders: checked before the work where possible; a disk that refuses is one sentence."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import StoreError

# reasons of a machine; any other OSError is a bug and keeps its traceback
FAULTS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "it is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.ENOTDIR: "a part of its path is a file",
    errno.EISDIR: "it is a folder",
    errno.EFBIG: "the file size limit is reached (ulimit -f)",
    errno.EMFILE: "too many files are open (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
    errno.EIO: "the disk reports an error",
    errno.ENAMETOOLONG: "a name in it is too long",
    errno.ESTALE: "the network folder is gone",
}
_TEXTS = {"No space left on device": errno.ENOSPC, "Read-only file system": errno.EROFS, "File too large": errno.EFBIG}


def fault_of(problem: BaseException) -> str | None:
    """Return the machine's reason for an error; None for another exception."""
    code = getattr(problem, "errno", None)
    if code is None and not isinstance(problem, OSError):  # libraries that turn it into an error of their own
        code = next((code for text, code in _TEXTS.items() if text in str(problem)), None)
    return None if code is None else FAULTS.get(code)


@contextmanager
def writing(folder: str | Path, what: str) -> Iterator[None]:
    """Turn a refusal of the machine in the block into a StoreError that names ``what`` and ``folder``."""
    try:
        yield
    except Exception as problem:
        gone = isinstance(problem, FileNotFoundError) and not Path(folder).exists()
        fault = "it is gone" if gone else fault_of(problem)
        if fault is None or isinstance(problem, StoreError) or _is_elsewhere(problem, folder):
            raise
        mend = "change that, or choose another folder"
        raise StoreError(f"{what} {folder} cannot be written: {fault}; {mend}") from problem


def _is_elsewhere(problem: BaseException, folder: str | Path) -> bool:
    """Return whether an error names a file that is not in ``folder``: somebody else's, which was read there."""
    name = getattr(problem, "filename", None)
    if not isinstance(name, (str, bytes)) or getattr(problem, "errno", None) in (errno.EMFILE, errno.ENFILE):
        return False
    place, file = os.path.realpath(folder), os.path.realpath(os.fsdecode(name))
    return file != place and not file.startswith(place.rstrip(os.sep) + os.sep) and not place.startswith(file)


def check_folder(folder: str | Path, what: str) -> Path:
    """Make a folder and return it; StoreError where nothing can be written there."""
    place = Path(folder)
    with writing(place, what):
        try:
            place.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".ddoq-", dir=place)
        except (FileExistsError, FileNotFoundError) as problem:  # the path ends at a file, or in /proc
            raise StoreError(f"{what} {place} cannot be made ({problem.strerror}); choose another folder") from problem
        os.close(handle)
        os.unlink(name)
    return place


def check_place(folder: str | Path, what: str) -> None:
    """Raise StoreError where a folder that is to be made later could not be written."""
    place = Path(folder)
    there = next(one for one in (place, *place.parents) if one.exists() or one.is_symlink())
    with writing(place, what):
        if not there.is_dir():
            raise StoreError(f"{what} {place} cannot be made ({there} is a file); choose another folder")
        check_folder(there, what)


def check_file(file: str | Path, what: str) -> Path:
    """Make a file's folder and return the file; StoreError where it cannot be written. It is not made yet."""
    place = Path(file).expanduser()
    if place.is_dir():
        raise StoreError(f"{what} {place} is a folder; give a file in it")
    if not place.exists():
        check_folder(place.parent, f"the folder of {what}")
    elif not os.access(place, os.W_OK):  # a file that is there, or a pipe or terminal
        raise StoreError(f"{what} {place} cannot be written: permission is denied; give another")
    return place


def absolute(path: str | Path) -> str:
    """Return a path of the user's as every process takes it: ``~`` is the home folder, relative to here."""
    return os.path.realpath(Path(path).expanduser())
