"""Bytes on disk and in memory, by the formulae of the code that writes and holds them.

Memory is what one worker holds at its peak beside memory-mapped files; see the classes named at each function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .rates import load_rates

if TYPE_CHECKING:
    from ..evaluation import Protocol
    from .model_facts import PriorCard, StudentCard

FLOAT16, FLOAT32 = 2, 4
BANK_PLAN = 4 + 16 + 1 + 4  # bytes a labelled image beside its logits: index, box, flip, partner
BANK_SHARD = 256 << 20  # evaluation/soft_labels.py, SHARD_BYTES
FLOAT_BUDGET = 2 << 30  # evaluation/inputs.py: sets up to this size are also kept normalised
GPU_BATCH = 256  # images of a batch that lie in main memory as floats, coming or going; priors/batching.py


def pixels(count: int, size: int) -> int:
    """Return the bytes of ``count`` uint8 RGB images of ``size`` pixels a side."""
    return count * 3 * size**2


def bank_disk(images: int, classes: int, top_k: int | None = None) -> int:
    """Bytes of a bank of soft labels: the teacher's logits in float16 and the plan of each labelled image.

    With ``top_k``, that many logits, their classes and the one logit of the rest (``evaluation/pruning.py``).
    """
    if top_k is None:
        return images * (classes * FLOAT16 + BANK_PLAN)
    number = 2 if classes < 2**15 else 4
    return images * (min(top_k, classes) * (FLOAT16 + number) + FLOAT16 + BANK_PLAN)


def process() -> int:
    """Bytes of a worker that has imported torch and diffusers."""
    return round(load_rates().process_gb * 1e9)


def held_set(count: int, stored: int, protocol: Protocol, image_size: int) -> int:
    """A set as a training holds it on its device: uint8 at the size that is cut, and floats where they are few
    (``Inputs``)."""
    held = pixels(count, _source_size(stored, protocol, image_size))
    return held + (FLOAT32 * held if FLOAT32 * held <= FLOAT_BUDGET else 0)


def set_memory(count: int, stored: int, protocol: Protocol, image_size: int) -> int:
    """A set in main memory on its way there: twice while it is resized (``fit_size``)."""
    source = _source_size(stored, protocol, image_size)
    return max(held_set(count, stored, protocol, image_size), (2 if source != stored else 1) * pixels(count, source))


def step_memory(facts: StudentCard, batch: int, accumulation: int, *, half: bool) -> int:
    """A step: weights, gradients and two moments in float32, and the activations of a part of the batch."""
    activations = facts.activation_bytes // (2 if half else 1)
    return 4 * FLOAT32 * facts.parameters + activations * -(-batch // accumulation)


def _source_size(stored: int, protocol: Protocol, image_size: int) -> int:
    from ..evaluation.inputs import source_size

    return source_size(stored, protocol.augmentation, image_size, protocol.scoring.resize)


def batch_memory(prior: PriorCard, *, gpu: bool) -> int:
    """A batch in main memory: on the CPU the working memory of a pass, which the search for a batch size bounds; with a
    GPU the images as floats."""
    from ..priors.batching import CPU_BUDGET

    if not prior.weights_bytes:
        return 0
    return GPU_BATCH * pixels(1, prior.image_size) * FLOAT32 if gpu else CPU_BUDGET
