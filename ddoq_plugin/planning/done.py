"""What of a config is finished: in its store and in its run's folder, by the very keys that a sweep asks for.

Manifests and rows are looked for, not read through: a sweep verifies what it uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..distiller.dry_run import PriorFacts
from ..record import read_row
from ..sweeps.grid import Grid, row_key
from ..sweeps.session import SweepSession
from .workload import Crop

if TYPE_CHECKING:
    from ..distiller import Work


@dataclass(frozen=True)
class Done:
    """What a session's store and rows have. ``session`` None: nothing can be known, and nothing is done."""

    session: SweepSession | None = None

    @property
    def checked(self) -> int:
        """Classes whose images are checked."""
        return 0 if self.session is None else self.session.data.num_classes - len(self.session.unchecked())

    @property
    def prior(self) -> bool:
        """Whether the prior is there, or none is needed."""
        session = self.session
        if session is None:
            return False
        trained = session.config.prior is not None and session.config.prior.train is not None
        return not trained or session.stored("priors", session.prior_source.key)

    @property
    def teacher(self) -> bool:
        """Whether the teacher is there."""
        if self.session is None:
            return False
        key = self.session.evaluator.teacher_key
        return key is not None and self.session.stored("teachers", key)

    def prior_facts(self) -> PriorFacts | None:
        """Return what the prior is, None where there is none yet."""
        session = self.session
        if session is None or session.config.prior is None or not self.prior:
            return None
        return session.prior_facts or PriorFacts.of(session.prior_source.load())

    def has(self, work: Work) -> bool:
        """Return whether an artifact is there."""
        return self.session is not None and self.session.stored(work.kind, work.key)

    def rows(self, grid: Grid) -> frozenset[int]:
        """Return the places in the grid of the finished rows."""
        session = self.session
        if session is None:
            return frozenset()
        folder = session.config.output_folder / "rows"

        def finished(row: Any) -> bool:
            key = row_key(row, session.planned, session.evaluator.key)
            return any((read_row(place, key) or {}).get("status") == "done" for place in (folder, folder / "other"))

        return frozenset(number for number, row in enumerate(grid.rows) if finished(row))

    def has_crop(self, crop: Crop) -> bool:
        """Return whether the images to score are kept at a crop; arrays are nowhere."""
        from ..evaluation.eval_cache import KIND, CachedSplit

        if self.session is None:
            return False
        data, stored = self.session.evaluator.data, self.session.stored
        parts = (data.val, data.test)
        return all(isinstance(part, CachedSplit) and stored(KIND, part.key(*crop)) for part in parts)
