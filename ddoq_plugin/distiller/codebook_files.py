"""A codebook as a stored file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..store.tensor_files import read_tensors, write_tensors

if TYPE_CHECKING:
    from ..quantization import Codebook

FILE = "codebook.safetensors"


def save_codebook(folder: Path, book: Codebook) -> None:
    """Write a codebook into an artifact's folder."""
    import torch

    tensors = {name: getattr(book, name) for name in ("centroids", "masses", "assignment", "nearest")}
    write_tensors(folder / FILE, tensors | {"distortion": torch.tensor(book.distortion, dtype=torch.float64)})


def load_codebook(folder: Path) -> Codebook:
    """Read a codebook from an artifact's folder."""
    from ..quantization import Codebook

    tensors = read_tensors(folder / FILE)
    return Codebook(distortion=tensors.pop("distortion").item(), **tensors)
