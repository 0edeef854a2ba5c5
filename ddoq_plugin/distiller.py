"""The common interface of every method: :class:`Distiller`, and the :class:`DistillContext` it works with.

A method is one class in one file::

    class Mine(Distiller):
        "One line that `ddoq list` shows."
        makes_images = False

        class Config(DistillerConfig):
            sharpness: float = 1.0

        def distill(self, context, ipc, *, clusters=None, seed=0):
            ...
            return context.finish(self, images, labels, ipc=ipc, clusters=clusters, seed=seed)
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import ConfigError, DistillError, nearest
from .progress import bar
from .registry import source_hash
from .seeding import derive_seed
from .store import Store, hash_key, hash_tensors, seconds_of

if TYPE_CHECKING:
    import torch

    from .data import ImageData
    from .distilled_set import DistilledSet
    from .priors import Prior
    from .quantization import Codebook


LATENTS_IN_MEMORY = 2  # of one class each; a method can look at two spaces of a class in turn


class DistillerConfig(BaseModel):
    """Base of a method's settings: YAML, command line and Python share its fields; unknown ones are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CodebookOptions(DistillerConfig):
    """How the latents of a class become a codebook; part of its key.

    space: ``latent`` (the prior's latents), ``noise`` (their DDIM inversions) or ``pixel`` (the images themselves).
    encoding: mode or one sample of the encoder's posterior. clustering: ``lloyd`` (k-means to a local optimum),
    ``minibatch`` (one pass of CLVQ) or ``d4m`` (the pass of D4M's code, ``km_expand * K`` latents an update).
    masses: ``voronoi`` or ``balanced`` (equal masses by optimal transport).
    """

    space: Literal["latent", "noise", "pixel"] = "latent"
    encoding: Literal["mode", "sample"] = "mode"
    clustering: Literal["lloyd", "minibatch", "d4m"] = "lloyd"
    masses: Literal["voronoi", "balanced"] = "voronoi"
    km_expand: int = Field(1, ge=1)
    inversion_steps: int = Field(31, ge=1)  # D3HR's code, lin-zhao-resoLve/D3HR

    @model_validator(mode="after")
    def _balanced_from_lloyd(self) -> CodebookOptions:
        if self.masses == "balanced" and self.clustering != "lloyd":
            raise ValueError("balanced masses start from Lloyd's codebook; set clustering: lloyd")
        return self


class Distiller(ABC):
    """A dataset-distillation method. Subclass it, register it, and it is in the tables.

    The flags tell the sweep what a method needs: ``makes_images`` (False: it picks real ones), ``uses_clusters``
    (the number of clusters K is a setting of its own), ``uses_weights`` and ``needs_prior``.
    """

    name: ClassVar[str] = ""  # the registry's name, set when the method is made by name
    makes_images: ClassVar[bool] = True
    uses_clusters: ClassVar[bool] = False
    uses_weights: ClassVar[bool] = False
    needs_prior: ClassVar[bool] = False
    Config: ClassVar[type[DistillerConfig]] = DistillerConfig

    def __init__(self, **settings: Any) -> None:
        try:
            self.config = self.Config(**settings)
        except ValidationError as problem:
            raise ConfigError(f"{type(self).__name__}: {explain(problem, self.Config)}") from None

    @abstractmethod
    def distill(
        self, context: DistillContext, ipc: int, *, clusters: int | None = None, seed: int = 0
    ) -> DistilledSet:
        """Return a set of ``ipc`` images a class.

        ``clusters`` is K, the codebook's size (None: ``ipc``); a method without clusters ignores it. The same
        arguments and context give the same bits. Raises DistillError where the set cannot be made.
        """

    def label(self) -> str:
        """Return the method's short name in tables; settings that a sweep varies are added by the sweep."""
        return self.name or type(self).__name__

    def codebook_options(self) -> CodebookOptions | None:
        """Return the options of the codebooks the method will ask for, so that a sweep can make them beforehand."""
        return None

    def check(self, context: DistillContext, ipc: int, clusters: int | None) -> None:
        """Raise DistillError or PriorError where ``distill`` with these arguments must fail; called before any work."""
        if ipc < 1 or (clusters is not None and clusters < 1):
            raise DistillError(f"ipc and clusters must be at least 1; got ipc {ipc}, clusters {clusters}")
        if self.needs_prior and not context.has_prior:
            raise DistillError(f"the method {self.label()!r} needs a prior; name one in the configuration (prior: ...)")
        options = self.codebook_options()
        if options is not None and options.space == "noise" and not context.can_denoise:
            raise DistillError(f"{self.label()!r}: space: noise needs a diffusion prior to invert images; name one")
        needed, what = (clusters or ipc, "clusters") if self.uses_clusters else (0, "")
        if not self.makes_images and ipc > needed:
            needed, what = ipc, "images"
        context.check_class_sizes(needed, what, self.label())


