"""Weighted losses of single images: w_i * loss_i, with the stored weights (mean 1 per class), never renormalised.

Weights enter by multiplication and a mix of equal weights is formed so that it is exactly that weight: equal weights
of 1 give the plain mean loss bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .protocol import Loss


def mix_weights(weights: Tensor, partners: Tensor, lam: Tensor | float) -> Tensor:
    """Return the weights of mixed images: lam * w_i + (1 - lam) * w_j.

    Linear interpolation from the difference, which is exactly w where the two are equal."""
    return torch.lerp(partners, weights, lam)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the per-image cross-entropy [B] of ``logits`` [B, C] against class labels int64 [B]."""
    return F.cross_entropy(logits, labels, reduction="none")


def kl_to_teacher(logits: Tensor, teacher_logits: Tensor, temperature: float, *, scale: bool = False) -> Tensor:
    """Return the per-image KL(softmax(teacher / T) || softmax(student / T)), summed over classes, [B].

    Divided by B this is the ``batchmean`` form of SRe2L/FKD, D4M and RDED, which leave out the factor T^2 of Hinton
    et al. 2015; ``scale`` puts it in."""
    target = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    losses = F.kl_div(F.log_softmax(logits / temperature, dim=1), target, reduction="none", log_target=True).sum(1)
    return losses * temperature**2 if scale else losses


def half_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the per-image 1/2 ||output - target||^2 [B], summed over classes: the loss of FRePo (Zhou et al. 2022)."""
    return 0.5 * (outputs - targets.float()).square().sum(1)


def mix_losses(losses: Tensor, partners: Tensor, lam: float) -> Tensor:
    """Return lam * loss_i + (1 - lam) * loss_j [B]: one prediction against the labels of both images of a mix."""
    return lam * losses + (1 - lam) * partners


@dataclass(frozen=True)
class Targets:
    """What an image should be answered with: labels int64 [n], weights float32 [n], stored float [n, C] or None.

    ``stored`` are logits for the loss ``kl`` and values for the loss ``mse``; None trains on the labels."""

    labels: Tensor
    weights: Tensor
    stored: Tensor | None = None

    def to(self, device: torch.device) -> Targets:
        """Return the targets on ``device``."""
        stored = None if self.stored is None else self.stored.to(device)
        return Targets(self.labels.to(device), self.weights.to(device), stored)


def own_losses(outputs: Tensor, targets: Targets, rows: Tensor, loss: Loss) -> Tensor:
    """Return the loss [B] of each output against its own image's label or stored target (``rows`` int64 [B])."""
    if targets.stored is None:
        return cross_entropy(outputs, targets.labels.index_select(0, rows))
    own = targets.stored.index_select(0, rows)
    if loss.name == "mse":
        return half_squares(outputs, own)
    return kl_to_teacher(outputs, own, loss.temperature, scale=loss.scale_by_temperature_squared)


def batch_losses(
    outputs: Tensor,
    targets: Targets,
    rows: Tensor,
    partner_rows: Tensor | None,
    lam: float,
    teacher_logits: Tensor | None,
    loss: Loss,
) -> Tensor:
    """Return the weighted losses [B] of a batch.

    With ``teacher_logits`` [B, C], labels of the very images the student saw, that is their KL times the mixed weight
    lam w_i + (1 - lam) w_j. Otherwise each image has its own label, and a mixed batch has the weighted risk of both:
    lam w_i loss_i + (1 - lam) w_j loss_j."""
    weights = targets.weights.index_select(0, rows)
    mixed = lam < 1 and partner_rows is not None
    partners = targets.weights.index_select(0, partner_rows) if mixed else weights
    if teacher_logits is not None:
        losses = kl_to_teacher(outputs, teacher_logits, loss.temperature, scale=loss.scale_by_temperature_squared)
        return losses * mix_weights(weights, partners, weights.new_tensor(lam))
    losses = weights * own_losses(outputs, targets, rows, loss)
    if not mixed:
        return losses
    return mix_losses(losses, partners * own_losses(outputs, targets, partner_rows, loss), lam)
