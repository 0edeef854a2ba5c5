"""Images on the device, ready for a model: normalised once, gathered, cut and mixed by the step."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.base import ImageData, Split
from ..preprocessing import Preprocessing
from .augment import affine_maps, cut, is_identity
from .batches import Page
from .dsa import augment
from .mixing import apply_mix
from .protocol import Augmentation, Mixing

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STATISTICS_IMAGES = 2048  # evenly spaced train images are enough for three means and deviations
GROUP_VALUES = (1 << 18, 1 << 24)  # of the batches that are cut in one call: on a CPU they stay in its cache; on CUDA
FLOAT_BUDGET = 2 << 30  # bytes: sets up to this size are kept normalised, larger ones are normalised by the batch


_MEASURED: weakref.WeakKeyDictionary[Split, Normaliser] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Normaliser:
    """Maps images in [0, 1] to (x - mean) / std, channel by channel."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @classmethod
    def named(cls, name: str, data: ImageData) -> Normaliser:
        """Return the one that a protocol calls ``imagenet``, ``none`` or ``dataset`` (measured on the train split)."""
        if name == "dataset":
            return cls.measured(data.train)
        return cls(IMAGENET_MEAN, IMAGENET_STD) if name == "imagenet" else cls()

    @classmethod
    def measured(cls, split: Split) -> Normaliser:
        """Return the channel means and deviations of up to 2048 evenly spaced images of ``split``, measured once."""
        if split not in _MEASURED:
            _MEASURED[split] = cls._measure(split)
        return _MEASURED[split]

    @classmethod
    def _measure(cls, split: Split) -> Normaliser:
        chosen = torch.linspace(0, len(split) - 1, min(len(split), STATISTICS_IMAGES), dtype=torch.float64).long()
        pixels = split.images(chosen).transpose(0, 1).flatten(1).double() / 255
        std = pixels.std(1, unbiased=False).clamp_min(1e-3)
        return cls(tuple(pixels.mean(1).tolist()), tuple(std.tolist()))

    def __call__(self, images: Tensor) -> Tensor:
        """Return float32 of ``images`` uint8 or float in [0, 1], [B, 3, H, W]."""
        return (_unit(images) - self._tensor(self.mean, images)) / self._tensor(self.std, images)

    def undo(self, images: Tensor) -> Tensor:
        """Return normalised ``images`` back in [0, 1]."""
        return images * self._tensor(self.std, images) + self._tensor(self.mean, images)

    def black(self, device: torch.device) -> Tensor:
        """Return what a black pixel becomes, float [1, 3, 1, 1]."""
        return self(torch.zeros(1, 3, 1, 1, device=device))

    @staticmethod
    def _tensor(values: tuple[float, float, float], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=like.device).view(1, 3, 1, 1)


ImageSpace = Normaliser | Preprocessing
"""What brings images to the numbers that a student sees, and back."""


class Inputs:
    """A set's images on a device, from which the batches of a plan are made.

    Args:
        images: uint8 [n, 3, H, H], or float32: in [0, 1], and for a Preprocessing already in its space.
        normaliser: applied before cropping (where it is per channel, the order only matters for padding).
        image_size: side of the batches in pixels.
        resize: larger images than ``resize * image_size`` are first brought to that size, with antialiasing.
    """

    def __init__(
        self,
        images: Tensor,
        normaliser: ImageSpace,
        augmentation: Augmentation,
        mixing: Mixing,
        image_size: int,
        resize: float,
        device: torch.device,
    ) -> None:
        self.images = fit_size(images, source_size(images.shape[-1], augmentation, image_size, resize)).to(device)
        self.normaliser, self.augmentation, self.mixing, self.image_size = normaliser, augmentation, mixing, image_size
        self.device = device
        self.untouched = is_identity(augmentation)
        self.black = normaliser.black(device) if augmentation.crop == "shift" else None
        self.ready = self.images.numel() * 4 <= FLOAT_BUDGET
        if self.ready:
            self.images = normaliser(self.images)

    def batches(self, page: Page) -> PageBatches:
        """Return the batches of a page."""
        return PageBatches(self, page)


class PageBatches:
    """The batches of one page; what is drawn is moved to the device once, and several steps are cut in one call."""

    def __init__(self, inputs: Inputs, page: Page) -> None:
        self.inputs = inputs
        self.indices = page.indices.to(inputs.device)
        self.maps = None if inputs.untouched else affine_maps(page.crops).to(inputs.device)
        self.dsa, self.mixed = page.dsa, page.mixes is not None
        if page.mixes is not None:
            self.partners = page.mixes.partners.to(inputs.device)
            self.lam, self.boxes = page.mixes.lam.tolist(), page.mixes.boxes.tolist()
        values = self.indices.shape[1] * 3 * inputs.image_size**2
        self.group = max(1, GROUP_VALUES[inputs.device.type == "cuda"] // values)
        self.first, self.made = 0, self.indices.new_empty(0)

    def lam_at(self, step: int) -> float:
        """Return the share of the images themselves at ``step`` (1: not mixed)."""
        return self.lam[step] if self.mixed else 1.0

    def images(self, step: int) -> Tensor:
        """Return the normalised float32 batch [B, 3, S, S] of ``step``, cut, mirrored, under DSA and mixed."""
        if not self.first <= step < self.first + len(self.made):
            self.first, self.made = step, self._make(step, min(step + self.group, len(self.indices)))
        return self.made[step - self.first]

    def _make(self, first: int, last: int) -> Tensor:
        inputs, rows = self.inputs, self.indices[first:last]
        x = inputs.images.index_select(0, rows.flatten())
        if not inputs.ready:
            x = inputs.normaliser(x)
        if self.maps is not None:
            x = cut(x, self.maps[first:last].flatten(0, 1), inputs.image_size, black=inputs.black)
        batches = x.view(*rows.shape, *x.shape[1:])
        for step in range(first, last):
            if self.dsa is not None:
                batches[step - first] = augment(batches[step - first], self.dsa[step])
            if self.lam_at(step) < 1:
                own = batches[step - first]
                mixed = apply_mix(own, self.partners[step], self.lam[step], self.boxes[step], inputs.mixing.name)
                if mixed is not own:
                    own.copy_(mixed)
        return batches


def source_size(stored: int, augmentation: Augmentation, image_size: int, resize: float) -> int:
    """Return the side to which stored images of side ``stored`` are brought before they are cut.

    A random resized crop takes any size up to ``resize * image_size``; everything else needs ``image_size`` itself."""
    return min(stored, round(resize * image_size)) if augmentation.crop == "resized" else image_size


def fit_size(images: Tensor, size: int) -> Tensor:
    """Return ``images`` [n, 3, H, H] resized to ``size`` (bilinear, antialiased); themselves where H = size.

    uint8 images are rounded to uint8, float ones stay as they come."""
    if images.shape[-1] == size:
        return images
    chunks = [
        F.interpolate(_unit(chunk), size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        for chunk in images.split(256)
    ]
    if images.is_floating_point():
        return torch.cat(chunks)
    return torch.cat([(chunk * 255).round_().clamp_(0, 255).to(torch.uint8) for chunk in chunks])


def centre_crop(images: Tensor, resize: float, image_size: int) -> Tensor:
    """Return uint8 ``images`` resized to ``resize * image_size`` and cropped to the central ``image_size`` pixels."""
    resized = fit_size(images, round(resize * image_size))
    start = (resized.shape[-1] - image_size) // 2
    return resized[:, :, start : start + image_size, start : start + image_size]


def _unit(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images
