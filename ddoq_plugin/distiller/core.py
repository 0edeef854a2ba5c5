"""What every door of a context stands on: data, store and device, work that is found or made, and what it cost."""

from __future__ import annotations

import functools
import re
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import DistillError
from ..progress import bar
from ..store.artifacts import Store, cost_of
from ..store.checkpoints import load_checkpoint, save_checkpoint
from ..store.code import code_hash
from ..store.metering import Cost, measure
from ..store.tensor_files import empty_tensor
from .work import Effort, Work, all_work

if TYPE_CHECKING:
    from ..data import ImageData
    from ..priors import Prior

CHECKPOINT, CHECKPOINT_SECONDS = ".checkpoint", 30.0


@dataclass
class Ledger:
    """What a set took: the artifacts used, by address, and the seconds spent in finding and making them."""

    used: dict[tuple[str, str], Cost] = field(default_factory=dict)
    inside: float = 0.0
    depth: int = 0

    def by_kind(self) -> dict[str, Cost]:
        """Return the cost of making what was used, whoever made it, by kind of artifact."""
        kinds = sorted({kind for kind, _ in self.used})  # sorted, so that a sum has the same bits in every process
        return {kind: Cost.total(self.used[use] for use in sorted(self.used) if use[0] == kind) for kind in kinds}


