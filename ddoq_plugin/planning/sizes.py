"""Bytes on disk and in memory, by the formulae of the code that writes and holds them; and numbers for people.

Memory is what one worker holds at its peak beside memory-mapped files; see the classes named at each function."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .rates import load_rates

if TYPE_CHECKING:
    from ..evaluation import Protocol
    from .model_facts import PriorCard, StudentCard

FLOAT16, FLOAT32 = 2, 4
BANK_PLAN = 4 + 16 + 1 + 4  # bytes a labelled image beside its logits: index, box, flip, partner
BANK_SHARD = 256 << 20  # evaluation/soft_labels.py, SHARD_BYTES
FLOAT_BUDGET = 2 << 30  # evaluation/inputs.py: sets up to this size are also kept normalised
GPU_BATCH = 256  # images of a batch that lie in main memory as floats, coming or going; priors/batching.py
_SCALES = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3}


def pixels(count: int, size: int) -> int:
    """Return the bytes of ``count`` uint8 RGB images of ``size`` pixels a side."""
    return count * 3 * size**2


def bank_disk(images: int, classes: int, top_k: int | None = None) -> int:
    """Bytes of a bank of soft labels: the teacher's logits in float16 and the plan of each labelled image.

    With ``top_k``, that many logits, their classes and the one logit of the rest (``evaluation/pruning.py``)."""
    if top_k is None:
        return images * (classes * FLOAT16 + BANK_PLAN)
    number = 2 if classes < 2**15 else 4
    return images * (min(top_k, classes) * (FLOAT16 + number) + FLOAT16 + BANK_PLAN)


def process() -> int:
    """Bytes of a worker that has imported torch and diffusers."""
    return round(load_rates().process_gb * 1e9)


def set_memory(count: int, stored: int, protocol: Protocol, image_size: int) -> tuple[int, int]:
    """Bytes of a set in main memory on its way to a training's device, and as it is held there.

    Held: uint8 at the size that is cut, and floats where they are few (``Inputs``). On its way: twice while it is
    resized (``fit_size``)."""
    from ..evaluation.inputs import source_size

    source = source_size(stored, protocol.augmentation, image_size, protocol.scoring.zoom(image_size))
    whole = pixels(count, source)
    held = whole + (FLOAT32 * whole if FLOAT32 * whole <= FLOAT_BUDGET else 0)
    return max(held, (2 if source != stored else 1) * whole), held


def step_memory(facts: StudentCard, batch: int, accumulation: int, *, half: bool) -> int:
    """A step: weights, gradients and two moments in float32, and the activations of a part of the batch."""
    activations = facts.activation_bytes // (2 if half else 1)
    return 4 * FLOAT32 * facts.parameters + activations * -(-batch // accumulation)


def batch_memory(prior: PriorCard, *, gpu: bool) -> int:
    """A batch in main memory: on the CPU the working memory of a pass, which the search for a batch size bounds; with a
    GPU the images as floats."""
    from ..priors.batching import CPU_BUDGET

    if not prior.weights_bytes:
        return 0
    return GPU_BATCH * pixels(1, prior.image_size) * FLOAT32 if gpu else CPU_BUDGET


def human(size: float) -> str:
    """Return bytes in powers of ten, as "8.67 TB"."""
    unit, scale = next(((unit, scale) for unit, scale in _SCALES.items() if size >= scale), ("kB", 1e3))
    return f"{size / scale:.3g} {unit}"


def parse_size(text: str) -> float:
    """Return the bytes of "8TB", "512 GB" or "60GiB". ConfigError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([TGM])(i?)B\s*", text, re.IGNORECASE)
    if found is None:
        raise ConfigError(f"{text!r} is no size; give one like 512GB or 8TB")
    power = {"M": 2, "G": 3, "T": 4}[found[2].upper()]
    return float(found[1]) * (1024 if found[3] else 1000) ** power


def duration(hours: float) -> str:
    """Return hours as "2.4 s", "9.1 min" or "34.1 h"; "-" for none."""
    if hours >= 1:
        return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.3g} h"
    return f"{hours * 60:.3g} min" if hours >= 1 / 60 else f"{hours * 3600:.2g} s" if hours else "-"
