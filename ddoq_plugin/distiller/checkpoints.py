"""The state of a long optimisation on disk: written whole or not at all, restored in place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DistillError

CHECKPOINT = ".checkpoint"


def save_checkpoint(file: Path, state: Mapping[str, Any], step: int, seconds: float) -> None:
    """Write ``state`` after ``step`` steps and the ``seconds`` they took."""
    import torch

    temporary = file.with_name(f".{file.name}")
    held = {name: _held(name, one) for name, one in state.items()}
    torch.save({"step": step, "seconds": seconds, "state": held}, temporary)
    os.replace(temporary, file)


def load_checkpoint(file: Path | None, state: Mapping[str, Any]) -> tuple[int, float]:
    """Restore ``state`` in place; return the steps that were taken and their seconds, (0, 0.0) without a checkpoint."""
    import torch

    for name, one in state.items():
        _held(name, one)  # a state that cannot be kept is an error at the start, not at the first checkpoint
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


def _held(name: str, one: Any) -> Any:
    import torch

    if isinstance(one, torch.Tensor):
        return one.detach().cpu()
    if isinstance(one, torch.Generator):
        return one.get_state()
    if hasattr(one, "state_dict") and hasattr(one, "load_state_dict"):
        return one.state_dict()
    raise DistillError(
        f"the state {name!r} of a loop is a {type(one).__name__}; give tensors, generators or objects with state_dict"
    )
