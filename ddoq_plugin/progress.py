"""Progress bars on standard error; silent when standard error is not a terminal."""

import sys
from collections.abc import Collection, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def bar(total: int | None, description: str, *, show: bool = True, initial: int = 0):
    """Return a ``tqdm`` bar (a context manager with ``update(n)`` and ``set_postfix(**values)``)."""
    # disable=None is tqdm's "only on a terminal"
    return tqdm(total=total, initial=initial, desc=description, disable=None if show else True, leave=False, delay=1.0)


def track(items: Collection[T], description: str, *, show: bool = True) -> Iterator[T]:
    """Yield from ``items`` under a bar."""
    with bar(len(items), description, show=show) as shown:
        for item in items:
            yield item
            shown.update(1)


def say_notes(notes: Iterable[str], *, show: bool = True) -> None:
    """Print notes on what was read and how, a line each, on standard error."""
    for note in notes if show else ():
        print(f"note: {note}", file=sys.stderr, flush=True)
