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

This package holds all that decides what a context gives to a method: its source is part of the key of every set."""

from typing import TYPE_CHECKING

from ..lazy_imports import lazy_names
from .method import CodebookOptions, Distiller, DistillerConfig, make_distiller
from .work import Effort, Work

if TYPE_CHECKING:  # these load torch, which a list of methods need not
    from .context import DistillContext
    from .latents import Pushforward

__all__ = [
    "Distiller", "DistillerConfig", "CodebookOptions", "DistillContext", "Pushforward", "Effort", "Work",
    "make_distiller",
]  # fmt: skip
__getattr__, __dir__ = lazy_names(__name__)
