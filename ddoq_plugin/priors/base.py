"""Prior, the interface of every generative model that a distiller works with."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import PriorError
from ..progress import bar
from .batching import Batching, positive
from .guide import BatchGuide, Guide


class Prior(ABC):
    """A model that encodes images to latents and makes images of a class from latents.

    Attributes: ``name`` (registry name), ``latent_shape`` (C, h, w), ``image_size`` (pixels a side), ``fingerprint``
    (hex hash of everything that determines its output: weights, configs and options), ``device``, ``can_denoise``
    (False: ``generate`` decodes only).

    All tensors that come in and go out lie on the CPU. The noise of an image comes from its own integer seed, so an
    image depends on its latent, class and seed, not on the others of its batch (up to the rounding of floating-point
    sums, which follows the batch's size)."""

    name: str
    title: str = ""  # as configured, with its recipe or the last part of its path; empty: the name
    latent_shape: tuple[int, int, int]
    image_size: int
    fingerprint: str
    can_denoise: bool = True

    def __init__(self, device: torch.device, batch_size: int | str) -> None:
        self.device = device
        self.batching = Batching(batch_size, device, lambda stage: self._image_bytes(stage))
        self.class_names: tuple[str, ...] | None = None

    @property
    def batch_size(self) -> int:
        """Images that the next forward pass takes, of the denoiser (of the decoder, where there is none)."""
        return self.batching.size("denoise" if self.can_denoise else "decode")

    # -- what a prior of a kind defines

    @abstractmethod
    def _match(self, class_names: tuple[str, ...], wordnet_ids: tuple[str, ...] | None) -> None:
        """Prepare the conditions of these classes; PriorError names the class that has none."""

    @abstractmethod
    def _encode(self, images: Tensor, generators: list[torch.Generator] | None) -> Tensor:
        """float32 images [b, 3, S, S] in [0, 1] -> scaled latents [b, *latent_shape]; generators None: the mode."""

    @abstractmethod
    def _decode(self, latents: Tensor) -> Tensor:
        """Scaled latents -> images of about [0, 1] (they are clamped and moved by the caller)."""

    def _image_bytes(self, stage: str) -> int:
        """Estimate the working memory of one image in a pass of "encode", "denoise" or "decode"."""
        return 16 * 3 * self.image_size**2 * torch.float32.itemsize

    def _in_less_memory(self, stage: str) -> bool:
        """Change to a way that needs less memory where one image is too much; say whether there is one."""
        return False

    def _begin(self, space: str, strength: float, steps: int, scheduler: str | None, guidance_scale: float) -> Any:
        """Return what every batch of a call shares; PriorError where these settings cannot work."""
        raise PriorError(
            f"the prior {self.name!r} has no denoiser: set strength to 0 (decode only) or take a diffusion prior"
        )

    def _denoise(
        self,
        latents: Tensor,
        class_ids: Tensor,
        generators: list[torch.Generator],
        begun: Any,
        guidance_scale: float,
        guide: BatchGuide | None,
    ) -> Tensor:
        """Denoise one batch and return its scaled latents; ``begun`` is what :meth:`_begin` returned."""
        raise NotImplementedError(f"the prior {self.name!r} has no denoiser")

    def _begin_inversion(self, steps: int) -> Any:
        """As :meth:`_begin`, for :meth:`_invert`."""
        return self._begin("noise", 1.0, steps, None, 1.0)

    def _invert(self, latents: Tensor, class_ids: Tensor, begun: Any) -> Tensor:
        """Return one batch's latents in noise space."""
        raise NotImplementedError(f"the prior {self.name!r} has no denoiser")

    # -- what a caller uses

    def bind_classes(self, class_names: Sequence[str], wordnet_ids: Sequence[str] | None = None) -> None:
        """Say which classes the class ids 0, 1, ... of the dataset mean.

        ``wordnet_ids`` (one a class, as ``ImageData.wnids`` has them) settle the classes of an ImageNet prior without
        regard to their names. Raises PriorError naming a class that is unknown here, with the nearest known ones."""
        names = tuple(class_names)
        self._match(names, None if wordnet_ids is None else tuple(wordnet_ids))
        self.class_names = names

    @torch.no_grad()
    def encode(
        self, images: Tensor, *, sample: bool = False, seeds: Sequence[int] | None = None, progress: bool = False
    ) -> Tensor:
        """Encode images [B, 3, H, W] (uint8, or float in [0, 1]) to float32 latents [B, *latent_shape].

        Images of another size are resized (bilinear with anti-aliasing, aspect not kept). Latents are in the scale of
        the denoiser (scaling factor applied). ``sample`` draws from the encoder's posterior with one integer of
        ``seeds`` an image; otherwise its mode is taken. Raises PriorError for a wrong shape or range and for an encoder
        that returns NaN."""
        self._check_images(images)
        if sample and (seeds is None or len(seeds) != len(images)):
            raise PriorError("sampling the encoder's posterior needs one seed an image: give seeds, or sample=False")

        def forward(part: slice) -> Tensor:
            chosen = _generators(seeds[part]) if sample and seeds is not None else None
            return self._encode(self._resize(images[part].to(self.device)), chosen).float().cpu()

        latents = self._run("encode", len(images), forward, "encode" if progress else None)
        return self._finite(latents, None, "the encoder's output")

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode float latents [B, *latent_shape] to float32 images [B, 3, S, S] in [0, 1]; PriorError for NaN."""
        self._check_latents(latents, None)
        return self._decode_all(latents, None)

    @torch.no_grad()
    def generate(
        self,
        latents: Tensor,
        class_ids: Tensor,
        *,
        strength: float,
        guidance_scale: float,
        steps: int,
        seeds: Sequence[int],
        space: str = "latent",
        scheduler: str | None = None,
        guide: Guide | None = None,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Make images from latents: noise them, denoise them under the condition of their class, decode.

        ``latents`` are float [B, *latent_shape]; ``class_ids`` int64 [B], indices into the names given to
        :meth:`bind_classes`; ``seeds`` one integer an image, for its noise and for a stochastic scheduler. ``steps`` is
        the number of steps of the whole schedule. ``strength`` is the share of them that is run, in [0, 1]: the latents
        are noised to where that share starts (the convention of image-to-image pipelines: 0.7 of 50 steps runs 35; 36
        with PNDM). 0 decodes only; 1 starts at the scheduler's first time. ``guidance_scale`` is that of
        classifier-free guidance, at least 1; 1 uses the conditional prediction alone.

        ``space`` is "latent", or "noise" for latents from :meth:`invert`: generation then starts at the full time from
        these very latents, and ``strength`` is ignored. ``scheduler`` is the class name of a diffusers scheduler; None
        takes the pipeline's own (DDIM in noise space). ``guide`` shifts the latents after each denoising step; None
        leaves the sampler as it is. ``batch_size`` counts the images of a forward pass of the denoiser; None takes the
        prior's. A pass takes whole classes where the guide is set-wide, also where a class has more images.

        Returns float32 images [B, 3, S, S] in [0, 1]. Raises PriorError for wrong shapes, NaN, settings out of range,
        an unknown scheduler, one that takes no guide, and a class too large for the memory under a set-wide guide."""
        self._check_call(latents, class_ids, seeds)
        if not (math.isfinite(strength) and 0 <= strength <= 1):
            raise PriorError(f"strength is {strength}: give a number from 0 (decode only) to 1 (full noise)")
        if not (math.isfinite(guidance_scale) and guidance_scale >= 1):
            raise PriorError(f"guidance_scale is {guidance_scale}: give a number of at least 1 (1 is no guidance)")
        if space not in ("latent", "noise"):
            raise PriorError(f"unknown space {space!r} of latents: give 'latent' or 'noise'")
        sizes: dict[str, Any] = {"wanted": None if batch_size is None else positive(batch_size)}
        if strength == 0 and space == "latent":
            if guide is not None:
                raise PriorError("a guide needs denoising steps: set strength above 0, or leave out the guide")
            return self._decode_all(latents, class_ids)
        begun = self._begin(space, strength, steps, scheduler, guidance_scale)
        rows = torch.arange(len(latents))
        set_wide = guide is not None and guide.set_wide
        if set_wide:
            rows = class_ids.cpu().argsort(stable=True)
            sizes["whole"] = class_ids[rows].unique_consecutive(return_counts=True)[1].tolist()

        def forward(part: slice) -> Tensor:
            # a slice where the order is the caller's, so that the layout in memory stays too
            chosen = rows[part] if set_wide else part
            own = _generators([seeds[row] for row in rows[part].tolist()])
            batch = None if guide is None else BatchGuide(guide, class_ids[chosen].cpu(), rows[part])
            noisy = latents[chosen].float().to(self.device)
            return self._denoise(noisy, class_ids[chosen], own, begun, guidance_scale, batch).float().cpu()

        made = self._run("denoise", len(latents), forward, "generate" if progress else None, **sizes)
        return self._decode_all(self._finite(made[rows.argsort()], class_ids, "the denoiser's output"), class_ids)

    @torch.no_grad()
    def invert(self, latents: Tensor, class_ids: Tensor, *, steps: int, progress: bool = False) -> Tensor:
        """Return the noise (float32 [B, *latent_shape]) that DDIM without guidance turns into ``latents``.

        DDIM inversion: the deterministic sampler (Song et al., "Denoising Diffusion Implicit Models", 2021, equation
        14) run from clean to noisy under each class's condition, at guidance 1. It is exact as ``steps`` grows."""
        self._check_call(latents, class_ids, None)
        begun = self._begin_inversion(steps)

        def forward(part: slice) -> Tensor:
            return self._invert(latents[part].float().to(self.device), class_ids[part], begun).float().cpu()

        noises = self._run("denoise", len(latents), forward, "invert" if progress else None)
        return self._finite(noises, class_ids, "the inversion's output")

    def _decode_all(self, latents: Tensor, class_ids: Tensor | None) -> Tensor:
        def forward(part: slice) -> Tensor:
            return self._decode(latents[part].float().to(self.device)).float().clamp(0, 1).cpu()

        return self._finite(self._run("decode", len(latents), forward), class_ids, "the decoder's output")

    def _run(
        self, stage: str, total: int, forward: Callable[[slice], Tensor], label: str | None = None, **sizes: Any
    ) -> Tensor:
        """Return what all passes give; ``label`` None shows no bar, ``sizes`` are those of ``Batching.run``."""
        hooks: dict[str, Any] = {"last_resort": lambda: self._in_less_memory(stage), **sizes}
        with bar(total, label or stage, show=label is not None) as shown:
            parts = self.batching.run(stage, total, forward, advance=shown.update, **hooks)
        shape = (3, self.image_size, self.image_size) if stage == "decode" else self.latent_shape
        return torch.cat(parts) if parts else torch.empty(0, *shape)

    # -- checks

    def _check_images(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3:
            raise PriorError(f"images have shape {tuple(images.shape)}: give [B, 3, H, W]")
        if images.dtype == torch.uint8:
            return
        if not images.is_floating_point():
            raise PriorError(f"images have dtype {images.dtype}: give uint8, or floats in [0, 1]")
        if len(images) and not (images.min() >= -1e-3 and images.max() <= 1 + 1e-3):  # also false for NaN
            raise PriorError("float images must lie in [0, 1] without NaN: divide 8-bit values by 255")

    def _check_latents(self, latents: Tensor, class_ids: Tensor | None) -> None:
        if latents.ndim != 4 or tuple(latents.shape[1:]) != tuple(self.latent_shape):
            wanted = ", ".join(map(str, self.latent_shape))
            raise PriorError(f"latents have shape {tuple(latents.shape)}: the prior {self.name!r} takes [B, {wanted}]")
        self._finite(latents, class_ids, "the latents given")

    def _check_call(self, latents: Tensor, class_ids: Tensor, seeds: Sequence[int] | None) -> None:
        if self.class_names is None:
            raise PriorError(f"the prior {self.name!r} knows no classes yet: call bind_classes(class_names) first")
        if len(class_ids) != len(latents) or (seeds is not None and len(seeds) != len(latents)):
            given = f"{len(class_ids)} class ids" + ("" if seeds is None else f" and {len(seeds)} seeds")
            raise PriorError(f"there are {len(latents)} latents, {given}: give one of each for every image")
        if len(class_ids) and not (0 <= int(class_ids.min()) and int(class_ids.max()) < len(self.class_names)):
            raise PriorError(
                f"class ids run from {int(class_ids.min())} to {int(class_ids.max())}: "
                f"the classes bound are 0 to {len(self.class_names) - 1}"
            )
        self._check_latents(latents, class_ids)

    def _finite(self, values: Tensor, class_ids: Tensor | None, what: str) -> Tensor:
        good = torch.isfinite(values).flatten(1).all(dim=1)
        if bool(good.all()):
            return values
        index = int((~good).nonzero()[0])
        of_class = ""
        if class_ids is not None and self.class_names is not None:
            of_class = f" (class {self.class_names[int(class_ids[index])]!r})"
        raise PriorError(
            f"{what} has NaN or infinite values, first at index {index}{of_class}: check the images and the weights, "
            "and load the prior with dtype='float32' where a smaller one overflows"
        )

    def _resize(self, images: Tensor) -> Tensor:
        scaled = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        size = (self.image_size, self.image_size)
        if scaled.shape[-2:] == size:
            return scaled
        return F.interpolate(scaled, size=size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def pick_device(device: str | torch.device) -> torch.device:
    """Return a device; "auto" is CUDA where there is one. PriorError for CUDA where there is none."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise PriorError(f"unknown device {device!r}: give 'auto', 'cpu' or 'cuda'") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise PriorError("there is no CUDA device here: give device='cpu' or 'auto'")
    return chosen


def _generators(seeds: Sequence[int]) -> list[torch.Generator]:
    # on the CPU, so that the noise is the same on every device
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]
