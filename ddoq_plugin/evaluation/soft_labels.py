"""Soft labels stored ahead of training (FKD, Shen & Xing, ECCV 2022; used by SRe2L and D4M).

A bank holds a training's plan (which images, how they are cut, mirrored and mixed) with the teacher's logits of exactly
those batches, in float16. It knows nothing of weights or students: every weighting and every student of a set reads the
same bank, a student of fewer steps its first part. Its random stream is its own."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import EvaluationError
from ..preprocessing import PIXELS, Preprocessing
from ..progress import bar
from ..seeding import derive_seed
from ..store.artifacts import hash_tensors
from .augment import CropParams
from .batches import PAGE_STEPS, BatchPlan, Page
from .inputs import ImageSpace, Inputs, source_size
from .mixing import MixParams
from .protocol import Protocol
from .pruning import prune, restore
from .runtime import keep_freed_memory
from .teacher import Teacher

CARD = "bank.json"
SHARD_BYTES = 256 << 20  # of logits; a shard is what is held in memory while a bank is written
TEACHER_BATCH = 256  # images a forward pass of the teacher, rounded down to whole steps
SAMPLED_IMAGES = 64  # images whose bytes identify a set cheaply


class SoftLabelBank:
    """Stored steps and logits.

    card: what the bank was made from (JSON-able). shards: consecutive parts of whole pages, each a dict of tensors
    with T steps and B images: indices int32 [T, B], boxes float32 [T, B, 4], flips bool [T, B], logits float16 [T, B,
    C] and, where the protocol mixes, partners int32 [T, B], lam float32 [T], mix_boxes int32 [T, 4]. With a protocol's
    ``stored_top_k`` k the logits are [T, B, k], with classes [T, B, k] and rest [T, B] (:mod:`.pruning`)."""

    def __init__(self, card: dict[str, Any], shards: list[dict[str, Tensor]]) -> None:
        self.card, self.shards = card, shards
        self._pages = [(shard, start) for shard in shards for start in range(0, len(shard["indices"]), PAGE_STEPS)]

    @property
    def steps(self) -> int:
        """Number of stored steps, a multiple of PAGE_STEPS."""
        return len(self._pages) * PAGE_STEPS

    def page(self, number: int) -> Page:
        """Return page ``number`` of the plan as it was stored."""
        part = self._part(number)
        mixes = None
        if "lam" in part:
            mixes = MixParams(part["partners"].long(), part["lam"], part["mix_boxes"].long())
        return Page(part["indices"].long(), CropParams(part["boxes"], part["flips"]), mixes)

    def logits(self, number: int) -> Tensor:
        """Return the teacher's logits of page ``number``, float16 [PAGE_STEPS, B, C]: a view of the mapped file, or
        put together from what is left of them where they were pruned."""
        part = self._part(number)
        if "rest" not in part:
            return part["logits"]
        return restore(part["logits"], part["classes"], part["rest"], len(self.card["class_names"]))

    def _part(self, number: int) -> dict[str, Tensor]:
        shard, start = self._pages[number]
        return {name: tensor[start : start + PAGE_STEPS] for name, tensor in shard.items()}

    def check(
        self,
        protocol: Protocol,
        images: Tensor,
        image_size: int,
        steps: int,
        batch_size: int,
        preprocessing: Preprocessing,
    ) -> None:
        """Raise EvaluationError unless the bank labels these ``images`` as ``protocol`` asks, for ``steps`` steps."""
        wanted = _card_of_set(images, protocol, image_size, batch_size, preprocessing)
        different = [key for key, value in wanted.items() if self.card.get(key) != value]
        if different:
            raise EvaluationError(
                f"the soft-label bank was made with another {different[0].replace('_', ' ')} than this training has; "
                "make a bank for this set and protocol"
            )
        if steps > self.steps:
            raise EvaluationError(
                f"the soft-label bank has {self.steps} steps and {steps} are needed; make a longer bank"
            )

    def save(self, folder: str | Path) -> Path:
        """Write the bank into ``folder`` (safetensors shards and a card) and return it."""
        return _write(self.card, iter(self.shards), Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> SoftLabelBank:
        """Open a saved bank; its shards are memory-mapped. EvaluationError where the folder holds none."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        try:
            card = json.loads((folder / CARD).read_text(encoding="utf-8"))
            return cls(card, [load_file(folder / name) for name in card["shards"]])
        except (OSError, ValueError, KeyError, SafetensorError) as problem:
            raise EvaluationError(
                f"the folder {folder} holds no readable soft-label bank ({problem}); make it again"
            ) from problem


