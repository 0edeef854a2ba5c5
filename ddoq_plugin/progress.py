"""Progress on standard error: bars on a terminal, a line every 30 seconds in files and pipes."""

import sys
import threading
import time
import weakref
from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
EVERY = 30.0  # seconds between lines


def bar(total: int | None, description: str, *, show: bool = True, initial: int = 0) -> Any:
    """Return a bar: a context manager with ``update(n)``, ``refresh()`` and ``set_postfix(**values)``."""
    if show and not sys.stderr.isatty():
        return Lines(total, description, initial)
    return tqdm(total=total, initial=initial, desc=description, disable=not show, leave=False, delay=1.0)


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


class Lines:
    """The bar of a log file: what, done, total, time taken and time left. One thread prints for all bars."""

    _alive: weakref.WeakSet["Lines"] = weakref.WeakSet()
    _ticker: threading.Thread | None = None

    def __init__(self, total: int | None, description: str, initial: int = 0) -> None:
        self.total, self.description, self._first, self.n = total, description, initial, initial
        self._postfix = ""
        self._started = self._said = time.monotonic()

    def __enter__(self) -> "Lines":
        Lines._alive.add(self)
        if Lines._ticker is None or not Lines._ticker.is_alive():  # a forked process has none of its parent's
            Lines._ticker = threading.Thread(target=_tick, name="ddoq-progress", daemon=True)
            Lines._ticker.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def close(self) -> None:
        Lines._alive.discard(self)

    def update(self, n: int = 1) -> None:
        self.n += n

    def refresh(self) -> None:
        """Nothing to draw: lines come by the clock."""

    def set_postfix(self, **values: object) -> None:
        self._postfix = "".join(f", {name} {value}" for name, value in values.items())

    def line(self) -> str:
        """Return the state as one line."""
        taken, done = time.monotonic() - self._started, self.n - self._first
        of = "" if self.total is None else f"/{self.total}"
        left = f", {clock(taken / done * (self.total - self.n))} left" if done and self.total is not None else ""
        return f"{self.description}: {self.n}{of}, {clock(taken)} taken{left}{self._postfix}"

    def tick(self) -> None:
        """Print a line if it is time for one."""
        if time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Return seconds as "45 s", "12:30 min" or "3:05 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02d} min" if whole < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def _tick() -> None:
    while True:
        time.sleep(min(1.0, EVERY))
        for one in list(Lines._alive):
            one.tick()
