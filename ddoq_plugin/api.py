"""The Python interface in two calls: distil a set, and evaluate one.

>>> made = distill("ddoq", dataset="digits", prior={"name": "dit", "train": "digits"}, ipc=10, weighting="sqrt")
>>> frame = evaluate(made, dataset="digits", students=["convnet3_w32"], protocol="soft_stored_short",
...                  teacher="convnet3_bn_w32", seeds=3)
"""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import DatasetConfig, PriorConfig, TeacherConfig, name_only
from .data import load_data
from .distilled_set import DistilledSet
from .errors import EvaluationError
from .evaluation import load_protocol
from .evaluation.evaluator import Evaluator
from .priors.source import PriorSource
from .progress import say_notes
from .record import make_row
from .store.artifacts import Store
from .yaml_files import valid

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from .data import ImageData

DEFAULT_STORE = Path("runs") / "store"


def distill(
    method: str,
    *,
    dataset: str | dict[str, Any] | ImageData,
    ipc: int,
    prior: str | dict[str, Any] | None = None,
    clusters: int | None = None,
    seed: int = 0,
    store: str | Path = DEFAULT_STORE,
    device: str = "cpu",
    progress: bool = True,
    **settings: Any,
) -> DistilledSet:
    """Distil a dataset with a registered method and return the set.

    ``dataset`` and ``prior`` are names or mappings as in a sweep's YAML (``{"name": "dit", "path": folder}``);
    ``settings`` are the method's own. ``store`` keeps latents, codebooks, images and a trained prior. Raises a
    DDOQError where anything does not fit, before expensive work."""
    from .distiller import DistillContext, make_distiller
    from .distiller.dry_run import DryRunContext
    from .distiller.method import blamed, check_made
    from .priors.base import pick_device

    distiller, chosen = make_distiller(method, settings), str(pick_device(device))
    data, kept = _data(dataset), Store(store)
    kept.check()
    say_notes(data.notes, show=progress)
    data.check(progress=progress)
    prior_config = None if prior is None else valid(PriorConfig, name_only(prior), "prior")
    with blamed(distiller):
        distiller.check(DryRunContext(data, prior_config), ipc, clusters)
    loaded = None
    if prior_config is not None:
        source = PriorSource(prior_config, data, kept, chosen, progress=progress)
        source.check()
        loaded = source.load()
    context = DistillContext(data, loaded, kept, device=chosen, progress=progress)
    with blamed(distiller):
        return check_made(distiller, distiller.distill(context, ipc, clusters=clusters, seed=seed), context, ipc)


def evaluate(
    made: DistilledSet | str | Path | Sequence[DistilledSet | str | Path],
    *,
    dataset: str | dict[str, Any] | ImageData,
    students: str | Sequence[str],
    protocol: str | Path | dict[str, Any],
    teacher: str | dict[str, Any] | None = None,
    seeds: int | Sequence[int] = 1,
    store: str | Path = DEFAULT_STORE,
    device: str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Train students on sets (or folders of images of any method) and return one row a trained student.

    Sets of one label, IPC and K get their folder (or position) in the label. ``protocol`` is a name, a file or a
    mapping of keys (``{"extends": "hard_short", "steps": 300}``); ``teacher`` a student's name or a mapping as in a
    sweep's YAML. The columns are those of a sweep's rows (``docs/columns.md``). Accuracies are percent: ``top1`` and
    ``top5`` on test, ``val_top1`` on validation. Raises a DDOQError where anything does not fit, and warns where a set
    says that it was made from another form of the dataset."""
    from .priors.base import pick_device
    from .report import make_frame

    data = _data(dataset)
    names = [students] if isinstance(students, str) else list(students)
    sets = _labelled(made if isinstance(made, (list, tuple)) else [made], data)  # type: ignore[list-item]
    if isinstance(teacher, str):
        teacher = {"student": teacher}
    wanted = valid(TeacherConfig, teacher, "teacher") if teacher else None
    chosen, rules = str(pick_device(device)), load_protocol(protocol)
    Store(store).check()
    evaluator = Evaluator(data, rules, Store(store), students=names, teacher=wanted, device=chosen, progress=progress)
    evaluator.check()
    say_notes(data.notes, show=progress)
    for label, one in sets:
        about = one.provenance
        say_notes((f"{label}: {note}" for note in about.get("notes", ())), show=progress)
        if about.get("dataset") == data.name and about.get("dataset_fingerprint") != data.fingerprint:
            warnings.warn(
                f"the set {label!r} was made from another form of {data.name!r} (other files, or other options such as "
                "image_size and val_fraction): val_top1 may count images that it was made from; give its own options",
                stacklevel=2,
            )
    known = {
        "dataset": data.name,
        "protocol": evaluator.protocol.name,
        "teacher": evaluator.teacher_config.student if evaluator.teacher_config else None,
        "teacher_val_top1": evaluator.teacher.val_accuracy if evaluator.teacher else None,
        "teacher_test_top1": evaluator.teacher.test_accuracy if evaluator.teacher else None,
    }
    every = range(seeds) if isinstance(seeds, int) else seeds
    rows = []
    for place, (label, one) in enumerate(sets):
        for name, seed in itertools.product(names, every):
            about = {**known, "label": label, "place": place, "student": name, "seed": seed}
            rows.append(make_row(about, one, evaluator.evaluate(one, name, seed)))
    return make_frame(rows)


def _labelled(given: Sequence[DistilledSet | str | Path], data: ImageData) -> list[tuple[str, DistilledSet]]:
    """Return the sets with their labels in tables."""
    sets = [one if isinstance(one, DistilledSet) else _loaded(one, data) for one in given]
    about = [one.provenance for one in sets]
    labels = [str(known.get("label") or known.get("method") or "set") for known in about]
    keys = [(label, one.ipc, known.get("clusters")) for label, one, known in zip(labels, sets, about, strict=True)]
    names = [f"set {n}" if isinstance(one, DistilledSet) else str(one) for n, one in enumerate(given, 1)]
    if len(set(names)) < len(names):
        raise EvaluationError("a set is given twice; give each once")
    labels = [f"{key[0]} ({name})" if keys.count(key) > 1 else key[0] for key, name in zip(keys, names, strict=True)]
    return list(zip(labels, sets, strict=True))


def _loaded(folder: str | Path, data: ImageData) -> DistilledSet:
    return DistilledSet.load(folder, data.class_names, wnids=data.wnids)


def _data(dataset: str | dict[str, Any] | ImageData) -> ImageData:
    if not isinstance(dataset, (str, dict)):
        return dataset
    config = valid(DatasetConfig, name_only(dataset), "dataset")
    return load_data(config.name, **config.options())
