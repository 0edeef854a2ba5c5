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

This package holds all that decides what a context gives to a method: its source is part of the key of every set.
"""

from __future__ import annotations

from .context import DistillContext
from .encoding import ENCODE_SHARD
from .generation import GENERATION_GROUP
from .latents import Pushforward
from .method import Distiller, make_distiller
from .options import CodebookOptions, DistillerConfig
from .work import Effort, Work

__all__ = [
    "ENCODE_SHARD",
    "GENERATION_GROUP",
    "CodebookOptions",
    "DistillContext",
    "Distiller",
    "DistillerConfig",
    "Effort",
    "Pushforward",
    "Work",
    "make_distiller",
]
