"""What a config amounts to, counted once for all that shares it: declared work, banks of soft labels, students."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..config import SweepConfig
from ..distiller import DistillContext, Work
from ..distiller.work import all_work
from ..errors import DDOQError
from ..evaluation.soft_labels import bank_steps, whole_pages
from ..store.artifacts import hash_key
from ..sweeps.grid import Grid, SetSpec

if TYPE_CHECKING:
    from ..evaluation import Protocol
    from .dataset_facts import DatasetFacts


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
class Shared:
    """One student that is really trained, or one bank of soft labels, for the ``rows`` (numbers in the grid) of a kind
    that share it; ``student`` is empty for a bank.

    ``images`` are those seen or labelled in all, ``batch`` those of a step, ``size`` those of the set; ``side`` are the
    pixels a side of the set's images."""

    kind: str
    student: str
    rows: frozenset[int]
    size: int
    side: int
    images: int
    batch: int


def declare(grid: Grid, context: DistillContext) -> Declared:
    """Return the declared work of every set. A set that cannot be made is left out: the plan refuses it elsewhere."""
    roots: dict[str, Work] = {}
    for spec in grid.sets:
        try:
            roots[spec.title] = context.work_of(spec.distiller(), spec.ipc, spec.clusters, spec.seed)
        except DDOQError:
            continue
    return Declared(roots, {spec.title: _alike(spec, roots.get(spec.title)) for spec in grid.sets})


def trainings(grid: Grid, declared: Declared, protocol: Protocol, facts: DatasetFacts) -> list[Shared]:
    """Return the students that are trained: rows of sets that are the same to the bit share one."""
    return _shared(grid, declared, protocol, facts, bank_of=None)


def banks(config: SweepConfig, grid: Grid, declared: Declared, protocol: Protocol, facts: DatasetFacts) -> list[Shared]:
    """Return the banks of soft labels, none where the protocol stores none; sets of the same images share one."""
    stored = protocol.label_mode == "soft_stored"
    return _shared(grid, declared, protocol, facts, bank_of=config.students) if stored else []


def _shared(
    grid: Grid, declared: Declared, protocol: Protocol, facts: DatasetFacts, *, bank_of: list[str] | None
) -> list[Shared]:
    """Group the rows that share a training or, with the students ``bank_of`` it, a bank of labels."""
    groups: dict[tuple, list[int]] = {}
    for number, row in enumerate(grid.rows):
        same = None if row.set is None else declared.alike[row.set.title][0 if bank_of else 1]
        groups.setdefault((row.kind, "" if bank_of else row.student, row.seed, same), []).append(number)
    made = []
    for (kind, student, _, _), rows in groups.items():
        spec, used = grid.rows[rows[0]].set, protocol.lengthened(2) if kind == "full_data_2x" else protocol
        size = facts.images if spec is None else spec.ipc * facts.classes
        side = (spec and spec.distiller().config.stored_size) or facts.image_size
        numbers = used.numbers(student, size, facts.classes)
        steps = whole_pages(bank_steps(used, bank_of, size, facts.classes)) if bank_of else numbers.steps
        images, batch = steps * numbers.batch_size, numbers.batch_size
        made.append(Shared(kind, student, frozenset(rows), size, side, images, batch))
    return made


def _alike(spec: SetSpec, root: Work | None) -> tuple[str, str]:
    """Return the keys of a set's images and of the set: settings that only change weights change no image, and with one
    image a class no weight either."""
    method = spec.distiller()
    settings = method.config.model_dump(mode="json")
    weights = {name: settings.pop(name, None) for name in method.weight_settings}
    needs = [] if root is None else [work.address for work in root.needs]
    key: dict[str, Any] = {"method": spec.method, "settings": settings, "ipc": spec.ipc, "seed": spec.seed}
    generated = [address for address in needs if address[0] == "images"]  # one recipe, whatever the method is called
    images = hash_key(generated if generated else key | ({"needs": needs} if needs else {"clusters": spec.clusters}))
    return images, hash_key([images, None if spec.ipc == 1 else weights])
