"""The auto-encoder: encoding and decoding without a denoiser, and the base of the latent diffusion priors."""

import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from ..errors import PriorError
from .base import Prior, pick_device
from .pipelines import fetch, fingerprint, load_part, pick_dtype
from .speed import arrange

Autoencoder: TypeAlias = AutoencoderKL | AutoencoderTiny
_KINDS = {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderTiny)}

# of a residual block: its input, what norm and activation return, and what the convolution returns; three were
# measured for Stable Diffusion's decoder at 512 pixels (docs/priors.md)
_TENSORS = 4

_TILE = 4  # latents that a tile's side is a multiple of: diffusers overlaps tiles by a quarter


class AutoencoderPrior(Prior):
    """An ``AutoencoderKL`` or ``AutoencoderTiny`` alone: ``generate`` only decodes, at strength 0.

    Latents are (z - shift) * scale, with the shift and scaling factor of the auto-encoder's configuration. The encoder
    of an ``AutoencoderTiny`` is deterministic: a sample of its posterior is its mode."""

    name = "autoencoder"
    can_denoise = False

    def __init__(
        self,
        vae: Autoencoder,
        latent_size: int,
        device: torch.device,
        batch_size: int | str,
        *,
        channels_last: bool | None = None,
        tiling: bool | None = None,
    ) -> None:
        super().__init__(device, batch_size)
        if tiling and not isinstance(vae, AutoencoderKL):
            raise PriorError("only an AutoencoderKL decodes in tiles (an AutoencoderTiny is small): leave out tiling")
        self.vae, self._tiling = vae, tiling
        self._tiled = {"decode"} if tiling else set()
        self.latent_shape = (vae.config.latent_channels, latent_size, latent_size)
        self.image_size = latent_size * downsampling(vae)
        self.scale = vae.config.scaling_factor
        self.shift = vae.config.get("shift_factor") or 0.0
        arrange(vae, channels_last)

    def _match(self, class_names: tuple[str, ...], wordnet_ids: tuple[str, ...] | None) -> None:
        pass  # decoding needs no condition

    def _encode(self, images: Tensor, generators: list[torch.Generator] | None) -> Tensor:
        self._set_tiling("encode")
        encoded = self.vae.encode((images * 2 - 1).to(self.vae.dtype))
        tiny = isinstance(self.vae, AutoencoderTiny)
        latents = (encoded.latents if tiny else encoded.latent_dist.mode()).float()
        if generators is not None and not tiny:
            latents = latents + encoded.latent_dist.std.float() * self._noise(generators)
        return (latents - self.shift) * self.scale

    def _decode(self, latents: Tensor) -> Tensor:
        self._set_tiling("decode")
        scaled = (latents / self.scale + self.shift).to(self.vae.dtype)
        return self.vae.decode(scaled).sample.float() / 2 + 0.5

    def _in_less_memory(self, stage: str) -> bool:
        forbidden = self._tiling is False or not isinstance(self.vae, AutoencoderKL)
        if forbidden or stage in self._tiled or stage == "denoise" or self.latent_shape[-1] <= _TILE:
            return False
        warnings.warn(
            f"one image of {self.image_size} pixels is too much to {stage} in the memory of {self.device}: it is done "
            "in tiles from now on, which changes results a little (tiling=True decodes so from the start, "
            "tiling=False forbids it)",
            stacklevel=5,
        )
        self._tiled.add(stage)
        return True

    def _set_tiling(self, stage: str) -> None:
        if isinstance(self.vae, AutoencoderKL):
            self.vae.use_tiling = stage in self._tiled
            if self.vae.use_tiling:
                self.vae.tile_latent_min_size = _TILE * math.ceil(self.latent_shape[-1] / 2 / _TILE)
                self.vae.tile_sample_min_size = self.vae.tile_latent_min_size * downsampling(self.vae)

    def _image_bytes(self, stage: str) -> int:
        config = self.vae.config
        if isinstance(self.vae, AutoencoderTiny):
            widths = config.decoder_block_out_channels if stage == "decode" else config.encoder_block_out_channels
            widest = max(widths) * self.image_size**2
        else:
            widths = list(config.block_out_channels)
            if stage == "decode":  # an upsampled map has the width of the coarser level that it comes from
                widths = [*widths[1:], widths[-1]]
            widest = max(width * (self.image_size // 2**level) ** 2 for level, width in enumerate(widths))
        return _TENSORS * widest * self.vae.dtype.itemsize

    def _noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Standard normal noise [b, *latent_shape], each image's from its own generator."""
        return torch.stack([torch.randn(self.latent_shape, generator=own) for own in generators]).to(self.device)


def downsampling(vae: Autoencoder) -> int:
    """Return the side of an image over the side of its latent."""
    tiny = isinstance(vae, AutoencoderTiny)
    return 2 ** (len(vae.config.encoder_block_out_channels if tiny else vae.config.block_out_channels) - 1)


def load_autoencoder(
    path: str | Path,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    batch_size: int | str = "auto",
    *,
    image_size: int | None = None,
    channels_last: bool | None = None,
    tiling: bool | None = None,
) -> AutoencoderPrior:
    """Load an ``AutoencoderKL`` or ``AutoencoderTiny`` from a folder or hub id, or the one of a pipeline's folder.

    ``image_size`` (pixels a side) is a multiple of its downsampling; None is the size of its training where its
    configuration has one. ``channels_last`` and ``tiling`` are as for ``load_dit``. Raises PriorError where the folder
    is missing, incomplete or of another kind."""
    device = pick_device(device)
    dtype = pick_dtype(dtype, device)
    folder = fetch(path, "vae")
    vae = load_part(_kind(folder), folder, dtype, device)
    factor = downsampling(vae)
    image_size = image_size or vae.config.get("sample_size")
    if image_size is None:
        raise PriorError(f"the auto-encoder {folder} does not say for which size it was made: give image_size")
    if image_size < factor or image_size % factor:
        raise PriorError(f"image_size is {image_size}: this auto-encoder takes a multiple of {factor} pixels")
    prior = AutoencoderPrior(vae, image_size // factor, device, batch_size, channels_last=channels_last, tiling=tiling)
    prior.fingerprint = fingerprint(folder, {".": True}, dtype, tiling, image_size=image_size)
    return prior


def _kind(folder: Path) -> type[Autoencoder]:
    try:
        name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["_class_name"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as problem:
        raise PriorError(
            f"the folder {folder} has no readable config.json ({type(problem).__name__}): give the folder that "
            "save_pretrained of an auto-encoder or of a pipeline wrote"
        ) from None
    if name not in _KINDS:
        raise PriorError(f"the folder {folder} holds a {name}: this prior reads an {' or '.join(_KINDS)}")
    return _KINDS[name]
