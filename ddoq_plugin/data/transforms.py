"""Bringing images to uint8 [3, size, size]: grey to colour, padding, antialiased resizing, cropping, decoding."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import DataError

# a broken EXIF block says nothing of the pixels; Pillow's warning names its own source line
warnings.filterwarnings("ignore", message=".*EXIF", module=r"PIL\.")

RESIZE_MODES = ("crop", "stretch")
HIGH_BIT_MODES = ("I", "F", "I;16", "I;16B", "I;16L")  # Pillow modes whose values do not fit 8 bits


def check_resize(resize: str) -> None:
    """Raise DataError unless ``resize`` is "crop" or "stretch"."""
    if resize not in RESIZE_MODES:
        raise DataError(f"resize={resize!r} is not known; use 'crop' (shorter side, then centre crop) or 'stretch'")


def check_image_size(image_size: object) -> None:
    """Raise DataError unless ``image_size`` is a number of pixels from 1 to 16,384."""
    if not isinstance(image_size, int) or isinstance(image_size, bool) or not 1 <= image_size <= 16_384:
        raise DataError(f"image_size={image_size!r} must be a positive number of pixels, at most 16384")


def to_colour(images: Tensor) -> Tensor:
    """Return [n, 3, H, W] from [n, H, W], [n, 1, H, W] or [n, 3, H, W]; grey is repeated three times."""
    images = images[:, None] if images.ndim == 3 else images
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def resize_images(images: Tensor, size: int, resize: str = "crop", chunk: int = 1024) -> Tensor:
    """Resize uint8 or float32 [n, C, H, W] to [n, C, size, size], bilinear and antialiased; only uint8 is rounded.

    ``resize``: "crop" scales the shorter side to ``size`` pixels and cuts the centre; "stretch" ignores the aspect
    ratio, as D4M does (Su et al. 2024, ``Resize((size, size))`` before the encoder). ``chunk`` images are held as
    floats at a time."""
    check_resize(resize)
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images.contiguous()
    scaled = (size, size) if resize == "stretch" else _shorter_side(height, width, size)
    return torch.cat([_crop(_interpolate(part, scaled), size) for part in images.split(chunk)])


def pad_images(images: Tensor, size: int) -> Tensor:
    """Pad uint8 [n, C, H, W] with zeros to [n, C, size, size], centred."""
    height, width = images.shape[-2:]
    top, left = (size - height) // 2, (size - width) // 2
    return F.pad(images, (left, size - width - left, top, size - height - top))


def decode_mosaic(images: Tensor, factor: int = 2) -> Tensor:
    """Return float [f^2 n, 3, H, W]: the parts of mosaics float [n, 3, H, W], each enlarged to H x W; differentiable.

    All top left parts come first, then those right of them, row by row: the order of IDC (Kim et al. 2022), whose
    bilinear enlargement (corners not aligned) this is."""
    height, width = images.shape[-2:]
    rows = [part for row in images.split(height // factor, dim=2) for part in row.split(width // factor, dim=3)]
    return F.interpolate(torch.cat(rows), (height, width), mode="bilinear", align_corners=False)


def make_mosaic(parts: Tensor, mode: str = "bilinear") -> Tensor:
    """Return float [n, 3, H, W]: mosaics of four images each, ``parts`` float [4, n, 3, H, W], in decoding's order.

    Each is halved without antialiasing: ``bilinear`` (IDM, Zhao et al. 2023) or ``nearest`` (IDC)."""
    halved = F.interpolate(parts.flatten(0, 1), scale_factor=0.5, mode=mode).unflatten(0, parts.shape[:2])
    return torch.cat([torch.cat([halved[0], halved[1]], -1), torch.cat([halved[2], halved[3]], -1)], -2)


def fit_arrays(images: Tensor, image_size: int | None, resize: str = "crop") -> Tensor:
    """Bring an array of images to uint8 [n, 3, size, size].

    28x28 images (MNIST and its relatives) are padded by two black pixels on every side to 32x32, unless ``image_size``
    is 28. A size of None keeps what is then there; DataError where that is not square."""
    if tuple(images.shape[-2:]) == (28, 28) and image_size != 28:
        images = pad_images(images, 32)
    height, width = images.shape[-2:]
    if image_size is None and height != width:
        raise DataError(f"the images are {height}x{width}, not square; give image_size")
    size = height if image_size is None else image_size
    check_image_size(size)
    return to_colour(resize_images(images, size, resize)).contiguous()


def decode_image(path: Path, size: int, resize: str) -> np.ndarray:
    """Read an image file and return uint8 [size, size, 3]; EXIF orientation is applied, transparency is dropped.

    DataError: the file is damaged, is no image, or has more than 8 bits per channel."""
    picture = _upright(path)
    if resize == "stretch":
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    else:
        height, width = _shorter_side(picture.height, picture.width, size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - size) // 2, (height - size) // 2
        picture = picture.crop((left, top, left + size, top + size))
    return np.asarray(picture, dtype=np.uint8)


def decode_upright(path: Path) -> np.ndarray:
    """Read an image file at its own size and return uint8 [H, W, 3]; see :func:`decode_image`."""
    return np.asarray(_upright(path), dtype=np.uint8)


def verify_image(path: Path) -> None:
    """Raise DataError unless the whole file decodes (a truncated JPEG passes a look at its header only)."""
    with _opened(path) as image:
        image.draft("RGB", (64, 64))  # JPEG: decode at reduced scale, which still reads every byte
        image.load()


def damaged(path: Path, problem: BaseException) -> DataError:
    """Return the DataError for an unreadable image file."""
    if isinstance(problem, FileNotFoundError):
        return DataError(f"the image {path} has gone since the folder was listed; load the dataset again")
    return DataError(f"the image {path} cannot be read ({problem}); mend or remove it")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file; what goes wrong in it while it is open is a DataError."""
    try:
        with Image.open(path) as image:
            if image.mode in HIGH_BIT_MODES:
                bits = "more than 8 bits per channel"
                raise DataError(f"the image {path} has mode {image.mode} ({bits}); convert it to 8 bits")
            yield image
    except DataError:
        raise
    except Exception as problem:  # what Pillow raises for a damaged file depends on the format's decoder
        raise damaged(path, problem) from problem


def _upright(path: Path) -> Image.Image:
    with _opened(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def _shorter_side(height: int, width: int, size: int) -> tuple[int, int]:
    """Return (height, width) with the shorter side ``size`` and the aspect ratio kept."""
    short = min(height, width)
    return max(size, round(height * size / short)), max(size, round(width * size / short))


def _interpolate(images: Tensor, shape: tuple[int, int]) -> Tensor:
    resized = F.interpolate(images.float(), shape, mode="bilinear", antialias=True, align_corners=False)
    return resized if images.is_floating_point() else resized.round_().clamp_(0, 255).to(torch.uint8)


def _crop(images: Tensor, size: int) -> Tensor:
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return images[..., top : top + size, left : left + size]
