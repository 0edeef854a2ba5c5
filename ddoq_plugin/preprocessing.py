"""The space that images live in before a student sees them: pixels, standardised channels or ZCA-whitened pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from .errors import DataError
from .store.artifacts import hash_key, hash_tensors

if TYPE_CHECKING:
    import torch

    from .data.base import Split

KINDS = ("none", "standardised", "zca")
TENSORS = ("mean", "std", "matrix")
BATCH = 1024  # images read at a time
FLOAT64_VALUES = 1 << 27  # pixel values up to which a ZCA is fitted in float64 (1 GiB); beyond in float32, as MTT does
LARGEST_ZCA = 64  # pixels a side: its matrix has (3 * 64 * 64)^2 entries, 604 MB, and takes minutes to factorise


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """A fixed invertible map of images in [0, 1].

    kind ``none``: the identity. ``standardised``: (x - mean) / std, with mean and std float32 ``[3]``. ``zca``:
    (x - mean) @ matrix of the flattened image, with mean float32 ``[D]``, matrix float32 ``[D, D]`` and D = 3 * H * W.
    Raises DataError where kind and tensors do not fit each other."""

    kind: str = "none"
    mean: torch.Tensor = None  # type: ignore[assignment]
    std: torch.Tensor = None  # type: ignore[assignment]
    matrix: torch.Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"there is no preprocessing {self.kind!r}; use one of {', '.join(KINDS)}")
        d = None if self.mean is None else self.mean.numel()
        wanted = {"none": {}, "standardised": {"mean": (3,), "std": (3,)}, "zca": {"mean": (d,), "matrix": (d, d)}}
        given = {name: tuple(tensor.shape) for name, tensor in self.tensors().items()}
        if given != wanted[self.kind] or self.kind == "zca" and d is not None and d % 3:
            rule = "'standardised' mean [3] and std [3], 'zca' mean [D] and matrix [D, D] with D = 3 * H * W"
            raise DataError(f"preprocessing 'none' has no tensors, {rule}; {self.kind!r} was given {given}")
        for name, tensor in self.tensors().items():
            if not (tensor.is_floating_point() and tensor.isfinite().all()) or (name == "std" and (tensor <= 0).any()):
                raise DataError(f"the preprocessing's {name} must be finite floats (std above 0); fit it again")

    @classmethod
    def fit(cls, kind: str, split: Split, eps: float = 0.1) -> Preprocessing:
        """Return the preprocessing of this kind, measured on all images of ``split``.

        ``eps`` is added to the eigenvalues of the covariance (divided by n - 1) of a ZCA; 0.1 is that of MTT
        (Cazenavette et al. 2022). Memory of a ZCA: all images as floats, twice. Raises DataError for an unknown kind,
        an eps that is not positive, fewer than two images, or ZCA of images above 64 px."""
        if kind == "standardised":
            return cls(kind, *_channel_statistics(split))
        if kind != "zca":
            return cls(kind)
        if not 0 < eps < math.inf:
            raise DataError(f"ZCA needs a positive eps, not {eps}")
        from kornia.enhance import ZCAWhitening

        fitted = ZCAWhitening(eps=float(eps)).fit(_values(split))
        return cls(kind, fitted.mean_vector[0].float(), matrix=fitted.transform_matrix.float())

    @classmethod
    def fit_share(cls, split: Split, share: float = 0.1, *, centred: bool = True) -> Preprocessing:
        """Return the ZCA of FRePo (Zhou et al. 2022, get_whitening_transform in its code): of standardised channels,
        with ``share`` times the mean eigenvalue added to the covariance (divided by n).

        ``centred`` false leaves the mean image in, as RFAD does (Loo et al. 2022, get_zca_matrix). Directions beyond
        n images keep their length where it is true. Raises DataError as :meth:`fit` does."""
        import torch

        mean, std = (one.double() for one in _channel_statistics(split))
        pixels = split.image_size**2
        mean, std = mean.repeat_interleave(pixels), std.repeat_interleave(pixels)
        values = _values(split).double().sub_(mean).div_(std)
        middle = values.mean(0) if centred else torch.zeros_like(mean)
        whitening = share_whitening(values.sub_(middle), share, keep_beyond=centred)
        return cls("zca", (mean + std * middle).float(), matrix=(whitening / std[:, None]).float())

    def apply(self, images: torch.Tensor) -> torch.Tensor:
        """Return float32 ``[n, 3, H, W]`` in this space, of ``images`` uint8 or float in [0, 1]; differentiable."""
        pixels = images if images.is_floating_point() else images.float() / 255
        if self.kind == "standardised":
            mean, std = self._channels(pixels)
            return (pixels - mean) / std
        if self.kind == "zca":
            from kornia.enhance import linear_transform

            self.check_size(pixels.shape)
            return linear_transform(pixels, self.matrix.to(pixels.device), self.mean.to(pixels.device)[None])
        return pixels

    def undo(self, images: torch.Tensor) -> torch.Tensor:
        """Return images of this space as pixels: inside [0, 1] where they came from pixels, not clamped."""
        if self.kind == "standardised":
            mean, std = self._channels(images)
            return images * std + mean
        if self.kind == "zca":
            flat = images.flatten(1) @ self._inverse.to(images.device) + self.mean.to(images.device)
            return flat.view(images.shape)
        return images

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return what a student sees: uint8 images are brought into this space, float ones lie in it already."""
        return images if images.is_floating_point() else self.apply(images)

    def black(self, device: torch.device) -> torch.Tensor:
        """Return what lies outside a shifted image, float ``[1, 3, 1, 1]``: a black pixel, or 0 (the mean image) in
        ZCA space, where black has another value at each pixel."""
        import torch

        zero = torch.zeros(1, 3, 1, 1, device=device)
        return zero if self.kind == "zca" else self.apply(zero)

    def check_size(self, shape: Sequence[int]) -> None:
        """Raise DataError unless images of ``shape`` (..., H, W) fit the matrix of a ZCA."""
        height, width = shape[-2:]
        if self.kind == "zca" and self.mean.numel() != 3 * height * width:
            images = f"images of {height}x{width} px have {3 * height * width}; fit it on images of that size"
            raise DataError(f"the ZCA matrix is for {self.mean.numel()} values an image, and {images}")

    def to(self, device: str | torch.device) -> Preprocessing:
        """Return it with its tensors on ``device``."""
        return Preprocessing(self.kind, **{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return its tensors by name, to be saved."""
        return {name: getattr(self, name) for name in TENSORS if getattr(self, name) is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> Preprocessing:
        """Return the preprocessing that :meth:`tensors` came from."""
        return cls("zca" if "matrix" in tensors else "standardised" if tensors else "none", **tensors)

    @cached_property
    def hash(self) -> str:
        """Hash of kind and tensors."""
        return hash_key([self.kind, hash_tensors(self.mean, self.std, self.matrix)])[:20]

    def _channels(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.mean.to(like.device).view(1, 3, 1, 1), self.std.to(like.device).view(1, 3, 1, 1)

    @cached_property
    def _inverse(self) -> torch.Tensor:
        return self.matrix.double().inverse().float()


def share_whitening(values: torch.Tensor, share: float, *, keep_beyond: bool = True) -> torch.Tensor:
    """Return the symmetric whitening ``[D, D]`` of values ``[n, D]`` around 0: U (S + share tr(S) / D)^-1/2 U^T.

    ``keep_beyond``: where n < D, directions beyond the first n have the factor 1 (FRePo)."""
    import torch

    n, dimension = values.shape
    covariance = values.T @ values / n
    covariance.diagonal().add_(share * covariance.trace() / dimension)
    directions, sizes, _ = torch.linalg.svd(covariance)
    factors = sizes.rsqrt()
    if keep_beyond:
        factors[n:] = 1
    return (directions * factors) @ directions.T


PIXELS = Preprocessing()
"""The images as they are."""


def _values(split: Split) -> torch.Tensor:
    """Return all images of ``split`` as rows in [0, 1], float64 where they are few; DataError where ZCA cannot be."""
    if split.image_size > LARGEST_ZCA:
        mend = f"use at most {LARGEST_ZCA} px or 'standardised'"
        raise DataError(f"ZCA of {split.image_size} px images needs too large a matrix; {mend}")
    if len(split) < 2:
        raise DataError(f"ZCA needs two images, not {len(split)}")
    import torch

    dimension = 3 * split.image_size**2
    dtype = torch.float64 if len(split) * dimension <= FLOAT64_VALUES else torch.float32
    values = torch.empty(len(split), dimension, dtype=dtype)
    for start, (images, _) in zip(range(0, len(split), BATCH), split.batches(BATCH), strict=True):
        values[start : start + len(images)] = images.flatten(1).to(dtype) / 255
    return values


def _channel_statistics(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation float32 [3] over all pixels, from sums of integers, which are exact in any order."""
    import torch

    total, squares, count = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 0
    for images, _ in split.batches(BATCH):
        pixels = images.transpose(0, 1).flatten(1).long()
        total, squares, count = total + pixels.sum(1), squares + (pixels**2).sum(1), count + pixels.shape[1]
    mean = total.double() / count
    deviation = (squares.double() / count - mean**2).clamp_min(0).sqrt() / 255
    return (mean / 255).float(), deviation.clamp_min(1e-3).float()
