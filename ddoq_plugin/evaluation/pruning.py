"""Soft labels cut to their k largest logits, for banks of many classes.

ImageNet-1K's 1000 float16 logits are 2 kB an image and step; of k = 20 and their classes 82 bytes are left. What is
stored beside them keeps each label a distribution: the other classes share what they had together, evenly."""

import torch
from torch import Tensor


def prune(logits: Tensor, k: int, temperature: float) -> dict[str, Tensor]:
    """Return the parts of ``logits`` float32 [..., C] that are stored, for a loss at ``temperature`` T.

    logits: float16 [..., k], the largest. classes: int16 or int32 [..., k], theirs. rest: float16 [...], the one logit
    r of every other class, for which their probability at T is together what it was:
    r = T (log sum_rest exp(z / T) - log(C - k)). With k = C nothing is lost and r is 0.

    The label's total variation from the whole one is then at most that probability, which is what was cut."""
    classes = logits.shape[-1]
    top = logits.topk(min(k, classes), dim=-1)
    rest = torch.zeros(logits.shape[:-1])
    if k < classes:
        others = logits.scatter(-1, top.indices, -torch.inf)
        rest = temperature * ((others / temperature).logsumexp(-1) - torch.tensor(float(classes - k)).log())
    kind = torch.int16 if classes <= torch.iinfo(torch.int16).max else torch.int32
    return {"logits": top.values.half(), "classes": top.indices.to(kind), "rest": rest.half()}


def restore(logits: Tensor, classes: Tensor, rest: Tensor, num_classes: int) -> Tensor:
    """Return float16 [..., C] from the parts that ``prune`` made."""
    whole = rest[..., None].expand(*rest.shape, num_classes).clone()
    return whole.scatter_(-1, classes.long(), logits)
