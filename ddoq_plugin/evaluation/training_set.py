"""What a student is trained on: real images, or a distilled set as students see it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.base import ImageData, Split
from ..data.transforms import decode_mosaic, resize_images
from ..errors import EvaluationError
from ..preprocessing import PIXELS, Preprocessing
from .inputs import ImageSpace, Normaliser, source_size
from .protocol import Protocol

if TYPE_CHECKING:
    from ..distilled_set import DistilledSet


@dataclass(frozen=True)
class TrainingSet:
    """What a student is trained on.

    images: uint8 [n, 3, H, H], or float32 in the space of ``preprocessing`` (kind ``none``: [0, 1]). labels: int64 [n].
    weights: float [n], non-negative (None: all 1). targets: float [n, C] or None, of the target_kind ``logits`` or
    ``regression``, for the label mode ``soft_fixed``. learning_rate: what the set's method learnt, or None. stage:
    int64 [n] or None. Raises EvaluationError where they do not fit each other."""

    images: Tensor
    labels: Tensor
    weights: Tensor = None  # ones
    targets: Tensor | None = None
    target_kind: str = "logits"
    preprocessing: Preprocessing = PIXELS
    learning_rate: float | None = None
    stage: Tensor | None = None

    def __post_init__(self) -> None:
        if self.weights is None:
            object.__setattr__(self, "weights", torch.ones(len(self.labels)))
        shape, dtype = self.images.shape, self.images.dtype
        if dtype not in (torch.uint8, torch.float32) or len(shape) != 4 or shape[1] != 3 or shape[-1] != shape[-2]:
            raise EvaluationError(
                f"training images must be uint8 or float32 [n, 3, H, H], not {dtype} {list(shape)}; convert them first"
            )
        parts = (self.images, self.labels, self.weights, self.targets, self.stage)
        lengths = [len(part) for part in parts if part is not None]
        if len(set(lengths)) != 1 or not lengths[0]:
            raise EvaluationError(
                f"images, labels, weights, targets and stages must be equally many and not none, not {lengths}"
            )
        if not torch.isfinite(self.weights).all() or (self.weights < 0).any():
            raise EvaluationError("weights must be finite and not negative; look at how the set was weighted")

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def from_split(cls, split: Split) -> TrainingSet:
        """Return all images of ``split`` with equal weights."""
        return cls(split.images(), split.labels)

    @classmethod
    def from_set(cls, made: DistilledSet, protocol: Protocol, data_size: int) -> TrainingSet:
        """Return what students see of a distilled set: its floats where it has them, its mosaics decoded.

        Sets above ``data_size`` (the side of the data's images in pixels) are brought down to it, or straight to the
        smaller size that ``protocol`` trains at, so that pixels are rounded once; smaller ones stay as they are.
        Raises EvaluationError where a ZCA-whitened set would have to be resized."""
        images = made.images if made.floats is None else made.floats
        whole, size, space = min(images.shape[-2:]), protocol.image_size or data_size, made.preprocessing
        if space.kind == "zca" and not (tuple(images.shape[-2:]) == (size, size) and size <= data_size):
            raise EvaluationError(
                f"the set is ZCA-whitened at {images.shape[-2]}x{images.shape[-1]} px, which cannot be resized, and "
                f"protocol {protocol.name!r} trains at {size} px on data of {data_size} px; give all one size"
            )
        side = data_size
        if whole > side:
            side = min(side, source_size(side, protocol.augmentation, size, protocol.scoring.zoom(size)))
        copies = made.mosaic**2
        if copies > 1:
            images = decode_mosaic(images if made.floats is not None else images.float() / 255)
        images = resize_images(images, min(whole, side))
        if copies > 1 and made.floats is None:
            images = space.apply(images)

        def repeated(tensor: Tensor | None) -> Tensor | None:
            return tensor if tensor is None or copies == 1 else torch.cat([tensor] * copies)

        return cls(
            images,
            repeated(made.labels),
            repeated(made.weights),
            repeated(made.targets),
            made.target_kind,
            space,
            made.learning_rate,
            repeated(made.stage),
        )

    def normaliser(self, protocol: Protocol, data: ImageData, device: str | torch.device = "cpu") -> ImageSpace:
        """Return what brings images to what students of this set see: its preprocessing, or the protocol's choice."""
        if self.preprocessing.kind != "none":
            return self.preprocessing.to(device)
        return Normaliser.named(protocol.normalisation, data)

    def unions(self) -> list[TrainingSet]:
        """Return the images of the first stage, of the first two, and so on to all."""
        found = []
        for last in self.stage.unique().tolist():
            rows = (self.stage <= last).nonzero()[:, 0]
            parts: dict[str, Any] = {
                name: getattr(self, name) for name in ("images", "labels", "weights", "targets", "stage")
            }
            found.append(replace(self, **{name: part if part is None else part[rows] for name, part in parts.items()}))
        return found
