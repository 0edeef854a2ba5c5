"""Checkpoints: the state of long work on disk, whole or not at all, and checked when it is read again."""

import hashlib
import io
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DIGEST = 32  # bytes of the sha256 that stands before the state


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain data so that ``path`` holds the old or the new state, also after a power cut."""
    import torch

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getbuffer()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "wb") as file:
        file.write(hashlib.sha256(content).digest())
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return a saved state on the CPU; None where there is none. A damaged one is removed with a warning."""
    import torch

    if not path.is_file():
        return None
    content = memoryview(path.read_bytes())
    digest, state = content[:DIGEST], content[DIGEST:]
    if hashlib.sha256(state).digest() == digest:
        return torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
    warnings.warn(f"the checkpoint {path} is damaged: the work begins again", stacklevel=2)
    path.unlink()
    return None
