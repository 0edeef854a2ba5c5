"""What of a config is finished: in its store and in its run's folder, by the very keys that a sweep asks for.

Manifests and rows are looked for, not read through: a sweep verifies what it uses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..config import SweepConfig
from ..distiller import CodebookOptions
from ..distiller.encoding import ClassEncoder
from ..record import read_row
from ..registry import source_hash
from ..store.artifacts import MANIFEST
from ..sweeps.grid import Grid, row_key, set_key
from ..sweeps.session import SweepSession
from ..sweeps.shared import PriorFacts
from .workload import Codebooks, Crop

if TYPE_CHECKING:
    from ..data import ImageData


@dataclass(frozen=True)
class Done:
    """``checked``: classes whose images are checked. ``latents``: classes encoded, by place in the encodings.
    ``codebooks``: number by place. ``sets``: titles. ``rows``: places in the grid. ``crops``: those at which the images
    to score are kept. ``prior_fingerprint`` is that of the prior that is there."""

    checked: int = 0
    prior: bool = False
    teacher: bool = False
    latents: dict[int, int] = field(default_factory=dict)
    codebooks: dict[int, int] = field(default_factory=dict)
    sets: frozenset[str] = frozenset()
    rows: frozenset[int] = frozenset()
    crops: frozenset[Crop] = frozenset()
    prior_fingerprint: str | None = None


def look_up(
    config: SweepConfig,
    grid: Grid,
    data: ImageData | None,
    spaces: list[CodebookOptions],
    books: list[Codebooks],
    crops: set[Crop],
) -> Done:
    """Return what is finished of a config; nothing where its dataset is only assumed or nothing was ever stored."""
    if data is None or not (config.store_folder.is_dir() or (config.output_folder / "rows").is_dir()):
        return Done()
    session = SweepSession(config, data=data)
    teacher = session.evaluator.teacher_key
    prior = _prior(session)
    of_prior = config.prior is None or prior is not None
    return Done(
        checked=data.num_classes - len(session.unchecked()),
        prior=of_prior,
        teacher=teacher is not None and _stored(session, "teachers", teacher),
        latents={n: _latents(session, prior, options) for n, options in enumerate(spaces)} if of_prior else {},
        codebooks={n: _codebooks(session, prior, kind) for n, kind in enumerate(books)} if of_prior else {},
        sets=frozenset(s.title for s in grid.sets if _stored(session, "sets", set_key(s, session.context_key))),
        rows=frozenset(number for number, row in enumerate(grid.rows) if _is_row(session, row)),
        crops=frozenset(crop for crop in crops if _kept(session, crop)),
        prior_fingerprint=None if prior is None else prior.fingerprint,
    )


def _prior(session: SweepSession) -> PriorFacts | None:
    """Return what latents depend on; None where there is no prior yet."""
    if session.config.prior is None:
        return None
    if session.config.prior.train is None:
        return session.prior_facts
    if not _stored(session, "priors", session.prior_source.key):
        return None
    return PriorFacts.of(session.prior_source.load())


def _latents(session: SweepSession, prior: Any, options: CodebookOptions) -> int:
    keys = (ClassEncoder(session.data, prior, number, options).key for number in range(session.data.num_classes))
    return sum(_stored(session, "latents", key) for key in keys)


def _codebooks(session: SweepSession, prior: Any, kind: Codebooks) -> int:
    code = [source_hash("ddoq_plugin.quantization"), source_hash("ddoq_plugin.distiller")]
    found = 0
    for number in range(session.data.num_classes):
        shared = {"latents": ClassEncoder(session.data, prior, number, kind.options).key, "code": code}
        shared["options"] = kind.options.model_dump()
        pairs = [(k, seed) for k in kind.clusters for seed in kind.seeds]
        found += sum(_stored(session, "codebooks", shared | {"clusters": k, "seed": seed}) for k, seed in pairs)
    return found


def _kept(session: SweepSession, crop: Crop) -> bool:
    """Return whether the images to score are kept; arrays are nowhere."""
    from ..evaluation.eval_cache import KIND, CachedSplit

    parts = (session.evaluator.data.val, session.evaluator.data.test)
    return all(isinstance(part, CachedSplit) and _stored(session, KIND, part.key(*crop)) for part in parts)


def _stored(session: SweepSession, kind: str, key: dict[str, Any]) -> bool:
    return (session.store.path(kind, key) / MANIFEST).is_file()


def _is_row(session: SweepSession, row: Any) -> bool:
    key, folder = row_key(row, session.context_key, session.evaluator.key), session.config.output_folder / "rows"
    return any((read_row(place, key) or {}).get("status") == "done" for place in (folder, folder / "other"))
