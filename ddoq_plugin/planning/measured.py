"""Rates measured by earlier runs: what rows, or else stored artifacts, say of the same stage, model and device."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config import SweepConfig
from ..record import modern
from ..store.artifacts import MANIFEST
from .rates import device_name

MANIFESTS_READ = 200  # of each kind: enough for a rate
DECISIVE = ("strength", "guidance_scale", "steps", "space")  # the settings that decide what an image costs
STAGE_COLUMNS = {"encode": "latents", "generate": "images", "label": "label", "train": "train"}


class Measured:
    """Medians of images a second and worker, from the rows of the config's run and of the runs beside it.

    A row counts for ``encode`` and ``generate`` if it has the same prior, for ``label`` the same teacher and for
    ``train`` the same student; everywhere the same protocol or method settings, dataset and kind of device. Where there
    is no such row yet, latents and images of the store tell, made by the prior of ``fingerprint``.
    """

    def __init__(
        self, config: SweepConfig, device: str, dataset: str, protocol: str, fingerprint: str | None = None
    ) -> None:
        self.device, self._store, self._fingerprint = device, config.store_folder, fingerprint
        prior, teacher = config.prior, config.teacher
        self._prior = None if prior is None else prior.title
        self._teacher = None if teacher is None else teacher.student
        self._protocol = protocol
        self._rows = [row for row in _rows(config.output_folder.parent) if row.get("dataset") == dataset]

    def encode(self) -> float | None:
        return self._median("encode", prior=self._prior) or self._of_artifacts("latents", {"space": "latent"})

    def generate(self, settings: dict[str, Any]) -> float | None:
        """Return images a second of a method with these settings."""
        decisive = {name: settings[name] for name in DECISIVE if name in settings}
        rows = [row for row in self._rows if row.get("prior") == self._prior and _same(row, decisive)]
        return self._of(rows, "generate") or self._of_artifacts("images", decisive)

    def label(self) -> float | None:
        return self._median("label", teacher=self._teacher, protocol=self._protocol)

    def train(self, student: str) -> float | None:
        return self._median("train", student=student, protocol=self._protocol)

    def _median(self, stage: str, **wanted: Any) -> float | None:
        rows = [row for row in self._rows if all(row.get(name) == value for name, value in wanted.items())]
        return self._of(rows, stage)

    def _of(self, rows: list[dict[str, Any]], stage: str) -> float | None:
        column = STAGE_COLUMNS[stage]
        found = [
            row[f"images_per_second_{column}"]
            for row in rows
            if row.get(f"images_per_second_{column}") and device_name(row.get(f"device_{column}")) == self.device
        ]
        return statistics.median(found) if found else None

    def _of_artifacts(self, kind: str, wanted: dict[str, Any]) -> float | None:
        """Return images over seconds of all stored artifacts of a kind whose key says what is wanted."""
        images = seconds = 0.0
        if self._fingerprint is not None:
            for content in _manifests(self._store / kind):
                key, cost = content.get("key", {}), content.get("cost", {})
                same = key.get("prior") == self._fingerprint and all(key.get(name) == wanted[name] for name in wanted)
                if same and cost.get("images") and device_name(cost.get("device")) == self.device:
                    images, seconds = images + cost["images"], seconds + cost["seconds"]
        return images / seconds if seconds else None


def _manifests(folder: Path) -> Iterator[dict[str, Any]]:
    for file in itertools.islice(folder.glob(f"*/{MANIFEST}"), MANIFESTS_READ):
        try:
            yield json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue


def _rows(runs: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(runs.glob("*/rows/*.json")):
        try:
            row = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(row, dict) and row.get("status") == "done":
            yield modern(row)


def _same(row: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(row.get(f"set_{name}") == value for name, value in wanted.items())
