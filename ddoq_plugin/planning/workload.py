"""What a config amounts to, counted once for all that shares it: encodings, codebooks, image sets, banks, students."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..config import SweepConfig
from ..ddoq import DDOQ
from ..distiller import CodebookOptions, Distiller
from ..store.artifacts import hash_key
from ..sweeps.grid import Grid, SetSpec

if TYPE_CHECKING:
    from ..evaluation import Protocol
    from .dataset_facts import DatasetFacts


Crop = tuple[float, int]
"""How images are brought to what is scored: the scoring's ``resize``, and pixels a side."""


@dataclass(frozen=True)
class Codebooks:
    """The codebooks of one kind: every K with every seed, in each class."""

    options: CodebookOptions
    clusters: tuple[int, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class ImageSet:
    """Images that are made (or chosen) once, whatever weights and students use them.

    ``specs`` are the distilled sets with these images. ``forwards`` are the denoiser's passes an image, ``decodes``
    the decodings; both 0 for a method that picks images (and for one whose costs are not known here).
    """

    specs: tuple[SetSpec, ...]
    forwards: int
    decodes: int

    @property
    def spec(self) -> SetSpec:
        return self.specs[0]


@dataclass(frozen=True)
class Training:
    """One student that is really trained, for the ``rows`` (numbers in the grid) that share it.

    ``images`` is the number of images seen in all, ``size`` that of the set, ``batch`` that of a step; ``side`` are the
    pixels a side of the set's images.
    """

    kind: str
    student: str
    seed: int
    set: SetSpec | None
    rows: tuple[int, ...]
    size: int
    side: int
    images: int
    batch: int


@dataclass(frozen=True)
class Bank:
    """One bank of soft labels for rows of a kind and seed: ``images`` labelled augmented images of ``size`` images of
    ``side`` pixels."""

    set: ImageSet | None
    size: int
    side: int
    images: int
    kind: str
    seed: int


def encodings(config: SweepConfig, grid: Grid) -> list[CodebookOptions]:
    """Return the kinds of latents that are made: what is quantised, and the modes against which W2 is measured."""
    if config.prior is None:
        return []  # the latents are the pixels, which nobody encodes
    found: dict[str, CodebookOptions] = {}
    for method in {spec.method + str(spec.settings): spec.distiller() for spec in grid.sets}.values():
        for options in _spaces(method):
            if options.space != "pixel":
                found.setdefault(hash_key(_latent_key(options)), options)
    return list(found.values())


def codebooks(grid: Grid) -> list[Codebooks]:
    """Return the codebooks that a sweep makes."""
    found: dict[CodebookOptions, tuple[set[int], set[int]]] = {}
    for spec in grid.sets:
        method = spec.distiller()
        options = method.codebook_options()
        if options is not None:
            clusters, seeds = found.setdefault(options, (set(), set()))
            clusters |= {spec.clusters or spec.ipc, effective_clusters(spec, method)}
            seeds.add(spec.seed)
    return [Codebooks(options, tuple(sorted(k)), tuple(sorted(s))) for options, (k, s) in found.items()]


def image_sets(grid: Grid) -> list[ImageSet]:
    """Return the sets of images, each with the distilled sets that differ in their weights alone."""
    groups: dict[str, list[SetSpec]] = {}
    for spec in grid.sets:
        groups.setdefault(image_key(spec), []).append(spec)
    return [ImageSet(tuple(specs), *_passes(specs[0].distiller())) for specs in groups.values()]


def trainings(grid: Grid, protocol: Protocol, facts: DatasetFacts) -> list[Training]:
    """Return the students that are trained: rows of sets that are the same to the bit share one."""
    groups: dict[tuple, list[int]] = {}
    for number, row in enumerate(grid.rows):
        images = None if row.set is None else image_key(row.set)
        weights = None if row.set is None else _weights_key(row.set)
        groups.setdefault((row.kind, row.student, row.seed, images, weights), []).append(number)
    made = []
    for (kind, student, seed, *_), rows in groups.items():
        spec = grid.rows[rows[0]].set
        size = facts.images if spec is None else spec.ipc * facts.classes
        numbers = _protocol_of(kind, protocol).numbers(student, size, facts.classes)
        images = numbers.steps * numbers.batch_size
        side = stored_side(spec, facts)
        made.append(Training(kind, student, seed, spec, tuple(rows), size, side, images, numbers.batch_size))
    return made


def banks(config: SweepConfig, sets: list[ImageSet], protocol: Protocol, facts: DatasetFacts) -> list[Bank]:
    """Return the banks of soft labels, none where the protocol stores none."""
    if protocol.label_mode != "soft_stored":
        return []
    from ..evaluation.soft_labels import bank_steps, whole_pages

    def bank(of: ImageSet | None, size: int, kind: str, seed: int) -> Bank:
        used = _protocol_of(kind, protocol)
        steps = whole_pages(bank_steps(used, config.students, size, facts.classes))
        side = stored_side(None if of is None else of.spec, facts)
        return Bank(of, size, side, steps * used.numbers("", size, facts.classes).batch_size, kind, seed)

    made = [bank(one, one.spec.ipc * facts.classes, "distilled", one.spec.seed) for one in sets]
    if config.full_data:
        kinds = ("full_data", "full_data_2x")
        made += [bank(None, facts.images, kind, seed) for kind in kinds for seed in config.seeds]
    return made


def crop_of(protocol: Protocol, facts: DatasetFacts) -> Crop:
    """Return how students are scored under a protocol."""
    return protocol.scoring.resize, protocol.image_size or facts.image_size


def teacher_crop(config: SweepConfig, protocol: Protocol, facts: DatasetFacts) -> Crop | None:
    """Return how the teacher is scored: as students are, or by its own protocol where it is trained; None for none."""
    if config.teacher is None or not protocol.needs_teacher:
        return None
    from ..evaluation import load_protocol

    return crop_of(protocol if config.teacher.weights is not None else load_protocol(config.teacher.protocol), facts)


def stored_side(spec: SetSpec | None, facts: DatasetFacts) -> int:
    """Return the pixels a side of a distilled set's images as they are stored (None: of the dataset's)."""
    return (spec and spec.distiller().config.stored_size) or facts.image_size


def effective_clusters(spec: SetSpec, method: Distiller) -> int:
    """Return the K of the codebook that a set is really made from (see ``DDOQ.allocate`` for one image a class)."""
    asked = spec.clusters or spec.ipc
    options = method.codebook_options()
    by_mass = getattr(method, "requantise_by_mass", True)
    return 1 if spec.ipc == 1 and by_mass and options is not None and options.clustering == "lloyd" else asked


def image_key(spec: SetSpec) -> str:
    """Return a key that sets with the same images share: all settings but those of the weights."""
    method = spec.distiller()
    settings = method.config.model_dump(mode="json")
    key: dict[str, Any] = {"ipc": spec.ipc, "clusters": spec.clusters, "seed": spec.seed}
    if method.codebook_options() is not None:
        key["clusters"] = effective_clusters(spec, method)
        if key["clusters"] == 1 and spec.ipc == 1:
            settings.pop("masses", None)
    if isinstance(method, DDOQ):
        kept = {name: value for name, value in settings.items() if name not in ("weighting", "alpha")}
        if key["clusters"] >= spec.ipc:
            kept.pop("share", None)
        return hash_key([key, kept, method.requantise_by_mass])
    return hash_key([key, spec.method, settings])


def _weights_key(spec: SetSpec) -> str | None:
    """Return what tells weights on the same images apart; with one image a class there is only one weight."""
    method = spec.distiller()
    if not method.uses_weights or spec.ipc == 1:
        return None
    settings = method.config.model_dump(mode="json")
    return f"{settings.get('weighting')} {settings.get('alpha')}"


def _spaces(method: Distiller) -> list[CodebookOptions]:
    options = method.codebook_options()
    if options is None:
        return [CodebookOptions()]  # W2 of whatever it picks is measured between latents
    used = [options, options.model_copy(update={"encoding": "mode"})]
    if options.space == "pixel" and method.makes_images:  # the images nearest to the points are encoded
        used.append(options.model_copy(update={"space": "latent"}))
    return used


def _latent_key(options: CodebookOptions) -> list[Any]:
    return [options.space, options.encoding, options.inversion_steps if options.space == "noise" else None]


def _passes(method: Distiller) -> tuple[int, int]:
    """Return the denoiser's forward passes for one image, with guidance two a step, and the number of decodings."""
    if not isinstance(method, DDOQ):
        return 0, 0
    config = method.config
    steps = config.steps if config.space == "noise" else int(config.strength * config.steps)
    return steps * (2 if config.guidance_scale > 1 else 1), 1


def _protocol_of(kind: str, protocol: Protocol) -> Protocol:
    return protocol.lengthened(2) if kind == "full_data_2x" else protocol
