"""Images from latents: classes in groups, each group an artifact of its own, made batch by batch.

The groups follow from IPC and the number of classes alone. So a set can be made by many processes, each making the
groups it is given, in any order, and its bits do not depend on who made what."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from ..distilled_set import to_uint8
from ..errors import DistillError
from ..progress import bar
from ..store.code import code_hash
from ..store.metering import Cost, measure
from ..store.tensor_files import Stream, write_tensors
from .encoding import prior_module

if TYPE_CHECKING:
    from ..priors.guide import Guide
    from .core import ContextCore

GENERATION_GROUP = 256  # images that are an artifact together, about: what a lost worker has to make again
FILE = "tensor.safetensors"


def class_groups(num_classes: int, ipc: int, images: int = GENERATION_GROUP) -> list[tuple[int, ...]]:
    """Return consecutive classes whose images together are about ``images``: ``ceil(images / ipc)`` classes a group."""
    size = math.ceil(images / ipc)
    return [tuple(range(start, min(start + size, num_classes))) for start in range(0, num_classes, size)]


def at_size(images: torch.Tensor, size: int) -> torch.Tensor:
    """Return images ``[n, 3, S, S]``, float in [0, 1] or uint8, as uint8 ``[n, 3, size, size]``, rounded once."""
    return to_uint8(resized(images if images.is_floating_point() else images.float() / 255, size))


def resized(images: torch.Tensor, size: int) -> torch.Tensor:
    """Return float images ``[n, 3, S, S]`` as ``[n, 3, size, size]``, not clamped.

    Bicubic and antialiased: the default of Pillow's ``resize``, with which D4M's code stores its images
    (suduo94/D4M, distillation/gen_syn_image.py)."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bicubic", antialias=True, align_corners=False)


class Generation:
    """Images to be made from latents ``[n, ...]``, stored as uint8 ``[n, 3, size, size]``.

    ``sampler`` and ``guide`` are as for :meth:`ddoq_plugin.priors.base.Prior.generate`; size None is the dataset's.
    Memory: the latents, and one batch of the prior as float images; finished images are uint8 in the file. Raises
    DistillError where there is no prior."""

    def __init__(
        self,
        context: ContextCore,
        latents: torch.Tensor,
        class_ids: torch.Tensor,
        seeds: Sequence[int],
        size: int | None,
        guide: Guide | None,
        sampler: Mapping[str, Any],
    ) -> None:
        if context.prior is None:
            raise DistillError("this method needs a prior; name one in the configuration (prior: ...)")
        self.prior, self.class_names, self.progress = context.prior, context.class_names, context.progress
        self.latents, self.class_ids, self.seeds, self.guide = latents, class_ids, list(seeds), guide
        self.size = size or context.data.image_size
        self.settings: dict[str, Any] = {"space": "latent", "scheduler": None, **sampler}

    def key(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return what the images depend on; ``inputs`` says which latents, classes and seeds these are.

        Methods that differ in their weights alone share images."""
        code = code_hash(__name__, prior_module(self.prior))
        key: dict[str, Any] = {"prior": self.prior.fingerprint, "code": code, "classes": list(self.class_names)}
        key |= {"inputs": inputs, "size": self.size, **self.settings}
        if self.guide is not None:
            key["guide"] = {**self.guide.key, "code": code_hash(type(self.guide).__module__)}
        return key

    def batches(self) -> Iterator[torch.Tensor]:
        """Yield the images, uint8 ``[b, 3, size, size]``, a batch of the prior at a time."""
        if self.guide is not None:  # one call: the guide knows an image by its place among all of them
            yield self._generate(slice(None), guide=self.guide)
            return
        start = 0
        with bar(len(self.latents), "generate", show=self.progress) as shown:
            while start < len(self.latents):
                # the batch's size is asked anew: it falls where memory runs out
                made = self._generate(slice(start, start + self.prior.batch_size))
                yield made
                start += len(made)
                shown.update(len(made))

    def _generate(self, part: slice, **more: Any) -> torch.Tensor:
        latents, class_ids, seeds = self.latents[part], self.class_ids[part], self.seeds[part]
        return at_size(self.prior.generate(latents, class_ids, seeds=seeds, **self.settings, **more), self.size)

    def write(self, folder: Path) -> Cost:
        """Write the images into ``folder`` and return their cost."""
        count = len(self.latents)
        with measure(self.prior.device) as meter:
            images = Stream(torch.uint8, (count, 3, self.size, self.size), self.batches())
            write_tensors(folder / FILE, {"tensor": images})
        return Cost.of(meter, count)
