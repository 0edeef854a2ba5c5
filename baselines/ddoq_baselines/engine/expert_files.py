"""Experts that somebody else has trained: buffers as MTT's code writes them, or the files of our store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddoq_plugin.errors import DistillError
from ddoq_plugin.set_import import plain_tensors
from ddoq_plugin.store.artifacts import hash_file
from ddoq_plugin.store.tensor_files import read_tensors

from .networks import FlatNetwork

KINDS = ("*.pt", "*.safetensors")


def expert_files(path: str) -> list[Path]:
    """Return the files of a path, a file or a folder; DistillError where there are none."""
    place = Path(path).expanduser()
    files = [place] if place.is_file() else sorted(file for kind in KINDS for file in place.rglob(kind))
    files = [file for file in files if file.suffix == ".safetensors" or "replay_buffer" in file.name or file == place]
    if not files:
        raise DistillError(
            f"there are no experts in {place}; give replay_buffer_*.pt or trajectory.safetensors, or their folder"
        )
    return files


def files_hash(path: str) -> dict[str, str]:
    """Return the hash of each file, for keys."""
    return {file.name: hash_file(file) for file in expert_files(path)}


def read_experts(path: str, network: FlatNetwork, name: str) -> list[Tensor]:
    """Return the parameters of all experts, float32 ``[epochs + 1, P]``; DistillError for those of another network.

    A buffer is a list of experts, an expert a list of snapshots, a snapshot a list of parameters in their order."""
    found: list[Tensor] = []
    for file in expert_files(path):
        if file.suffix == ".safetensors":
            found.append(read_tensors(file)["parameters"])
            continue
        content = plain_tensors(file)
        if not isinstance(content, list) or not all(isinstance(expert, list) for expert in content):
            raise DistillError(f"{file} is no buffer of experts (a list of lists of snapshots); give MTT's own files")
        found += [torch.stack([_flat(snapshot, network, name, file) for snapshot in expert]) for expert in content]
    for parameters in found:
        if parameters.shape[1] != network.size:
            raise DistillError(
                f"the experts in {path} have {parameters.shape[1]} parameters and {name} has {network.size}; they are "
                "of another network, another image size or other classes"
            )
    return found


def _flat(snapshot: Any, network: FlatNetwork, name: str, file: Path) -> Tensor:
    shapes, wanted = [tuple(one.shape) for one in snapshot], [tuple(shape) for shape in network.shapes]
    if shapes != wanted:
        at = next((i for i, pair in enumerate(zip(shapes, wanted, strict=False)) if pair[0] != pair[1]), len(wanted))
        got, own = (str(list(given[at])) if at < len(given) else "none" for given in (shapes, wanted))
        raise DistillError(
            f"the experts in {file} are of another network than {name}: parameter {at} has shape {got}, not {own}; "
            "another image size, width or other classes"
        )
    return network.flat(one.detach().float() for one in snapshot)
