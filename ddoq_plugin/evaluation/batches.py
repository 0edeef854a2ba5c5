"""The plan of a training: which images each step sees, how they are cut, mirrored and mixed.

A plan is a function of its settings and a seed. It is drawn in pages of a fixed number of steps, each from its own
random stream, so that any page can be drawn alone, a longer training begins with the steps of a shorter one, and
nothing of a plan has to be kept in memory."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..seeding import generator, numpy_rng
from .augment import CropParams, sample_params
from .dsa import Draw, draw
from .mixing import MixParams, sample_mixes
from .protocol import Augmentation, Mixing

PAGE_STEPS = 32


@dataclass(frozen=True)
class Page:
    """PAGE_STEPS consecutive steps: indices int64 [T, B] of the images, crops [T, B], mixes [T] or None; dsa: a draw of
    B for each step, or None."""

    indices: Tensor
    crops: CropParams
    mixes: MixParams | None
    dsa: tuple[Draw, ...] | None = None


@dataclass(frozen=True)
class BatchPlan:
    """The steps of a training on ``num_images`` images in batches of ``batch_size``.

    Images come epoch by epoch in a fresh random order; the epochs follow each other without a gap, so that every batch
    is full (a batch may take the end of one epoch and the start of the next).

    source_size and image_size are the sides, in pixels, of the stored images and of what the student sees."""

    num_images: int
    batch_size: int
    source_size: int
    image_size: int
    augmentation: Augmentation
    mixing: Mixing
    seed: int

    def page(self, number: int) -> Page:
        """Return page ``number``: steps [number * PAGE_STEPS, (number + 1) * PAGE_STEPS)."""
        rng = numpy_rng("plan", self.seed, number)
        rows = PAGE_STEPS * self.batch_size
        crops = sample_params(self.augmentation, rows, self.source_size, rng)
        mixes = None
        if self.mixing.name != "none":
            mixes = sample_mixes(self.mixing, PAGE_STEPS, self.batch_size, self.image_size, rng)
        dsa, strategy = None, self.augmentation.dsa
        if strategy:
            draws = generator("dsa", self.seed, number)
            dsa = tuple(draw(strategy, self.batch_size, self.image_size, draws) for _ in range(PAGE_STEPS))
        shape = (PAGE_STEPS, self.batch_size)
        return Page(
            indices=self._indices(number * rows, rows).view(shape),
            crops=CropParams(crops.boxes.view(*shape, 4), crops.flips.view(shape)),
            mixes=mixes,
            dsa=dsa,
        )

    def _indices(self, start: int, count: int) -> Tensor:
        first, last = start // self.num_images, (start + count - 1) // self.num_images
        epochs = [numpy_rng("epoch", self.seed, epoch).permutation(self.num_images) for epoch in range(first, last + 1)]
        skip = start - first * self.num_images
        return torch.from_numpy(np.concatenate(epochs)[skip : skip + count])
