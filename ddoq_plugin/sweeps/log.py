"""A run's log, ``log.txt`` in its folder: a line for each message of the driver and each warning of a worker."""

import contextlib
import datetime
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

LOG = "log.txt"


def write_log(folder: Path, text: str) -> None:
    """Add a line with the time; a folder that cannot be written costs no more than the line."""
    line = f"{datetime.datetime.now().isoformat(sep=' ', timespec='seconds')} {' '.join(text.split())}\n"
    with contextlib.suppress(OSError), open(folder / LOG, "a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(line)  # one write in append mode: lines of several workers do not mix
        file.flush()


@contextlib.contextmanager
def own_warnings() -> Iterator[list[str]]:
    """Collect the warnings of this package and of plugins that are raised in the block."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield found
        finally:
            found += [str(one.message) for one in caught if "ddoq_" in one.filename]


def worker_title() -> str:
    """Return the words before a worker's line."""
    return f"worker {os.getpid()}:"
