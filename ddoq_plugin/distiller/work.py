"""Work: the artifacts that a set consists of, declared before any is made.

One description has three readers: a sweep makes what the store lacks, a plan prices it, and a row says what it cost."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..store.artifacts import hash_key
from ..store.metering import Cost


@dataclass(frozen=True)
class Effort:
    """The figures from which a plan prices a piece of work; all of them count the whole piece.

    images: how many are worked on, the unit of measured rates. passes: forward passes through networks, by name:
    ``encode``, ``denoise`` and ``decode`` are the prior's; any other name is a student's, at ``side`` pixels (None: the
    data's). A training step counts 3 for an image, forward and backward. operations: work of a processor core, by the
    names of ``core`` in planning/rates.yaml (``product_flops``, ``distance_flops``, ``image_files``, ...), and
    ``flops`` for anything else. bytes: what it writes. memory: bytes that it holds beside process and networks.
    kept: images whose activations a student holds at once for its backward pass; about 4 for an image where a gradient
    goes through a gradient (measured on the CPU)."""

    images: int = 0
    passes: Mapping[str, float] = field(default_factory=dict)
    operations: Mapping[str, float] = field(default_factory=dict)
    bytes: int = 0
    memory: int = 0
    side: int | None = None
    kept: int = 0


@dataclass(frozen=True)
class Batch:
    """Pieces of work that are cheaper together, such as all codebooks of a class. ``make`` stores those it is given;
    ``operations`` is what it takes once, whatever their number."""

    key: str
    make: Callable[[list[Work]], None]
    operations: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Work:
    """One artifact: how it is found, how it is made, and what must be there before.

    kind: the store's folder. key: plain data, everything that its content depends on. make: fills a folder; it returns
    the cost where it knows better than the clock. needs: found or made first, by whoever has them. title: for messages.
    stage: whose resources it asks for, one of ``config.STAGES``. resumable: ``make`` goes on from what a killed process
    left. batch: with which other work it is made. argument: what ``batch.make`` has to know of it."""

    kind: str
    key: Mapping[str, Any]
    make: Callable[[Path], Cost | float | None]
    needs: tuple[Work, ...] = ()
    title: str = ""
    stage: str = "generate"
    resumable: bool = False
    effort: Effort = Effort()
    batch: Batch | None = None
    argument: Any = None

    @functools.cached_property
    def address(self) -> tuple[str, str]:
        """Kind and hash of the key: equal for equal work, whoever declares it."""
        return self.kind, hash_key(self.key)[:20]


def all_work(roots: Iterable[Work]) -> Iterator[Work]:
    """Yield each piece of work once, what it needs before it."""
    seen: set[tuple[str, str]] = set()

    def walk(work: Work) -> Iterator[Work]:
        if work.address not in seen:
            seen.add(work.address)
            for need in work.needs:
                yield from walk(need)
            yield work

    for root in roots:
        yield from walk(root)
