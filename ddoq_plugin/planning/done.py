"""What of a config is finished: in its store and in its run's folder, by the very keys that a sweep asks for.

Manifests and rows are looked for, not read through: a sweep verifies what it uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..distiller.dry_run import PriorFacts
from ..record import read_row
from ..sweeps.grid import Grid, row_key
from ..sweeps.session import SweepSession

if TYPE_CHECKING:
    from ..distiller import Work

Crop = tuple[float, int]
"""How images are brought to what is scored: the scoring's ``resize``, and pixels a side."""


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
        if self.session is None:
            return False
        config = self.session.config.prior
        trained = config is not None and config.train is not None
        return not trained or self.session.stored("priors", self.session.prior_source.key)

    @property
    def teacher(self) -> bool:
        """Whether the teacher is there."""
        key = None if self.session is None else self.session.evaluator.teacher_key
        return key is not None and self.session.stored("teachers", key)

    def prior_facts(self) -> PriorFacts | None:
        """Return what the prior is, None where there is none yet."""
        if not self.prior or self.session.config.prior is None:
            return None
        return self.session.prior_facts or PriorFacts.of(self.session.prior_source.load())

    def has(self, work: Work) -> bool:
        """Return whether an artifact is there."""
        return self.session is not None and self.session.stored(work.kind, work.key)

    def rows(self, grid: Grid) -> frozenset[int]:
        """Return the places in the grid of the finished rows."""
        if self.session is None:
            return frozenset()
        folder, finished = self.session.config.output_folder / "rows", set()
        for number, row in enumerate(grid.rows):
            key = row_key(row, self.session.planned, self.session.evaluator.key)
            found = (read_row(place, key) or {} for place in (folder, folder / "other"))
            if any(content.get("status") == "done" for content in found):
                finished.add(number)
        return frozenset(finished)

    def has_crop(self, crop: Crop) -> bool:
        """Return whether the images to score are kept at a crop; arrays are nowhere."""
        from ..evaluation.eval_cache import KIND, CachedSplit

        if self.session is None:
            return False
        parts = (self.session.evaluator.data.val, self.session.evaluator.data.test)
        return all(isinstance(part, CachedSplit) and self.session.stored(KIND, part.key(*crop)) for part in parts)
