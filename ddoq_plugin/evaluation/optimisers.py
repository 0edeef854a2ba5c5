"""Optimisers as a protocol describes them."""

import torch
from torch import nn

from .protocol import OptimizerSettings, TrainingNumbers


def make_optimizer(model: nn.Module, settings: OptimizerSettings, numbers: TrainingNumbers) -> torch.optim.Optimizer:
    """Return the optimiser, in PyTorch's fused form.

    Where biases and norms are not decayed, these are the parameters of at most one dimension (SRe2L's
    ``get_parameters`` finds the same ones by module type)."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [{"params": trained, "weight_decay": numbers.weight_decay}]
    if not settings.decay_biases_and_norms and numbers.weight_decay > 0:
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": numbers.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
    groups = [group for group in groups if group["params"]]
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=numbers.lr, momentum=settings.momentum, fused=True)
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=numbers.lr, betas=settings.betas, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
