"""Optimisers as a protocol describes them."""

import torch
from torch import nn

from .protocol import OptimizerSettings, TrainingNumbers


def make_optimizer(model: nn.Module, settings: OptimizerSettings, numbers: TrainingNumbers) -> torch.optim.Optimizer:
    """Return the optimiser, in PyTorch's fused form.

    Where biases and norms are not decayed, the rule is that of SRe2L's ``get_parameters``: decayed is what has "weight"
    in its name and more than one dimension, so neither are position embeddings, class tokens and bias tables."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = [{"params": list(trained.values()), "weight_decay": numbers.weight_decay}]
    if not settings.decay_biases_and_norms and numbers.weight_decay > 0:
        decayed = {name for name, one in trained.items() if "weight" in name and one.ndim > 1}
        groups = [
            {"params": [trained[name] for name in trained if name in decayed], "weight_decay": numbers.weight_decay},
            {"params": [trained[name] for name in trained if name not in decayed], "weight_decay": 0.0},
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
