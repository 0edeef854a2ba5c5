"""Samplers: schedulers by name, the denoising loop and DDIM inversion. Works with any noise predictor."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import diffusers
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from diffusers.schedulers import KarrasDiffusionSchedulers, SchedulerMixin
from torch import Tensor

from ..errors import PriorError, nearest

# DPMSolverSDE draws the noise of a whole batch from one stream; EDMEuler is for networks with EDM's preconditioning
_UNFIT = ("DPMSolverSDEScheduler", "EDMEulerScheduler")
SCHEDULERS = tuple(kind.name for kind in KarrasDiffusionSchedulers if kind.name not in _UNFIT)

Predict = Callable[[Tensor, Tensor], Tensor]
"""(noisy latents [b, ...], time) -> the model output that the scheduler's ``prediction_type`` names."""


def make_scheduler(own: SchedulerMixin, name: str | None) -> SchedulerMixin:
    """Return a fresh scheduler of class ``name`` (None: of ``own``'s class) with ``own``'s noise schedule."""
    if name is None:
        return type(own).from_config(own.config)
    if name not in SCHEDULERS:
        raise PriorError(f"unknown scheduler {name!r}{nearest(name, SCHEDULERS)} (known: {', '.join(SCHEDULERS)})")
    return getattr(diffusers, name).from_config(own.config)


def ddim_pair(own: SchedulerMixin) -> tuple[DDIMScheduler, DDIMInverseScheduler]:
    """Return DDIM and its inverse on the same times, with ``own``'s noise schedule and without clipping."""
    spacing = own.config.get("timestep_spacing", "leading")
    changes = {
        "clip_sample": False,
        # the inverse knows two spacings, and DDIM's own step assumes evenly spaced times
        "timestep_spacing": spacing if spacing in ("leading", "trailing") else "leading",
    }
    inverse = DDIMInverseScheduler.from_config(own.config, **changes)
    return DDIMScheduler.from_config(own.config, thresholding=False, **changes), inverse


def check_steps(steps: int, strength: float, scheduler: SchedulerMixin) -> None:
    """Raise PriorError where ``steps`` is out of range or ``strength`` of it runs none."""
    most = scheduler.config.num_train_timesteps
    if not 1 <= steps <= most:
        raise PriorError(f"steps is {steps}: give a number from 1 to {most}, the times that the prior was trained on")
    if int(steps * strength) < 1:
        raise PriorError(
            f"strength {strength} of {steps} steps runs no step: give more steps, a higher strength, or strength 0 to "
            "decode only"
        )


def noised_start(
    scheduler: SchedulerMixin, latents: Tensor, noise: Tensor, steps: int, strength: float
) -> tuple[Tensor, Tensor]:
    """Noise ``latents`` to where the last ``strength`` of ``steps`` begins; return them and the times that are left.

    The rounding is that of diffusers' ``StableDiffusionImg2ImgPipeline.get_timesteps``: int(steps * strength) steps.
    """
    scheduler.set_timesteps(steps)
    skipped = (steps - min(int(steps * strength), steps)) * scheduler.order
    times = scheduler.timesteps[skipped:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    return scheduler.add_noise(latents, noise, times[:1].expand(len(latents))), times


def denoise(
    predict: Predict,
    scheduler: SchedulerMixin,
    latents: Tensor,
    times: Tensor,
    generators: list[torch.Generator],
    eta: float,
) -> Tensor:
    """Run ``scheduler`` over ``times``. A stochastic one takes each image's noise from its own generator."""
    accepted = inspect.signature(scheduler.step).parameters
    extra = {"generator": generators, "eta": eta}
    extra = {key: value for key, value in extra.items() if key in accepted}
    for time in times:
        output = predict(scheduler.scale_model_input(latents, time), time)
        latents = scheduler.step(output, time, latents, **extra, return_dict=False)[0]
    return latents


def invert(predict: Predict, inverse: DDIMInverseScheduler, latents: Tensor, steps: int) -> Tensor:
    """Run DDIM backwards from clean ``latents`` to the noise of the full time."""
    inverse.set_timesteps(steps)
    for time in inverse.timesteps:
        latents = inverse.step(predict(latents, time), time, latents, return_dict=False)[0]
    return latents


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: u + scale * (c - u) (Ho & Salimans, "Classifier-Free Diffusion Guidance", 2022)."""
    return unconditional + scale * (conditional - unconditional)
