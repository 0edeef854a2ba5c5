"""A teacher: a trained classifier, saved with what it can do, and asked for logits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import EvaluationError
from ..store.artifacts import hash_key, hash_tensors
from .inputs import ImageSpace, Normaliser
from .protocol import Execution
from .runtime import Runtime, arranged, forward, resolve
from .students.build import build_student

WEIGHTS, CARD = "model.safetensors", "teacher.json"


@dataclass(frozen=True)
class Teacher:
    """A trained classifier whose logits label images.

    model: in eval mode, without gradients. name: its architecture. class_names: what its outputs stand for, in order.
    normaliser, image_size: what it was trained with. protocol: how. val_accuracy, test_accuracy: top-1 in percent
    (None where not measured)."""

    model: nn.Module
    name: str
    class_names: tuple[str, ...]
    image_size: int
    normaliser: Normaliser
    protocol: str
    seed: int | None = None
    val_accuracy: float | None = None
    test_accuracy: float | None = None

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False)
        arranged(self.model, self.running)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def running(self) -> Runtime:
        """How it is run: labels are what every training builds on, so in float32."""
        return resolve(Execution(precision="float32"), self.name, self.device)

    @cached_property
    def fingerprint(self) -> str:
        """Hex hash of the weights, the architecture, the class order and the normalisation."""
        state = self.model.state_dict()
        card = {key: value for key, value in self._card().items() if not key.endswith("accuracy")}
        return hash_key([hash_tensors(*(state[key] for key in sorted(state))), card])[:20]

    def to(self, device: str | torch.device) -> Teacher:
        """Move the weights to ``device`` and return the teacher."""
        self.model.to(device)
        return self

    def check_classes(self, class_names: Sequence[str]) -> None:
        """Raise EvaluationError unless the outputs stand for ``class_names`` in this order."""
        if tuple(class_names) == self.class_names:
            return
        if sorted(class_names) == sorted(self.class_names):
            index = next(i for i, (a, b) in enumerate(zip(class_names, self.class_names, strict=True)) if a != b)
            mine, theirs = self.class_names[index], class_names[index]
            what = f"has the same classes in another order (class {index} is {mine!r}, not {theirs!r})"
        else:
            foreign = sorted(set(class_names) ^ set(self.class_names))
            what = f"knows other classes (for example {foreign[0]!r} is in only one of the two)"
        raise EvaluationError(f"the teacher {self.name!r} {what}; train a teacher on this dataset")

    @torch.inference_mode()
    def logits(self, images: Tensor, *, batch_size: int = 256) -> Tensor:
        """Return float32 CPU logits [n, C] of ``images`` [n, 3, H, H], uint8 or float in [0, 1], resized."""
        rows = []
        for chunk in images.split(batch_size):
            if chunk.shape[-1] != self.image_size:
                chunk = nn.functional.interpolate(
                    chunk.float() / (255 if chunk.dtype == torch.uint8 else 1),
                    size=(self.image_size, self.image_size),
                    mode="bilinear",
                    antialias=True,
                    align_corners=False,
                )
            rows.append(self.label(self.normaliser(chunk.to(self.device)), self.normaliser).cpu())
        return torch.cat(rows) if rows else torch.empty(0, self.num_classes)

    def label(self, images: Tensor, normaliser: ImageSpace) -> Tensor:
        """Return float32 logits of a batch on the teacher's device that lies in the space of ``normaliser``.

        Another space than the teacher's own is undone exactly, so that a teacher also labels preprocessed images."""
        if normaliser != self.normaliser:
            images = self.normaliser(normaliser.undo(images))
        return forward(self.model, images, self.running)

    def save(self, folder: str | Path) -> Path:
        """Write weights (safetensors) and card (JSON) into ``folder`` and return it."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {key: value.detach().cpu().contiguous().clone() for key, value in self.model.state_dict().items()}
        save_file(state, folder / WEIGHTS)
        (folder / CARD).write_text(json.dumps(self._card(), indent=1, ensure_ascii=False), encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> Teacher:
        """Read a saved teacher; EvaluationError where the folder holds none or its weights do not fit."""
        from safetensors.torch import load_file

        folder = Path(folder)
        try:
            card = json.loads((folder / CARD).read_text(encoding="utf-8"))
            state = load_file(folder / WEIGHTS)
            names = tuple(card.pop("class_names"))
            card["normaliser"] = Normaliser(**{key: tuple(value) for key, value in card["normaliser"].items()})
            model = build_student(card["name"], len(names), card["image_size"], seed=0)
            model.load_state_dict(state)
        except (OSError, ValueError, KeyError, RuntimeError) as problem:
            raise EvaluationError(
                f"the folder {folder} holds no readable teacher ({problem}); train it again"
            ) from problem
        return cls(model=model.to(device), class_names=names, **card)

    def _card(self) -> dict[str, object]:
        return {
            "name": self.name,
            "class_names": list(self.class_names),
            "image_size": self.image_size,
            "normaliser": {"mean": self.normaliser.mean, "std": self.normaliser.std},
            "protocol": self.protocol,
            "seed": self.seed,
            "val_accuracy": self.val_accuracy,
            "test_accuracy": self.test_accuracy,
        }
