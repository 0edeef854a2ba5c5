"""The contract of a distiller, as checks that any registered one must pass (as scikit-learn's ``check_estimator``).

A test of your own package calls ``check_distiller("mine")``. It distils small sets from a few digits, with an
untrained small prior; it says nothing of accuracy."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .data import load_data
from .distilled_set import DistilledSet
from .distiller import make_distiller
from .distiller.work import all_work
from .errors import ConfigError, DistillError
from .registry import DISTILLERS, load_plugin
from .store.artifacts import Store

if TYPE_CHECKING:
    from .distiller import DistillContext, Distiller, Work
    from .priors import Prior

IPC = 3
IMAGES_PER_CLASS = 4 * IPC  # a mosaic has four parts


@dataclass(frozen=True)
class Subject:
    """A distiller under test: its registered name, settings and, if it is not installed, its plugin file."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    plugin: str | None = None

    def make(self, **more: Any) -> Distiller:
        if self.plugin is not None:
            load_plugin(self.plugin)
        return make_distiller(self.name, {**getattr(DISTILLERS.load(self.name), "quick", {}), **self.settings, **more})

    def context(self) -> DistillContext:
        """Return the small context, with a prior only if the method declares that it needs one."""
        return small_context(self.make().needs_prior)

    def distill(self, ipc: int = IPC, clusters: int | None = None, seed: int = 0) -> DistilledSet:
        return self.make().distill(self.context(), ipc, clusters=clusters, seed=seed)


def check_distiller(name: str, *, plugin: str | Path | None = None, **settings: Any) -> None:
    """Raise AssertionError, naming the broken promise, unless the registered distiller ``name`` keeps the contract.

    ``plugin`` is the file that registers it where no installed package does; ``settings`` are the method's own, over
    those that it calls ``quick``."""
    subject = Subject(name, settings, None if plugin is None else str(plugin))
    for check in CHECKS:
        check(subject)


def check_shapes_and_balance(subject: Subject) -> None:
    """IPC images of the data's size for every class, ordered by class, for IPC 1 and more."""
    context = subject.context()
    for ipc in (1, IPC):
        made = subject.distill(ipc)
        size, classes = context.data.image_size, context.num_classes
        assert made.images.shape == (ipc * classes, 3, size, size), f"{subject.name}: images {list(made.images.shape)}"
        assert torch.equal(made.labels, torch.arange(classes).repeat_interleave(ipc)), f"{subject.name}: labels"
        assert made.class_names == context.class_names, f"{subject.name}: class names {made.class_names}"


def check_weights(subject: Subject) -> None:
    """Weights of mean 1 a class (a DistilledSet insists on it); equal ones where the method declares no weights."""
    made = subject.distill()
    equal = bool((made.weights == 1).all())
    assert equal or subject.make().uses_weights, f"{subject.name} declares no weights and its set has some"


def check_cluster_counts(subject: Subject) -> None:
    """K apart from IPC in both directions where the method declares clusters."""
    for clusters in (IPC - 1, IPC + 2) if subject.make().uses_clusters else ():
        made = subject.distill(clusters=clusters)
        assert made.ipc == IPC, f"{subject.name}: {clusters} clusters gave {made.ipc} images a class, not {IPC}"


def check_picks_real_images(subject: Subject) -> None:
    """A method that declares to pick images returns different training images of the right class, byte for byte."""
    if subject.make().makes_images:
        return
    made, context = subject.distill(), subject.context()
    for class_id in range(context.num_classes):
        real = {image.numpy().tobytes() for image in context.images(class_id)}
        picked = [image.numpy().tobytes() for image in made.images[made.labels == class_id]]
        assert set(picked) <= real, f"{subject.name}: an image of class {class_id} is not a training image of it"
        assert len(set(picked)) == len(picked), f"{subject.name}: class {class_id} has the same image twice"


def check_determinism(subject: Subject) -> None:
    """The same seed gives the same bits, here and in a fresh process, and touches no global random state."""

    def numpy_state() -> bytes:
        state: Any = np.random.get_state()
        return state[1].tobytes()

    torch_before, numpy_before = torch.random.get_rng_state(), numpy_state()
    first = subject.distill(seed=1).hash
    assert torch.equal(torch.random.get_rng_state(), torch_before), f"{subject.name} used torch's global generator"
    assert numpy_state() == numpy_before, f"{subject.name} used NumPy's global generator"
    assert subject.distill(seed=1).hash == first, f"{subject.name}: the same seed gave another set"
    assert fresh_hashes([subject])[0] == first, f"{subject.name}: the same seed gave another set in another process"


_FRESH: dict[str, str] = {}


def fresh_hashes(subjects: Sequence[Subject]) -> list[str]:
    """Return the hashes of sets of seed 1 that a fresh process makes; many subjects share one, and results are kept."""
    # the number of threads decides the order of sums, so the other process gets this one's
    asked = [json.dumps([torch.get_num_threads(), one.name, one.settings, one.plugin]) for one in subjects]
    if missing := [one for one in asked if one not in _FRESH]:
        command = [sys.executable, "-m", __name__, *missing]
        run = subprocess.run(command, capture_output=True, text=True, timeout=300 * len(missing), check=False)
        names = ", ".join(subject.name for subject in subjects)
        assert run.returncode == 0, f"{names}: a fresh process fails: {run.stderr[-1000:]}"
        _FRESH.update(zip(missing, run.stdout.split()[-len(missing) :], strict=True))
    return [_FRESH[one] for one in asked]


