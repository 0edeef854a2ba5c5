"""A set that is there already: made by this package, imported, or any folder of class folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ddoq_plugin.distiller import Distiller, DistillerConfig, Work
from ddoq_plugin.errors import DistillError

if TYPE_CHECKING:
    from ddoq_plugin.distilled_set import DistilledSet
    from ddoq_plugin.distiller import DistillContext


class GivenConfig(DistillerConfig):
    """Settings of a given set. path: its folder; ``{ipc}`` and ``{seed}`` in it stand for the IPC and seed asked for,
    as in ``sets/dm_{ipc}_{seed}``. A path without ``{seed}`` gives every seed the same set."""

    path: str = Field(min_length=1)


class GivenSet(Distiller):
    """A saved, imported or foreign set, scored beside the others."""

    name = "set"
    uses_weights = True
    Config = GivenConfig
    config: GivenConfig

    def folder(self, ipc: int, seed: int) -> Path:
        """Return the folder of the set for an IPC and a seed."""
        return Path(self.config.path.replace("{ipc}", str(ipc)).replace("{seed}", str(seed))).expanduser()

    def inputs(self, ipc: int, seed: int) -> Any:
        from ddoq_plugin.store.artifacts import hash_file

        folder = self.folder(ipc, seed)
        if not folder.is_dir():
            raise DistillError(f"{self.label()!r}: there is no folder {folder}; give the folder of a set as path")
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        return {file.relative_to(folder).as_posix(): hash_file(file) for file in files}

    def check(self, context: DistillContext, ipc: int, clusters: int | None) -> None:
        super().check(context, ipc, clusters)
        if "{seed}" not in self.config.path:
            self._read(context, ipc, 0)

    def work(self, context: DistillContext, ipc: int, clusters: int | None, seed: int) -> Iterable[Work]:
        yield context.set_work(self, ipc, clusters, seed, stage="quantise")

    def distill(self, context: DistillContext, ipc: int, *, clusters: int | None = None, seed: int = 0) -> DistilledSet:
        self.check(context, ipc, clusters)
        made = self._read(context, ipc, seed)
        own = ("weights", "targets", "target_kind", "preprocessing", "learning_rate", "stage", "mosaic")
        fields = {name: getattr(made, name) for name in own}
        images = made.images if made.floats is None else made.floats
        about = {name: made.provenance[name] for name in ("method", "label") if name in made.provenance}
        stats = {f"of_{name}": str(value) for name, value in about.items()}
        return context.finish(self, images, made.labels, ipc=ipc, clusters=None, seed=seed, stats=stats, **fields)

    def _read(self, context: DistillContext, ipc: int, seed: int) -> DistilledSet:
        from ddoq_plugin.distilled_set import DistilledSet

        folder = self.folder(ipc, seed)
        if not folder.is_dir():
            raise DistillError(f"{self.label()!r}: there is no folder {folder}; give the folder of a set as path")
        made = DistilledSet.load(folder, context.class_names, wnids=context.data.wnids)
        counts = made.labels.bincount().tolist()
        if counts != [ipc] * context.num_classes:
            least, most = min(counts), max(counts)
            has = f"{least} images a class" if least == most else f"{least} to {most} images a class"
            raise DistillError(
                f"{self.label()!r}: the set in {folder} has {has} and IPC is {ipc}; put {{ipc}} into path, or set ipc"
            )
        return made
