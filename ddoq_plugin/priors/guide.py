"""Guides: hooks of the denoising loop that shift the latents after each step of the scheduler.

Every tensor of a :class:`GuideStep` is in the variance-preserving scale z_t = sqrt(a_t) x0 + sqrt(1 - a_t) eps, with
the cumulative alpha a_t, whatever scale the scheduler works in. So a guide's formula holds for each of ``GUIDABLE``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import PriorError

if TYPE_CHECKING:
    from diffusers.schedulers import SchedulerMixin
    from torch import Tensor

_PRESERVING = ("DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler", "DEISMultistepScheduler")
_EXPLODING = ("LMSDiscreteScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
GUIDABLE = _PRESERVING + _EXPLODING
"""Schedulers that go on from the latents they are given. The others (PNDM, UniPC, Heun, KDPM2, single-step DPM-Solver)
keep latents of an earlier step, so that a shift would be lost."""

_PREDICTIONS = ("epsilon", "sample", "v_prediction")


@dataclass(frozen=True)
class GuideStep:
    """One step of the denoising loop for a batch of b images, as a guide sees it.

    ``index`` is that of this step among the ``steps`` that run, from 0 (the noisiest); ``time`` the network's time of
    this step; ``alpha_bar`` the cumulative alpha a_t at that time, in (0, 1). ``sigma_t`` is the standard deviation of
    the noise that ancestral sampling adds in this step, whether or not the scheduler adds it (Ho et al., "Denoising
    Diffusion Probabilistic Models", 2020, equation 7; DDIM's at eta = 1). Latents are [b, C, h, w]: ``z_t`` (float32)
    entered the step; ``x0`` are the clean ones predicted under classifier-free guidance, before any clipping by the
    scheduler; ``z_prev`` the scheduler's next ones. ``class_ids`` and ``rows`` are int64 [b] on the CPU; ``rows`` says
    where these images stand in the call of ``generate``."""

    index: int
    steps: int
    time: float
    alpha_bar: float
    sigma_t: float
    z_t: Tensor
    x0: Tensor
    z_prev: Tensor
    class_ids: Tensor
    rows: Tensor


class Guide(ABC):
    """A hook of the denoising loop: called after each scheduler step, it returns what is added to ``z_prev``.

    ``set_wide``: the guide compares images of a class, so every batch holds whole classes; where the memory does not
    hold one, ``generate`` raises PriorError. ``gradients``: autograd is on during the call (it is off otherwise, and
    the tensors of the step never carry a graph)."""

    set_wide: ClassVar[bool] = False
    gradients: ClassVar[bool] = False

    @property
    @abstractmethod
    def key(self) -> dict[str, Any]:
        """Plain data that determines the shifts: a name and every option. It goes into the images' key."""

    @abstractmethod
    def __call__(self, step: GuideStep) -> Tensor | None:
        """Return a shift of ``step.z_prev`` of its shape, or None for no shift."""


@dataclass(frozen=True)
class BatchGuide:
    """A guide and the images of one batch: ``class_ids`` and ``rows``, int64 [b] on the CPU."""

    guide: Guide
    class_ids: Tensor
    rows: Tensor

    def check(self, scheduler: SchedulerMixin) -> None:
        """Raise PriorError where a guide cannot act on ``scheduler`` or its prediction type."""
        name, prediction = type(scheduler).__name__, scheduler.config.get("prediction_type", "epsilon")
        if name not in GUIDABLE:
            raise PriorError(f"the scheduler {name} takes no guide: set scheduler to one of {', '.join(GUIDABLE)}")
        if prediction not in _PREDICTIONS:
            known = ", ".join(_PREDICTIONS)
            raise PriorError(f"the scheduler {name} predicts {prediction!r}: a guide needs one of {known}")

    def shift(
        self, scheduler: SchedulerMixin, times: Tensor, index: int, noisy: Tensor, output: Tensor, after: Tensor
    ) -> Tensor:
        """Return ``after`` (the latents that the scheduler's step returned) with the guide's shift.

        ``noisy`` is the network's input in step ``index`` of ``times``, ``output`` what the network returned."""
        import torch

        alpha, alpha_prev = _alphas(scheduler, times, index)
        scale = alpha_prev**-0.5 if type(scheduler).__name__ in _EXPLODING else 1.0
        step = GuideStep(
            index=index,
            steps=len(times),
            time=float(times[index]),
            alpha_bar=alpha,
            sigma_t=max(0.0, (1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev)) ** 0.5,
            z_t=noisy,
            x0=clean_latents(noisy, output, alpha, scheduler.config.get("prediction_type", "epsilon")),
            z_prev=after if scale == 1.0 else after / scale,
            class_ids=self.class_ids,
            rows=self.rows,
        )
        with torch.set_grad_enabled(self.guide.gradients):
            shift = self.guide(step)
        if shift is None:
            return after
        name = self.guide.key.get("name", type(self.guide).__name__)
        if shift.shape != after.shape:
            raise PriorError(f"the guide {name!r} returned shape {tuple(shift.shape)} for {tuple(after.shape)}")
        if not bool(torch.isfinite(shift).all()):
            raise PriorError(f"the guide {name!r} returned NaN or infinite values at step {index}: lower its scale")
        return after + scale * shift.detach().to(after)


def clean_latents(noisy: Tensor, output: Tensor, alpha_bar: float, prediction: str) -> Tensor:
    """Return x0 for z_t ``noisy`` and the network's ``output`` of kind ``prediction``.

    epsilon: (z - sqrt(1-a) eps) / sqrt(a); v: sqrt(a) z - sqrt(1-a) v (Salimans & Ho, "Progressive Distillation for
    Fast Sampling of Diffusion Models", 2022, appendix D)."""
    signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    if prediction == "sample":
        return output
    if prediction == "v_prediction":
        return signal * noisy - noise * output
    return (noisy - noise * output) / signal


def _alphas(scheduler: SchedulerMixin, times: Tensor, index: int) -> tuple[float, float]:
    # the cumulative alphas at a step, which the scheduler has just made, and at the next; a_t = 1 / (1 + sigma^2)
    if getattr(scheduler, "sigmas", None) is not None:
        now, following = (1 / (1 + scheduler.sigmas[scheduler.step_index + ahead].double() ** 2) for ahead in (-1, 0))
        return float(now), float(following)
    alphas = scheduler.alphas_cumprod
    last = float(getattr(scheduler, "final_alpha_cumprod", 1.0))
    return float(alphas[int(times[index])]), float(alphas[int(times[index + 1])]) if index + 1 < len(times) else last