class DistillContext:
    """What a distiller works with: images, latents, codebooks and generation, made on demand and kept in the store.

    Only the training split is visible. ``prior`` may be None for methods that need none; then latents are pixels.
    """

    def __init__(
        self, data: ImageData, prior: Prior | None = None, store: Store | None = None, *, progress: bool = False
    ) -> None:
        self.data, self.prior, self.store, self.progress = data, prior, store, progress
        if prior is not None:
            prior.bind_classes(data.class_names, data.wnids)
        self._latents: dict[str, torch.Tensor] = {}
        self._seconds: dict[tuple[str, str], float] = {}
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

    def cost(self) -> dict[str, float]:
        """Return the seconds that went into what was used since the last reset, by kind (latents, codebooks, images).

        They are the seconds of making, whoever made it: an artifact that methods share counts in full for each of them.
        """
        kinds = sorted({kind for kind, _ in self._used})
        return {kind: sum(self._seconds[use] for use in self._used if use[0] == kind) for kind in kinds}

    def check_class_sizes(self, needed: int, what: str, method: str) -> None:
        """Raise DistillError naming the first class with fewer than ``needed`` training images."""
        for class_id, name in enumerate(self.class_names):
            count = len(self.data.train.class_indices(class_id))
            if count < max(1, needed):
                raise DistillError(
                    f"class {name!r} has {count} training images and {method!r} needs {needed} {what} a class; "
                    "lower ipc or clusters, or add images"
                )

    def images(self, class_id: int) -> torch.Tensor:
        """Return the training images of a class, uint8 ``[N, 3, S, S]``."""
        if self._last_images is None or self._last_images[0] != class_id:
            self._last_images = (class_id, self.data.train.images(self.data.train.class_indices(class_id)))
        return self._last_images[1]

    def latents(self, class_id: int, options: CodebookOptions | None = None) -> torch.Tensor:
        """Return the latents of a class in the space of ``options``, float32 ``[N, ...]``.

        They are rounded to float16, as they are stored (a thousandth of their size, far below a cell's radius).
        """
        options = options or CodebookOptions()
        key = self._latents_key(class_id, options)
        address = hash_key(key)
        if address in self._latents:
            self._used.add(("latents", address))
        else:
            if self.store is not None:  # it can be read again: memory holds no more than the latents in use
                while len(self._latents) >= LATENTS_IN_MEMORY:
                    del self._latents[next(iter(self._latents))]
            self._latents[address] = self._stored_tensor("latents", key, lambda: self._encode(class_id, options).half())
        return self._latents[address].float()

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
                "latents": self._latents_key(class_id, options),
                "options": options.model_dump(),
                "clusters": k,
                "seed": seed,
                "code": [source_hash("ddoq_plugin.quantization"), source_hash(__name__)],
            }
            for k in clusters
            for seed in seeds
        }
        found = {} if self.store is None else {p: self.store.find("codebooks", key) for p, key in keys.items()}
        books = {pair: _load_codebook(path) for pair, path in found.items() if path is not None}
        missing = [pair for pair in keys if pair not in books]
        if missing:
            self.latents(class_id, options)  # their time is their own
            started = time.perf_counter()
            made = self._quantize(class_id, missing, options)
            share = (time.perf_counter() - started) / len(made)
            for pair, book in made.items():
                if pair in keys and self.store is not None:
                    found[pair] = self.store.get(
                        "codebooks", keys[pair], lambda folder, book=book: _save_codebook(folder, book) or share
                    )
                self._count("codebooks", f"{class_id} {pair} {options}", share)
            books.update(made)
        for pair, path in found.items():
            if path is not None:
                self._count("codebooks", f"{class_id} {pair} {options}", seconds_of(path))
        return books

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
    ) -> torch.Tensor:
        """Push latents ``[n, ...]`` of classes ``[n]`` through the prior: uint8 images of the data's size.

        Stored by the content of the arguments, so that methods that differ in their weights alone share images.
        """
        from .data.transforms import resize_images
        from .distilled_set import to_uint8

        settings = {"strength": strength, "guidance_scale": guidance_scale, "steps": steps}
        settings |= {"space": space, "scheduler": scheduler}
        prior = self._require_prior()

        def make() -> torch.Tensor:
            made = prior.generate(latents, class_ids, seeds=list(seeds), progress=self.progress, **settings)
            return resize_images(to_uint8(made), self.data.image_size)

        key = {
            "prior": prior.fingerprint,
            "code": source_hash("ddoq_plugin.priors"),
            "classes": list(self.class_names),
            "inputs": hash_tensors(latents, class_ids),
            "seeds": hash_key(list(seeds)),
            "size": self.data.image_size,
            **settings,
        }
        return self._stored_tensor("images", key, make)

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
        """Return the DistilledSet of a method's images with its provenance."""
        from .distilled_set import DistilledSet

        provenance = {
            "method": method.name or type(method).__name__,
            "label": method.label(),
            "settings": json.loads(method.config.model_dump_json()),
            "dataset": self.data.name,
            "dataset_fingerprint": self.data.fingerprint,
            "prior": None if self.prior is None else f"{self.prior.name} {self.prior.fingerprint[:12]}",
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

        from .quantization import w2_squared

        masses = torch.ones(len(points)).double() if weights is None else weights.double()
        return w2_squared(self.latents(class_id, options).flatten(1), points, masses=masses / masses.sum()) ** 0.5

    def _require_prior(self) -> Prior:
        if self.prior is None:
            raise DistillError("this method needs a prior; name one in the configuration (prior: ...)")
        return self.prior

    def _latents_key(self, class_id: int, options: CodebookOptions) -> dict[str, Any]:
        pixel = options.space == "pixel" or self.prior is None
        key: dict[str, Any] = {"data": self.data.fingerprint, "class": class_id, "space": options.space}
        if not pixel:
            key |= {"prior": self.prior.fingerprint, "encoding": options.encoding}
            key["code"] = source_hash("ddoq_plugin.priors")
            if options.space == "noise":
                key |= {"inversion_steps": options.inversion_steps, "names": list(self.class_names)}
        return key

    def _encode(self, class_id: int, options: CodebookOptions) -> torch.Tensor:
        import torch

        images = self.images(class_id)
        if options.space == "pixel" or self.prior is None:
            return images.float() / 255
        indices = self.data.train.class_indices(class_id).tolist()
        seeds = [derive_seed("encode", index) for index in indices] if options.encoding == "sample" else None
        latents = self.prior.encode(images, sample=options.encoding == "sample", seeds=seeds)
        if options.space == "noise":
            classes = torch.full((len(latents),), class_id)
            latents = self.prior.invert(latents, classes, steps=options.inversion_steps, progress=self.progress)
        bad = ~torch.isfinite(latents.flatten(1)).all(1)
        if bad.any():
            raise DistillError(
                f"the prior gave NaN or infinite latents for {int(bad.sum())} images of class "
                f"{self.class_names[class_id]!r}; check those images and the prior's precision (try float32)"
            )
        return latents

    def _quantize(
        self, class_id: int, pairs: Sequence[tuple[int, int]], options: CodebookOptions
    ) -> dict[tuple[int, int], Codebook]:
        from .quantization import d4m_codebook, quantize_many

        latents, name = self.latents(class_id, options).flatten(1), self.class_names[class_id]
        if options.clustering == "d4m":
            expand = options.km_expand
            return {(k, seed): d4m_codebook(latents, k, km_expand=expand, seed=seed, name=name) for k, seed in pairs}
        clusters, seeds = sorted({k for k, _ in pairs}), sorted({seed for _, seed in pairs})
        method = "auto" if options.clustering == "lloyd" else "minibatch"
        return quantize_many(latents, clusters, seeds, method=method, masses=options.masses, name=name)

    def _stored_tensor(self, kind: str, key: dict[str, Any], make: Callable[[], torch.Tensor]) -> torch.Tensor:
        started = time.perf_counter()
        if self.store is None:
            made = make()
            self._count(kind, hash_key(key), time.perf_counter() - started)
            return made
        from safetensors.torch import load_file, save_file

        def write(folder: Path) -> None:
            save_file({"tensor": make().contiguous()}, folder / "tensor.safetensors")

        path = self.store.get(kind, key, write)
        self._count(kind, hash_key(key), seconds_of(path))
        return load_file(path / "tensor.safetensors")["tensor"]

    def _count(self, kind: str, address: str, seconds: float) -> None:
        self._seconds[kind, address] = seconds
        self._used.add((kind, address))


def explain(problem: ValidationError, model: type[BaseModel]) -> str:
    """Return pydantic's first complaint as one sentence that names the key and, for an unknown one, the nearest."""
    first = problem.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = list(model.model_fields)
        return f"unknown setting {key!r}{nearest(key, known)} (known: {', '.join(known) or 'none'})"
    message = first["msg"].removeprefix("Value error, ")
    got = f", got {first.get('input')!r}" if key else ""
    return f"{key + ': ' if key else ''}{message[0].lower()}{message[1:]}{got}"


def _save_codebook(folder: Path, book: Codebook) -> None:
    import torch
    from safetensors.torch import save_file

    save_file(
        {
            "centroids": book.centroids.contiguous(),
            "masses": book.masses.contiguous(),
            "assignment": book.assignment.contiguous(),
            "nearest": book.nearest.contiguous(),
            "distortion": torch.tensor(book.distortion, dtype=torch.float64),
        },
        folder / "codebook.safetensors",
    )


def _load_codebook(folder: Path) -> Codebook:
    from safetensors.torch import load_file

    from .quantization import Codebook

    tensors = load_file(folder / "codebook.safetensors")
    return Codebook(distortion=tensors.pop("distortion").item(), **tensors)
