"""What a config amounts to, counted once for all that shares it: declared work, banks of soft labels, students."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..config import SweepConfig
from ..distiller import DistillContext, Work
from ..distiller.work import all_work
from ..errors import DDOQError
from ..store.artifacts import hash_key
from ..sweeps.grid import Grid, SetSpec

if TYPE_CHECKING:
    from ..evaluation import Protocol
    from .dataset_facts import DatasetFacts


Crop = tuple[float, int]
"""How images are brought to what is scored: the scoring's ``resize``, and pixels a side."""


@dataclass(frozen=True)
class Declared:
    """The sets of a grid with their work. ``roots``: the work of each set, by title. ``alike``: for each title a key
    that sets with the same images share, and one that sets equal to the bit share."""

    roots: dict[str, Work]
    alike: dict[str, tuple[str, str]]

    def works(self) -> list[Work]:
        """Return every piece of work once, what it needs before it."""
        return list(all_work(self.roots.values()))


@dataclass(frozen=True)
class Training:
    """One student that is really trained, for the ``rows`` (numbers in the grid) that share it.

    ``images`` is the number of images seen in all, ``size`` that of the set, ``batch`` that of a step; ``side`` are the
    pixels a side of the set's images.
    """

    kind: str
    student: str
    seed: int
    set: SetSpec | None
    rows: tuple[int, ...]
    size: int
    side: int
    images: int
    batch: int


@dataclass(frozen=True)
class Bank:
    """One bank of soft labels for rows of a kind and seed: ``images`` labelled augmented images of ``size`` images of
    ``side`` pixels. ``titles`` are the sets that share it, None for all data."""

    titles: frozenset[str | None]
    size: int
    side: int
    images: int
    kind: str
    seed: int


def declare(grid: Grid, context: DistillContext) -> Declared:
    """Return the declared work of every set. A set that cannot be made is left out: the plan refuses it elsewhere."""
    roots: dict[str, Work] = {}
    for spec in grid.sets:
        try:
            roots[spec.title] = context.work_of(spec.distiller(), spec.ipc, spec.clusters, spec.seed)
        except DDOQError:
            continue
    return Declared(roots, {spec.title: _alike(spec, roots.get(spec.title)) for spec in grid.sets})


def trainings(grid: Grid, declared: Declared, protocol: Protocol, facts: DatasetFacts) -> list[Training]:
    """Return the students that are trained: rows of sets that are the same to the bit share one."""
    groups: dict[tuple, list[int]] = {}
    for number, row in enumerate(grid.rows):
        same = None if row.set is None else declared.alike[row.set.title][1]
        groups.setdefault((row.kind, row.student, row.seed, same), []).append(number)
    made = []
    for (kind, student, seed, _), rows in groups.items():
        spec = grid.rows[rows[0]].set
        size = facts.images if spec is None else spec.ipc * facts.classes
        numbers = _protocol_of(kind, protocol).numbers(student, size, facts.classes)
        images, side = numbers.steps * numbers.batch_size, stored_side(spec, facts)
        made.append(Training(kind, student, seed, spec, tuple(rows), size, side, images, numbers.batch_size))
    return made


def banks(config: SweepConfig, grid: Grid, declared: Declared, protocol: Protocol, facts: DatasetFacts) -> list[Bank]:
    """Return the banks of soft labels, none where the protocol stores none; sets of the same images share one."""
    if protocol.label_mode != "soft_stored":
        return []
    from ..evaluation.soft_labels import bank_steps, whole_pages

    def bank(specs: list[SetSpec], kind: str, seed: int) -> Bank:
        used, first = _protocol_of(kind, protocol), specs[0] if specs else None
        size = facts.images if first is None else first.ipc * facts.classes
        steps = whole_pages(bank_steps(used, config.students, size, facts.classes))
        images = steps * used.numbers("", size, facts.classes).batch_size
        titles = frozenset(spec.title for spec in specs) or frozenset({None})
        return Bank(titles, size, stored_side(first, facts), images, kind, seed)

    groups: dict[tuple[str, int], list[SetSpec]] = {}
    for spec in grid.sets:
        groups.setdefault((declared.alike[spec.title][0], spec.seed), []).append(spec)
    made = [bank(specs, "distilled", seed) for (_, seed), specs in groups.items()]
    if config.full_data:
        made += [bank([], kind, seed) for kind in ("full_data", "full_data_2x") for seed in config.seeds]
    return made


def crop_of(protocol: Protocol, facts: DatasetFacts) -> Crop:
    """Return how students are scored under a protocol."""
    return protocol.scoring.resize, protocol.image_size or facts.image_size


def teacher_crop(config: SweepConfig, protocol: Protocol, facts: DatasetFacts) -> Crop | None:
    """Return how the teacher is scored: as students are, or by its own protocol where it is trained; None for none."""
    if config.teacher is None or not protocol.needs_teacher:
        return None
    from ..evaluation import load_protocol

    return crop_of(protocol if config.teacher.weights is not None else load_protocol(config.teacher.protocol), facts)


def stored_side(spec: SetSpec | None, facts: DatasetFacts) -> int:
    """Return the pixels a side of a distilled set's images as they are stored (None: of the dataset's)."""
    return (spec and spec.distiller().config.stored_size) or facts.image_size


def _alike(spec: SetSpec, root: Work | None) -> tuple[str, str]:
    """Return the keys of a set's images and of the set: settings that only change weights change no image, and with one
    image a class no weight either."""
    method = spec.distiller()
    settings = method.config.model_dump(mode="json")
    weights = {name: settings.pop(name, None) for name in method.weight_settings}
    needs = [] if root is None else [work.address for work in root.needs]
    key: dict[str, Any] = {"method": spec.method, "settings": settings, "ipc": spec.ipc, "seed": spec.seed}
    images = hash_key(key | ({"needs": needs} if needs else {"clusters": spec.clusters}))
    return images, hash_key([images, None if spec.ipc == 1 else weights])


def _protocol_of(kind: str, protocol: Protocol) -> Protocol:
    return protocol.lengthened(2) if kind == "full_data_2x" else protocol
