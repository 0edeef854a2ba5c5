"""DistillContext: what a method works with."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import DistillError
from ..progress import bar
from ..registry import source_hash
from ..store.artifacts import Store, cost_of, hash_key
from ..store.cost import Cost
from ..store.metering import measure
from ..store.tensor_files import empty_tensor, read_tensors
from .codebook_files import load_codebook, save_codebook
from .encoding import ClassEncoder, scaled_pixels
from .generation import FILE, GENERATION_GROUP, Generation, at_size, class_groups
from .options import CodebookOptions

if TYPE_CHECKING:
    import torch

    from ..data import ImageData
    from ..distilled_set import DistilledSet
    from ..priors import Prior
    from ..quantization import Codebook
    from .method import Distiller

LATENTS_IN_MEMORY = 2  # of one class each; a method can look at two spaces of a class in turn


class DistillContext:
    """What a distiller works with: images, latents, codebooks and generation, made on demand and kept in the store.

    Only the training split is visible. ``prior`` may be None for methods that need none; then latents are pixels.

    Memory of a process, beside the prior's weights, for a class of N images of S pixels a side and latents of d numbers
    each, in bytes. Encoding: ``256 * (3 S^2 + 4 d)`` for a shard (``ENCODE_SHARD``) and a batch of the prior.
    Quantising: ``4 N d`` for the float32 latents, and the quantiser's own (a Gram matrix of ``8 N^2`` at most).
    Generating: ``4 d`` for each latent of a group (less than ``256 + IPC`` of them, ``GENERATION_GROUP``) and a batch
    of the prior with ``12 S^2`` an image. Stored latents and images are mapped files (the kernel drops their pages
    when memory is short), and so is a set of more than 64 MiB (``tensor_files.IN_MEMORY``): memory grows neither with
    the number of classes nor with IPC. Without a store, latents and images stay in memory: for small data.
    """

    generation_group: ClassVar[int] = GENERATION_GROUP

    def __init__(
        self, data: ImageData, prior: Prior | None = None, store: Store | None = None, *, progress: bool = False
    ) -> None:
        self.data, self.prior, self.store, self.progress = data, prior, store, progress
        if prior is not None:
            prior.bind_classes(data.class_names, data.wnids)
        self._latents: dict[str, torch.Tensor] = {}
        self._costs: dict[tuple[str, str], Cost] = {}
        self._used: set[tuple[str, str]] = set()
        self._last_images: tuple[int, torch.Tensor] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.data.class_names

    @property
    def num_classes(self) -> int:
        return self.data.num_classes

    @property
    def has_prior(self) -> bool:
        return self.prior is not None

    @property
    def can_denoise(self) -> bool:
        return self.prior is not None and self.prior.can_denoise

    def bar(self, total: int, description: str):
        """Return a progress bar, silent where the context is."""
        return bar(total, description, show=self.progress)

    def reset_cost(self) -> None:
        """Forget what was used so far; see :meth:`cost`."""
        self._used.clear()

    def cost(self) -> dict[str, Cost]:
        """Return the cost of what was used since the last reset, by kind (latents, codebooks, images).

        It is that of making, whoever made it: an artifact that methods share counts in full for each of them.
        """
        kinds = sorted({kind for kind, _ in self._used})
        # sorted, so that a sum has the same bits in every process
        return {kind: Cost.total(self._costs[use] for use in sorted(self._used) if use[0] == kind) for kind in kinds}

    def check_class_sizes(self, needed: int, what: str, method: str) -> None:
        """Raise DistillError naming the first class with fewer than ``needed`` training images."""
        for class_id, name in enumerate(self.class_names):
            count = len(self.data.train.class_indices(class_id))
            if count < max(1, needed):
                raise DistillError(
                    f"class {name!r} has {count} training images and {method!r} needs {needed} {what} a class; "
                    "lower ipc or clusters, or add images"
                )

    def images(self, class_id: int, indices: Sequence[int] | torch.Tensor | None = None) -> torch.Tensor:
        """Return training images of a class, uint8 ``[n, 3, S, S]``: those at ``indices`` of the class, or all.

        Only what is asked for is read; a whole class is kept until another is asked for.
        """
        if self._last_images is None or self._last_images[0] != class_id:
            rows = self.data.train.class_indices(class_id)
            if indices is not None:
                return self.data.train.images(rows[indices])
            self._last_images = (class_id, self.data.train.images(rows))
        kept = self._last_images[1]
        return kept if indices is None else kept[indices]

    def empty_images(self, count: int, size: int | None = None) -> torch.Tensor:
        """Return uint8 ``[count, 3, size, size]`` to be filled with a set's images; a large one lies in a file.

        ``size`` None: that of the dataset's images. Raises DistillError where the disk has no room for it.
        """
        import torch

        folder, size = None if self.store is None else self.store.scratch(), size or self.data.image_size
        try:
            return empty_tensor((count, 3, size, size), torch.uint8, folder)
        except OSError as problem:
            raise DistillError(
                f"a set of {count} images of {size}x{size} pixels needs {count * 3 * size**2 / 2**30:.1f} GiB in "
                f"{folder or 'the folder for temporary files'} ({problem}); make room there"
            ) from problem

    def latents(self, class_id: int, options: CodebookOptions | None = None) -> torch.Tensor:
        """Return the latents of a class in the space of ``options``, float32 ``[N, ...]``.

        They are rounded to float16, as they are stored (a thousandth of their size, far below a cell's radius).
        """
        encoder = self._encoder(class_id, options)
        address = hash_key(encoder.key)
        if address in self._latents:
            if ("latents", address) in self._costs:
                self._used.add(("latents", address))
        else:
            if self.store is not None or encoder.is_pixels:  # they can be read again: no more are kept than are in use
                while len(self._latents) >= LATENTS_IN_MEMORY:
                    del self._latents[next(iter(self._latents))]
            self._latents[address] = encoder.pixels() if encoder.is_pixels else self._encoded(encoder)
        kept = self._latents[address]
        return scaled_pixels(kept) if encoder.is_pixels else kept.float()

    def encode(self, class_id: int, options: CodebookOptions | None = None) -> None:
        """Make and store the latents of a class without loading them; nothing to do where they are the images."""
        encoder = self._encoder(class_id, options)
        if not encoder.is_pixels and self.store is not None:
            self.store.get("latents", encoder.key, encoder.write, resumable=True)

    def codebook(self, class_id: int, clusters: int, seed: int = 0, options: CodebookOptions | None = None) -> Codebook:
        """Return the codebook of ``clusters`` points of a class."""
        return self.codebooks(class_id, [clusters], [seed], options)[clusters, seed]

    def codebooks(
        self, class_id: int, clusters: Sequence[int], seeds: Sequence[int], options: CodebookOptions | None = None
    ) -> dict[tuple[int, int], Codebook]:
        """Return the codebooks of a class for every K and seed; what is not stored is made from one Gram matrix."""
        options = options or CodebookOptions()
        keys = {
            (k, seed): {
                "latents": self._encoder(class_id, options).key,
                "options": options.model_dump(),
                "clusters": k,
                "seed": seed,
                "code": [source_hash("ddoq_plugin.quantization"), source_hash(__package__)],
            }
            for k in clusters
            for seed in seeds
        }
        found = {} if self.store is None else {p: self.store.find("codebooks", key) for p, key in keys.items()}
        books = {pair: load_codebook(path) for pair, path in found.items() if path is not None}
        missing = [pair for pair in keys if pair not in books]
        if missing:
            made, cost = self._quantize(class_id, missing, options)
            for pair, book in made.items():
                if pair in keys and self.store is not None:
                    found[pair] = self.store.get(
                        "codebooks", keys[pair], lambda folder, book=book: save_codebook(folder, book) or cost
                    )
                self._count("codebooks", f"{class_id} {pair} {options}", cost)
            books.update(made)
        for pair, path in found.items():
            if path is not None:
                self._count("codebooks", f"{class_id} {pair} {options}", cost_of(path))
        return books

    def class_groups(self, ipc: int) -> list[tuple[int, ...]]:
        """Return the groups of classes that are generated together, by IPC and the number of classes alone."""
        return class_groups(self.num_classes, ipc, self.generation_group)

    def check_group(self, classes: Sequence[int], ipc: int) -> tuple[int, ...]:
        """Return ``classes`` as one of :meth:`class_groups`; DistillError where it is none of them."""
        if tuple(classes) not in self.class_groups(ipc):
            raise DistillError(f"classes {list(classes)} are no group of ipc {ipc}; give one of class_groups({ipc})")
        return tuple(classes)

    def generate(
        self,
        latents: torch.Tensor,
        class_ids: torch.Tensor,
        *,
        seeds: Sequence[int],
        strength: float,
        guidance_scale: float,
        steps: int,
        space: str = "latent",
        scheduler: str | None = None,
        size: int | None = None,
    ) -> torch.Tensor:
        """Push latents ``[n, ...]`` of classes ``[n]`` through the prior: uint8 images ``[n, 3, size, size]``.

        ``size`` is the method's ``stored_size`` (None: that of the dataset's images). Stored by the content of the
        arguments, so that methods that differ in their weights alone share images. A method calls it for one group of
        classes at a time (:meth:`class_groups`).
        """
        import torch

        settings = {"strength": strength, "guidance_scale": guidance_scale, "steps": steps}
        settings |= {"space": space, "scheduler": scheduler}
        size = size or self.data.image_size
        work = Generation(
            self.data, self._require_prior(), latents, class_ids, seeds, size, settings, progress=self.progress
        )
        if self.store is not None:
            return self._stored("images", work.key, work.write)
        with measure(work.prior.device) as meter:
            images = torch.cat(list(work.batches()))
        self._count("images", hash_key(work.key), Cost.of(meter, len(images)))
        return images

    def finish(
        self,
        method: Distiller,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        ipc: int,
        clusters: int | None,
        seed: int,
        weights: torch.Tensor | None = None,
        logits: torch.Tensor | None = None,
        stats: dict[str, Any] | None = None,
    ) -> DistilledSet:
        """Return the DistilledSet of a method's images with its provenance; larger ones are brought to the method's
        ``stored_size``."""
        from ..distilled_set import DistilledSet

        size = method.config.stored_size
        if size is not None and images.shape[-1] > size:
            images = self._shrunk(images, size)
        provenance = {
            "method": method.name or type(method).__name__,
            "label": method.label(),
            "settings": json.loads(method.config.model_dump_json()),
            "dataset": self.data.name,
            "dataset_fingerprint": self.data.fingerprint,
            "prior": None if self.prior is None else self.prior.title or self.prior.name,
            "prior_fingerprint": None if self.prior is None else self.prior.fingerprint[:12],
            "ipc": ipc,
            "clusters": clusters,
            "seed": seed,
            "stats": stats or {},
        }
        return DistilledSet(images, labels, self.class_names, weights=weights, logits=logits, provenance=provenance)

    def w2(
        self,
        class_id: int,
        points: torch.Tensor,
        options: CodebookOptions | None = None,
        weights: torch.Tensor | None = None,
    ) -> float:
        """Return the exact W2 between a class and weighted points of its space (None: equal weights)."""
        import torch

        from ..quantization import w2_squared

        masses = torch.ones(len(points)).double() if weights is None else weights.double()
        return w2_squared(self.latents(class_id, options).flatten(1), points, masses=masses / masses.sum()) ** 0.5

    def _shrunk(self, images: torch.Tensor, size: int) -> torch.Tensor:
        made = self.empty_images(len(images), size)
        for start in range(0, len(images), GENERATION_GROUP):
            part = slice(start, start + GENERATION_GROUP)
            made[part] = at_size(images[part], size)
        return made

    def _require_prior(self) -> Prior:
        if self.prior is None:
            raise DistillError("this method needs a prior; name one in the configuration (prior: ...)")
        return self.prior

    def _encoder(self, class_id: int, options: CodebookOptions | None) -> ClassEncoder:
        return ClassEncoder(self.data, self.prior, class_id, options or CodebookOptions(), progress=self.progress)

    def _encoded(self, encoder: ClassEncoder) -> torch.Tensor:
        import torch

        if self.store is not None:
            return self._stored("latents", encoder.key, encoder.write, resumable=True)
        with measure(encoder.prior.device) as meter:
            made = torch.cat(list(encoder.parts()))
        self._count("latents", hash_key(encoder.key), Cost.of(meter, len(made)))
        return made

    def _quantize(
        self, class_id: int, pairs: Sequence[tuple[int, int]], options: CodebookOptions
    ) -> tuple[dict[tuple[int, int], Codebook], Cost]:
        """Return the codebooks of (K, seed) pairs and the cost of each, an equal share; encoding is no part of it."""
        from ..quantization import d4m_codebook, quantize_many

        latents, name = self.latents(class_id, options).flatten(1), self.class_names[class_id]
        started = time.perf_counter()
        with measure() as meter:
            if options.clustering == "d4m":
                expand = options.km_expand
                made = {(k, s): d4m_codebook(latents, k, km_expand=expand, seed=s, name=name) for k, s in pairs}
            else:
                clusters, seeds = sorted({k for k, _ in pairs}), sorted({seed for _, seed in pairs})
                method = "auto" if options.clustering == "lloyd" else "minibatch"
                made = quantize_many(latents, clusters, seeds, method=method, masses=options.masses, name=name)
        share = (time.perf_counter() - started) / len(made)
        return made, Cost(share, len(latents), meter.device, meter.peak_memory_mb)

    def _stored(
        self, kind: str, key: dict[str, Any], make: Callable[[Path], Cost], *, resumable: bool = False
    ) -> torch.Tensor:
        path = self.store.get(kind, key, make, resumable=resumable)
        self._count(kind, hash_key(key), cost_of(path))
        return read_tensors(path / FILE)["tensor"]

    def _count(self, kind: str, address: str, cost: Cost) -> None:
        self._costs[kind, address] = cost
        self._used.add((kind, address))
