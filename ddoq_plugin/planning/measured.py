"""Rates measured by earlier runs: what rows and stored artifacts say of the same work on the same kind of device."""

import itertools
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config import SweepConfig
from ..distiller import Distiller, Work
from ..record import modern
from ..store.artifacts import MANIFEST, hash_key
from .rates import device_name

MANIFESTS_READ = 200  # of each kind: enough for a rate
WITHOUT_EFFECT = {"inputs", "class", "class_id", "classes", "names", "data", "code", "latents", "seed", "clusters"}
"""The parts of a key that say which images, not what is done with them."""


class Measured:
    """Images a second and worker, from the artifacts of the config's store and the rows of its run and those beside it.

    An artifact counts where its key is the same but for the images; a set's own part is known by rows of the same
    method and settings; a row counts for ``label`` if it has the same teacher and for ``train`` the same student, under
    the same protocol. Everywhere the same dataset or prior, and the same kind of device. None where nothing counts."""

    def __init__(self, config: SweepConfig, device: str, dataset: str, protocol: str) -> None:
        self.device, self._protocol, self._store = device, protocol, config.store_folder
        self._prior = None if config.prior is None else config.prior.title
        self._teacher = None if config.teacher is None else config.teacher.student
        rows = _read(sorted(config.output_folder.parent.glob("*/rows/*.json")))
        done = (modern(row) for row in rows if isinstance(row, dict) and row.get("status") == "done")
        self._rows = [row for row in done if row.get("dataset") == dataset]
        self._by_kind: dict[str, dict[str, float]] = {}

    def work(self, work: Work) -> float | None:
        """Return images a second of artifacts like this one."""
        return self._artifacts(work.kind).get(_effective(work.key))

    def own(self, method: Distiller) -> float | None:
        """Return images a second of what ``distill`` of a method does itself."""
        settings = method.config.model_dump(mode="json")
        kept = {f"set_{name}": value for name, value in settings.items() if name not in method.weight_settings}
        simple = {name: value for name, value in kept.items() if isinstance(value, (str, int, float, bool))}
        return self._median("own", method=method.name, prior=self._prior, **simple)

    def label(self) -> float | None:
        return self._median("label", teacher=self._teacher, protocol=self._protocol)

    def train(self, student: str) -> float | None:
        return self._median("train", student=student, protocol=self._protocol)

    def _median(self, stage: str, **wanted: Any) -> float | None:
        rows = [row for row in self._rows if all(row.get(name) == value for name, value in wanted.items())]
        rows = [row for row in rows if device_name(row.get(f"device_{stage}")) == self.device]
        found = [rate for row in rows if (rate := row.get(f"images_per_second_{stage}"))]
        return statistics.median(found) if found else None

    def _artifacts(self, kind: str) -> dict[str, float]:
        """Return images over seconds of all stored artifacts of a kind, by what matters of their keys."""
        if kind not in self._by_kind:
            sums: dict[str, list[float]] = {}
            files = (self._store / kind).glob(f"*/{MANIFEST}")
            for content in _read(itertools.islice(files, MANIFESTS_READ)):
                cost = content.get("cost") or {}
                if cost.get("images") and device_name(cost.get("device")) == self.device:
                    one = sums.setdefault(_effective(content.get("key", {})), [0.0, 0.0])
                    one[0], one[1] = one[0] + cost["images"], one[1] + cost["seconds"]
            self._by_kind[kind] = {key: images / seconds for key, (images, seconds) in sums.items() if seconds}
        return self._by_kind[kind]


def _effective(key: Mapping[str, Any]) -> str:
    def kept(part: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in part.items() if name not in WITHOUT_EFFECT}

    own = key.get("own")
    return hash_key(kept(key) | ({"own": kept(own)} if isinstance(own, Mapping) else {}))


def _read(files: Iterable[Path]) -> Iterator[Any]:
    """Yield the contents of JSON files, those that cannot be read left out."""
    for file in files:
        try:
            yield json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
