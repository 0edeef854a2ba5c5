"""Whether a run's files still are what they were: rows, sets, and what the run uses of its store."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import load_config
from ..distilled_set import DistilledSet
from ..errors import DDOQError, EvaluationError
from ..record import flaw
from ..set_folder import PROVENANCE
from ..store.artifacts import MANIFEST, damaged_files
from .grid import SetSpec, make_grid
from .session import SweepSession


@dataclass
class Verified:
    """What was found: rows by status, the number of sets that fit their rows, whether each artifact is undamaged, the
    problems, each with what to do, and what could not be checked."""

    rows: dict[str, int] = field(default_factory=dict)
    sets: int = 0
    artifacts: dict[Path, bool] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def whole(self, artifact: Path) -> bool:
        """Return whether an artifact is undamaged; the first look at a damaged one notes the problem."""
        if artifact not in self.artifacts:
            damaged = damaged_files(artifact)
            self.artifacts[artifact] = not damaged
            if damaged:
                files = ", ".join(damaged[:3]) + (", ..." if len(damaged) > 3 else "")
                self.problems.append(f"{artifact} is damaged ({files}); remove it, and the next sweep makes it again")
        return self.artifacts[artifact]


def verify_run(folder: str | Path) -> Verified:
    """Check each row's digest, each set's hash against its rows, and the files of the store's artifacts.

    Raises EvaluationError where the folder has no rows."""
    folder, found = Path(folder), Verified()
    files = sorted((folder / "rows").glob("*.json"))
    if not files:
        raise EvaluationError(f"there are no result rows in {folder / 'rows'}; give the output folder of a sweep")
    by_title: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        row = _check_row(file, found)
        if row is not None and row.get("set_hash"):
            spec = SetSpec(row["method"], {}, row["label"], row["ipc"], row["clusters"], row["seed"])
            by_title.setdefault(spec.title, []).append(row)
    gone = [title for title in by_title if not (folder / "sets" / title).exists()]
    if gone:
        found.unchecked.append(f"the set_hash of rows of {len(gone)} sets that are not here ({gone[0]}, ...)")
    for title in by_title.keys() - set(gone):
        _check_set(folder, title, by_title[title], found)
    _check_store(folder, found)
    return found


def _check_row(file: Path, found: Verified) -> dict[str, Any] | None:
    try:
        row = json.loads(file.read_text(encoding="utf-8"))
        problem = flaw(row) if isinstance(row, dict) else "is no row"
    except (OSError, ValueError):
        problem = "is no row"
    if problem is None and row["key"] != file.stem:
        problem = "is the row of another key"
    if problem is not None:
        found.problems.append(f"{file} {problem}; run the same sweep, which trains it again")
        return None
    found.rows[row["status"]] = found.rows.get(row["status"], 0) + 1
    return row


def _check_set(folder: Path, title: str, rows: list[dict[str, Any]], found: Verified) -> None:
    place = folder / "sets" / title
    target = place.resolve()
    if (target / MANIFEST).is_file() and not found.whole(target):
        return
    try:
        made = DistilledSet.load(place)
    except DDOQError as problem:
        found.problems.append(f"{problem} (remove {target} first)")
        return
    other = [folder / "rows" / f"{row['key']}.json" for row in rows if row["set_hash"] != made.hash]
    for file in other:
        found.problems.append(
            f"the row {file.stem} was trained on another set than {place}; remove {file} and run the same sweep"
        )
    found.sets += not other


def _check_store(folder: Path, found: Verified) -> None:
    links = [link.resolve() for link in (folder / "sets").glob("*") if link.exists()]
    artifacts = {path for path in links if (path / MANIFEST).is_file()}
    try:
        config = load_config(folder / "config.yaml")
        if artifacts:  # a folder that was moved with its store
            config = config.model_copy(update={"store": str(next(iter(artifacts)).parents[1])})
        if not config.store_folder.is_dir():
            raise EvaluationError(f"the store {config.store_folder} is not here")
        artifacts.update(_used(SweepSession(config)))
    except (DDOQError, OSError, ValueError) as problem:
        found.unchecked.append(f"artifacts beside the linked sets ({problem})")
    for path in sorted(artifacts):
        found.whole(path)


def _used(session: SweepSession) -> Iterator[Path]:
    """Yield the folders of the stored artifacts that a run's rows are made of; nothing is made."""
    store, config = session.store, session.config
    wanted = [] if session.evaluator.teacher_key is None else [("teachers", session.evaluator.teacher_key)]
    if config.prior is not None and config.prior.train is not None:
        wanted.append(("priors", session.prior_source.key))
        if not session.stored(*wanted[-1]):
            raise EvaluationError("the trained prior is not in the store")
    yield from (store.path(*address) for address in wanted if session.stored(*address))
    labelled = {f"train split {session.data.fingerprint}"}
    for spec in make_grid(config).sets:
        for work in session.declared(spec).values():
            if session.stored(work.kind, work.key):
                yield store.path(work.kind, work.key)
        if session.has_set(spec):
            about = json.loads((session.set_folder(spec) / PROVENANCE).read_text(encoding="utf-8"))
            labelled.add(about.get("image_hash"))
    for manifest in (store.root / "soft_labels").glob(f"*/{MANIFEST}"):
        if json.loads(manifest.read_text(encoding="utf-8"))["key"].get("image_hash") in labelled:
            yield manifest.parent
