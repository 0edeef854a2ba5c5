"""The Stable Diffusion prior: any ``StableDiffusionPipeline``, with prompts made from class names."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from ..errors import PriorError
from .base import pick_device
from .binding import WORDNET_ID, wordnet_words
from .latent import LatentDiffusionPrior, downsampling
from .pipelines import check_folder, fingerprint, load_pipeline, locate, pick_dtype

_ACCEPTED = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
_COMPONENTS = {"unet": True, "vae": True, "text_encoder": True, "tokenizer": False, "scheduler": False}
# the safety checker blacks images out, which a data set must not silently hold
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


class StableDiffusionPrior(LatentDiffusionPrior):
    """A text-conditional latent diffusion model (U-Net), epsilon or v-prediction as its scheduler says."""

    name = "stable_diffusion"

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        latent_size: int,
        template: str,
        negative_prompt: str,
        fingerprint: str,
        eta: float,
        device: torch.device,
        batch_size: int,
    ) -> None:
        channels = pipeline.unet.config.in_channels
        super().__init__(pipeline.vae, pipeline.scheduler, channels, latent_size, eta, device, batch_size)
        self.pipeline, self.unet = pipeline, pipeline.unet
        self.template, self.negative_prompt = template, negative_prompt
        self.fingerprint = fingerprint
        self.prompts: tuple[str, ...] = ()
        self._embedded: dict[str, Tensor] = {}

    def _match(self, class_names: tuple[str, ...], wordnet_ids: tuple[str, ...] | None) -> None:
        self.prompts = tuple(self.template.replace("{}", _words(name)) for name in class_names)

    def _condition(self, class_ids: Tensor, guidance_scale: float) -> Tensor:
        prompts = [self.prompts[number] for number in class_ids.tolist()]
        if guidance_scale > 1:
            prompts += [self.negative_prompt] * len(prompts)
        return torch.stack([self._embed(prompt) for prompt in prompts])

    def _embed(self, prompt: str) -> Tensor:
        if prompt not in self._embedded:
            self._embedded[prompt] = self.pipeline.encode_prompt(prompt, self.device, 1, False)[0][0]
        return self._embedded[prompt]

    def _predict(self, noisy: Tensor, time: Tensor, condition: object) -> Tensor:
        return self.unet(noisy, time, encoder_hidden_states=condition).sample

    @property
    def _denoiser_dtype(self) -> torch.dtype:
        return self.unet.dtype


def load_stable_diffusion(
    path: str | Path,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    batch_size: int = 64,
    *,
    template: str = "{}",
    negative_prompt: str = "cartoon, anime, painting",
    image_size: int | None = None,
    eta: float = 0.0,
) -> StableDiffusionPrior:
    """Load a ``StableDiffusionPipeline`` from a folder or hub id, without its safety checker.

    Args:
        template: the prompt of a class; ``{}`` stands for its name. The default is the bare name, as D4M's code feeds
            the raw line of its label file. ImageNet's WordNet ids are replaced by their words.
        negative_prompt: what guidance leads away from (default: D4M's code).
        image_size: pixels a side, a multiple of the auto-encoder's downsampling; None is the size of its training.
        eta: stochasticity of DDIM in [0, 1].

    Raises PriorError where the folder is missing, incomplete or of another kind.
    """
    if "{}" not in template:
        raise PriorError(f"the prompt template {template!r} has no place for the class name: write {{}} into it")
    device = pick_device(device)
    dtype = pick_dtype(dtype, device)
    folder = locate(path, StableDiffusionPipeline, _ACCEPTED, _UNUSED)
    check_folder(folder, _ACCEPTED, _COMPONENTS)
    options = {
        "template": template,
        "negative_prompt": negative_prompt,
        "image_size": image_size,
        "eta": eta,
        "dtype": dtype,
    }
    identity = fingerprint(folder, _COMPONENTS, options)
    unused = dict.fromkeys(_UNUSED)
    pipeline = load_pipeline(
        StableDiffusionPipeline, folder, dtype, device, requires_safety_checker=False, **unused
    )
    factor = downsampling(pipeline.vae)
    if image_size is not None and (image_size < factor or image_size % factor):
        raise PriorError(f"image_size is {image_size}: this pipeline makes images of a multiple of {factor} pixels")
    latent_size = image_size // factor if image_size else pipeline.unet.config.sample_size
    return StableDiffusionPrior(
        pipeline, latent_size, template, negative_prompt, identity, eta, device, batch_size
    )


def _words(class_name: str) -> str:
    if not WORDNET_ID.fullmatch(class_name):
        return class_name
    words = wordnet_words(class_name)
    if words is None:
        raise PriorError(f"the class {class_name!r} is no ImageNet WordNet id: give class names that make a prompt")
    return words