def bank_key(
    image_hash: str, teacher: str, protocol: Protocol, *, num_images: int, num_classes: int, steps: int, seed: int
) -> dict[str, Any]:
    """Return all that determines a bank, JSON-able; ``teacher`` is its fingerprint, ``image_hash`` knows no weights."""
    numbers = protocol.numbers("", num_images, num_classes)
    return {
        "image_hash": image_hash,
        "teacher": teacher,
        "augmentation": protocol.augmentation.model_dump(mode="json"),
        "mixing": protocol.mixing.model_dump(mode="json"),
        "image_size": protocol.image_size,
        "resize": protocol.scoring.resize,
        "batch_size": numbers.batch_size,
        "pruning": _pruning(protocol),
        "steps": whole_pages(steps),
        "seed": seed,
    }


def bank_steps(protocol: Protocol, students: list[str], num_images: int, num_classes: int) -> int:
    """Return the steps of the student that trains longest: what one bank for all of them needs."""
    return max(protocol.numbers(student, num_images, num_classes).steps for student in students)


def whole_pages(steps: int) -> int:
    """Return ``steps`` rounded up to whole pages of the plan."""
    return math.ceil(steps / PAGE_STEPS) * PAGE_STEPS


def make_bank(
    images: Tensor,
    teacher: Teacher,
    protocol: Protocol,
    *,
    steps: int,
    seed: int,
    preprocessing: Preprocessing = PIXELS,
    folder: str | Path | None = None,
    progress: bool = False,
) -> SoftLabelBank:
    """Label the batches of a training's first ``steps`` steps (rounded up to whole pages) with ``teacher``, on its
    device.

    Args:
        images: uint8 [n, 3, H, H], or float32 in the space of ``preprocessing``.
        preprocessing: the space in which students see the images, cut and mixed; the teacher's own is made from it.
        folder: where to write the bank shard by shard and map it from, for banks that outgrow memory; None keeps it
            in memory.
        seed: of the plan; the bank's stream depends on nothing else.

    Raises:
        EvaluationError: the protocol stores no soft labels, or the teacher's logits are not finite.
    """
    if protocol.label_mode != "soft_stored":
        raise EvaluationError(
            f"protocol {protocol.name!r} stores no soft labels; choose one whose label_mode is soft_stored"
        )
    if teacher.device.type == "cpu":
        keep_freed_memory()
    image_size = protocol.image_size or teacher.image_size
    if image_size != teacher.image_size:
        raise EvaluationError(
            f"the teacher {teacher.name!r} was trained at {teacher.image_size} px and protocol {protocol.name!r} has "
            f"{image_size} px; train another"
        )
    batch_size = protocol.numbers("", len(images), teacher.num_classes).batch_size
    card = {
        **_card_of_set(images, protocol, image_size, batch_size, preprocessing),
        "teacher": teacher.fingerprint,
        "class_names": list(teacher.class_names),
        "seed": seed,
        "steps": whole_pages(steps),
    }
    space = teacher.normaliser if preprocessing.kind == "none" else preprocessing.to(teacher.device)
    shards = _shards(images, space, teacher, protocol, card, progress)
    if folder is None:
        return SoftLabelBank(card, list(shards))
    return SoftLabelBank.load(_write(card, shards, Path(folder)))


