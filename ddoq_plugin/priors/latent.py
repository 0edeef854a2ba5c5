"""What the latent diffusion priors share: noising, guidance and inversion over an auto-encoder's latents."""

from abc import abstractmethod
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from torch import Tensor

from ..errors import PriorError
from .autoencoder import AutoencoderPrior
from .guide import BatchGuide
from .sampling import Course, Predict, ddim_pair, denoise, invert, make_scheduler, partial_course, whole_course
from .speed import Compiled


class LatentDiffusionPrior(AutoencoderPrior):
    """A prior of an ``AutoencoderKL``, a class-conditional noise predictor and a diffusers scheduler.

    Latents are kept in float32 between the networks, whatever the dtype of the weights. ``eta`` in [0, 1] is the
    stochasticity of DDIM (0: deterministic); other schedulers have none. With guidance above 1 the conditional and the
    null branch are one forward pass; at 1 there is no null branch. ``layout`` are the auto-encoder's ``channels_last``
    and ``tiling``."""

    can_denoise = True

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        denoiser: ModelMixin,
        latent_size: int,
        fingerprint: str,
        eta: float,
        device: torch.device,
        batch_size: int | str,
        *,
        compile: bool = False,
        **layout: bool | None,
    ) -> None:
        vae, channels = pipeline.vae, denoiser.config.in_channels
        if not 0 <= eta <= 1:
            raise PriorError(f"eta is {eta}: give a number from 0 (deterministic) to 1")
        if vae.config.latent_channels != channels:
            raise PriorError(
                f"the auto-encoder has {vae.config.latent_channels} latent channels and the denoiser takes {channels}: "
                "this prior needs a pipeline where they agree (not an inpainting one)"
            )
        super().__init__(vae, latent_size, device, batch_size, **layout)
        self.scheduler, self.fingerprint, self.eta = pipeline.scheduler, fingerprint, eta
        self._denoiser_dtype = denoiser.dtype
        self._call = Compiled(denoiser) if compile else denoiser

    @abstractmethod
    def _condition(self, class_ids: Tensor, guidance_scale: float) -> object:
        """Return what :meth:`_predict` needs to know of a batch's classes, the null class behind them for guidance."""

    @abstractmethod
    def _predict(self, noisy: Tensor, time: Tensor, condition: object) -> Tensor:
        """Return the model output (without a learned variance) for latents in the dtype of the denoiser."""

    @abstractmethod
    def _branch_bytes(self) -> int:
        """Estimate the working memory of the denoiser for one image and one branch of guidance."""

    def _image_bytes(self, stage: str) -> int:
        return 2 * self._branch_bytes() if stage == "denoise" else super()._image_bytes(stage)

    def _begin(self, space: str, strength: float, steps: int, scheduler: str | None, guidance_scale: float) -> Course:
        sampler = make_scheduler(self.scheduler, scheduler)
        if space == "latent":
            return partial_course(sampler, steps, strength)
        return whole_course(sampler if scheduler else ddim_pair(self.scheduler)[0], steps)

    def _begin_inversion(self, steps: int) -> Course:
        return whole_course(ddim_pair(self.scheduler)[1], steps)

    def _denoise(
        self,
        latents: Tensor,
        class_ids: Tensor,
        generators: list[torch.Generator],
        begun: Any,
        guidance_scale: float,
        guide: BatchGuide | None,
    ) -> Tensor:
        predict = self._predictor(class_ids, guidance_scale)
        return denoise(predict, begun, latents, lambda: self._noise(generators), generators, self.eta, guide)

    def _invert(self, latents: Tensor, class_ids: Tensor, begun: Any) -> Tensor:
        return invert(self._predictor(class_ids, 1.0), begun, latents)

    def _predictor(self, class_ids: Tensor, guidance_scale: float) -> Predict:
        condition = self._condition(class_ids, guidance_scale)

        def predict(noisy: Tensor, time: Tensor) -> Tensor:
            noisy = noisy.to(self._denoiser_dtype)
            if guidance_scale <= 1:
                return self._predict(noisy, time, condition).float()
            conditional, null = self._predict(torch.cat([noisy, noisy]), time, condition).float().chunk(2)
            # classifier-free guidance (Ho & Salimans, "Classifier-Free Diffusion Guidance", 2022)
            return null + guidance_scale * (conditional - null)

        return predict
