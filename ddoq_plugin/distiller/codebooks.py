"""The codebooks of one class: made together, and kept as files."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..quantization import Codebook, d4m_codebook, quantize_many
from ..store.tensor_files import read_tensors, write_tensors
from .method import CodebookOptions

FILE = "codebook.safetensors"


def make_codebooks(
    latents: torch.Tensor, wanted: Sequence[tuple[int, int]], options: CodebookOptions, name: str
) -> dict[tuple[int, int], Codebook]:
    """Return a codebook of latents ``[N, d]`` for each (K, seed) of ``wanted``; one Gram matrix serves them all."""
    if options.clustering == "d4m":
        expand = options.km_expand
        return {(k, s): d4m_codebook(latents, k, km_expand=expand, seed=s, name=name) for k, s in wanted}
    clusters, seeds = sorted({k for k, _ in wanted}), sorted({seed for _, seed in wanted})
    method = "auto" if options.clustering == "lloyd" else "minibatch"
    made = quantize_many(latents, clusters, seeds, method=method, masses=options.masses, name=name)
    return {pair: made[pair] for pair in wanted}


def save_codebook(folder: Path, book: Codebook) -> None:
    """Write a codebook into an artifact's folder."""
    tensors = {name: getattr(book, name).cpu() for name in ("centroids", "masses", "assignment", "nearest")}
    write_tensors(folder / FILE, tensors | {"distortion": torch.tensor(book.distortion, dtype=torch.float64)})


def load_codebook(folder: Path) -> Codebook:
    """Read a codebook from an artifact's folder."""
    tensors = read_tensors(folder / FILE)
    return Codebook(distortion=tensors.pop("distortion").item(), **tensors)


def codebook_bytes(clusters: int, numbers: int, samples: int) -> int:
    """Return the bytes of one file: centroids float32, masses, nearest and assignment 8 bytes each."""
    return clusters * (4 * numbers + 16) + 8 * samples