def _card_of_set(
    images: Tensor, protocol: Protocol, image_size: int, batch_size: int, preprocessing: Preprocessing
) -> dict[str, Any]:
    chosen = torch.linspace(0, len(images) - 1, min(len(images), SAMPLED_IMAGES), dtype=torch.float64).long()
    return {
        "images": hash_tensors(images[chosen])[:20],
        "preprocessing": None if preprocessing.kind == "none" else preprocessing.hash,
        "number_of_images": len(images),
        "image_size": image_size,
        "batch_size": batch_size,
        "pruning": _pruning(protocol),
        "resize": protocol.scoring.resize,
        "augmentation": protocol.augmentation.model_dump(mode="json"),
        "mixing": protocol.mixing.model_dump(mode="json"),
    }


def _pruning(protocol: Protocol) -> dict[str, float] | None:
    """Return what determines how labels are pruned; the temperature is that of the loss they are kept for."""
    k = protocol.stored_top_k
    return None if k is None else {"top_k": k, "temperature": protocol.loss.temperature}


def _shards(
    images: Tensor, space: ImageSpace, teacher: Teacher, protocol: Protocol, card: dict[str, Any], progress: bool
) -> Iterator[dict[str, Tensor]]:
    """Yield the bank's shards one after the other."""
    size, batch_size = card["image_size"], card["batch_size"]
    inputs = Inputs(
        images, space, protocol.augmentation, protocol.mixing, size, protocol.scoring.zoom(size), teacher.device
    )
    plan = BatchPlan(
        num_images=len(images),
        batch_size=batch_size,
        source_size=source_size(images.shape[-1], protocol.augmentation, size, protocol.scoring.zoom(size)),
        image_size=size,
        augmentation=protocol.augmentation,
        mixing=protocol.mixing,
        seed=derive_seed("soft-label-bank", card["seed"]),
    )
    pages = card["steps"] // PAGE_STEPS
    k = protocol.stored_top_k
    bytes_an_image = 2 * teacher.num_classes if k is None else 4 * k + 2
    per_shard = max(1, SHARD_BYTES // (PAGE_STEPS * batch_size * bytes_an_image))
    with bar(card["steps"], "soft labels", show=progress) as shown:
        for first in range(0, pages, per_shard):
            parts = []
            for number in range(first, min(first + per_shard, pages)):
                page = plan.page(number)
                logits = _label_page(page, inputs, teacher)
                pruned = {"logits": logits.half()} if k is None else prune(logits, k, protocol.loss.temperature)
                parts.append({**_stored(page), **pruned})
                shown.update(PAGE_STEPS)
            yield {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@torch.inference_mode()
def _label_page(page: Page, inputs: Inputs, teacher: Teacher) -> Tensor:
    batches = inputs.batches(page)
    steps, batch_size = page.indices.shape
    group = max(1, TEACHER_BATCH // batch_size)
    rows = []
    for start in range(0, steps, group):
        joined = torch.cat([batches.images(step) for step in range(start, min(start + group, steps))])
        # a batch larger than the teacher's is cut: memory, not the logits, depends on it
        rows += [teacher.label(chunk, inputs.normaliser).cpu() for chunk in joined.split(TEACHER_BATCH)]
    logits = torch.cat(rows).view(steps, batch_size, -1)
    if not torch.isfinite(logits.half()).all():
        raise EvaluationError(
            f"the teacher {teacher.name!r} gives logits that are not finite in float16; train it again"
        )
    return logits


def _stored(page: Page) -> dict[str, Tensor]:
    stored = {"indices": page.indices.int(), "boxes": page.crops.boxes, "flips": page.crops.flips}
    if page.mixes is not None:
        stored |= {"partners": page.mixes.partners.int(), "lam": page.mixes.lam, "mix_boxes": page.mixes.boxes.int()}
    return stored


def _write(card: dict[str, Any], shards: Iterator[dict[str, Tensor]], folder: Path) -> Path:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number, shard in enumerate(shards):
        names.append(f"bank-{number:05d}.safetensors")
        save_file({name: tensor.contiguous() for name, tensor in shard.items()}, folder / names[-1])
    (folder / CARD).write_text(json.dumps({**card, "shards": names}, indent=1, ensure_ascii=False), encoding="utf-8")
    return folder
