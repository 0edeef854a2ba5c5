"""The state of a long optimisation on disk: written whole or not at all, restored in place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import DistillError

CHECKPOINT = ".checkpoint"


def save_checkpoint(file: Path, state: Mapping[str, Any], step: int, seconds: float) -> None:
    """Write ``state`` after ``step`` steps and the ``seconds`` they took."""
    temporary = file.with_name(f".{file.name}")
    torch.save({"step": step, "seconds": seconds, "state": _held(state)}, temporary)
    os.replace(temporary, file)


def load_checkpoint(file: Path | None, state: Mapping[str, Any]) -> tuple[int, float]:
    """Restore ``state`` in place; return the steps that were taken and their seconds, (0, 0.0) without a checkpoint."""
    _held(state)  # a state that cannot be kept is an error at the start, not at the first checkpoint
    if file is None or not file.is_file():
        return 0, 0.0
    kept = torch.load(file, weights_only=True, map_location="cpu")
    if kept["state"].keys() != state.keys():
        raise DistillError(f"the checkpoint {file.name} is of another loop; remove {file.parent} and begin again")
    for name, one in state.items():
        value = kept["state"][name]
        if isinstance(one, torch.Tensor):
            with torch.no_grad():
                one.copy_(value)
        elif isinstance(one, torch.Generator):
            one.set_state(value)
        else:
            one.load_state_dict(value)
    return kept["step"], kept["seconds"]


def _held(state: Mapping[str, Any]) -> dict[str, Any]:
    held = {}
    for name, one in state.items():
        if isinstance(one, torch.Tensor):
            held[name] = one.detach().cpu()
        elif isinstance(one, torch.Generator):
            held[name] = one.get_state()
        elif hasattr(one, "state_dict") and hasattr(one, "load_state_dict"):
            held[name] = one.state_dict()
        else:
            kind = type(one).__name__
            raise DistillError(
                f"the state {name!r} of a loop is a {kind}; give tensors, generators or objects with state_dict"
            )
    return held
