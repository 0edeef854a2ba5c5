"""The Stable Diffusion prior: any ``StableDiffusionPipeline``, with prompts made from class names."""

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from ..errors import PriorError
from .autoencoder import downsampling
from .base import pick_device
from .binding import WORDNET_ID, wordnet_words
from .latent import LatentDiffusionPrior
from .pipelines import fingerprint, load_pipeline, locate, pick_dtype
from .speed import arrange

_ACCEPTED = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
_COMPONENTS = {"unet": True, "vae": True, "text_encoder": True, "tokenizer": False, "scheduler": False}
_PROMPTS = 32  # classes whose prompts are embedded at a time: always the same ones together, whatever the batch
# the safety checker blacks images out, which a data set must not silently hold
_UNUSED = dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"))


class StableDiffusionPrior(LatentDiffusionPrior):
    """A text-conditional latent diffusion model (U-Net), epsilon or v-prediction as its scheduler says.

    ``pipeline`` is in memory, ``fingerprint`` its identity; the options are those of ``load_stable_diffusion``."""

    name = "stable_diffusion"

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        fingerprint: str,
        device: torch.device,
        batch_size: int | str,
        *,
        template: str = "{}",
        negative_prompt: str = "cartoon, anime, painting",
        image_size: int | None = None,
        eta: float = 0.0,
        channels_last: bool | None = None,
        **speed: Any,
    ) -> None:
        if "{}" not in template:
            raise PriorError(f"the prompt template {template!r} has no place for the class name: write {{}} into it")
        factor = downsampling(pipeline.vae)
        if image_size is not None and (image_size < factor or image_size % factor):
            raise PriorError(f"image_size is {image_size}: this pipeline makes images of a multiple of {factor} pixels")
        self.pipeline, self.unet = pipeline, pipeline.unet
        size = image_size // factor if image_size else self.unet.config.sample_size
        arrange(self.unet, channels_last)
        speed["channels_last"] = channels_last
        super().__init__(pipeline, self.unet, size, fingerprint, eta, device, batch_size, **speed)
        self.template, self.negative_prompt = template, negative_prompt
        self.prompts: tuple[str, ...] = ()
        self._embedded: dict[tuple[str, ...], Tensor] = {}

    def _match(self, class_names: tuple[str, ...], wordnet_ids: tuple[str, ...] | None) -> None:
        self.prompts = tuple(self.template.replace("{}", _words(name)) for name in class_names)
        self._embedded.clear()

    def _condition(self, class_ids: Tensor, guidance_scale: float) -> Tensor:
        rows = []
        for number in class_ids.tolist():
            place = number % _PROMPTS
            rows.append(self._embed(self.prompts[number - place : number - place + _PROMPTS])[place])
        if guidance_scale > 1:
            rows += [self._embed((self.negative_prompt,))[0]] * len(rows)
        return torch.stack(rows)

    def _embed(self, prompts: tuple[str, ...]) -> Tensor:
        """Return [n, tokens, width], made when first asked for and then kept until other classes are bound."""
        if prompts not in self._embedded:
            self._embedded[prompts] = self.pipeline.encode_prompt(list(prompts), self.device, 1, False)[0]
        return self._embedded[prompts]

    def _predict(self, noisy: Tensor, time: Tensor, condition: Any) -> Tensor:
        return self._call(noisy, time, encoder_hidden_states=condition).sample

    def _branch_bytes(self) -> int:
        # at the full resolution: the attention blocks' input, its projections and the eight times wider gated MLP
        width = self.unet.config.block_out_channels[0]
        return 20 * width * self.latent_shape[-1] ** 2 * self._denoiser_dtype.itemsize


wrap_stable_diffusion = StableDiffusionPrior


def load_stable_diffusion(
    path: str | Path,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    batch_size: int | str = "auto",
    *,
    template: str = "{}",
    negative_prompt: str = "cartoon, anime, painting",
    image_size: int | None = None,
    eta: float = 0.0,
    channels_last: bool | None = None,
    tiling: bool | None = None,
    compile: bool = False,
) -> StableDiffusionPrior:
    """Load a ``StableDiffusionPipeline`` from a folder or hub id, without its safety checker.

    ``template`` is the prompt of a class; ``{}`` stands for its name. The default is the bare name, as D4M's code feeds
    the raw line of its label file. ImageNet's WordNet ids are replaced by their words. ``negative_prompt`` is what
    guidance leads away from (default: D4M's code). ``image_size`` (pixels a side) is a multiple of the auto-encoder's
    downsampling; None is the size of its training. ``eta`` is the stochasticity of DDIM in [0, 1]. ``channels_last``,
    ``tiling`` and ``compile`` are as for ``load_dit``. Raises PriorError where the folder is missing, incomplete or of
    another kind."""
    device = pick_device(device)
    dtype = pick_dtype(dtype, device)
    folder, _ = locate(path, StableDiffusionPipeline, _ACCEPTED, _COMPONENTS, _UNUSED)
    options: dict[str, Any] = {"template": template, "negative_prompt": negative_prompt}
    options |= {"image_size": image_size, "eta": eta}
    identity = fingerprint(folder, _COMPONENTS, dtype, tiling, **options)
    pipeline = load_pipeline(StableDiffusionPipeline, folder, dtype, device, requires_safety_checker=False, **_UNUSED)
    options |= {"channels_last": channels_last, "tiling": tiling, "compile": compile}
    return StableDiffusionPrior(pipeline, identity, device, batch_size, **options)


def _words(class_name: str) -> str:
    if not WORDNET_ID.fullmatch(class_name):
        return class_name
    words = wordnet_words(class_name)
    if words is None:
        raise PriorError(f"the class {class_name!r} is no ImageNet WordNet id: give class names that make a prompt")
    return words
