"""What the latent diffusion priors share: the auto-encoder, noising, guidance and inversion."""

from __future__ import annotations

from abc import abstractmethod

import torch
from diffusers import AutoencoderKL
from diffusers.schedulers import SchedulerMixin
from torch import Tensor

from ..errors import PriorError
from .base import Prior
from .sampling import (
    Predict,
    check_steps,
    ddim_pair,
    denoise,
    guided,
    invert,
    make_scheduler,
    noised_start,
)


class LatentDiffusionPrior(Prior):
    """A prior of an ``AutoencoderKL``, a class-conditional noise predictor and a diffusers scheduler.

    Latents are kept in float32 between the networks, whatever the dtype of the weights. ``eta`` in [0, 1] is the
    stochasticity of DDIM (0: deterministic); other schedulers have none.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        scheduler: SchedulerMixin,
        latent_channels: int,
        latent_size: int,
        eta: float,
        device: torch.device,
        batch_size: int,
    ) -> None:
        super().__init__(device, batch_size)
        if not 0 <= eta <= 1:
            raise PriorError(f"eta is {eta}: give a number from 0 (deterministic) to 1")
        if vae.config.latent_channels != latent_channels:
            raise PriorError(
                f"the auto-encoder has {vae.config.latent_channels} latent channels and the denoiser takes "
                f"{latent_channels}: this prior needs a pipeline where they agree (not an inpainting one)"
            )
        self.vae, self.scheduler, self.eta = vae, scheduler, eta
        self.latent_shape = (latent_channels, latent_size, latent_size)
        self.image_size = latent_size * downsampling(vae)

    @abstractmethod
    def _condition(self, class_ids: Tensor, guidance_scale: float) -> object:
        """Return what :meth:`_predict` needs to know of the classes of a batch, with the null class behind them where
        ``guidance_scale`` is above 1."""

    @abstractmethod
    def _predict(self, noisy: Tensor, time: Tensor, condition: object) -> Tensor:
        """Return the model output (without a learned variance) for latents in the dtype of the denoiser."""

    @property
    @abstractmethod
    def _denoiser_dtype(self) -> torch.dtype: ...

    def _encode(self, images: Tensor, generators: list[torch.Generator] | None) -> Tensor:
        posterior = self.vae.encode((images * 2 - 1).to(self.vae.dtype)).latent_dist
        latents = posterior.mode().float()
        if generators is not None:
            latents = latents + posterior.std.float() * self._noise(generators)
        return latents * self.vae.config.scaling_factor

    def _decode(self, latents: Tensor) -> Tensor:
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        return self.vae.decode(scaled).sample.float() / 2 + 0.5

    def _begin(
        self, space: str, strength: float, steps: int, scheduler: str | None, guidance_scale: float
    ) -> None:
        check_steps(steps, strength if space == "latent" else 1.0, make_scheduler(self.scheduler, scheduler))

    def _denoise(
        self,
        latents: Tensor,
        class_ids: Tensor,
        generators: list[torch.Generator],
        *,
        space: str,
        strength: float,
        guidance_scale: float,
        steps: int,
        scheduler: str | None,
    ) -> Tensor:
        if space == "noise":
            sampler = make_scheduler(self.scheduler, scheduler) if scheduler else ddim_pair(self.scheduler)[0]
            sampler.set_timesteps(steps)
            start, times = latents * sampler.init_noise_sigma, sampler.timesteps
        else:
            sampler = make_scheduler(self.scheduler, scheduler)
            start, times = noised_start(sampler, latents, self._noise(generators), steps, strength)
        predict = self._predictor(class_ids, guidance_scale)
        return denoise(predict, sampler, start, times, generators, self.eta)

    def _invert(self, latents: Tensor, class_ids: Tensor, steps: int) -> Tensor:
        return invert(self._predictor(class_ids, 1.0), ddim_pair(self.scheduler)[1], latents, steps)

    def _predictor(self, class_ids: Tensor, guidance_scale: float) -> Predict:
        condition = self._condition(class_ids, guidance_scale)
        dtype = self._denoiser_dtype

        def predict(noisy: Tensor, time: Tensor) -> Tensor:
            if guidance_scale <= 1:
                return self._predict(noisy.to(dtype), time, condition).float()
            both = self._predict(torch.cat([noisy, noisy]).to(dtype), time, condition).float()
            return guided(*both.chunk(2), guidance_scale)

        return predict

    def _noise(self, generators: list[torch.Generator]) -> Tensor:
        return torch.stack([torch.randn(self.latent_shape, generator=own) for own in generators]).to(self.device)


def downsampling(vae: AutoencoderKL) -> int:
    """Return the side of an image over the side of its latent."""
    return 2 ** (len(vae.config.block_out_channels) - 1)
