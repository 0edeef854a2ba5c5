"""Numbers of every training image from one training: how it is learnt, and whether it is forgotten again."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.base import Split
from ..seeding import generator
from .inputs import Normaliser

BATCH, SCORED = 64, 512
KINDS = ("loss_early", "loss_late", "forgetting", "el2n")


def training_scores(
    model: nn.Module, split: Split, normaliser: Normaliser, *, epochs: int, seed: int, device: str
) -> dict[str, Tensor]:
    """Train ``model`` in place on all images of ``split`` and return float32 ``[N]`` scores of each kind.

    After every epoch all images are scored once, without augmentation. ``loss_early``: mean cross-entropy of the first
    fifth of the epochs; ``loss_late``: of the last. ``forgetting``: how often an image that was classified correctly
    no longer is; one that never was counts ``epochs + 1`` (Toneva et al., "An Empirical Study of Example Forgetting",
    ICLR 2019). ``el2n``: norm of softmax less one-hot, mean of the first fifth of the epochs (Paul et al., "Deep
    Learning on a Data Diet", NeurIPS 2021, who average over networks). Training is ours: AdamW at 1e-3, weight decay
    0.01, cosine, batches of 64."""
    labels = split.labels.to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    steps = epochs * math.ceil(len(split) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    losses, norms, correct = [], [], []
    for epoch in range(epochs):
        model.train()
        for rows in torch.randperm(len(split), generator=generator("dynamics", seed, epoch)).split(BATCH):
            loss = F.cross_entropy(model(normaliser(split.images(rows).to(device))), labels[rows.to(device)])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
        logits = torch.cat(list(_logits(model, split, normaliser, device)))
        losses.append(F.cross_entropy(logits, labels, reduction="none"))
        norms.append((logits.softmax(1) - F.one_hot(labels, logits.shape[1])).norm(dim=1))
        correct.append(logits.argmax(1) == labels)
    early = max(1, epochs // 5)
    return {
        "loss_early": torch.stack(losses[:early]).mean(0).float().cpu(),
        "loss_late": losses[-1].float().cpu(),
        "forgetting": forgetting(torch.stack(correct)).cpu(),
        "el2n": torch.stack(norms[:early]).mean(0).float().cpu(),
    }


def forgetting(correct: Tensor) -> Tensor:
    """Return how often each image was forgotten, float32 ``[N]``, from bool ``[epochs, N]``: right, then wrong."""
    events = (correct[:-1] & ~correct[1:]).sum(0).float()
    return torch.where(correct.any(0), events, torch.full_like(events, len(correct) + 1))


@torch.no_grad()
def _logits(model: nn.Module, split: Split, normaliser: Normaliser, device: str) -> Iterator[Tensor]:
    model.eval()
    for images, _ in split.batches(SCORED):
        yield model(normaliser(images.to(device))).float()