def check_declared_work(subject: Subject) -> None:
    """The declared work has the same keys for whoever asks. Made piece by piece, by others and in another order, it
    gives the set that is made without it, and ``distill`` makes no such piece again."""
    from .distiller import DistillContext

    class InGroups(DistillContext):  # its classes are in several groups, as those of a large dataset are
        generation_group = 4 * IPC

    def fresh(folder: str | None) -> DistillContext:
        small = subject.context()
        return InGroups(small.data, small.prior, folder and Store(folder))

    def declared(folder: str) -> dict[tuple[str, str], Work]:
        root = fresh(folder).work_of(subject.make(), IPC, None, 1)
        return {work.address: work for work in all_work([root])}

    expected = subject.make().distill(fresh(None), IPC, seed=1).hash
    with tempfile.TemporaryDirectory() as folder:
        *parts, root = declared(folder)
        assert list(declared(folder)) == [*parts, root], f"{subject.name}: its work has other keys at the second call"
        waiting = list(parts)
        while waiting:
            work = declared(folder)
            ready = [one for one in waiting if not any(need.address in waiting for need in work[one].needs)]
            fresh(folder).do(work[ready[-1]])
            waiting.remove(ready[-1])

        def pieces() -> set[Path]:
            there = {path for kind, _ in parts for path in Path(folder).glob(f"{kind}/*/manifest.json")}
            return there - {Path(folder, *root, "manifest.json")}

        before = pieces()
        made = fresh(folder).distilled(subject.make(), IPC, None, 1)
        after = pieces()
        assert made.hash == expected, f"{subject.name}: its set differs when its declared work is made beforehand"
        assert after == before, f"{subject.name}: distill made {len(after - before)} pieces that it did not declare"
        assert made.provenance["cost"]["distill"]["seconds"] > 0, f"{subject.name}: its cost is not known"


def check_round_trip(subject: Subject) -> None:
    """The set is saved and read without loss, its provenance included."""
    made = subject.distill()
    with tempfile.TemporaryDirectory() as folder:
        read = DistilledSet.load(made.save(Path(folder) / "set"))
    assert read.hash == made.hash, f"{subject.name}: the set changed on its way to the disk and back"
    expected = json.loads(json.dumps(dict(made.provenance), default=str))
    assert read.provenance == expected, f"{subject.name}: the provenance changed on its way to the disk and back"
    assert read.provenance["method"] == subject.name, f"{subject.name}: provenance names {read.provenance['method']!r}"


def check_errors(subject: Subject) -> None:
    """Impossible requests raise one clear error each, before anything is made."""
    _raises(ConfigError, "nonsense_setting", lambda: subject.make(nonsense_setting=1))
    _raises(DistillError, "at least 1", lambda: subject.distill(0))
    method, too_many = subject.make(), IMAGES_PER_CLASS + 1
    if method.uses_clusters:
        _raises(DistillError, "class 'zero'", lambda: subject.distill(IPC, clusters=too_many))
    if not method.makes_images:
        _raises(DistillError, "class 'zero'", lambda: subject.distill(too_many))
    if method.needs_prior:
        _raises(DistillError, "prior", lambda: method.distill(small_context(with_prior=False), IPC))


CHECKS: tuple[Callable[[Subject], None], ...] = (
    check_shapes_and_balance, check_weights, check_cluster_counts, check_picks_real_images, check_determinism,
    check_declared_work, check_round_trip, check_errors,
)  # fmt: skip


def small_context(with_prior: bool) -> DistillContext:
    """Return a fresh context of 4 IPC training images a class of the digits; the prior is untrained."""
    from .distiller import DistillContext

    data = load_data("digits", limit_per_class=IMAGES_PER_CLASS)
    return DistillContext(data, _kept_prior(torch.get_num_threads()) if with_prior else None)


def untrained_prior() -> Prior:
    """Return a small DiT prior after one step of training: it makes noise, quickly and the same everywhere."""
    from .priors import load_prior, load_recipe, train_prior

    data, recipe = load_data("digits", limit_per_class=IMAGES_PER_CLASS), load_recipe("digits")
    autoencoder = recipe.autoencoder.model_copy(update={"steps": 1, "channels": (8, 8, 8)})
    denoiser = recipe.denoiser.model_copy(update={"steps": 1, "layers": 1})
    recipe = recipe.model_copy(update={"autoencoder": autoencoder, "denoiser": denoiser})
    with tempfile.TemporaryDirectory() as folder:
        train_prior(data, Path(folder) / "prior", recipe, seed=0, progress=False)
        return load_prior("dit", path=str(Path(folder) / "prior"))


@functools.cache
def _kept_prior(threads: int) -> Prior:
    return untrained_prior()  # the number of threads decides the last bits of its training


def _raises(kind: type[Exception], text: str, call: Callable[[], object]) -> None:
    try:
        call()
    except kind as problem:
        assert text in str(problem), f"the error {str(problem)!r} does not name {text!r}"
    else:
        raise AssertionError(f"{kind.__name__} naming {text!r} was not raised")


def registered() -> list[str]:
    """Return the names of every usable registered distiller that needs no setting to be given."""
    fields = {name: DISTILLERS.load(name).Config.model_fields.values() for name in DISTILLERS.names()}
    return [name for name, own in fields.items() if not any(field.is_required() for field in own)]


if __name__ == "__main__":
    import torch

    for asked in sys.argv[1:]:
        threads, *about = json.loads(asked)
        torch.set_num_threads(threads)
        print(Subject(*about).distill(seed=1).hash)
