"""The items of work that make a sweep's sets: classes to encode, codebooks to make, groups of images to generate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..distiller import CodebookOptions, DistillContext, Distiller
from .grid import SetSpec

WEIGHT_SETTINGS = ("weighting", "alpha")  # of DDOQ and what follows it


@dataclass(frozen=True)
class Job:
    """An item of a stage. ``sets`` are the titles of the sets that cannot be made without it."""

    argument: Any
    title: str
    sets: frozenset[str] = frozenset()


def encode_jobs(sets: Iterable[SetSpec], context: DistillContext) -> list[Job]:
    """Return one job for each class and kind of latents: those that codebooks are made of, and those beside them that
    generating methods and W2 look at."""
    if not context.has_prior:
        return []  # the images are their own latents
    wanted: dict[CodebookOptions, set[str]] = {}
    for spec in sets:
        method = spec.distiller()
        options = method.codebook_options()
        if options is None:
            continue
        wanted.setdefault(_latents(options), set()).add(spec.title)
        wanted.setdefault(_latents(options.measured()), set())
        if options.space == "pixel" and method.makes_images:
            wanted.setdefault(_latents(options.model_copy(update={"space": "latent"})), set())
    return [
        Job((class_id, options), f"encode class {name!r}", frozenset(titles))
        for options, titles in wanted.items()
        if options.space != "pixel"
        for class_id, name in enumerate(context.class_names)
    ]


def codebook_jobs(sets: Iterable[SetSpec], context: DistillContext) -> list[Job]:
    """Return one job for each class and options of codebooks: every K and seed, from one Gram matrix."""
    wanted: dict[CodebookOptions, list[SetSpec]] = {}
    for spec in sets:
        options = spec.distiller().codebook_options()
        if options is not None:
            wanted.setdefault(options, []).append(spec)
    jobs = []
    for options, specs in wanted.items():
        clusters = sorted({spec.clusters or spec.ipc for spec in specs})
        seeds = sorted({spec.seed for spec in specs})
        titles = frozenset(spec.title for spec in specs)
        jobs += [
            Job((class_id, options, clusters, seeds), f"quantise class {name!r}", titles)
            for class_id, name in enumerate(context.class_names)
        ]
    return jobs


def generate_jobs(sets: Iterable[SetSpec], context: DistillContext) -> list[Job]:
    """Return one job for each group of classes of the sets whose methods make parts of a set beforehand.

    Sets that differ in their weights alone have the same images (where a method should see that otherwise, the rest is
    made when its set is put together), so that they share a job.
    """
    alike: dict[str, list[SetSpec]] = {}
    for spec in sets:
        if type(spec.distiller()).prepare is not Distiller.prepare:
            settings = {name: value for name, value in spec.settings.items() if name not in WEIGHT_SETTINGS}
            alike.setdefault(repr((spec.method, settings, spec.ipc, spec.clusters, spec.seed)), []).append(spec)
    return [
        Job(
            (specs[0], group),
            f"generate {specs[0].title}, classes {group[0]} to {group[-1]}",
            frozenset(spec.title for spec in specs),
        )
        for specs in alike.values()
        for group in context.class_groups(specs[0].ipc)
    ]


def _latents(options: CodebookOptions) -> CodebookOptions:
    """Return options that differ only where the latents do."""
    steps = {"inversion_steps": options.inversion_steps} if options.space == "noise" else {}
    return CodebookOptions(space=options.space, encoding=options.encoding, **steps)
