"""A training loop that can be killed at any moment and gives the same bits when it is run again."""

import functools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from ..errors import PriorError
from ..progress import bar
from ..seeding import generator
from ..store.checkpoints import load_checkpoint, save_checkpoint
from .recipe import AutoencoderRecipe, DenoiserRecipe


def train_resumably(
    name: str,
    step: Callable[[int], torch.Tensor],
    modules: Mapping[str, nn.Module],
    settings: AutoencoderRecipe | DenoiserRecipe,
    checkpoint: Path,
    *,
    after_step: Callable[[int], None] = lambda _: None,
    checkpoint_seconds: float,
    progress: bool,
) -> float:
    """Minimise ``step(t)`` for t = 0 .. steps - 1 and return the seconds spent on it, earlier runs included.

    AdamW, set by ``settings``, trains the first of ``modules``. ``step`` must depend on nothing but t and the modules:
    its random numbers come from generators named by t, so that the file ``checkpoint`` (modules, optimizer, t) is all
    that a later run needs to go on as if nothing had happened. The file is replaced atomically, at least every
    ``checkpoint_seconds``, and once more at the end. PriorError for a loss that is NaN or infinite then."""
    trained, steps = next(iter(modules.values())).parameters(), settings.steps
    optimizer = torch.optim.AdamW(trained, settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    rates = warmup_cosine(settings.learning_rate, steps, settings.warmup)
    start, before = 0, 0.0
    if state := load_checkpoint(checkpoint):
        for key, module in modules.items():
            module.load_state_dict(state["modules"][key])
        optimizer.load_state_dict(state["optimizer"])
        start, before = state["step"], state["seconds"]
    begun = saved = time.monotonic()
    with bar(steps, name, show=progress, initial=start) as shown:
        for t in range(start, steps):
            optimizer.param_groups[0]["lr"] = rates(t)
            loss = step(t)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            after_step(t)
            shown.update(1)
            now = time.monotonic()
            if now - saved >= checkpoint_seconds or t == steps - 1:
                if not math.isfinite(value := loss.item()):
                    raise PriorError(f"{name}: the loss is {value} at step {t + 1}: lower learning_rate in the recipe")
                shown.set_postfix(loss=f"{value:.4f}")
                states = {key: module.state_dict() for key, module in modules.items()}
                done = {"step": t + 1, "seconds": before + now - begun}
                save_checkpoint(checkpoint, {**done, "modules": states, "optimizer": optimizer.state_dict()})
                saved = now
    return before + time.monotonic() - begun if start < steps else before


def warmup_cosine(peak: float, steps: int, warmup: float) -> Callable[[int], float]:
    """Return the rate of step t: linear to ``peak`` over ``warmup`` of the steps, then a cosine to zero."""
    rising = max(1, round(warmup * steps))

    def rate(t: int) -> float:
        if t < rising:
            return peak * (t + 1) / rising
        return peak * 0.5 * (1 + math.cos(math.pi * (t - rising + 1) / (steps - rising + 1)))

    return rate


def batch_indices(total: int, batch_size: int, step: int, seed: int) -> torch.Tensor:
    """Return the int64 indices of step ``step``: whole batches of a fresh permutation in each pass over the data."""
    batch_size = min(batch_size, total)
    epoch, place = divmod(step, total // batch_size)
    return _permutation(total, seed, epoch)[place * batch_size : (place + 1) * batch_size]


@functools.lru_cache(maxsize=2)
def _permutation(total: int, seed: int, epoch: int) -> torch.Tensor:
    return torch.randperm(total, generator=generator("prior batches", seed, epoch))
