"""Samplers: schedulers by name, the denoising loop and DDIM inversion. Works with any noise predictor."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import diffusers
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from diffusers.schedulers import KarrasDiffusionSchedulers, SchedulerMixin
from torch import Tensor

from ..errors import PriorError, nearest
from .guide import BatchGuide

# DPMSolverSDE draws the noise of a whole batch from one stream; EDMEuler is for networks with EDM's preconditioning
_UNFIT = ("DPMSolverSDEScheduler", "EDMEulerScheduler")
SCHEDULERS = tuple(kind.name for kind in KarrasDiffusionSchedulers if kind.name not in _UNFIT)

ALL_TIMES = 0.99  # of the times of the training: from here on a scheduler is tried before it is used

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
    # the inverse knows two spacings, and DDIM's own step assumes evenly spaced times
    known = spacing if spacing in ("leading", "trailing") else "leading"
    changes = {"clip_sample": False, "timestep_spacing": known}
    inverse = DDIMInverseScheduler.from_config(own.config, **changes)
    return DDIMScheduler.from_config(own.config, thresholding=False, **changes), inverse


def _check_steps(steps: int, strength: float, scheduler: SchedulerMixin) -> None:
    most = scheduler.config.num_train_timesteps
    if not 1 <= steps <= most:
        raise PriorError(f"steps is {steps}: give a number from 1 to {most}, the times that the prior was trained on")
    if int(steps * strength) < 1:
        mend = "give more steps, a higher strength, or strength 0 to decode only"
        raise PriorError(f"strength {strength} of {steps} steps runs no step: {mend}")


@dataclass(frozen=True)
class Course:
    """The times of one call and a scheduler that is set to them. Each batch runs on its own copy: schedulers of several
    steps remember earlier predictions. ``from_noise``: it starts from noise itself, not from noised latents."""

    scheduler: SchedulerMixin
    times: Tensor
    from_noise: bool


def partial_course(scheduler: SchedulerMixin, steps: int, strength: float) -> Course:
    """Return the course of the last ``strength`` of ``steps``; PriorError as for :func:`whole_course`.

    The rounding is that of diffusers' ``StableDiffusionImg2ImgPipeline.get_timesteps``: int(steps * strength) steps."""
    _check_steps(steps, strength, scheduler)
    if int(steps * strength) < steps and scheduler.config.get("skip_prk_steps") is False:
        # PNDM's first steps are of another kind, and a course that skips them takes its later ones for them
        scheduler = type(scheduler).from_config(scheduler.config, skip_prk_steps=True)
    scheduler = _set(scheduler, steps)
    skipped = (steps - min(int(steps * strength), steps)) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    return _finite(Course(scheduler, scheduler.timesteps[skipped:], from_noise=False), steps)


def whole_course(scheduler: SchedulerMixin, steps: int) -> Course:
    """Return the course of all ``steps``, from noise. PriorError where ``steps`` is out of range or none runs."""
    _check_steps(steps, 1.0, scheduler)
    scheduler = _set(scheduler, steps)
    return _finite(Course(scheduler, scheduler.timesteps, from_noise=True), steps)


def _set(scheduler: SchedulerMixin, steps: int) -> SchedulerMixin:
    """Return the scheduler set to ``steps``; an offset that would lead beyond the times of the training is left out."""
    scheduler.set_timesteps(steps)
    if float(max(scheduler.timesteps)) > scheduler.config.num_train_timesteps - 1:
        scheduler = type(scheduler).from_config(scheduler.config, steps_offset=0)
        scheduler.set_timesteps(steps)
    return scheduler


def _finite(course: Course, steps: int) -> Course:
    """Return the course; PriorError where its scheduler itself gives no numbers, as some do at nearly all times."""
    if steps < ALL_TIMES * course.scheduler.config.num_train_timesteps:
        return course
    name, point = type(course.scheduler).__name__, torch.zeros(1, 1, 1, 1)
    try:
        made = denoise(lambda noisy, time: noisy, course, point, lambda: point + 1, [torch.Generator()], 0.0)
    except (IndexError, ValueError, TypeError):  # what a full pass cannot do either is said there
        return course
    if not bool(torch.isfinite(made).all()):
        raise PriorError(f"{name} gives no finite values in {steps} steps: take fewer steps or another scheduler")
    return course


def denoise(
    predict: Predict,
    course: Course,
    latents: Tensor,
    noise: Callable[[], Tensor],
    generators: list[torch.Generator],
    eta: float,
    guide: BatchGuide | None = None,
) -> Tensor:
    """Run ``course`` from ``latents`` with ``noise()``; later noise is each image's generator's too."""
    scheduler = copy.deepcopy(course.scheduler)
    if guide is not None:
        guide.check(scheduler)
    if course.from_noise:
        latents = latents * scheduler.init_noise_sigma
    else:
        latents = scheduler.add_noise(latents, noise(), course.times[:1].expand(len(latents)))
    accepted = inspect.signature(scheduler.step).parameters
    extra = {key: value for key, value in (("generator", generators), ("eta", eta)) if key in accepted}
    for index, time in enumerate(course.times):
        noisy = scheduler.scale_model_input(latents, time)
        output = predict(noisy, time)
        latents = scheduler.step(output, time, latents, **extra, return_dict=False)[0]
        if guide is not None:
            latents = guide.shift(scheduler, course.times, index, noisy, output, latents)
    return latents


def invert(predict: Predict, course: Course, latents: Tensor) -> Tensor:
    """Run DDIM backwards from clean ``latents`` to the noise of the full time, over the inverse scheduler's course."""
    inverse = copy.deepcopy(course.scheduler)
    for time in course.times:
        latents = inverse.step(predict(latents, time), time, latents, return_dict=False)[0]
    return latents
