"""Top-1 and top-5 accuracy of a model on a split."""

from dataclasses import dataclass

import torch
from torch import nn

from ..data.base import Split
from .eval_cache import cropped_batches
from .inputs import ImageSpace
from .protocol import Scoring
from .runtime import Runtime, forward


@dataclass(frozen=True)
class Scores:
    """Accuracies in percent (0 to 100). With fewer than five classes top-5 counts all of them."""

    top1: float
    top5: float


@torch.inference_mode()
def score(
    model: nn.Module,
    split: Split,
    *,
    normaliser: ImageSpace,
    image_size: int,
    scoring: Scoring,
    running: Runtime | None = None,
    device: str | torch.device = "cpu",
) -> Scores:
    """Return the accuracy of ``model`` (in eval mode for the time) on ``split``."""
    was_training, running = model.training, running or Runtime()
    model.eval()
    hits1 = hits5 = torch.zeros((), dtype=torch.int64, device=device)
    for images, labels in cropped_batches(split, scoring, image_size):
        batch = normaliser(images.to(device))
        logits, target = forward(model, batch, running), labels.to(device)[:, None]
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == target
        hits1, hits5 = hits1 + ranked[:, 0].sum(), hits5 + ranked.sum()
    model.train(was_training)
    return Scores(100 * hits1.item() / len(split), 100 * hits5.item() / len(split))
