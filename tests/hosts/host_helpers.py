"""Small data, sets and settings for the tests of the hosts."""

from __future__ import annotations

from pathlib import Path

import torch

from ddoq_plugin.data.base import ArraySplit, ImageData
from ddoq_plugin.distilled_set import DistilledSet
from ddoq_plugin.hosts import HostSettings, host_settings

CLASSES = ("circle", "square", "triangle")
SIZE = 16

PROTOCOL = """
name: for_tests
source: made up for the tests of the hosts
label_mode: soft_online
loss: {name: kl, temperature: 4}
optimizer: {name: adamw, lr: 0.005, weight_decay: 0.01}
schedule: {name: cosine, granularity: epoch, horizon: 2}
epochs: 3
batch_size: 4
augmentation: {crop: resized, scale: [0.5, 1.0], flip: 0.5}
mixing: {name: cutmix}
"""
TEACHER = """
name: teacher_for_tests
source: made up for the tests of the hosts
label_mode: hard
loss: {name: cross_entropy}
optimizer: {name: adamw, lr: 0.005}
steps: 20
batch_size: 12
"""


def tiny_data(size: int = SIZE, per_class: int = 12) -> ImageData:
    """Return noisy images whose mean brightness tells the class: a student can learn them in a few steps."""
    stream = torch.Generator().manual_seed(11)

    def split(count: int) -> ArraySplit:
        labels = torch.arange(len(CLASSES)).repeat_interleave(count)
        noise = torch.randint(0, 60, (len(labels), 3, size, size), generator=stream)
        return ArraySplit((noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)

    return ImageData("tiny", CLASSES, size, split(per_class), split(4), split(6), identity=f"tiny {size}")


def first_images(data: ImageData, ipc: int = 3, *, weights: list[float] | None = None, **fields) -> DistilledSet:
    """Return the first images of every class as a set, with the ``weights`` of a class (mean 1) for each class."""
    rows = torch.cat([data.train.class_indices(c)[:ipc] for c in range(data.num_classes)])
    every = None if weights is None else torch.tensor(weights).repeat(data.num_classes)
    about = {"method": "first", "label": "first"}
    return DistilledSet(
        data.train.images(rows), data.train.labels[rows], data.class_names, weights=every, provenance=about, **fields
    )


def tiny_settings(folder: Path, **changes) -> HostSettings:
    """Return settings of trainings that take a fraction of a second."""
    (folder / "score.yaml").write_text(PROTOCOL)
    (folder / "teacher.yaml").write_text(TEACHER)
    own = {"protocol": str(folder / "score.yaml"), "teacher_protocol": str(folder / "teacher.yaml")}
    return host_settings(**{**own, "learning_rates": (0.005,), "evaluations": 1, **changes})
