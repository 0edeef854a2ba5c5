"""DistillContext: what a method works with."""

from __future__ import annotations

import copy
import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..distilled_set import DistilledSet
from ..errors import DistillError
from ..store.artifacts import hash_key, hash_tensors
from ..store.code import code_hash
from ..store.metering import Cost, measure
from .core import CHECKPOINT
from .encoding import prior_module
from .generation import GENERATION_GROUP, at_size, resized
from .method import Distiller, blamed, check_made
from .networks import NetworkDoors
from .work import Effort, Work

SHAPING = tuple(f"{__package__}.{name}" for name in ("encoding", "codebooks", "generation", "latents", "networks"))
"""The modules of this package whose code shapes what a method gets, and so every set."""

PNG_SHARE = 0.6  # of the bytes of raw pixels; planning/rates.yaml


class DistillContext(NetworkDoors):
    """What a distiller works with. Only the training split is visible.

    The doors (each found in the store, or made there once for whoever asks next):

    ============================  =========================================================================
    ``images(c)``                 training images of a class, uint8; costs their reading
    ``latents(c, options)``       the class in the prior's space; one encoding of the class
    ``codebook(c, K, seed)``      centroids and Voronoi masses; all K and seeds of a class share a Gram matrix
    ``generate``, ``pushforward`` latents through the prior, under a ``guide`` where one is given
    ``w2(c, points)``             exact distance of weighted points from the class; not stored
    ``network``, ``normaliser``   a fresh student with named random numbers; not stored
    ``features``, ``scores``      numbers of every training image, by a network; at most one training
    ``real_batch``                real images drawn for a step
    ``artifact``, ``do``          anything else that is expensive, under a key of the method's own
    ``steps``                     the steps of a long optimisation, with checkpoints that survive a kill
    ``distilled``                 another method's set
    ``restricted``                the same store and prior on fewer training images
    ============================  =========================================================================

    A key holds the training images' fingerprint, the prior's, the settings asked for, and the code that makes the
    artifact. ``prior`` may be None for methods that need none; then latents are pixels. ``device`` is where networks
    run (default: the prior's). ``store`` None keeps artifacts in a temporary folder as long as the context lives.

    Memory of a process, beside the prior's weights, for a class of N images of S pixels a side and latents of d numbers
    each, in bytes. Encoding: ``256 * (3 S^2 + 4 d)`` for a shard (``ENCODE_SHARD``) and a batch of the prior.
    Quantising: ``4 N d`` for the float32 latents, and the quantiser's own (a Gram matrix of ``8 N^2`` at most).
    Generating: ``4 d`` for each latent of a group (less than ``256 + IPC`` of them, ``GENERATION_GROUP``) and a batch
    of the prior with ``12 S^2`` an image. Stored latents and images are mapped files (the kernel drops their pages
    when memory is short), and so is a set of more than 64 MiB (``tensor_files.IN_MEMORY``): memory grows neither with
    the number of classes nor with IPC."""

    def finish(
        self,
        method: Distiller,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        ipc: int,
        clusters: int | None,
        seed: int,
        stats: dict[str, Any] | None = None,
        **fields: Any,
    ) -> DistilledSet:
        """Return the DistilledSet of a method's images with its provenance.

        ``images`` are uint8, or float32 in the space of ``preprocessing`` where the set is not to be rounded.
        ``fields`` are those of :class:`~ddoq_plugin.DistilledSet`, such as ``weights`` or ``targets``. Images larger
        than the method's ``stored_size`` are brought to it. ``stats`` become columns of the rows."""
        size, prior = method.config.stored_size, self.prior
        if size is not None and images.shape[-1] > size:
            if images.is_floating_point():
                images = resized(images, size)
            else:
                smaller = self.empty_images(len(images), size)
                for start in range(0, len(images), GENERATION_GROUP):
                    part = slice(start, start + GENERATION_GROUP)
                    smaller[part] = at_size(images[part], size)
                images = smaller
        pixels: Any = None if images.is_floating_point() else images
        floats = images if pixels is None else None
        settings = json.loads(method.config.model_dump_json())
        provenance = {"method": method.name or type(method).__name__, "label": method.label(), "settings": settings}
        provenance |= {"dataset": self.data.name, "dataset_fingerprint": self.data.fingerprint}
        provenance["prior"] = None if prior is None else getattr(prior, "title", "") or prior.name
        provenance["prior_fingerprint"] = None if prior is None else prior.fingerprint[:12]
        provenance |= {"ipc": ipc, "clusters": clusters, "seed": seed, "stats": stats or {}}
        return DistilledSet(pixels, labels, self.class_names, provenance=provenance, floats=floats, **fields)

    def prior_modules(self) -> list[str]:
        """Return the module that defines the prior, none where there is no prior."""
        return [] if self.prior is None else [prior_module(self.prior)]

    def set_work(
        self,
        method: Distiller,
        ipc: int,
        clusters: int | None = None,
        seed: int = 0,
        *,
        needs: Sequence[Work] = (),
        effort: Effort | None = None,
        stage: str = "generate",
    ) -> Work:
        """Declare a whole set: ``method.distill``, measured from its beginning to its end.

        ``needs`` is what the method's doors will ask for; ``effort`` what ``distill`` does beside that."""
        own, side = effort or Effort(), method.config.stored_size or self.data.image_size
        pixels = ipc * self.num_classes * side**2
        operations = {**own.operations, "png_megapixels": pixels / 1e6}
        effort = replace(own, operations=operations, bytes=own.bytes + round(3 * pixels * (1 + PNG_SHARE)))
        asked, title = (method, ipc, clusters, seed), f"set {method.label()}, IPC {ipc}, seed {seed}"
        make = functools.partial(self._make_set, *asked)
        return Work("sets", self.set_key(*asked), make, tuple(needs), title, stage, resumable=True, effort=effort)

    def work_of(self, method: Distiller, ipc: int, clusters: int | None = None, seed: int = 0) -> Work:
        """Return the work of a method's set: the set itself, with all that the method declares as its needs."""
        with blamed(method):
            declared = tuple(method.work(self, ipc, clusters, seed))
        address = ("sets", hash_key(self.set_key(method, ipc, clusters, seed))[:20])
        for work in declared:
            if work.address == address:
                return work
        return self.set_work(method, ipc, clusters, seed, needs=declared)

    def distilled(self, method: Distiller, ipc: int, clusters: int | None = None, seed: int = 0) -> DistilledSet:
        """Return a method's set from the store, distilling it first if it is not there; for wrappers and sweeps.

        A wrapper's row counts the whole cost of the set, as ``sets``."""
        method.check(self, ipc, clusters)
        return DistilledSet.load(self.do(self.work_of(method, ipc, clusters, seed)), verified=True)

    def restricted(self, rows: Mapping[int, Sequence[int] | torch.Tensor]) -> DistillContext:
        """Return a context of fewer training images: those at ``rows[c]`` of each class, in the class's order.

        Classes that are not named keep all. Store, prior and account of costs are this context's; keys follow the
        images, so that nothing of the whole data is taken for a part of it."""
        kept = {}
        for class_id, name in enumerate(self.class_names):
            count = self.class_size(class_id)
            own = torch.as_tensor(rows.get(class_id, range(count)), dtype=torch.int64)
            if not len(own) or int(own.min()) < 0 or int(own.max()) >= count or len(own.unique()) != len(own):
                message = f"class {name!r} has {count} training images; keep some, each once, by 0 to {count - 1}"
                raise DistillError(message)
            kept[class_id] = own
        if self._sampler is not None or self._first_sampler is not None:
            raise DistillError(
                "a method with a sampler of its own cannot be given a part of the images afterwards; wrap it the other "
                "way round, such as bilp(importance(dm))"
            )
        chosen = torch.cat([self.data.train.class_indices(class_id)[own] for class_id, own in kept.items()])
        key = {"data": self.data.fingerprint, "rows": hash_tensors(chosen)}
        part = copy.copy(self)
        part.data = replace(self.data, train=self.data.train.subset(chosen), identity=hash_key(key))
        part._latents, part._known_work, part._on_device = {}, {}, {}
        part._last_images, part._whole = None, (self, kept)
        return part

    def set_key(self, method: Distiller, ipc: int, clusters: int | None, seed: int) -> dict[str, Any]:
        """Return what a set depends on: data, prior, plugins, the method, its settings and code, IPC, K, seed."""
        name, settings = method.name or type(method).__name__, method.config.model_dump(mode="json")
        code = code_hash(*SHAPING, *self.prior_modules(), *method_modules(method))
        asked = {"method": name, "settings": settings, "ipc": ipc, "clusters": clusters, "seed": seed, "code": code}
        inputs = [one.inputs(ipc, seed) for one in with_parts(method)]
        return {**self.identity, **asked, **({"inputs": inputs} if any(inputs) else {})}

    def _make_set(self, method: Distiller, ipc: int, clusters: int | None, seed: int, folder: Path) -> Cost:
        """Distil into ``folder`` and return the whole cost; the provenance has it by kind, and the method's own."""
        for place in folder.iterdir():  # a process was killed while it wrote the set; its checkpoints are kept
            if not place.name.endswith(CHECKPOINT):
                shutil.rmtree(place) if place.is_dir() else place.unlink()
        with self._own_ledger() as ledger, measure(self.device) as meter, blamed(method):
            made = check_made(method, method.distill(self, ipc, clusters=clusters, seed=seed), self, ipc)
        before = sum(self._making[-1][1]) if self._making else 0.0
        seconds = max(0.0, meter.seconds - ledger.inside) + before
        own = Cost(seconds, len(made), meter.device, meter.peak_memory_mb)
        used = ledger.by_kind()
        whole = replace(Cost.total([*used.values(), replace(own, images=None)]), images=len(made))
        cost = {kind: asdict(one) for kind, one in {**used, "own": own, "distill": whole}.items()}
        replace(made, provenance={**made.provenance, "cost": cost}).save(folder, self.store)
        return whole


def with_parts(method: Distiller) -> list[Distiller]:
    """Return a method and all that it wraps, in their order."""
    return [method, *(one for part in method.parts() for one in with_parts(part))]


def method_modules(method: Distiller) -> list[str]:
    """Return the modules of a method's classes and of the methods that it wraps."""
    classes = [cls for one in with_parts(method) for cls in type(one).__mro__]
    return [cls.__module__ for cls in classes if issubclass(cls, Distiller) and cls is not Distiller]
