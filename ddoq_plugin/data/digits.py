"""The embedded dataset: scikit-learn's handwritten digits, 1797 grey images of 8x8 pixels."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .base import ArraySplit, ImageData, rows_by_class
from .splitting import drawn, make_image_data
from .transforms import check_image_size, to_colour

TEST_IMAGES = 450  # a quarter of the 1797 images; the other 1347 are for training and validation
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LARGEST_VALUE = 16  # scikit-learn's digits count the ink in 4x4 blocks: 0 to 16


def load_digits(
    *,
    image_size: int = 16,
    val_fraction: float = 0.1,
    classes: Sequence[str | int] | None = None,
    limit_per_class: int | None = None,
) -> ImageData:
    """Load the digits: 1347 images for train and validation, 450 for test, stratified and always the same ones.

    The 8x8 values 0..16 are scaled to 0..255 and enlarged bilinearly to ``image_size``. Source: scikit-learn
    ``load_digits``, the test part of Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998."""
    from sklearn.datasets import load_digits as load

    check_image_size(image_size)
    raw = load()
    labels = torch.from_numpy(np.asarray(raw.target, dtype=np.int64))
    grey = torch.from_numpy(np.asarray(raw.images, dtype=np.float32))[:, None] / LARGEST_VALUE
    enlarged = torch.nn.functional.interpolate(grey, (image_size, image_size), mode="bilinear", antialias=True)
    pixels = (enlarged * 255).round_().clamp_(0, 255).to(torch.uint8)
    whole = ArraySplit(to_colour(pixels).contiguous(), labels)
    chosen = _test_rows(labels)
    rest = torch.ones(len(labels), dtype=torch.bool).index_fill_(0, chosen, False).nonzero().flatten()
    return make_image_data(
        "digits", DIGIT_NAMES, whole.subset(rest), whole.subset(chosen),
        val_fraction=val_fraction, classes=classes, limit_per_class=limit_per_class,
    )  # fmt: skip


def _test_rows(labels: Tensor) -> Tensor:
    """Return the 450 test rows: a share of each class by largest remainder, drawn with a fixed stream."""
    exact = torch.bincount(labels) * (TEST_IMAGES / len(labels))
    share = exact.floor().to(torch.int64)
    share[(exact - share).argsort(descending=True, stable=True)[: TEST_IMAGES - int(share.sum())]] += 1
    rows = [
        drawn(members, count, "digits test", c)
        for c, (members, count) in enumerate(zip(rows_by_class(labels), share.tolist(), strict=True))
    ]
    return torch.cat(rows).sort().values
