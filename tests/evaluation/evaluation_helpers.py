"""Small data, teachers and protocols for the tests of the evaluation package."""

from __future__ import annotations

import torch

from ddoq_plugin.data.base import ArraySplit, ImageData
from ddoq_plugin.evaluation.protocol import Protocol

CLASSES = ("circle", "square", "triangle")
SIZE = 16


def tiny_data(size: int = SIZE, classes: tuple[str, ...] = CLASSES, per_class: int = 12) -> ImageData:
    """Return noisy images whose mean brightness tells the class: a student can learn them in a few steps."""
    stream = torch.Generator().manual_seed(11)

    def split(count: int) -> ArraySplit:
        labels = torch.arange(len(classes)).repeat_interleave(count)
        noise = torch.randint(0, 60, (len(labels), 3, size, size), generator=stream)
        return ArraySplit((noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)

    return ImageData("tiny", classes, size, split(per_class), split(4), split(6), identity="tiny")


def protocol(**changes: object) -> Protocol:
    """Return a short hard-label protocol with ``changes``."""
    fields: dict[str, object] = {
        "name": "for_tests",
        "source": "made up for the tests",
        "label_mode": "hard",
        "loss": {"name": "cross_entropy"},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "schedule": {"name": "constant"},
        "steps": 1,
        "batch_size": 6,
    }
    return Protocol.model_validate(fields | changes)


SOFT = {"label_mode": "soft_stored", "loss": {"name": "kl", "temperature": 4.0}}
ONLINE = {"label_mode": "soft_online", "loss": {"name": "kl", "temperature": 4.0}}
CROP = {"crop": "resized", "scale": (0.5, 1.0), "flip": 0.5}
