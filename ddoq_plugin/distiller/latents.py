"""The doors of the diffusion pipeline: latents, codebooks and images of a class, and the work that each stands for."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..quantization import Codebook, w2_squared
from ..seeding import derive_seed
from ..store.artifacts import hash_key, hash_tensors
from ..store.code import code_hash
from ..store.metering import Cost, measure
from ..store.tensor_files import read_tensors
from .codebooks import codebook_bytes, load_codebook, make_codebooks, save_codebook
from .core import ContextCore
from .encoding import ENCODE_SHARD, ClassEncoder, scaled_pixels
from .generation import FILE, GENERATION_GROUP, Generation, class_groups
from .method import CodebookOptions
from .work import Batch, Effort, Work

if TYPE_CHECKING:
    from ..priors.guide import Guide

LATENTS_IN_MEMORY = 2  # of one class each; a method can look at two spaces of a class in turn
HALF, FLOAT, DOUBLE = 2, 4, 8  # bytes of a number
GRAM_BYTES = 2 << 30  # a class's matrix of inner products in float64, at most (quantization)


class LatentDoors(ContextCore):
    """Latents, codebooks, generation and W2 of a class, found in the store or made."""

    generation_group: ClassVar[int] = GENERATION_GROUP

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._latents: dict[tuple[str, str], torch.Tensor] = {}
        self._known_work: dict[Any, Work] = {}
        self._whole: tuple[LatentDoors, Mapping[int, torch.Tensor]] | None = None  # of a restricted context

    def latents(self, class_id: int, options: CodebookOptions | None = None) -> torch.Tensor:
        """Return the latents of a class in the space of ``options``, float32 ``[N, ...]``.

        They are rounded to float16, as they are stored (a thousandth of their size, far below a cell's radius)."""
        if self._whole is not None:
            return self._whole[0].latents(class_id, options)[self._whole[1][class_id]]
        if self._encoder(class_id, options).is_pixels:
            train = self.data.train
            read = functools.partial(train.images, train.class_indices(class_id))
            return scaled_pixels(self._kept(("pixels", str(class_id)), read))
        (work,) = self.encode_work(class_id, options)
        path = self.do(work)
        return self._kept(work.address, lambda: read_tensors(path / FILE)["tensor"]).float()

    def encode_work(self, class_id: int, options: CodebookOptions | None = None) -> tuple[Work, ...]:
        """Declare the latents of a class; nothing where they are the images themselves."""
        if self._whole is not None:
            return self._whole[0].encode_work(class_id, options)
        encoder = self._encoder(class_id, options)
        if encoder.is_pixels:
            return ()
        options = encoder.options
        steps = options.inversion_steps if options.space == "noise" else None
        asked = ("latents", class_id, options.space, options.encoding, steps)
        if asked not in self._known_work:
            count, numbers = self.class_size(class_id), self._numbers()
            passes = {"encode": float(count)}
            if steps is not None:
                passes["denoise"] = float(count * steps)
            reads = {"image_files": float(count)} if self.data.train.in_files else {}
            shard = ENCODE_SHARD * (3 * self.data.image_size**2 + FLOAT * numbers)
            effort = Effort(count, passes, reads, bytes=HALF * count * numbers, memory=shard)
            title = f"encode class {self.class_names[class_id]!r}"
            work = Work("latents", encoder.key, encoder.write, (), title, "encode", resumable=True, effort=effort)
            self._known_work[asked] = work
        return (self._known_work[asked],)

    def codebook(self, class_id: int, clusters: int, seed: int = 0, options: CodebookOptions | None = None) -> Codebook:
        """Return the codebook of ``clusters`` points of a class."""
        return load_codebook(self.do(self.codebook_work(class_id, clusters, seed, options)))

    def codebook_work(
        self, class_id: int, clusters: int, seed: int = 0, options: CodebookOptions | None = None
    ) -> Work:
        """Declare the codebook of ``clusters`` points of a class; all of a class are made from one Gram matrix."""
        options = options or CodebookOptions()
        asked = ("codebooks", class_id, clusters, seed, options)
        if asked not in self._known_work:
            shared = {"latents": self._encoder(class_id, options).key, "options": options.model_dump()}
            key = {**shared, "clusters": clusters, "seed": seed, "code": code_hash(make_codebooks.__module__)}
            count, numbers = self.class_size(class_id), self._numbers(options)
            once, each = {"product_flops": float(count**2 * numbers)}, {"codebooks": 1.0}
            if options.clustering != "lloyd":
                once, each = {}, {"distance_flops": 2.0 * count * clusters * numbers}
            elif options.masses == "balanced":
                each = {"balanced_codebooks": 1.0}
            memory = count * numbers * (HALF + 2 * FLOAT) + 2 * min(DOUBLE * count**2, GRAM_BYTES)
            memory += 2 * DOUBLE * clusters * numbers
            size = codebook_bytes(clusters, numbers, count)
            self._known_work[asked] = Work(
                "codebooks",
                key,
                _together,
                self.encode_work(class_id, options),
                f"quantise class {self.class_names[class_id]!r}",
                "quantise",
                effort=Effort(count, {}, each, bytes=size, memory=memory),
                batch=Batch(hash_key(shared), self._make_codebooks, once),
                argument=asked[1:],
            )
        return self._known_work[asked]

    def _make_codebooks(self, works: list[Work]) -> None:
        """Store codebooks of one class; each costs an equal share. Encoding is no part of it."""
        class_id, _, _, options = works[0].argument
        wanted = {work.argument[1:3]: work for work in works}
        latents, name = self.latents(class_id, options).flatten(1), self.class_names[class_id]
        started = time.perf_counter()
        with measure() as meter:
            made = make_codebooks(latents, list(wanted), options, name)
        share = (time.perf_counter() - started) / len(made)
        cost = Cost(share, len(latents), meter.device, meter.peak_memory_mb)
        for pair, work in wanted.items():
            self.store.get(work.kind, work.key, functools.partial(_save, made[pair], cost))

    def w2(
        self,
        class_id: int,
        points: torch.Tensor,
        options: CodebookOptions | None = None,
        weights: torch.Tensor | None = None,
    ) -> float:
        """Return the exact W2 between a class and weighted points of its space (None: equal weights)."""
        masses = torch.ones(len(points)).double() if weights is None else weights.double()
        return w2_squared(self.latents(class_id, options).flatten(1), points, masses=masses / masses.sum()) ** 0.5

    def w2_operations(self, points: int, times: int = 1) -> dict[str, float]:
        """Return what ``times`` measurements of W2 with ``points`` a class take, in all classes, for an Effort."""
        pairs = float(times * points * len(self.data.train))
        return {"distance_flops": 2 * pairs * self._numbers(), "transport_pairs": pairs}

    def class_groups(self, ipc: int) -> list[tuple[int, ...]]:
        """Return the groups of classes that are generated together, by IPC and the number of classes alone."""
        return class_groups(self.num_classes, ipc, self.generation_group)

    def generate(
        self,
        latents: torch.Tensor,
        class_ids: torch.Tensor,
        *,
        seeds: Sequence[int],
        size: int | None = None,
        guide: Guide | None = None,
        **sampler: Any,
    ) -> torch.Tensor:
        """Push latents ``[n, ...]`` of classes ``[n]`` through the prior: uint8 images ``[n, 3, size, size]``.

        ``sampler``: ``strength``, ``guidance_scale`` and ``steps``, and ``space`` and ``scheduler`` where they are not
        the prior's own. ``size`` None is that of the dataset's images. ``guide`` may shift every step of the denoiser.
        The images are stored by the content of all these. :meth:`pushforward` also lets a sweep make them beforehand.
        """
        made = Generation(self, latents, class_ids, seeds, size, guide, sampler)
        inputs = {"tensors": hash_tensors(latents, class_ids), "seeds": hash_key(list(seeds))}
        work = Work("images", made.key(inputs), made.write, title="generate images")
        return read_tensors(self.do(work) / FILE)["tensor"]

    def pushforward(
        self,
        starts: Callable[[int], torch.Tensor],
        count: int,
        *,
        seed: int,
        recipe: Mapping[str, Any],
        needs: Callable[[int], tuple[Work, ...]],
        size: int | None = None,
        guide: Callable[[tuple[int, ...]], Guide] | None = None,
        **sampler: Any,
    ) -> Pushforward:
        """Declare ``count`` images a class, pushed through the prior from ``starts(class_id)`` ``[count, ...]``.

        ``recipe`` is plain data: all that starts and guide depend on beside their code and the work that they need
        (``needs(class_id)``). Its images are stored by this recipe, in groups of classes; sets with one recipe share
        them. ``guide(classes)`` gives the guide of a group. Image i of a class has the noise of (seed, class, i)."""
        return Pushforward(self, starts, count, seed, dict(recipe), needs, size, guide, sampler)

    def _encoder(self, class_id: int, options: CodebookOptions | None) -> ClassEncoder:
        return ClassEncoder(self.data, self.prior, class_id, options or CodebookOptions(), progress=self.progress)

    def _numbers(self, options: CodebookOptions | None = None) -> int:
        """Return the numbers of one latent."""
        if self.prior is None or (options is not None and options.space == "pixel"):
            return 3 * self.data.image_size**2
        channels, height, width = self.prior.latent_shape
        return channels * height * width

    def _kept(self, address: tuple[str, str], read: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return a tensor that was looked at lately without reading it again."""
        if address not in self._latents:
            while len(self._latents) >= LATENTS_IN_MEMORY:
                del self._latents[next(iter(self._latents))]
            self._latents[address] = read()
        return self._latents[address]


@dataclass(frozen=True)
class Pushforward:
    """Images of every class by one recipe; see :meth:`LatentDoors.pushforward`."""

    context: LatentDoors
    starts: Callable[[int], torch.Tensor]
    count: int
    seed: int
    recipe: dict[str, Any]
    needs: Callable[[int], tuple[Work, ...]]
    size: int | None
    guide: Callable[[tuple[int, ...]], Guide] | None
    sampler: Mapping[str, Any]

    def images(self, class_id: int) -> torch.Tensor:
        """Return the images of a class, uint8 ``[count, 3, size, size]``; they are made with those of its group."""
        group = next(group for group in self.context.class_groups(self.count) if class_id in group)
        path, first = self.context.do(self.work(group)), group.index(class_id) * self.count
        return read_tensors(path / FILE)["tensor"][first : first + self.count]

    def works(self) -> tuple[Work, ...]:
        """Return the work of all groups."""
        return tuple(self.work(group) for group in self.context.class_groups(self.count))

    def work(self, group: tuple[int, ...]) -> Work:
        """Declare the images of a group of classes."""
        context, sampler = self.context, self.sampler
        needs = tuple(work for class_id in group for work in self.needs(class_id))
        code = code_hash(self.starts.__module__, *([] if self.guide is None else [self.guide.__module__]))
        recipe = {"recipe": self.recipe, "needs": [work.address for work in needs], "seed": self.seed, "code": code}
        key = self._generation((), torch.empty(0)).key(recipe | {"group": list(group), "count": self.count})
        images = len(group) * self.count
        space, strength = sampler.get("space", "latent"), sampler["strength"]
        steps = sampler["steps"] if space == "noise" else int(strength * sampler["steps"])
        passes = {"denoise": float(images * steps * (2 if sampler["guidance_scale"] > 1 else 1)), "decode": images}
        side = self.size or context.data.image_size
        effort = Effort(images, passes, bytes=3 * images * side**2, memory=FLOAT * images * context._numbers())
        title = f"generate {images} images of classes {group[0]} to {group[-1]}"
        return Work("images", key, lambda folder: self._make(group, folder), needs, title, "generate", effort=effort)

    def _make(self, group: tuple[int, ...], folder: Path) -> Cost:
        guide = None if self.guide is None else self.guide(group)
        return self._generation(group, torch.cat([self.starts(class_id) for class_id in group]), guide).write(folder)

    def _generation(self, group: tuple[int, ...], starts: torch.Tensor, guide: Guide | None = None) -> Generation:
        class_ids = torch.tensor(group).repeat_interleave(self.count)
        seeds = [derive_seed("noise", self.seed, class_id, i) for class_id in group for i in range(self.count)]
        return Generation(self.context, starts, class_ids, seeds, self.size, guide, self.sampler)


def _save(book: Codebook, cost: Cost, folder: Path) -> Cost:
    save_codebook(folder, book)
    return cost


def _together(folder: Path) -> None:
    raise AssertionError("codebooks are made by their batch")