class ContextCore:
    """Data, prior, store and device of a method's work; see :class:`~ddoq_plugin.distiller.DistillContext`."""

    def __init__(
        self,
        data: ImageData,
        prior: Prior | None = None,
        store: Store | None = None,
        *,
        device: str | None = None,
        progress: bool = False,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        if store is None:
            folder = tempfile.mkdtemp(prefix="ddoq-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            store = Store(folder)
        self.data, self.prior, self.store, self.progress = data, prior, store, progress
        self.device = device or str(getattr(prior, "device", "cpu"))
        self._identity = identity
        if prior is not None:
            prior.bind_classes(data.class_names, data.wnids)
        self._ledgers = [Ledger()]
        # what is being made, from the outermost to the innermost: the folder, and the seconds of a killed process
        self._making: list[tuple[Path, list[float]]] = []
        self._last_images: tuple[int, torch.Tensor] | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What every set depends on beside its method: data, prior and plugins."""
        prior = None if self.prior is None else self.prior.fingerprint
        return {"data": self.data.fingerprint, "prior": prior, **(self._identity or {})}

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.data.class_names

    @property
    def num_classes(self) -> int:
        return self.data.num_classes

    @property
    def has_prior(self) -> bool:
        return self.prior is not None

    @property
    def can_denoise(self) -> bool:
        return self.prior is not None and self.prior.can_denoise

    def class_size(self, class_id: int) -> int:
        """Return the number of training images of a class."""
        return len(self.data.train.class_indices(class_id))

    def bar(self, total: int, description: str) -> Any:
        """Return a progress bar, silent where the context is."""
        return bar(total, description, show=self.progress)

    def do(self, work: Work) -> Path:
        """Return the folder of an artifact, making it if the store lacks it; a row counts what it cost to make."""
        started, ledger = time.perf_counter(), self._ledgers[-1]
        ledger.depth += 1
        try:
            path = self.store.find(work.kind, work.key)
            if path is None and work.batch is not None:
                work.batch.make([work])
                path = self.store.path(work.kind, work.key)
            elif path is None:
                path = self.store.get(work.kind, work.key, self._maker(work.make), resumable=work.resumable)
        finally:
            ledger.depth -= 1
            if not ledger.depth:
                ledger.inside += time.perf_counter() - started
        self._count(work)
        return path

    def do_together(self, works: Sequence[Work]) -> None:
        """Make what the store lacks of some work; pieces of one batch are made together."""
        batches: dict[str, list[Work]] = {}
        for work in works:
            if work.batch is None:
                self.do(work)
            elif self.store.find(work.kind, work.key) is None:
                batches.setdefault(work.batch.key, []).append(work)
        for members in batches.values():
            if (batch := members[0].batch) is not None:
                batch.make(members)

    def artifact_work(
        self,
        kind: str,
        key: Mapping[str, Any],
        make: Callable[[Path], Cost | float | None],
        *,
        needs: tuple[Work, ...] = (),
        title: str = "",
        stage: str = "train",
        resumable: bool = False,
        effort: Effort | None = None,
    ) -> Work:
        """Declare an artifact of a method's own, such as an expert's trajectory; :meth:`do` finds or makes it.

        ``key`` is plain data: all that the content depends on beside the training images and the code of ``make``,
        which are added. ``make`` fills a folder; with ``resumable`` it finds there what a killed process left."""
        if not re.fullmatch(r"[a-z][a-z0-9_]*", kind):
            raise DistillError(f"the kind of artifact {kind!r} is not a name; use small letters, digits and _")
        whole = {"data": self.data.fingerprint, "code": code_hash(_module(make)), "own": dict(key)}
        if "given" in (self._identity or {}):  # networks are others there
            whole["given"] = (self._identity or {})["given"]
        return Work(kind, whole, make, needs, title or kind, stage, resumable, effort or Effort())

    def artifact(
        self, kind: str, key: Mapping[str, Any], make: Callable[[Path], Cost | float | None], *, resumable: bool = False
    ) -> Path:
        """Return the folder of an artifact of a method's own, made once for all that ask with this key."""
        return self.do(self.artifact_work(kind, key, make, resumable=resumable))

    def steps(
        self, total: int, state: Mapping[str, Any], *, name: str = "steps", every: float | None = None
    ) -> Iterator[int]:
        """Yield the numbers of the steps that are left of ``total``, with progress and checkpoints.

        ``state`` holds all that changes from step to step: tensors (restored in place), generators, and objects with
        ``state_dict`` (networks, optimisers). Every ``every`` seconds (default 30) it is kept in the working folder of
        what is being made: a run that is killed continues from there to the same bits."""
        folder, spent = self._making[-1] if self._making else (None, [])
        file = None if folder is None else folder / f"{name}{CHECKPOINT}"
        first, before = _restore(file, state)
        spent.append(before)
        started = saved = time.perf_counter()
        pause = CHECKPOINT_SECONDS if every is None else every
        with self.bar(total, name) as shown:
            shown.update(first)
            for step in range(first, total):
                yield step
                shown.update(1)
                now = time.perf_counter()
                if file is not None and now - saved > pause and step + 1 < total:
                    done = {"step": step + 1, "seconds": before + now - started}
                    save_checkpoint(file, {**done, "state": _held(state)})
                    saved = now

    def check_class_sizes(self, needed: int, what: str, method: str) -> None:
        """Raise DistillError naming the first class with fewer than ``needed`` training images."""
        for class_id, name in enumerate(self.class_names):
            count = self.class_size(class_id)
            if count < max(1, needed):
                raise DistillError(
                    f"class {name!r} has {count} training images and {method!r} needs {needed} {what} a class; "
                    "lower ipc or clusters, or add images"
                )

    def images(self, class_id: int, indices: Sequence[int] | torch.Tensor | None = None) -> torch.Tensor:
        """Return training images of a class, uint8 ``[n, 3, S, S]``: those at ``indices`` of the class, or all.

        Only what is asked for is read; a whole class is kept until another is asked for."""
        if self._last_images is None or self._last_images[0] != class_id:
            rows = self.data.train.class_indices(class_id)
            if indices is not None:
                return self.data.train.images(rows[indices])
            self._last_images = (class_id, self.data.train.images(rows))
        kept = self._last_images[1]
        return kept if indices is None else kept[indices]

    def empty_images(self, count: int, size: int | None = None) -> torch.Tensor:
        """Return uint8 ``[count, 3, size, size]`` to be filled with a set's images; a large one lies in a file.

        ``size`` None: that of the dataset's images. Raises DistillError where the disk has no room for it."""
        folder, size = self.store.scratch(), size or self.data.image_size
        try:
            return empty_tensor((count, 3, size, size), torch.uint8, folder)
        except OSError as problem:
            raise DistillError(
                f"a set of {count} images of {size}x{size} pixels needs {count * 3 * size**2 / 2**30:.1f} GiB in "
                f"{folder} ({problem}); make room there"
            ) from problem

    def cost(self) -> dict[str, Cost]:
        """Return the cost of what was used since the last reset, by kind; an artifact that methods share counts in full
        for each of them, whoever made it."""
        return self._ledgers[-1].by_kind()

    def reset_cost(self) -> None:
        """Forget what was used so far; see :meth:`cost`."""
        self._ledgers[-1] = Ledger()

    @contextmanager
    def _own_ledger(self) -> Iterator[Ledger]:
        """Keep the account of one set; what is outside goes on with its own afterwards."""
        self._ledgers.append(Ledger())
        try:
            yield self._ledgers[-1]
        finally:
            self._ledgers.pop()

    def _maker(self, make: Callable[[Path], Cost | float | None]) -> Callable[[Path], Cost]:
        """Return ``make`` with its cost measured and a place for checkpoints, which are gone when it has ended."""

        def made(folder: Path) -> Cost:
            spent: list[float] = []
            self._making.append((folder, spent))
            try:
                with measure(self.device) as meter:
                    told = make(folder)
            finally:
                self._making.pop()
            for file in folder.glob(f"*{CHECKPOINT}*"):
                file.unlink()
            if isinstance(told, Cost):
                return told
            seconds = meter.seconds + sum(spent) if told is None else float(told)
            return Cost(seconds, None, meter.device, meter.peak_memory_mb)

        return made

    def _count(self, work: Work) -> None:
        """Enter the cost of work and of what it needs; a wrapped set stands for all that went into it."""
        used = self._ledgers[-1].used
        for one in [work] if work.kind == "sets" else all_work([work]):
            if one.address not in used:
                path = self.store.path(one.kind, one.key)
                if path.is_dir():
                    used[one.address] = cost_of(path)


def _module(make: Any) -> str:
    """Return where a function is written; that of a partial one is the function's, not functools."""
    while isinstance(make, functools.partial):
        make = make.func
    return str(make.__module__)


def _restore(file: Path | None, state: Mapping[str, Any]) -> tuple[int, float]:
    """Restore ``state`` in place; return the steps that were taken and their seconds, (0, 0.0) without a checkpoint."""
    _held(state)  # a state that cannot be kept is an error at the start, not at the first checkpoint
    kept = None if file is None else load_checkpoint(file)
    if file is None or kept is None:
        return 0, 0.0
    if kept["state"].keys() != state.keys():
        raise DistillError(f"the checkpoint {file.name} is of another loop; remove {file.parent} and begin again")
    for name, one in state.items():
        value = kept["state"][name]
        if isinstance(one, torch.Tensor):
            with torch.no_grad():
                one.copy_(value)
        elif isinstance(one, torch.Generator):
            one.set_state(value)
        else:
            one.load_state_dict(value)
    return kept["step"], kept["seconds"]


def _held(state: Mapping[str, Any]) -> dict[str, Any]:
    held = {}
    for name, one in state.items():
        if isinstance(one, torch.Tensor):
            held[name] = one.detach().cpu()
        elif isinstance(one, torch.Generator):
            held[name] = one.get_state()
        elif hasattr(one, "state_dict") and hasattr(one, "load_state_dict"):
            held[name] = one.state_dict()
        else:
            kind = type(one).__name__
            raise DistillError(
                f"the state {name!r} of a loop is a {kind}; give tensors, generators or objects with state_dict"
            )
    return held
