"""Images from latents: classes in groups, each group an artifact of its own, made batch by batch.

The groups follow from IPC and the number of classes alone. So a set can be made by many processes, each making the
groups it is given, in any order, and its bits do not depend on who made what.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cost import Cost
from ..metering import measure
from ..progress import bar
from ..registry import source_hash
from ..store import hash_key, hash_tensors
from ..tensor_files import Stream, write_tensors

if TYPE_CHECKING:
    import torch

    from ..data import ImageData
    from ..priors import Prior

GENERATION_GROUP = 256  # images that are an artifact together, about: what a lost worker has to make again
FILE = "tensor.safetensors"


def class_groups(num_classes: int, ipc: int, images: int = GENERATION_GROUP) -> list[tuple[int, ...]]:
    """Return consecutive classes whose images together are about ``images``: ``ceil(images / ipc)`` classes a group."""
    size = math.ceil(images / ipc)
    return [tuple(range(start, min(start + size, num_classes))) for start in range(0, num_classes, size)]


@dataclass(frozen=True)
class Generation:
    """Latents ``[n, ...]`` of classes int64 ``[n]`` to be pushed through a prior, with one seed an image.

    Memory: the latents, and one batch of the prior as float images; finished images are uint8 in the file.
    """

    data: ImageData
    prior: Prior
    latents: torch.Tensor
    class_ids: torch.Tensor
    seeds: Sequence[int]
    settings: dict[str, Any]
    progress: bool = False

    @property
    def key(self) -> dict[str, Any]:
        """Return what the images depend on: methods that differ in their weights alone share them."""
        return {
            "prior": self.prior.fingerprint,
            "code": [source_hash("ddoq_plugin.priors"), source_hash(__name__)],
            "classes": list(self.data.class_names),
            "inputs": hash_tensors(self.latents, self.class_ids),
            "seeds": hash_key(list(self.seeds)),
            "size": self.data.image_size,
            **self.settings,
        }

    def batches(self) -> Iterator[torch.Tensor]:
        """Yield the images, uint8 ``[b, 3, S, S]`` of the data's size, a batch of the prior at a time."""
        from ..data.transforms import resize_images
        from ..distilled_set import to_uint8

        start = 0
        with bar(len(self.latents), "generate", show=self.progress) as shown:
            while start < len(self.latents):
                part = slice(start, start + self.prior.batch_size)  # asked anew: it falls where memory runs out
                made = self.prior.generate(
                    self.latents[part], self.class_ids[part], seeds=list(self.seeds[part]), **self.settings
                )
                yield resize_images(to_uint8(made), self.data.image_size)
                start += len(made)
                shown.update(len(made))

    def write(self, folder: Path) -> Cost:
        """Write the images into ``folder`` and return their cost."""
        import torch

        count, size = len(self.latents), self.data.image_size
        with measure(self.prior.device) as meter:
            images = Stream(torch.uint8, (count, 3, size, size), self.batches())
            write_tensors(folder / FILE, {"tensor": images})
        return Cost.of(meter, count)
